"""Children that do not outlive us, however we end, ``kill -9`` included.

On Linux the kernel does it (PR_SET_PDEATHSIG, for the direct child). Elsewhere a watcher does: a small process that
reads a pipe of ours and, at its end, kills the process groups it was told of. Each child leads a group of its own, so
Ctrl-C in the terminal reaches us alone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import IO

from deploy.program import Identity, Program

_PR_SET_PDEATHSIG = 1
_ON_LINUX = sys.platform.startswith("linux")

#: Lines "+pid signal" and "-pid"; no imports beyond the standard library, so that it starts in 20 ms.
_WATCHER = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
living = {}
for line in sys.stdin:
    pid, _, number = line[1:].partition(" ")
    if line[0] == "+":
        living[int(pid)] = int(number)
    else:
        living.pop(int(pid), None)
for pid, number in living.items():
    try:
        os.killpg(pid, number)
    except OSError:
        pass
"""


class Leash:
    """Starts processes that end with us. Used from the main thread: the kernel's signal comes when a *thread* ends."""

    def __init__(self, *, by_kernel: bool = _ON_LINUX) -> None:
        self._by_kernel = by_kernel
        self._watcher: subprocess.Popen[str] | None = None

    def spawn(self, program: Program, output: IO[bytes] | int) -> subprocess.Popen[bytes]:
        """Start it, its output to a file. Raises OSError, ConfigurationError."""
        identity = Identity.of(program.user)
        with warnings.catch_warnings():
            # Python 3.12 warns of a fork among threads. What runs before exec is two system calls, looked up before.
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            child = subprocess.Popen(
                program.command,
                env={**os.environ, **program.environment},
                user=identity.user,
                group=identity.group,
                extra_groups=identity.extra_groups,
                cwd=program.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent(program.kill_signal) if self._by_kernel else None,
            )
        self._tell(f"+{child.pid} {int(program.kill_signal)}")
        return child

    def ended(self, child: subprocess.Popen[bytes]) -> None:
        """It ended and was waited for: its pid may be another's from now on."""
        self._tell(f"-{child.pid}")

    def close(self) -> None:
        """Let the watcher go; it kills whatever was not said to have ended."""
        if self._watcher and self._watcher.stdin:
            self._watcher.stdin.close()
            self._watcher.wait(timeout=5)

    def _tell(self, line: str) -> None:
        if self._by_kernel:
            return
        if self._watcher is None:
            command = (sys.executable, "-I", "-S", "-c", _WATCHER)
            self._watcher = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
        assert self._watcher.stdin
        self._watcher.stdin.write(line + "\n")
        self._watcher.stdin.flush()


def signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send to the child and to what it started in its group. Ended ones are left alone."""
    if child.poll() is None:
        try:
            os.killpg(child.pid, number)
        except (ProcessLookupError, PermissionError):  # gone meanwhile; or (macOS) a zombie
            child.send_signal(number)


def _die_with_parent(number: signal.Signals) -> Callable[[], None]:
    """What the child runs between fork and exec, after its user was set (that would clear the wish)."""
    parent = os.getpid()
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # we died before the wish was made
            os._exit(1)

    return in_child
