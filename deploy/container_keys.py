"""What is secret in the containers, made once: API key, encryption key, database password.

    python -m deploy.container_keys        (the `keys` service of docker-compose.yml)

The processes read the first file as their `.env`; Postgres sees its password and not the key that encrypts its rows.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cryptography.fernet import Fernet

#: Read by the processes alone: their working directory, so that this is their `.env`.
ENV_FILE = Path("/keys/.env")
#: Read by Postgres' own user as well, so it lies in a volume of its own.
PASSWORD_FILE = Path("/postgres-password/password")


def make_keys(env_file: Path, password_file: Path) -> None:
    """Write both files unless they are there. What exists is never changed: it already encrypts rows."""
    if not password_file.exists():
        _write(password_file, secrets.token_hex(24), mode=0o444)
    if not env_file.exists():
        _write(env_file, _env(password_file.read_text().strip()), mode=0o400)


def _env(password: str) -> str:
    return (
        f"ADMIN_API_KEY={secrets.token_urlsafe(32)}\n"
        f"ENCRYPTION_KEY={Fernet.generate_key().decode()}\n"
        f"DATABASE_URL=postgresql://hooklog:{password}@postgres:5432/hooklog\n"
    )


def _write(path: Path, text: str, mode: int) -> None:
    """All of it or nothing: a run that was cut off leaves no half of a key."""
    draft = path.with_name(f"{path.name}.draft")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.chmod(mode)  # whatever the umask took away
    draft.replace(path)


if __name__ == "__main__":
    make_keys(ENV_FILE, PASSWORD_FILE)
