"""Sets in memory, whatever the feed shows and whenever a set is read, are those of the truth."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from shared.subscription import Change, SealedSubscription
from shared.tenant_sets import Interest, TenantSets

TENANTS = ("a", "b", "c")
_SEALED = SealedSubscription(
    id="",
    tenant="",
    target_url="https://example.com",
    status="active",
    event_types=(),
    description=None,
    sealed_secret=None,
    sealed_signing_keys="",
    sealed_headers=None,
    timeout_seconds=None,
    retry_delays=None,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    updated_at=datetime(2026, 1, 1, tzinfo=UTC),
    version=0,
    signature_scheme="hub",
    rate_limit=None,
    max_in_flight=None,
    sealed_previous=None,
    signing_versions=("v1",),
    sealed_private_keys=None,
)
#: (who, whose, wants what): a write; whose None: deleted.
writes = st.tuples(st.sampled_from("stuvw"), st.none() | st.sampled_from(TENANTS), st.sampled_from(["x", "y.*"]))
#: A write, a poll of the feed, or the reading of one tenant's set.
steps = st.lists(writes | st.just("poll") | st.sampled_from(TENANTS), max_size=40)


class Truth:
    """What Postgres holds, and a feed that is as late as the steps make it."""

    def __init__(self) -> None:
        self.rows: dict[str, Change] = {}
        self.version = self.shown = 0

    def write(self, who: str, whose: str | None, what: str) -> None:
        self.version += 1
        sealed = whose and replace(_SEALED, id=who, tenant=whose, event_types=(what,), version=self.version)
        self.rows[who] = Change(who, self.version, self.version, sealed or None)

    def changes(self) -> list[Change]:
        newer = [change for change in self.rows.values() if change.version > self.shown]
        self.shown = self.version
        return sorted(newer, key=lambda change: change.version)

    def of(self, tenant: str) -> list[Interest]:
        alive = [change.sealed for change in self.rows.values() if change.sealed]
        return [Interest(one.id, one.event_types) for one in alive if one.tenant == tenant]


@given(steps)
def test_after_a_poll_every_set_in_memory_is_the_truth(taken: list[tuple[str, str | None, str] | str]) -> None:
    truth, sets = Truth(), TenantSets()
    for step in [*taken, "poll"]:
        if isinstance(step, tuple):
            truth.write(*step)
        elif step == "poll":
            for change in truth.changes():
                sets.apply(change)
        else:
            sets.put(step, truth.version, truth.of(step))
            assert sorted(sets.get(step) or ()) == sorted(truth.of(step)), "fresh"
    for tenant in TENANTS:
        known = sets.get(tenant)
        assert known is None or sorted(known) == sorted(truth.of(tenant))


def test_an_older_change_undoes_nothing_that_was_read_later() -> None:
    """The feed read version 1 before the set was read at version 2, and shows it afterwards."""
    truth, sets = Truth(), TenantSets()
    truth.write("s", "a", "x")
    late = truth.changes()
    truth.write("s", None, "x")
    sets.put("a", truth.version, truth.of("a"))
    for change in late:
        sets.apply(change)
    assert sets.get("a") == ()


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 6)), max_size=30))
def test_memory_is_bounded_by_tenants_and_by_entries(puts: list[tuple[str, int]]) -> None:
    sets = TenantSets(most_tenants=3, most_entries=8)
    for tenant, size in puts:
        sets.put(tenant, 1, [Interest(f"{tenant}{number}", ()) for number in range(size)])
        assert len(sets.get(tenant) or ()) == size, "the last one is there and complete"
        kept = [known for name in "abcdef" if (known := sets.get(name)) is not None]
        sets.get(tenant)
        assert len(kept) <= 3
        assert sum(map(len, kept)) <= 8
    sets.clear()
    assert all(sets.get(name) is None for name in "abcdef")
