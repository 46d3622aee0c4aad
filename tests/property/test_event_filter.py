"""Which filters want which types: rules for every type and filter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.event_filter import is_event_type, is_filter, is_operational, wants

_segments = st.text(st.sampled_from("abz019_-:/"), min_size=1, max_size=8)
dotted = st.lists(_segments, min_size=1, max_size=5).map(".".join)
any_text = st.text(max_size=300)


@given(st.none() | any_text | any_text.map(lambda text: f"hooklog.{text}"))
def test_no_filter_wants_everything_but_what_is_about_hooklog_itself(event_type: str | None) -> None:
    assert wants((), event_type) != is_operational(event_type)
    assert is_operational(event_type) == (event_type or "").startswith("hooklog.")


@given(dotted, st.lists(dotted, max_size=3))
def test_who_names_an_operational_type_or_what_is_above_it_gets_it(rest: str, others: list[str]) -> None:
    operational = f"hooklog.subscription.{rest}"
    for named in (operational, "hooklog.subscription.*", "hooklog.*"):
        assert wants([*others, named], operational)
    assert not wants(["hooklog", "hook.*", "hooklog.subscription"], operational)


@given(dotted, st.lists(dotted, max_size=3))
def test_an_exact_filter_wants_its_type_whatever_stands_beside_it(event_type: str, others: list[str]) -> None:
    assert wants([*others, event_type], event_type)
    assert wants([event_type, *others], event_type)


@given(dotted, dotted)
def test_a_prefix_wants_what_is_below_it_and_neither_itself_nor_its_neighbours(prefix: str, rest: str) -> None:
    assert wants([f"{prefix}.*"], f"{prefix}.{rest}")
    assert not wants([f"{prefix}.*"], prefix)
    assert not wants([f"{prefix}.*"], f"{prefix}{rest.replace('.', '')}")


@given(dotted, dotted)
def test_an_exact_filter_wants_no_other_type(one: str, other: str) -> None:
    assert wants([one], other) == (one == other)


@given(st.lists(dotted | dotted.map(lambda text: f"{text}.*"), min_size=1, max_size=4), dotted)
def test_several_filters_want_what_any_of_them_wants(filters: list[str], event_type: str) -> None:
    assert wants(filters, event_type) == any(wants([one], event_type) for one in filters)
    assert not wants(filters, None)


@given(any_text)
def test_a_filter_is_a_type_or_a_type_and_a_star(text: str) -> None:
    exact = text.removesuffix(".*")
    assert is_filter(text) == (len(text) <= 256 and is_event_type(exact) and "*" not in exact)


@pytest.mark.parametrize("text", ["", "*", ".*", "a.*.b", "a*", "a.**", " a", "a\n", "a\u00e9", "x" * 257])
def test_what_is_no_filter(text: str) -> None:
    assert not is_filter(text)
