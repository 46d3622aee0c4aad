"""Questions to a part of the stack."""

from __future__ import annotations

import asyncio

import pytest

from deploy.readiness import ask


async def _not_yet() -> str:
    await asyncio.sleep(0)
    return "not yet"


@pytest.mark.parametrize("steps", range(6))
async def test_a_question_swallows_no_cancellation(steps: int) -> None:
    """Whenever it comes, at the moment of the answer too: who asks for ever could not be stopped."""

    async def for_ever() -> None:
        while True:
            await ask(_not_yet)

    asking = asyncio.create_task(for_ever())
    for _ in range(steps):
        await asyncio.sleep(0)
    asking.cancel()
    done, _ = await asyncio.wait([asking], timeout=1)
    assert done == {asking}
    assert asking.cancelled()
