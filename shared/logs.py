"""Log lines: one JSON object each, the event's name constant and its facts as fields."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TextIO

import msgspec
import orjson

from shared.clock import to_rfc3339

#: A record's facts stand behind these, in the order they were given.
_STANDARD_COUNT = len(vars(logging.makeLogRecord({})))
#: What other handlers may have added behind them.
_ADDED = ("message", "asctime")

#: Lines below WARNING wait so long for company, at most so many: a write for each would cost as much as a line.
TOGETHER_S = 0.05
_TOGETHER_MAX = 1000


class JsonLines(logging.Formatter):
    """``log.info("attempted", extra={"status": 503})`` -> ``{"at": …, "event": "attempted", "status": 503, …}``."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process
        #: By logger and event, of the few that are said often: what stands before the facts.
        self._before: dict[tuple[str, str], str] = {}

    def format(self, record: logging.LogRecord) -> str:
        facts = dict(islice(vars(record).items(), _STANDARD_COUNT, None))
        for name in _ADDED:
            facts.pop(name, None)
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return self.line(int(record.created * 1000), record.levelname, record.name, record.getMessage(), facts)

    def line(self, at_ms: int, level: str, logger: str, event: str, facts: Mapping[str, object]) -> str:
        """One line. Raises TypeError for a text that is no Unicode."""
        line = {"at": to_rfc3339(at_ms), **self._origin(level, logger, event), **facts}
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()

    def often(self, said: _Said) -> str:
        """The same for what is said often, a line for each. Raises ValueError for no Unicode, TypeError for no JSON."""
        at_ms, logger, event, several = said
        before = self._before.get((logger, event))
        if before is None:
            before = self._before[logger, event] = orjson.dumps(self._origin("INFO", logger, event)).decode()[1:-1]
        before = f'{{"at":"{to_rfc3339(at_ms)}",{before},'
        # No line ends within JSON: each of them is followed by the next line's brace.
        return before + _encode_lines(several).decode()[1:-1].replace("\n{", "\n" + before)

    def _origin(self, level: str, logger: str, event: str) -> dict[str, str]:
        return {"level": level, "process": self._process, "logger": logger, "event": event}


#: What lines at INFO will be made of: milliseconds since 1970, the logger's name, the event, the facts of each.
_Said = tuple[int, str, str, Sequence[msgspec.Struct]]
_encode_lines = msgspec.json.Encoder().encode_lines


class Together(logging.Handler):
    """Writes lines to ``stream``, some at a time; from WARNING up at once, with all that came before.

    A process that is killed takes the last `TOGETHER_S` of its lines with it, and no warning.
    """

    def __init__(self, stream: TextIO, form: JsonLines) -> None:
        super().__init__()
        self.setFormatter(form)
        self._form = form
        self._stream = stream
        self._lines: list[str | _Said] = []
        self._count = 0
        self._waiting = threading.Event()
        threading.Thread(target=self._write_regularly, name="log lines", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._add(self.format(record))
        except (TypeError, ValueError):  # a fact that is no JSON
            self.handleError(record)
        if record.levelno >= logging.WARNING:
            self.flush()

    def info(self, logger: str, event: str, several: Sequence[msgspec.Struct]) -> None:
        """Lines without a LogRecord, whose text is made when they are written.

        Nobody may change ``several`` afterwards. At least one.
        """
        self._add((time.time_ns() // 1_000_000, logger, event, several), len(several))

    def _add(self, line: str | _Said, count: int = 1) -> None:
        with self.lock:  # type: ignore[union-attr] # every handler has one once it is made
            self._lines.append(line)
            self._count += count
            if self._count >= _TOGETHER_MAX:
                self.flush()
            elif len(self._lines) == 1:
                self._waiting.set()

    def flush(self) -> None:
        """Write what waits. A stream that is gone is no reason to fail."""
        with self.lock:  # type: ignore[union-attr] # every handler has one once it is made
            lines, self._lines, self._count = self._lines, [], 0
            if lines:
                try:
                    self._stream.write("\n".join(map(self._text, lines)) + "\n")
                    self._stream.flush()
                except (OSError, ValueError):
                    return

    def _text(self, line: str | _Said) -> str:
        if isinstance(line, str):
            return line
        try:
            return self._form.often(line)
        except (TypeError, ValueError):
            at_ms, logger, event, several = line
            if len(several) > 1:
                return "\n".join(self._text((at_ms, logger, event, [facts])) for facts in several)
            return self._form.line(at_ms, "INFO", logger, event, {"unwritten": ascii(several[0])})

    def _write_regularly(self) -> None:
        while True:
            self._waiting.wait()
            self._waiting.clear()
            time.sleep(TOGETHER_S)
            self.flush()


class Often:
    """Says one event at INFO thousands of times a second: half of a line's cost is what other handlers might need."""

    def __init__(self, logger: logging.Logger, event: str) -> None:
        self._logger, self._event = logger, event

    def say(self, several: Sequence[msgspec.Struct]) -> None:
        """As ``logger.info(event, extra=…)`` for each of ``several``: plain objects with at least one field."""
        if not several or not self._logger.isEnabledFor(logging.INFO):
            return
        handlers = logging.root.handlers
        if len(handlers) == 1 and isinstance(handlers[0], Together):
            handlers[0].info(self._logger.name, self._event, several)
        else:
            for facts in several:
                self._logger.info(self._event, extra=msgspec.structs.asdict(facts))


def configure(process: str, level: str) -> None:
    """Every logger of this process to stderr as JSON lines; chatty libraries from WARNING up."""
    # Nobody reads where in the source a line came from, nor its thread: both cost more than the line.
    # (https://docs.python.org/3/howto/logging.html#optimization)
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=level, handlers=[Together(sys.stderr, JsonLines(process))], force=True)
    for name in ("aiokafka", "faust", "mode", "httpx", "httpcore", "alembic", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
