"""What plain Kafka clients put into `deliveries`: delivered, brought home or dead-lettered; the partition goes on."""

from __future__ import annotations

import asyncio
import time

from aiokafka import AIOKafkaProducer, ConsumerRecord

from shared.broker import client_options
from shared.settings import Settings
from shared.topics import home_partition
from tests.end_to_end.test_pipeline import headers_of
from tests.receiver import Receiver
from tests.system import System, read_topic


async def produce(
    settings: Settings, *records: tuple[bytes | None, bytes | None, list[tuple[str, bytes]], int]
) -> None:
    producer = AIOKafkaProducer(**client_options(settings))
    await producer.start()
    for key, value, headers, partition in records:
        await producer.send_and_wait(settings.topics.deliveries, value, key, partition, headers=headers)
    await producer.stop()


async def dead_letters(settings: Settings, source_prefix: str, count: int) -> list[ConsumerRecord]:
    deadline = time.monotonic() + 20
    while True:
        records = await read_topic(settings, settings.topics.dead_letter)
        found = [r for r in records if headers_of(r)["source"].startswith(source_prefix)]
        if len(found) >= count:
            return found
        assert time.monotonic() < deadline, f"{len(found)} of {count} dead letters"
        await asyncio.sleep(0.2)


async def test_a_plain_record_with_only_a_subscription_is_delivered(system: System, receiver: Receiver) -> None:
    subscription = await system.subscribe(receiver.url + "/plain")
    header = [("subscription-id", subscription["id"].encode())]
    home = home_partition(subscription["id"], system.settings.partitions)
    await produce(system.settings, (None, b"plain", header, home))
    (arrival,) = await receiver.wait_for(1, "/plain")
    assert arrival.body == b"plain"
    # Its id is derived and tells no time, so the status is there only once the attempt log has it.
    await system.status_when(arrival.headers["webhook-id"], "succeeded", unknown_at_first=True)


async def test_a_record_outside_its_home_is_brought_home_and_delivered_once(system: System, receiver: Receiver) -> None:
    subscription = await system.subscribe(receiver.url + "/astray")
    home = home_partition(subscription["id"], system.settings.partitions)
    astray = (home + 1) % system.settings.partitions
    header = [("subscription-id", subscription["id"].encode())]
    await produce(system.settings, (b"any key", b"astray", header, astray))
    await receiver.wait_for(1, "/astray")

    moved = [r for r in await read_topic(system.settings, system.settings.topics.deliveries) if r.value == b"astray"]
    assert {record.partition for record in moved} == {astray, home}
    at_home = next(record for record in moved if record.partition == home)
    assert headers_of(at_home)["hops"] == "1"
    # A later one arrives, the first is not there twice.
    await produce(system.settings, (None, b"last", header, home))
    await receiver.wait_for(2, "/astray")
    assert [arrival.body for arrival in receiver.of("/astray")] == [b"astray", b"last"]


async def test_what_nobody_can_read_is_dead_lettered_raw_and_the_partition_goes_on(
    system: System, receiver: Receiver
) -> None:
    subscription = await system.subscribe(receiver.url + "/goes-on")
    home = home_partition(subscription["id"], system.settings.partitions)
    header = ("subscription-id", subscription["id"].encode())
    await produce(
        system.settings,
        (b"k", b"no headers", [], home),
        (b"k", None, [header], home),
        (b"\xff\xfe", b"\x00\xff\xfe", [("subscription-id", b"\xff\xfe"), ("other", b"\x00")], home),
        (None, b"good", [header], home),
    )
    (arrival,) = await receiver.wait_for(1, "/goes-on")
    assert arrival.body == b"good"
    dead = await dead_letters(system.settings, f"{system.settings.topics.deliveries}:{home}:", 3)
    by_value = {record.value: headers_of(record)["reason"] for record in dead}
    assert by_value[b"no headers"] == "no subscription-id"
    assert by_value[None] == "null value"
    assert by_value[b"\x00\xff\xfe"] == "no subscription-id"
