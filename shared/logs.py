"""Log lines: one JSON object each, the event's name constant and its facts as fields."""

from __future__ import annotations

import logging
import sys
from itertools import islice

import orjson

from shared.clock import to_rfc3339

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
#: A record's facts stand behind these, in the order they were given.
_STANDARD_COUNT = len(vars(logging.makeLogRecord({})))


class JsonLines(logging.Formatter):
    """``log.info("attempted", extra={"status": 503})`` -> ``{"at": …, "event": "attempted", "status": 503, …}``."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": to_rfc3339(int(record.created * 1000)),
            "level": record.levelname,
            "process": self._process,
            "logger": record.name,
            "event": record.getMessage(),
        }
        facts = islice(vars(record).items(), _STANDARD_COUNT, None)
        line |= {name: value for name, value in facts if name not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def configure(process: str, level: str) -> None:
    """Every logger of this process to stderr as JSON lines; chatty libraries from WARNING up."""
    # Nobody reads where in the source a line came from, nor its thread: both cost more than the line.
    # (https://docs.python.org/3/howto/logging.html#optimization)
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(process))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("aiokafka", "faust", "mode", "httpx", "httpcore", "alembic", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
