"""How our producer compresses, and that any reader can read it."""

from __future__ import annotations

from aiokafka.codec import lz4_decode, lz4_encode
from aiokafka.record.memory_records import MemoryRecords

from shared.producer_session import ProducerSession
from shared.settings import load_settings

#: What stands before the records of a batch (Kafka's format 2), which are compressed together.
_HEADER_BYTES = 61


async def test_a_batch_is_compressed_at_level_1_and_reads_as_it_was_written() -> None:
    session = ProducerSession(load_settings())
    batch = session._kafka.create_batch()
    values = [f'{{"number": {number}, "outcome": "succeeded"}}'.encode() * 20 for number in range(50)]
    for value in values:
        assert batch.append(timestamp=None, key=b"key", value=value, headers=[("name", b"text")])
    data = bytes(batch._build())
    compressed = data[_HEADER_BYTES:]
    plain = lz4_decode(compressed)
    assert compressed == lz4_encode(plain, 1)
    assert compressed != lz4_encode(plain)
    records = MemoryRecords(data).next_batch()
    assert records.validate_crc()
    assert [(record.key, record.value, record.headers) for record in records] == [
        (b"key", value, [("name", b"text")]) for value in values
    ]
    await session.close()
