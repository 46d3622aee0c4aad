"""A program of the stack as a value: what to run and how to end it; and small facts of this machine that all need."""

from __future__ import annotations

import pwd
import signal
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Program:
    """How one process is started and ended."""

    name: str
    command: tuple[str, ...]
    #: Added to our own environment.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Runs as this user (only when we are root); None: as we do.
    user: str | None = None
    directory: Path | None = None
    #: Asks it to end in order.
    stop_signal: signal.Signals = signal.SIGTERM
    #: Ends it at once; also what it gets when we die. Its own children must not outlive it.
    kill_signal: signal.Signals = signal.SIGKILL
    #: How long it may take to end in order.
    stop_within_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Identity:
    """As whom a process runs, in Popen's words: with root's groups an unprivileged user would still be half of root."""

    user: int | None
    group: int | None
    extra_groups: tuple[int, ...] | None

    @classmethod
    def of(cls, name: str | None) -> Identity:
        """This user and its own group alone; None: as we are. Raises ConfigurationError."""
        if name is None:
            return cls(None, None, None)
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            raise ConfigurationError(f"this machine has no user {name!r}: do not run as root") from None
        return cls(entry.pw_uid, entry.pw_gid, ())


def free_port(preferred: int = 0, *, taken: frozenset[int] | set[int] = frozenset(), tries: int = 200) -> int:
    """``preferred`` or the next free port on loopback; 0: any free one. Raises ConfigurationError after ``tries``."""
    for port in range(preferred, preferred + tries) if preferred else (0,) * tries:
        if port in taken:
            continue
        if (found := bindable(port)) and found not in taken:
            return found
    raise ConfigurationError(f"no free port on 127.0.0.1 from {preferred} on")


def take_port(preferred: int, taken: set[int]) -> int:
    """`free_port`, which is in ``taken`` afterwards. Raises as it does."""
    port = free_port(preferred, taken=taken)
    taken.add(port)
    return port


def bindable(port: int, host: str = "127.0.0.1") -> int | None:
    """The port (a fresh one for 0) when nobody listens there, else None."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free for a server
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):
            return None
        return int(probe.getsockname()[1])


def run_once(program: Program, what: str, timeout_s: float = 120) -> None:
    """Run a preparing program to its end. Raises ConfigurationError with the last line it wrote."""
    identity = Identity.of(program.user)
    try:
        done = subprocess.run(
            program.command,
            user=identity.user,
            group=identity.group,
            extra_groups=identity.extra_groups,
            cwd=program.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(f"{what}: {error}") from error
    if done.returncode:
        lines = done.stdout.decode(errors="replace").strip().splitlines() or [f"exit {done.returncode}"]
        raise ConfigurationError(f"{what}: {lines[-1][:300]}")
