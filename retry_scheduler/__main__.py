"""All retry tiers in one process; beside them what is parked, replays, and the janitor. `python -m retry_scheduler`"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping

import uvloop

from retry_scheduler.forward import Forwarder
from retry_scheduler.janitor import Janitor
from retry_scheduler.parked_tail import ParkedTail
from retry_scheduler.replay import Replays
from retry_scheduler.replay_rows import ReplayRows
from shared import logs
from shared.database import Database
from shared.errors import ConfigurationError, NotConfirmed
from shared.health import serve_health
from shared.kafka import Producer, client_options
from shared.settings import Settings, load_settings
from shared.store_calls import StoreCalls

log = logging.getLogger("retry_scheduler")

#: All of it, of the 20 s that a stop may take; a thread that waits for a Postgres that stands still ends no sooner.
_DRAIN_S = 16.0
_STOP_DEADLINE_S = 20.0
#: What is beside the tiers, after them.
_BESIDE_S = 5.0


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
        asyncio.get_running_loop().add_signal_handler(signal_number, _stop, stop)
    scheduler = Scheduler(settings)
    health = None
    if settings.health_port:
        health = await serve_health(settings.health_port, live=scheduler.live, ready=scheduler.ready)
    work = asyncio.ensure_future(scheduler.run(stop))
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


class Scheduler:
    """Everything in this process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer = Producer(settings)
        self._database = Database(settings.database_url.get_secret_value(), pool_size=3)
        rows = ReplayRows(self._database)
        self._calls = StoreCalls("retry-scheduler", threads=3)
        self._forwarder = Forwarder(settings, self._producer)
        self._tail = ParkedTail(settings, self._producer, rows, self._calls)
        self._replays = Replays(settings, self._producer, rows, self._calls)
        self._janitor = Janitor(settings, lambda: self._calls(rows.still_needed))

    def live(self) -> Mapping[str, str]:
        return self._forwarder.live()

    def ready(self) -> Mapping[str, str]:
        """Retries need no Postgres: without it, what is parked waits, and the scheduler is as ready as before."""
        return {**self._forwarder.ready(), **self._tail.troubles()}

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``; what is under way is finished in a bounded time."""
        if not await _started(self._producer, stop):
            return
        log.info("started", extra={"pattern": self._settings.topics.tier_pattern})
        try:
            async with asyncio.TaskGroup() as together:
                janitor = together.create_task(self._janitor.run(stop))
                beside = [together.create_task(part.run(stop)) for part in (self._tail, self._replays)]
                await self._forwarder.run(stop)
                janitor.cancel()
                await asyncio.wait(beside, timeout=_BESIDE_S)
                for task in beside:
                    task.cancel()
        finally:
            await self._producer.stop()
            self._calls.close()
            self._database.close()
        log.info("stopped", extra={"forwarded": self._forwarder.forwarded, "replayed": self._replays.published})


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


def _stop(stop: asyncio.Event) -> None:
    stop.set()
    deadline = threading.Timer(_STOP_DEADLINE_S, os._exit, (1,))
    deadline.daemon = True
    deadline.start()


if __name__ == "__main__":
    sys.exit(main())
