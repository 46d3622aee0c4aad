"""The front door of the API: read settings, build, run.  python -m ingest_api"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys

import uvloop

from ingest_api.app import create_app
from ingest_api.parts import build_parts
from ingest_api.server import Server, new_server, raise_file_limit
from shared import logs
from shared.bind_address import check_bind_address
from shared.collector import calm_collector
from shared.errors import ConfigurationError
from shared.settings import Settings, load_settings

log = logging.getLogger("ingest_api")

#: From the signal to the end, whatever hangs.
_STOP_S = 20
_BACKLOG = 2048


def main() -> int:
    """The process's exit code: 0 after a signal, 2 when a setting cannot be used, 1 for anything else."""
    try:
        settings = load_settings()
        logs.configure("ingest_api", settings.log_level)
        check_bind_address(settings)
        raise_file_limit()
        with _bound_socket(settings.api_host, settings.api_port) as listener:
            return uvloop.run(_serve(settings, listener))
    except ConfigurationError as error:
        sys.stderr.write(f"ingest_api: {error}\n")
        return 2
    except Exception:  # whatever it is, the process ends and its supervisor starts it again
        log.exception("stopped by an error")
        return 1


async def _serve(settings: Settings, listener: socket.socket) -> int:
    parts = build_parts(settings)
    server = new_server(create_app(settings, parts))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _stop, server)
    try:
        await parts.start()
        host, port = listener.getsockname()[:2]
        calm_collector()
        log.info("listening", extra={"host": host, "port": port})
        await server.serve(sockets=[listener])
    finally:
        await parts.stop()
    return 0


def _stop(server: Server) -> None:
    """Drain; a second signal cuts what is under way."""
    log.info("stopping")
    server.force_exit = server.should_exit
    server.should_exit = True
    asyncio.get_running_loop().call_later(_STOP_S, os._exit, 1)


def _bound_socket(host: str, port: int) -> socket.socket:
    """Bound before anything is started, so that a taken port is one line."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError as error:
        raise ConfigurationError(f"API_PORT: cannot listen on {host}:{port}: {error.strerror}") from None
    return bound


if __name__ == "__main__":
    sys.exit(main())
