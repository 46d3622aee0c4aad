"""Topic names and retry tiers."""

from __future__ import annotations

import pytest

from shared.provisioning import topic_configs
from shared.settings import load_settings
from shared.topics import RetrySchedule, Topics, home_partition, parse_delay


def test_a_tiers_name_carries_its_delay_and_gives_it_back() -> None:
    topics = Topics("webhooks.")
    assert topics.tier(40) == "webhooks.retry-40s"
    assert topics.delay_s("webhooks.retry-40s") == 40
    assert topics.delay_s("webhooks.deliveries") is None
    assert topics.delay_s("webhooksXretry-40s") is None


@pytest.mark.parametrize(("text", "delay_s"), [("10s", 10), ("10", 10), ("5m", 300), ("2h", 7200)])
def test_delays_are_read_with_their_unit(text: str, delay_s: int) -> None:
    assert parse_delay(text) == delay_s


@pytest.mark.parametrize("text", ["", "0s", "-1s", "10 s", "1d", "169h", "ten"])
def test_what_is_no_delay_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a delay"):
        parse_delay(text)


def test_three_tiers_allow_four_attempts() -> None:
    schedule = RetrySchedule((10, 40, 160))
    assert [schedule.tier_after(n) for n in (1, 2, 3, 4)] == [10, 40, 160, None]


@pytest.mark.parametrize(
    ("wait_s", "tier_s", "rough_s"),
    [
        (0.2, 1, 1),
        (1.5, 1, 4),
        (4, 4, 4),
        (4.5, 4, 4),
        (5, 4, 10),
        (12, 10, 10),
        (20, 10, 40),
        (81, 40, 160),
        (9e9, 160, 160),
    ],
)
def test_a_wait_is_kept_to_the_point_through_the_longest_tier_within_it_and_roughly_through_one(
    wait_s: float, tier_s: int, rough_s: int
) -> None:
    schedule = RetrySchedule((10, 40, 160))
    assert (schedule.wait_tier(wait_s), schedule.rough_tier(wait_s)) == (tier_s, rough_s)


def test_retry_after_chooses_a_longer_tier_and_the_longest_is_the_most_there_is() -> None:
    schedule = RetrySchedule((10, 40, 160))
    assert schedule.tier_after(1, at_least_s=11) == 40
    assert schedule.tier_after(1, at_least_s=5000) == 160
    assert schedule.tier_after(3, at_least_s=1) == 160


def test_a_keys_home_is_where_kafkas_own_clients_put_it() -> None:
    # Values of org.apache.kafka.common.utils.UtilsTest.testMurmur2.
    assert home_partition("21", 2**31) == -973932308 & 0x7FFFFFFF
    assert home_partition("foobar", 2**31) == -790332482 & 0x7FFFFFFF


@pytest.mark.parametrize(("replicas", "in_sync"), [(1, None), (2, None), (3, "2"), (5, "2")])
def test_from_three_replicas_on_two_have_to_confirm(replicas: int, in_sync: str | None) -> None:
    configs = topic_configs(load_settings(_env_file=None, replication_factor=replicas))
    assert {config.get("min.insync.replicas") for config in configs.values()} == {in_sync}
