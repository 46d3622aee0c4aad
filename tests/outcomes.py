"""What became of a post, when it must be of one kind."""

from __future__ import annotations

from delivery_stream.decision import Answered, NoAnswer, Outcome, Refused


def refused(outcome: Outcome) -> str:
    """Why nothing was sent."""
    assert isinstance(outcome, Refused), outcome
    return outcome.reason


def error_class(outcome: Outcome) -> str:
    """Why there was no answer."""
    assert isinstance(outcome, NoAnswer), outcome
    return outcome.error_class


def status(outcome: Outcome) -> int:
    """What was answered."""
    assert isinstance(outcome, Answered), outcome
    return outcome.status
