"""However a group comes and goes, each topic is shared out evenly by itself."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

from aiokafka import TopicPartition
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from hypothesis import given
from hypothesis import strategies as st

from shared.even_assignor import EvenAssignor

TOPICS = ("deliveries", "events")
Owned = dict[str, list[TopicPartition]]


class Cluster:
    """As much of ClusterMetadata as an assignor asks for."""

    def __init__(self, partitions: int) -> None:
        self._partitions = set(range(partitions))

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return self._partitions if topic in TOPICS else None

    def topics(self) -> set[str]:
        return set(TOPICS)


def metadata(owned: list[TopicPartition] | None) -> ConsumerProtocolMemberMetadata:
    return EvenAssignor._metadata(TOPICS, owned)


def assigned(partitions: int, members: list[str], before: Owned) -> Owned:
    told = {member: metadata(before.get(member)) for member in members}
    assignment = EvenAssignor.assign(cast(ClusterMetadata, Cluster(partitions)), cast(Any, told))
    return {member: list(assignment[member].partitions()) for member in members}


members = st.lists(st.sampled_from("abcde"), min_size=1, unique=True)


@given(st.integers(1, 9), st.lists(members, min_size=1, max_size=4))
def test_every_partition_has_one_reader_and_each_topic_is_even(partitions: int, groups: list[list[str]]) -> None:
    owned: Owned = {}
    for group in groups:
        owned = assigned(partitions, group, owned)
        readers = Counter(tp for share in owned.values() for tp in share)
        assert readers == Counter(TopicPartition(topic, n) for topic in TOPICS for n in range(partitions))
        for topic in TOPICS:
            counts = [sum(tp.topic == topic for tp in owned[member]) for member in group]
            assert max(counts) - min(counts) <= 1


@given(st.integers(2, 9))
def test_a_second_worker_gets_half_of_each_topic_and_takes_no_more(partitions: int) -> None:
    alone = assigned(partitions, ["a"], {})
    both = assigned(partitions, ["a", "b"], alone)
    assert set(both["a"]) < set(alone["a"])
    for topic in TOPICS:
        assert sum(tp.topic == topic for tp in both["b"]) in (partitions // 2, (partitions + 1) // 2)


@given(st.integers(1, 9), members)
def test_nothing_moves_when_nothing_changed(partitions: int, group: list[str]) -> None:
    before = assigned(partitions, group, {})
    after = assigned(partitions, group, before)
    assert {member: set(share) for member, share in after.items()} == {m: set(s) for m, s in before.items()}
