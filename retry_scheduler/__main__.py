"""All retry tiers in one process, with the janitor beside them. `python -m retry_scheduler`"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys

import uvloop

from retry_scheduler.forward import Forwarder
from retry_scheduler.janitor import Janitor
from shared import logs
from shared.errors import ConfigurationError, NotConfirmed
from shared.health import serve_health
from shared.kafka import Producer, client_options
from shared.settings import Settings, load_settings

log = logging.getLogger("retry_scheduler")

_DRAIN_S = 20.0


def main() -> int:
    try:
        settings = load_settings()
        client_options(settings)  # reads the TLS files: unusable ones are a mistake of the settings, too
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    logs.configure("retry-scheduler", settings.log_level)
    try:
        uvloop.run(_serve(settings))
    except Exception:  # the process ends here, and its supervisor starts it again from the committed offsets
        log.exception("failed")
        return 1
    return 0


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    producer = Producer(settings)
    forwarder = Forwarder(settings, producer)
    health = None
    if settings.health_port:
        health = await serve_health(settings.health_port, live=forwarder.live, ready=forwarder.ready)
    work = asyncio.ensure_future(_work(settings, producer, forwarder, stop))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    try:
        async with asyncio.timeout(_DRAIN_S):
            await work
    except TimeoutError:
        log.warning("drain_cut_short", extra={"after_s": _DRAIN_S})
    finally:
        if health:
            health.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await health


async def _work(settings: Settings, producer: Producer, forwarder: Forwarder, stop: asyncio.Event) -> None:
    if not await _started(producer, stop):
        return
    log.info("started", extra={"pattern": settings.topics.tier_pattern})
    try:
        async with asyncio.TaskGroup() as together:
            janitor = together.create_task(Janitor(settings).run(stop))
            await forwarder.run(stop)
            janitor.cancel()
    finally:
        await producer.stop()
    log.info("stopped", extra={"forwarded": forwarder.forwarded})


async def _started(producer: Producer, stop: asyncio.Event) -> bool:
    """Wait for Kafka as long as it takes. False: asked to stop before."""
    stopping = asyncio.ensure_future(stop.wait())
    while True:
        starting = asyncio.ensure_future(producer.start())
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
            await producer.stop()
            return False
        try:
            starting.result()
        except NotConfirmed as error:
            log.warning("kafka_unreachable", extra={"error": str(error)})
        else:
            stopping.cancel()
            return True


if __name__ == "__main__":
    sys.exit(main())
