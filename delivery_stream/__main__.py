"""The stream worker: ``python -m delivery_stream``. Ends on SIGTERM and SIGINT within 20 s."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading

import uvloop

from delivery_stream.app import Stream
from delivery_stream.name_servers import NameServers
from delivery_stream.resolver import Resolver
from delivery_stream.sender import Sender
from shared import logs
from shared.clock import SystemClock
from shared.collector import calm_collector
from shared.errors import ConfigurationError, NotConfirmed
from shared.health import serve_health
from shared.kafka import Producer
from shared.own_ports import own_ports, receiver_urls
from shared.settings import Settings, load_settings
from shared.subscriptions import SubscriptionMap

log = logging.getLogger("delivery_stream")

STOP_DEADLINE_S = 20.0


def main() -> int:
    """The exit code: 0 after a signal, 1 after a fault, 2 for settings that cannot be used."""
    try:
        settings = load_settings()
        logs.configure("delivery-stream", settings.log_level)
        return uvloop.run(run(settings))
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2


async def run(settings: Settings) -> int:
    """Until a signal or a fault."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _stop, stop)
    clock = SystemClock()
    producer = Producer(settings, clock=clock)
    subscriptions = SubscriptionMap(settings)
    own = {("127.0.0.1", port) for port in own_ports(settings)}
    resolver = Resolver(NameServers(settings.dns_servers))
    sender = Sender(settings.allowed_target_networks, own, receiver_urls(settings), resolver=resolver, clock=clock)
    stream = Stream(settings, producer=producer, subscriptions=subscriptions, sender=sender, clock=clock)
    health = (
        await serve_health(settings.health_port, live=stream.stuck, ready=stream.troubles)
        if settings.health_port
        else None
    )
    await subscriptions.start()
    if await _kafka_is_there(producer, settings, stop):
        await stream.start()
        calm_collector()
        log.info("started", extra={"group": stream.app.conf.id})
        await _until_stopped(stream, stop)
        if not stop.is_set():
            _stop(stop)  # a fault: the deadline holds for its stop as well
        await stream.stop()
    await sender.close()
    await subscriptions.stop()
    await producer.stop()
    if health:
        health.cancel()
    fault = stream.app.crash_reason
    log.info("stopped", extra={"fault": repr(fault) if fault else None})
    return 1 if fault else 0


async def _kafka_is_there(producer: Producer, settings: Settings, stop: asyncio.Event) -> bool:
    """Wait for a broker and our topics; False when a signal came first."""
    while not stop.is_set():
        try:
            await producer.start()
            for topic in (settings.topics.deliveries, settings.topics.events):
                await producer.partitions(topic)
        except NotConfirmed as error:
            log.warning("waiting for kafka", extra={"error": str(error)})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await stop.wait()
        else:
            return True
    return False


async def _until_stopped(stream: Stream, stop: asyncio.Event) -> None:
    waits = [asyncio.create_task(stop.wait()), asyncio.create_task(stream.app.wait_until_stopped())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def _stop(stop: asyncio.Event) -> None:
    """A stop near a rebalance was once seen to hang: whatever happens, the process ends."""
    stop.set()
    deadline = threading.Timer(STOP_DEADLINE_S, os._exit, (1,))
    deadline.daemon = True
    deadline.start()


if __name__ == "__main__":
    sys.exit(main())
