"""Which type an event has, and which filters want it."""

from __future__ import annotations

from typing import Any

import pytest

from ingest_api.event_type import UnusableEventType, event_type_of, is_filter, wants


@pytest.mark.parametrize(
    ("header", "query", "document", "expected"),
    [
        ("h", "q", {"event_type": "b", "type": "t", "event": "e"}, "h"),
        (None, "q", {"event_type": "b", "type": "t", "event": "e"}, "q"),
        (None, None, {"event_type": "b", "type": "t", "event": "e"}, "b"),
        (None, None, {"type": "t", "event": "e"}, "t"),
        (None, None, {"event": "e"}, "e"),
        ("", "", {"event_type": "", "type": "t"}, "t"),
        (None, None, {"event_type": 7, "type": {"of": "thing"}, "event": ["x"]}, None),
        (None, None, {"type": "two\nlines", "event": "order.created"}, "order.created"),
        (None, None, [{"event_type": "inside a list"}], None),
        (None, None, None, None),
    ],
)
def test_the_first_place_that_names_a_type_wins(
    header: str | None, query: str | None, document: Any, expected: str | None
) -> None:
    assert event_type_of(header, query, document) == expected


@pytest.mark.parametrize("text", ["a\r\nb", "a\x00", "é", "x" * 257, " padded", "\ud800"])
@pytest.mark.parametrize("place", ["header", "query", "body"])
def test_an_explicit_type_that_cannot_be_a_header_is_refused(text: str, place: str) -> None:
    with pytest.raises(UnusableEventType):
        event_type_of(
            text if place == "header" else None,
            text if place == "query" else None,
            {"event_type": text} if place == "body" else None,
        )


@pytest.mark.parametrize(
    ("filters", "event_type", "expected"),
    [
        ((), "anything", True),
        (("order.created",), "order.created", True),
        (("order.created",), "order.created.v2", False),
        (("order.*",), "order.created", True),
        (("order.*",), "order.created.v2", True),
        (("order.*",), "order", False),
        (("order.*",), "orders.created", False),
        (("user.*", "order.paid"), "order.paid", True),
        (("Order.paid",), "order.paid", False),
    ],
)
def test_filters_match_exactly_or_by_prefix(filters: tuple[str, ...], event_type: str, expected: bool) -> None:
    assert wants(filters, event_type) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("order.created", True),
        ("order.*", True),
        ("a", True),
        ("x" * 256, True),
        ("x" * 257, False),
        ("", False),
        ("*", False),
        (".*", False),
        ("*.created", False),
        ("or*der", False),
        ("order*", False),
        ("order.*.*", False),
        ("or\nder", False),
        ("é", False),
    ],
)
def test_a_star_stands_only_behind_the_last_dot(text: str, expected: bool) -> None:
    assert is_filter(text) is expected
