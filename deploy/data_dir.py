"""DATA_DIR: who may use it, which version wrote it, and the small secrets and notes that live in it."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from cryptography.fernet import Fernet

from shared.errors import ConfigurationError

#: Changes when an older stack's files can no longer be used as they are.
LAYOUT = 1


class DataDir:
    """A folder that one running stack has for itself."""

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self._lock = lock  # released by the kernel when we end, however we end

    @classmethod
    def open(cls, path: Path, *, versions: Mapping[str, str]) -> DataDir:
        """Take it, and note which ``versions`` its files belong to. Raises ConfigurationError."""
        path = path.expanduser().absolute()
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not any(path.iterdir()):
                # Postgres' user, when we are root, has to pass through, also where `mktemp -d` or a umask made it 0700.
                path.chmod(0o711)
            lock = (path / "lock").open("a+")
        except OSError as error:
            raise ConfigurationError(f"DATA_DIR: {path} cannot be used: {error.strerror}") from error
        data_dir = cls(path, lock)
        try:
            data_dir._take()
            data_dir._check_versions(versions)
        except ConfigurationError:
            lock.close()
            raise
        except OSError as error:
            lock.close()
            raise ConfigurationError(f"DATA_DIR: {path} cannot be written: {error.strerror}") from error
        return data_dir

    def close(self) -> None:
        self._lock.close()

    def encryption_key(self) -> str:
        """The key that was generated for this folder, once."""
        path = self.path / "encryption.key"
        if not path.exists():
            write_private(path, Fernet.generate_key().decode() + "\n")
        return path.read_text().strip()

    def write_stack_env(self, values: Mapping[str, str]) -> Path:
        """Addresses of the running stack, for a shell to source."""
        path = self.path / "stack.env"
        write_private(path, "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()))
        return path

    def forget_stack_env(self) -> None:
        (self.path / "stack.env").unlink(missing_ok=True)

    def read_note(self, name: str) -> dict[str, Any]:
        """What ``write_note`` left; {} when there is nothing that can be read."""
        try:
            found = json.loads((self.path / name).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_note(self, name: str, note: Mapping[str, Any]) -> None:
        write_private(self.path / name, json.dumps(note) + "\n")

    def write_text_private(self, name: str, text: str) -> None:
        """A file that only we can read."""
        write_private(self.path / name, text)

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            raise ConfigurationError(f"DATA_DIR: {self.path} is in use by a running stack (pid {owner})") from None
        self._lock.seek(0)
        self._lock.truncate()
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    def _check_versions(self, versions: Mapping[str, str]) -> None:
        path, own = self.path / "version.json", {"layout": str(LAYOUT), **versions}
        found = self.read_note(path.name)
        if not found and any((self.path / name).exists() for name in ("version.json", "kafka", "postgres")):
            raise ConfigurationError(f"DATA_DIR: {self.path} holds files of an unknown version; name another folder")
        for part in [part for part in own if found and found.get(part) != own[part]]:
            raise ConfigurationError(
                f"DATA_DIR: {self.path} was written by {part} {found.get(part)}, this is {part} {own[part]}; "
                "name another folder, or use the Hooklog that wrote it"
            )
        if not found:
            self.write_note(path.name, own)


def write_private(path: Path, text: str) -> None:
    """Replace the file by one that only we can read; a reader sees the old or the new, never half."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    os.replace(draft, path)
