"""A simple loop through a running stack (`make up`), not the benchmark: events/s, and from the 202 to the POST.

    set -a; . .hooklog/stack.env; set +a; .venv/bin/python -m tests.benchmarks.first_look

First 500 events one after the other, 20 ms apart (latency on an idle stack), then 5,000 from 32 producers (rate).
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from typing import Any

import aiohttp
import uvloop

from tests.receiver import Receiver

PACED, FAST, PRODUCERS = 500, 5000, 32
BODY = b'{"event_type":"bench","filler":"' + b"x" * 990 + b'"}'


async def main() -> None:
    """Against the API of the stack.env that was sourced."""
    base_url = os.environ["HOOKLOG_URL"]
    async with Receiver() as receiver, aiohttp.ClientSession(base_url) as client:
        async with client.post("/subscriptions/", json={"target_url": f"{receiver.url}/bench"}) as answer:
            subscription = await answer.json()
        path = f"/ingest/{subscription['id']}"
        accepted_s = dict([await post(client, path, pause_s=0.02) for _ in range(PACED)])
        await receiver.wait_for(PACED, timeout_s=60)
        report("one at a time", receiver, accepted_s)
        receiver.clear()

        began_s = time.monotonic()
        left = iter(range(FAST))
        await asyncio.gather(*(produce(client, path, left) for _ in range(PRODUCERS)))
        ingested_s = time.monotonic() - began_s
        await receiver.wait_for(FAST, timeout_s=120)
        delivered_s = time.monotonic() - began_s
        print(f"{FAST} events from {PRODUCERS} producers: ingested {FAST / ingested_s:.0f}/s,", end=" ")
        print(f"delivered {FAST / delivered_s:.0f}/s")
        async with client.delete(f"/subscriptions/{subscription['id']}") as answer:
            assert answer.status == 204


async def post(client: aiohttp.ClientSession, path: str, pause_s: float = 0) -> tuple[str, float]:
    """The webhook id and when its 202 was here."""
    async with client.post(path, data=BODY, headers={"Content-Type": "application/json"}) as answer:
        body: dict[str, Any] = await answer.json()
        assert answer.status == 202, body
    accepted_s = time.monotonic()
    await asyncio.sleep(pause_s)
    return body["webhook_id"], accepted_s


async def produce(client: aiohttp.ClientSession, path: str, left: Any) -> None:
    for _ in left:
        await post(client, path)


def report(what: str, receiver: Receiver, accepted_s: dict[str, float]) -> None:
    waits_ms = sorted((a.at_s - accepted_s[a.headers["webhook-id"]]) * 1000 for a in receiver.arrivals)
    p50, p99 = statistics.median(waits_ms), waits_ms[int(len(waits_ms) * 0.99)]
    print(f"{what}: 202 -> POST p50 {p50:.1f} ms, p99 {p99:.1f} ms ({len(waits_ms)} events)")


if __name__ == "__main__":
    uvloop.run(main())
