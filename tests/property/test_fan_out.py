"""Fan-out: the same deliveries however often, bounded chunks that leave nobody out."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from delivery_stream.fan_out import CHUNK_BYTES, CHUNK_RECORDS, chunks, matching
from shared.record_ids import attempt_id, delivery_id
from shared.records import Event, Source, delivery_from_record, event_from_record
from shared.subscriptions import Interest
from tests.strategies import events, texts

HERE = Source("webhooks.deliveries", 0, 0)
uuids = st.uuids().map(str)


@given(events(), st.lists(uuids, unique=True, max_size=20))
def test_an_event_fanned_out_again_makes_the_same_deliveries(event: Event, ids: list[str]) -> None:
    again = event_from_record(HERE, event.payload, event.to_record("webhooks.events").headers, 5)
    first = [event.delivery_to(one) for one in ids]
    assert [again.delivery_to(one) for one in ids] == first
    assert len({one.webhook_id for one in first}) == len(ids)
    for delivery in first:
        record = delivery.to_record("webhooks.deliveries")
        assert delivery_from_record(HERE, record.value, record.headers, 5) == delivery
        assert (record.key, record.value) == (delivery.subscription_id.encode(), event.payload)
        assert (delivery.event_id, delivery.accepted_ms) == (event.id, event.accepted_ms)


@given(texts, uuids, texts, uuids)
def test_two_pairs_of_event_and_subscription_are_two_deliveries(
    event: str, subscription: str, other_event: str, other_subscription: str
) -> None:
    same = (event, subscription) == (other_event, other_subscription)
    assert (delivery_id(event, subscription) == delivery_id(other_event, other_subscription)) == same


@given(texts, uuids, texts, st.integers(1, 9), st.integers(1, 9))
def test_no_delivery_has_an_attempts_id(event: str, subscription: str, webhook: str, run: int, attempt: int) -> None:
    derived = delivery_id(event, subscription)
    assert uuid.UUID(derived).version == 5
    assert derived != attempt_id(webhook, run, attempt)


@given(st.integers(0, 3000), st.integers(0, 2 * CHUNK_BYTES))
def test_chunks_are_bounded_and_leave_nobody_out(count: int, payload_bytes: int) -> None:
    ids = [str(number) for number in range(count)]
    cut = list(chunks(ids, payload_bytes))
    assert [one for chunk in cut for one in chunk] == ids
    for chunk in cut:
        assert 1 <= len(chunk) <= CHUNK_RECORDS
        assert len(chunk) == 1 or len(chunk) * payload_bytes <= CHUNK_BYTES


def test_only_who_wants_the_type_is_matched() -> None:
    known = [
        Interest("all", ()),
        Interest("orders", ("order.*",)),
        Interest("paid", ("order.paid", "invoice.paid")),
        Interest("users", ("user.*",)),
    ]
    assert matching(Event("e", b"", 1, event_type="order.paid"), known) == ["all", "orders", "paid"]
    assert matching(Event("e", b"", 1), known) == ["all"]


def test_an_operational_event_goes_to_who_asks_for_it_and_never_to_what_it_is_about() -> None:
    known = [
        Interest("all", ()),
        Interest("named", ("hooklog.subscription.disabled", "order.*")),
        Interest("every-subscription", ("hooklog.subscription.*",)),
        Interest("everything-operational", ("hooklog.*",)),
        Interest("the-disabled-one", ("hooklog.*",)),
        Interest("orders", ("order.*",)),
    ]
    told = Event("e", b"", 1, event_type="hooklog.subscription.disabled", about="the-disabled-one")
    assert matching(told, known) == ["named", "every-subscription", "everything-operational"]
