"""What a member tells its group of how far it is, on a real broker."""

from __future__ import annotations

from aiokafka import TopicPartition

from shared.commits import Commits
from shared.settings import Settings
from tests.group_commits import committing


async def test_what_moved_is_committed(topics_ready: Settings) -> None:
    first, second = (TopicPartition(topics_ready.topics.attempts, number) for number in range(2))
    commits = Commits()
    async with committing(topics_ready, "mover", [first, second]) as consumer:
        commits.done({first: 5})
        assert await commits.commit(consumer) == ""
        commits.done({first: 6, second: 1})
        assert await commits.commit(consumer) == ""
        assert [await consumer.committed(tp) for tp in (first, second)] == [6, 1]


async def test_what_was_done_while_it_was_given_away_does_not_set_its_next_owner_back(topics_ready: Settings) -> None:
    kept, lost = (TopicPartition(topics_ready.topics.attempts, number) for number in range(2))
    commits = Commits()
    async with (
        committing(topics_ready, "owner", [kept]) as here,
        committing(topics_ready, "owner", [lost]) as there,
    ):
        commits.done({kept: 5, lost: 5})
        assert await commits.commit(here) == ""
        await there.commit({lost: 9})
        here.assign([kept, lost])
        commits.done({kept: 6})
        assert await commits.commit(here) == ""
        assert [await here.committed(tp) for tp in (kept, lost)] == [6, 9]
