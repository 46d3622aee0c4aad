"""Kafka's jars: from the committed lock (coordinates and sha256) into a cache that all stacks of a user share."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shared.errors import HooklogError

KAFKA_VERSION = "4.1.2"
LOCK = Path(__file__).with_name("kafka_jars.lock")

THREADS = 8


class JarsMissing(HooklogError):
    """Jars that could not be fetched. The text is one line; whatever was fetched stays, so a rerun resumes."""


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the lock."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    @property
    def coordinates(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"


#: Puts one jar's file into a folder and gives its path. Raises OSError.
Fetch = Callable[[Jar, Path], Path]


def cache_dir() -> Path:
    """Where the jars are kept: outside DATA_DIR, so that a new one fetches nothing."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hooklog" / f"kafka-{KAFKA_VERSION}"


def read_lock(path: Path = LOCK) -> list[Jar]:
    """The jars of the lock, each line ``group:artifact:version sha256``."""
    return [_read_line(line) for line in path.read_text().splitlines() if line and not line.startswith("#")]


def _read_line(line: str) -> Jar:
    coordinates, digest = line.split()
    group, artifact, version = coordinates.split(":")
    return Jar(group, artifact, version, digest)


def ensure_jars(
    folder: Path | None = None,
    jars: Iterable[Jar] | None = None,
    *,
    fetch: Fetch | None = None,
    console: Console | None = None,
) -> list[Path]:
    """Every jar of the lock, verified, in ``folder``. Fetches what is missing or broken. Raises JarsMissing."""
    folder, jars = folder or cache_dir(), list(jars or read_lock())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [jar for jar in jars if not _is_whole(folder / jar.filename, jar)]
        if wanted:
            _fetch_all(wanted, folder, fetch or _maven(), console or Console(stderr=True))
    except OSError as error:
        raise JarsMissing(f"the cache for Kafka's jars, {folder}, cannot be used: {error.strerror}") from error
    return [folder / jar.filename for jar in jars]


def _fetch_all(wanted: list[Jar], folder: Path, fetch: Fetch, console: Console) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    failed: dict[str, str] = {}
    with Progress(*columns, console=console) as bar, ThreadPoolExecutor(THREADS) as pool:
        task = bar.add_task(f"Kafka {KAFKA_VERSION}, jars", total=len(wanted))
        pending = {pool.submit(_fetch_one, jar, folder, fetch): jar for jar in wanted}
        try:
            for done in as_completed(pending):
                if why := done.result():
                    failed[pending[done].coordinates] = why
                else:
                    bar.advance(task)
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C waits for the eight under way and not for all
    if failed:
        first, why = min(failed.items())
        others = f" and {len(failed) - 1} others" if len(failed) > 1 else ""
        raise JarsMissing(f"could not fetch {first}{others} of Kafka's jars ({why}); run again to resume")


def _fetch_one(jar: Jar, folder: Path, fetch: Fetch) -> str:
    """Fetch, check, move into place; "" or in a few words why not."""
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as inside:
        try:
            fetched = fetch(jar, Path(inside))
        except OSError as error:
            return " ".join(str(error).split())[:200] or type(error).__name__
        if not _is_whole(fetched, jar):
            return "its sha256 is not the one in the lock"
        os.replace(fetched, folder / jar.filename)  # atomic: a reader sees no jar or the whole one
    return ""


def _maven() -> Fetch:
    from deploy.maven import fetch_jar  # imported when something is missing: a usual start does without

    return fetch_jar


def _is_whole(path: Path, jar: Jar) -> bool:
    try:
        return sha256(path) == jar.sha256
    except FileNotFoundError:
        return False


def sha256(path: Path) -> str:
    """The file's digest in hex. Raises FileNotFoundError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
