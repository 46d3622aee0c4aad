"""What the processes of the stack write: one file each, bounded, appended to across starts."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO

#: Twice this is kept of each process: the file and the one before it.
LIMIT_BYTES = 16 * 1024 * 1024
_LAST_WORDS_BYTES = 8192


@dataclass(frozen=True, slots=True)
class LogFile:
    """One process's file. Children write to it directly: nothing is lost when we die, and nothing waits for us."""

    path: Path
    limit_bytes: int = LIMIT_BYTES

    def open(self) -> IO[bytes]:
        """For a child to append to. O_APPEND: after ``trim`` it goes on at the new end."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.path.open("ab")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def trim(self) -> None:
        """Over the limit: the content moves to ``….1``. Lines written in that moment may be lost."""
        if self.size() > self.limit_bytes:
            shutil.copyfile(self.path, self.path.with_name(self.path.name + ".1"))
            os.truncate(self.path, 0)

    def last_words(self, since: int = 0) -> str:
        """The last line written after byte ``since``, "" when there is none."""
        size = self.size()
        with self.path.open("rb") as file:
            file.seek(max(since if since <= size else 0, size - _LAST_WORDS_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:300] if lines else ""
