"""A stack of a test's own, one of whose stores has a disk that a test can fill.

A volume of its own where we may mount one; else the store's processes may write no file any further (RLIMIT_FSIZE),
which to them is a disk that takes no byte more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import subprocess
from pathlib import Path

from tests.own_stack import OwnStack
from tests.processes import children_of

_VOLUME_MB = 400


class SmallDiskStack(OwnStack):
    """``fill()`` and ``free()`` are about the disk of ``store``. ``mounted``: False asks for the other way."""

    def __init__(self, store: str, *, mounted: bool = True) -> None:
        super().__init__()
        self._store = store
        self._folder = self.folder / store
        self._asked = mounted
        self.mounted = mounted and _mount(self._folder)
        self._filler = self._folder / "filler"

    async def _end(self) -> None:
        await super()._end()
        if self.mounted:
            await asyncio.to_thread(_run, "umount", "--lazy", str(self._folder))
            self.mounted = False
            self._temporary.cleanup()

    @property
    def way(self) -> str:
        """How its disk is full, for people."""
        if self.mounted:
            return f"a volume of {_VOLUME_MB} MB"
        return "RLIMIT_FSIZE: NO VOLUME COULD BE MOUNTED" if self._asked else "RLIMIT_FSIZE"

    def fill(self) -> None:
        """No byte is left; what others delete meanwhile, the next call fills.

        Raises PermissionError: no volume, and the store runs as another user, whose limits are not ours to set.
        """
        if not self.mounted:
            self._limit(1)
            return
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            for piece in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(piece)) == piece:
                        pass

    def free(self) -> None:
        if self.mounted:
            self._filler.unlink(missing_ok=True)
        else:
            self._limit(resource.RLIM_INFINITY)

    def _limit(self, most_bytes: int) -> None:
        child = self._children.get(self._store)
        if child is None or child.poll() is not None:
            return
        for pid in (child.pid, *children_of(child.pid)):
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))


def _mount(folder: Path) -> bool:
    """Whether there is a volume of its own there now."""
    if os.geteuid() != 0:
        return False
    folder.mkdir()
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={_VOLUME_MB}m,mode=755", "tmpfs", str(folder))
    except (FileNotFoundError, subprocess.CalledProcessError):
        return False
    return True


def _run(*command: str) -> None:
    """Where the system keeps its own commands, whatever our PATH. Raises FileNotFoundError, CalledProcessError."""
    subprocess.run(command, env={"PATH": os.defpath}, capture_output=True, check=True)
