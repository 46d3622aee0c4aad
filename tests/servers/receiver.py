"""A receiver on uvicorn, for the tests of the sender. Its one argument is JSON; see tests/real_servers.py."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def receiver(scope: Scope, receive: Receive, send: Send) -> None:
    name, _, argument = scope["path"].removeprefix("/").partition("/")
    if name == "early":
        await _whole(send, 413, b"too large")
        return
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    match name:
        case "echo":
            await _whole(send, 200, json.dumps(_told(scope, body)).encode())
        case "status":
            waits = [(b"retry-after", b"7")] if argument in ("429", "503") else []
            bodiless = argument in ("204", "304")
            await _whole(send, int(argument), b"" if bodiless else f"status {argument}".encode(), waits)
        case "chunked":
            await _pieces(send, [b"one ", b"two ", b"three"])
        case "close":
            await _whole(send, 200, b"closed", [(b"connection", b"close")])
        case "never":
            while (await receive())["type"] != "http.disconnect":
                pass
        case "cut":
            await _start(send, 200, [(b"content-length", b"100")])
            await send({"type": "http.response.body", "body": b"abc", "more_body": True})
            raise ConnectionError("cut")
        case "endless" | "drip":
            await _start(send, 200)
            gone = asyncio.create_task(_until_gone(receive))
            while not gone.done():
                piece = b"." if name == "drip" else bytes(8192)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                await asyncio.sleep(0.02 if name == "drip" else 0)
        case "bomb":
            await _whole(send, 200, gzip.compress(bytes(10_000_000)), [(b"content-encoding", b"gzip")])
        case _:
            await _whole(send, 404, b"no such")


def _told(scope: Scope, body: bytes) -> dict[str, Any]:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    query = "?" + scope["query_string"].decode() if scope["query_string"] else ""
    return {
        "method": scope["method"],
        "target": scope["raw_path"].decode() + query,
        "headers": headers,
        "bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        # Behind nginx: which one of its connections.
        "connection": headers.get("x-connection") or "{}:{}".format(*scope["client"]),
    }


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _whole(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    length = [] if status in (204, 304) else [(b"content-length", str(len(body)).encode())]
    await _start(send, status, [*(headers or []), *length])
    await send({"type": "http.response.body", "body": body})


async def _pieces(send: Send, pieces: list[bytes]) -> None:
    await _start(send, 200)
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body"})


async def _start(send: Send, status: int, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers or []})


async def main(at: dict[str, Any]) -> None:
    """All of its ports, until somebody kills it."""
    plain = uvicorn.Server(uvicorn.Config(receiver, log_level="critical", lifespan="off"))
    running = [plain.serve(sockets=[_listening("127.0.0.1", at["port"]), _listening("::1", at["port"])])]
    for one in at["tls"]:
        config = uvicorn.Config(
            receiver, log_level="critical", lifespan="off", ssl_certfile=one["cert"], ssl_keyfile=one["key"]
        )
        running.append(uvicorn.Server(config).serve(sockets=[_listening("127.0.0.1", one["port"])]))
    await asyncio.gather(*running)


def _listening(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    return listening


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
