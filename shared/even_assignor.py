"""Which member of a group reads which partition: every topic shared out evenly by itself, and moving little.

aiokafka's sticky assignor evens out the number of partitions over all topics together. With `deliveries` and `events`
in one group a second worker was given all of one topic and none of the other: twice the workers, nothing faster.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata


class EvenAssignor(StickyPartitionAssignor):  # type: ignore[misc]  # aiokafka has no types
    """The sticky assignor, topic by topic. Its name and what members tell of themselves stay the same."""

    @classmethod
    def assign(
        cls, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        known = {member: cls.parse_member_metadata(metadata) for member, metadata in members.items()}
        shares: dict[str, list[tuple[str, list[int]]]] = defaultdict(list)
        for topic in sorted({topic for one in known.values() for topic in one.subscription}):
            readers = {
                member: cls._metadata([topic], [tp for tp in one.partitions if tp.topic == topic], one.generation)
                for member, one in known.items()
                if topic in one.subscription
            }
            for member, share in super().assign(cluster, readers).items():
                shares[member] += share.assignment
        return {member: ConsumerProtocolMemberAssignment(cls.version, shares[member], b"") for member in members}
