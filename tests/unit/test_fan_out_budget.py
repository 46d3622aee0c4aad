"""How many bytes a second a tenant's events may become."""

from __future__ import annotations

from ingest_api.fan_out_budget import FanOutBudget


def test_an_idle_tenant_has_two_seconds_of_its_rate_and_then_waits() -> None:
    budget = FanOutBudget(1000)
    assert budget.spend("a", 1500, 10.0) == 0
    assert budget.spend("a", 500, 10.0) == 0
    assert 0 < budget.spend("a", 1, 10.0) <= 0.001
    assert budget.spend("a", 1, 10.5) == 0


def test_an_event_larger_than_the_bucket_goes_and_is_paid_for_afterwards() -> None:
    budget = FanOutBudget(1000)
    assert budget.spend("a", 12_000, 0.0) == 0
    assert budget.spend("a", 1, 1.0) == 9.0
    assert budget.spend("a", 1, 9.9) > 0
    assert budget.spend("a", 1, 10.1) == 0


def test_a_refusal_costs_nothing() -> None:
    budget = FanOutBudget(1000)
    budget.spend("a", 3000, 0.0)
    for _ in range(100):
        assert budget.spend("a", 5000, 0.5) == 0.5
    assert budget.spend("a", 1, 1.1) == 0


def test_tenants_do_not_share_and_zero_is_no_limit() -> None:
    budget = FanOutBudget(1000)
    budget.spend("a", 9000, 0.0)
    assert budget.spend("b", 1, 0.0) == 0
    free = FanOutBudget(0)
    assert [free.spend("a", 10**12, 0.0) for _ in range(3)] == [0, 0, 0]


def test_memory_is_bounded() -> None:
    budget = FanOutBudget(1000)
    for number in range(20_000):
        budget.spend(str(number), 9000, 0.0)
    assert len(budget._buckets) == 10_000
