"""A way to a server that can be cut, stalled and made long, without hurting the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

#: So many pieces of one direction may be on a long way; then its sender waits.
_ON_THE_WAY = 256


class TcpProxy:
    """Listens on loopback and forwards to one server. ``port`` 0: any."""

    def __init__(self, host: str, port: int, *, own_port: int = 0) -> None:
        self._target = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.port = own_port
        #: How long the way is, in each direction.
        self.delay_s = 0.0
        #: Bytes that clients sent through.
        self.sent_bytes = 0

    @property
    def target_port(self) -> int:
        """Of the server."""
        return self._target[1]

    async def open(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Refuse new connections and end those there are."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._server = None

    def stall(self) -> None:
        """Accept everything and answer nothing."""
        self._flowing.clear()

    def flow(self) -> None:
        """End a stall."""
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(OSError, asyncio.CancelledError):
            there_reader, there_writer = await asyncio.open_connection(*self._target)
            self._writers |= {writer, there_writer}
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, there_writer, counted=True))
                both.create_task(self._pump(there_reader, writer, counted=False))
        writer.close()  # of a server that is not there its client must hear
        self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        """One direction, to its end."""
        way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_ON_THE_WAY)
        entering = asyncio.create_task(self._enter(reader, way, counted=counted))
        try:
            await self._leave(way, writer)
        finally:
            entering.cancel()
            await asyncio.gather(entering, return_exceptions=True)
        writer.close()
        self._writers.discard(writer)

    async def _enter(
        self, reader: asyncio.StreamReader, way: asyncio.Queue[tuple[float, bytes]], *, counted: bool
    ) -> None:
        data = None
        while data != b"":
            try:
                data = await reader.read(65536)
            except OSError:
                data = b""
            self.sent_bytes += len(data) if counted else 0
            await way.put((asyncio.get_running_loop().time() + self.delay_s, data))

    async def _leave(self, way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while True:
                arrives_s, data = await way.get()
                if (early_s := arrives_s - asyncio.get_running_loop().time()) > 0:
                    await asyncio.sleep(early_s)
                await self._flowing.wait()
                if not data:
                    return
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def tcp_proxy(host: str, port: int) -> AsyncIterator[TcpProxy]:
    """An open proxy; cut at the end."""
    proxy = TcpProxy(host, port)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.cut()
