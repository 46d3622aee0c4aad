"""A stack of a test's own in which each program reaches each store over a way of its own, to be cut, stalled or long.

The tests themselves go straight: what they count is there whatever happens to the ways.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from pydantic import SecretStr

from deploy.program import Program, free_port
from shared.settings import Settings
from tests.own_stack import KAFKA, POSTGRES, REDIS, OwnStack
from tests.stacks import Stack
from tests.system import PROGRAMS, System
from tests.tcp_proxy import TcpProxy


class ProxiedStack(OwnStack):
    """``async with ProxiedStack() as stack``; ``stack.system(settings)`` is a system that goes the ways."""

    def __init__(self) -> None:
        super().__init__()
        self._ways: dict[tuple[str, str], TcpProxy] = {}
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        for way in self._ways.values():
            await way.open()
            self._opened.push_async_callback(way.cut)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.aclose()
        await super().__aexit__(kind, error, trace)

    def _prepare(self) -> tuple[Stack, list[Program]]:
        stack, programs = super()._prepare()
        # Where Kafka's clients connect is what the broker tells them: a listener for each way.
        ports: set[int] = set()
        for _ in range(2 * len(PROGRAMS)):
            ports.add(free_port(taken=ports))
        for name in PROGRAMS:
            self._ways[name, KAFKA] = TcpProxy("127.0.0.1", ports.pop(), own_port=ports.pop())
        add_listeners(self.folder / "kafka", [self._ways[name, KAFKA] for name in PROGRAMS])
        for store, url in ((POSTGRES, stack.database_url), (REDIS, stack.redis_url)):
            if url:
                there = urlsplit(url).port
                assert there is not None
                self._ways |= {(name, store): TcpProxy("127.0.0.1", there) for name in PROGRAMS}
        return stack, programs

    def ways(self, store: str, programs: Iterable[str] = PROGRAMS) -> list[TcpProxy]:
        """Those of these programs to this store."""
        return [self._ways[name, store] for name in programs]

    def system(self, settings: Settings) -> System:
        return System(settings, settings_of=self._settings_of(settings))

    def _settings_of(self, settings: Settings) -> Callable[[str], Settings]:
        def of(name: str) -> Settings:
            program = name.partition("#")[0]
            changed = {
                "kafka_bootstrap_servers": f"127.0.0.1:{self._ways[program, KAFKA].port}",
                "database_url": _over(settings.database_url, self._ways[program, POSTGRES]),
            }
            if settings.redis_url.get_secret_value():
                changed["redis_url"] = _over(settings.redis_url, self._ways[program, REDIS])
            return settings.model_copy(update=changed)

        return of


async def cut(ways: Iterable[TcpProxy]) -> None:
    """All of them; `reopen` ends it."""
    await asyncio.gather(*(way.cut() for way in ways))


async def reopen(ways: Iterable[TcpProxy]) -> None:
    """The same ports listen again."""
    await asyncio.gather(*(way.open() for way in ways))


def add_listeners(folder: Path, ways: Iterable[TcpProxy]) -> None:
    """Kafka's configuration in ``folder`` learns a listener behind each of these, beside the one it has."""
    path = folder / "server.properties"
    properties = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line and line[0] != "#")
    protocols = ["PLAINTEXT:PLAINTEXT", "CONTROLLER:PLAINTEXT"]
    for number, way in enumerate(ways):
        properties["listeners"] += f",WAY_{number}://127.0.0.1:{way.target_port}"
        properties["advertised.listeners"] += f",WAY_{number}://127.0.0.1:{way.port}"
        protocols.append(f"WAY_{number}:PLAINTEXT")
    properties["listener.security.protocol.map"] = ",".join(protocols)
    properties["inter.broker.listener.name"] = "PLAINTEXT"
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))


def _over(url: SecretStr, way: TcpProxy) -> SecretStr:
    parts = urlsplit(url.get_secret_value())
    assert parts.port is not None
    return SecretStr(parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{way.port}")).geturl())
