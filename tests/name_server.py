"""A name server that obeys a script: rebinds, lies, is slow, is silent. What resolver and guard are tested with."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

_UDP_MAX_BYTES = 512


@dataclass(frozen=True, slots=True)
class Says:
    """One answer; what is not of the type asked for is left out, aliases are not."""

    addresses: tuple[str, ...] = ()
    #: (name, alias of) pairs, put in front.
    aliases: tuple[tuple[str, str], ...] = ()
    ttl_s: int = 60
    alias_ttl_s: int = 60
    rcode: str = "NOERROR"
    delay_s: float = 0.0
    silent: bool = False
    #: No answer of this type alone is given: "A" or "AAAA".
    silent_for: str = ""


def says(*addresses: str, ttl_s: int = 60) -> Says:
    return Says(addresses, ttl_s=ttl_s)


NO_SUCH_NAME = Says(rcode="NXDOMAIN")
EMPTY = Says()
SILENCE = Says(silent=True)


class NameServer:
    """``async with NameServer() as names``: answers on UDP and TCP on one port of loopback.

    ``script(name, first, second)`` gives each question of a type the next answer and repeats the last; other names do
    not exist. What does not fit a datagram is truncated there and whole over TCP.
    """

    def __init__(self) -> None:
        #: (name, type, "udp" or "tcp") of each question, in order.
        self.questions: list[tuple[str, str, str]] = []
        self._scripts: dict[str, tuple[Says, ...]] = {}
        self._asked: Counter[tuple[str, str, str]] = Counter()
        self._changed = asyncio.Event()

    async def __aenter__(self) -> NameServer:
        loop = asyncio.get_running_loop()
        # TCP first: its port is free for both, or we try another.
        for _ in range(20):
            self._tcp = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            self.port: int = self._tcp.sockets[0].getsockname()[1]
            try:
                self._udp, _ = await loop.create_datagram_endpoint(
                    lambda: _Datagrams(self), local_addr=("127.0.0.1", self.port)
                )
            except OSError:
                self._tcp.close()
                continue
            # Hundreds of questions at once must all be here: a lost one is a try lost.
            self._udp.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
            return self
        raise RuntimeError("no port for both UDP and TCP")

    async def __aexit__(self, *_: object) -> None:
        self._udp.close()
        self._tcp.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def script(self, name: str, *steps: Says) -> None:
        self._scripts[name] = steps

    def asked(self, name: str) -> int:
        """How often for the name's IPv4 addresses; over TCP again is not counted."""
        return self.questions.count((name, "A", "udp"))

    async def wait_for_questions(self, name: str, n: int, timeout_s: float = 10.0) -> None:
        """Returns once IPv4 addresses have been asked for ``n`` times. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while self.asked(name) < n:
                self._changed.clear()
                await self._changed.wait()

    def answer(self, wire: bytes, transport: str, send: Callable[[bytes], None]) -> None:
        query = dns.message.from_wire(wire)
        name = query.question[0].name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(query.question[0].rdtype)
        steps = self._scripts.get(name, (NO_SUCH_NAME,))
        step = steps[min(self._asked[name, kind, transport], len(steps) - 1)]
        self._asked[name, kind, transport] += 1
        self.questions.append((name, kind, transport))
        self._changed.set()
        if not step.silent and step.silent_for != kind:
            answer = wire[:2] + answer_but_id(name, kind, step, transport)
            asyncio.get_running_loop().call_later(step.delay_s, send, answer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def send(wire: bytes) -> None:
            writer.write(len(wire).to_bytes(2, "big") + wire)

        try:
            while True:
                length = int.from_bytes(await reader.readexactly(2), "big")
                self.answer(await reader.readexactly(length), "tcp", send)
        except (asyncio.IncompleteReadError, OSError):
            pass  # whoever asked has hung up
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        def send(wire: bytes) -> None:
            if not self._transport.is_closing():
                self._transport.sendto(wire, addr)

        self._server.answer(data, "udp", send)


@lru_cache(maxsize=1024)
def answer_but_id(name: str, kind: str, step: Says, transport: str) -> bytes:
    """What follows the two bytes of the id. Remembered, since large ones take long to write."""
    response = dns.message.make_response(dns.message.make_query(name, kind), recursion_available=True)
    response.set_rcode(dns.rcode.from_text(step.rcode))
    owner = response.question[0].name
    for alias, target in step.aliases:
        response.answer.append(dns.rrset.from_text(f"{alias}.", step.alias_ttl_s, "IN", "CNAME", f"{target}."))
        owner = dns.name.from_text(target)
    addresses = [address for address in step.addresses if (":" in address) == (kind == "AAAA")]
    if addresses and kind in ("A", "AAAA"):
        response.answer.append(dns.rrset.from_text(owner, step.ttl_s, "IN", kind, *addresses))
    wire = response.to_wire(max_size=65535)
    if transport == "udp" and len(wire) > _UDP_MAX_BYTES:
        response.answer.clear()
        response.flags |= dns.flags.TC
        wire = response.to_wire()
    return wire[2:]
