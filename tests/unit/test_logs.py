"""Lines are written together, warnings at once, and nothing that is said often is lost or said differently."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator

import msgspec
import orjson
import pytest

from shared.logs import JsonLines, Often, Together
from tests.eventually import eventually

log = logging.getLogger("tests.often")


class Facts(msgspec.Struct):
    """What is said often."""

    webhook_id: str
    status: int | None = None
    error_class: str | None = None


class Stream(io.StringIO):
    """Counts writes; may be gone."""

    writes, gone = 0, False

    def write(self, text: str) -> int:
        if self.gone:
            raise BrokenPipeError
        self.writes += 1
        return super().write(text)

    def lines(self) -> list[dict[str, object]]:
        return [orjson.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
    """What the root logger writes to."""
    made = Stream()
    handler = Together(made, JsonLines("stream-worker"))
    monkeypatch.setattr(logging.root, "handlers", [handler])
    log.setLevel(logging.INFO)
    yield made
    log.setLevel(logging.NOTSET)
    handler.close()


@pytest.fixture
def alone(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`Often.say` while nothing else listens, as in a process: pytest adds a handler of its own when a test begins."""
    handler = logging.root.handlers[0]

    def say(*several: Facts) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(logging.root, "handlers", [handler])
            Often(log, "attempted").say(several)

    return say


def test_what_is_said_often_is_the_line_that_the_logger_would_have_written(
    stream: Stream, alone: Callable[..., None]
) -> None:
    facts = {"webhook_id": 'a "b" \n ü', "status": 200, "error_class": None}
    alone(msgspec.convert(facts, Facts))
    log.info("attempted", extra=facts)
    log.warning("flush")
    said, logged, _ = stream.lines()
    assert said.pop("at")
    assert logged.pop("at")
    assert (
        said
        == logged
        == {"level": "INFO", "process": "stream-worker", "logger": "tests.often", "event": "attempted", **facts}
    )


def test_a_fact_that_is_no_unicode_costs_no_other_line(stream: Stream, alone: Callable[..., None]) -> None:
    alone(Facts("a"), Facts("\udc80"), Facts("b"))
    log.warning("flush")
    first, second, third, _ = stream.lines()
    assert second["unwritten"] == r"Facts(webhook_id='\udc80', status=None, error_class=None)"
    assert (first["webhook_id"], third["webhook_id"]) == ("a", "b")


def test_many_that_are_said_together_are_a_line_each_and_do_not_wait_for_ever(
    stream: Stream, alone: Callable[..., None]
) -> None:
    alone(*(Facts(f"\n{{{number}", number) for number in range(999)))
    assert stream.writes == 0
    alone(Facts("the thousandth"))
    alone(Facts("it waits again"))
    assert stream.writes == 1
    lines = stream.lines()
    assert [line["webhook_id"] for line in lines] == [*(f"\n{{{number}" for number in range(999)), "the thousandth"]
    assert {line["event"] for line in lines} == {"attempted"}


async def test_lines_are_written_together_and_soon(stream: Stream) -> None:
    for number in range(50):
        log.info("one", extra={"number": number})
    await eventually(lambda: len(stream.lines()) == 50)
    assert [line["number"] for line in stream.lines()] == list(range(50))
    assert stream.writes < 50


def test_a_warning_does_not_wait_and_comes_after_what_was_said_before(stream: Stream) -> None:
    log.info("before")
    log.warning("trouble")
    assert [line["event"] for line in stream.lines()] == ["before", "trouble"]


def test_a_stream_that_is_gone_costs_lines_and_nothing_else(stream: Stream) -> None:
    stream.gone = True
    log.warning("nobody hears this")
    stream.gone = False
    log.warning("and this is heard")
    assert [line["event"] for line in stream.lines()] == ["and this is heard"]


def test_an_exception_is_part_of_its_line(stream: Stream) -> None:
    try:
        raise OSError("no")
    except OSError:
        log.exception("failed")
    [line] = stream.lines()
    assert str(line["exception"]).endswith("OSError: no")


def test_below_its_level_nothing_is_said(stream: Stream) -> None:
    log.setLevel(logging.WARNING)
    Often(log, "attempted").say([Facts("a")])
    log.warning("flush")
    assert [line["event"] for line in stream.lines()] == ["flush"]


def test_among_other_handlers_it_is_an_ordinary_record(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=log.name):
        Often(log, "attempted").say([Facts("a", 200), Facts("b", 503)])
    assert [(record.getMessage(), record.__dict__["status"]) for record in caplog.records] == [
        ("attempted", 200),
        ("attempted", 503),
    ]
