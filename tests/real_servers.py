"""Servers that people run: nginx, Go's net/http, Node's http and uvicorn, started for the sender's tests.

They serve the same paths: /echo tells what arrived, /status/500 answers so, and others misbehave by their names. nginx
stands before uvicorn, as it does for most. Where one is not installed its tests are skipped, and say so; with
SERVERS_REQUIRED in the environment, as in CI, they fail instead.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.leash import Leash
from deploy.program import Program, free_port
from tests.stacks import running

KINDS = ("nginx", "go", "node", "uvicorn")
#: Certificates that each of them shows, on a port of its own. "sni": the good one for who asks for localhost only.
IDENTITIES = ("good", "expired", "wrong host", "self-signed", "sni")
_PROGRAMS = {"nginx": "nginx", "go": "go", "node": "node"}
_SOURCES = Path(__file__).parent / "servers"
_START_WITHIN_S = 60.0
_LOOPBACK = ip_address("127.0.0.1")


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files in PEM."""

    cert: str
    key: str


@dataclass(frozen=True, slots=True)
class RealServer:
    """A running one."""

    kind: str
    port: int
    tls_ports: dict[str, int] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url_v6(self) -> str:
        return f"http://[::1]:{self.port}"

    def tls_url(self, identity: str = "good", host: str = "127.0.0.1") -> str:
        return f"https://{host}:{self.tls_ports[identity]}"


def program_of(kind: str) -> str:
    """The path of what ``kind`` needs. Skips the test without it, or fails it where it must be there."""
    if kind == "uvicorn":
        return sys.executable
    found = shutil.which(_PROGRAMS[kind])
    if found:
        return found
    missing = f"{_PROGRAMS[kind]} is not installed: the sender is not tried against it"
    if os.environ.get("SERVERS_REQUIRED"):
        pytest.fail(f"{missing}, and SERVERS_REQUIRED is set")
    pytest.skip(missing)


def certificates(authority: trustme.CA, folder: Path) -> dict[str, Certificate]:
    """One for each of IDENTITIES but "sni"."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    issued = {
        "good": authority.issue_cert("localhost", "127.0.0.1"),
        "expired": authority.issue_cert("localhost", "127.0.0.1", not_after=yesterday),
        "wrong host": authority.issue_cert("elsewhere.example"),
    }
    made = {}
    for name, leaf in issued.items():
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        made[name] = _written(folder, name, chain, leaf.private_key_pem.bytes())
    return made | {"self-signed": _written(folder, "self-signed", *_self_signed())}


@contextmanager
def serving(kind: str, built: str, certs: dict[str, Certificate], folder: Path, port: int = 0) -> Iterator[RealServer]:
    """The server, ready, until the end of the block. ``built``: from `build`. ``port`` 0: any."""
    folder.mkdir(parents=True, exist_ok=True)
    ports: set[int] = set()
    for _ in (*IDENTITIES, "plain", "behind"):
        ports.add(free_port(taken=ports))
    names = [one for one in IDENTITIES if (kind, one) != ("uvicorn", "sni")]
    server = RealServer(kind, port or ports.pop(), {name: ports.pop() for name in names})
    leash = Leash()
    with ExitStack() as at_end:
        at_end.callback(leash.close)
        if kind == "nginx":
            behind = RealServer("uvicorn", ports.pop())
            at_end.enter_context(running(_program(behind, sys.executable, certs, folder), folder, leash))
            _wait_for(behind, folder)
            command: tuple[str, ...] = (built, "-c", str(_nginx_conf(server, behind, certs, folder)))
            program = Program(kind, (*command, "-e", str(folder / "error.log")))
        else:
            program = _program(server, built, certs, folder)
        at_end.enter_context(running(program, folder, leash))
        _wait_for(server, folder)
        yield server


def build(kind: str, folder: Path) -> str:
    """The path of the program to start. Skips or fails as `program_of`."""
    program = program_of(kind)
    if kind != "go":
        return program
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOPROXY": "off", "GO111MODULE": "off", "CGO_ENABLED": "0"}
    environment.setdefault("GOCACHE", str(folder / "go-cache")) if "HOME" not in os.environ else None
    target = str(folder / "receiver-go")
    command = [program, "build", "-o", target, str(_SOURCES / "receiver.go")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return target


def _program(server: RealServer, built: str, certs: dict[str, Certificate], folder: Path) -> Program:
    tls = []
    for name, port in server.tls_ports.items():
        one = {"port": port, "cert": _of(certs, name).cert, "key": _of(certs, name).key}
        if name == "sni":
            one |= {"namedCert": certs["good"].cert, "namedKey": certs["good"].key}
        tls.append(one)
    sources = {"node": (str(_SOURCES / "receiver.mjs"),), "uvicorn": (str(_SOURCES / "receiver.py"),)}
    at = json.dumps({"port": server.port, "tls": tls})
    return Program(server.kind, (built, *sources.get(server.kind, ()), at))


def _nginx_conf(server: RealServer, behind: RealServer, certs: dict[str, Certificate], folder: Path) -> Path:
    good, tls = certs["good"], server.tls_ports
    shown = f"ssl_certificate {good.cert}; ssl_certificate_key {good.key};"
    others = "".join(
        f"server {{ listen 127.0.0.1:{tls[name]} ssl default_server; location / {{ proxy_pass http://receiver; }}"
        f" ssl_certificate {_of(certs, name).cert}; ssl_certificate_key {_of(certs, name).key}; }}\n"
        for name in IDENTITIES
        if name != "good"
    )
    others += f"server {{ listen 127.0.0.1:{tls['sni']} ssl; server_name localhost; {shown}"
    others += " location / { proxy_pass http://receiver; } }"
    filled = {
        "folder": str(folder),
        "port": str(server.port),
        "upstream": str(behind.port),
        "tls": f"listen 127.0.0.1:{tls['good']} ssl; {shown}",
        "servers": others,
    }
    text = re.sub(r"\$<(\w+)>", lambda hole: filled[hole[1]], (_SOURCES / "nginx.conf").read_text())
    path = folder / "nginx.conf"
    path.write_text(text)
    return path


def _of(certs: dict[str, Certificate], name: str) -> Certificate:
    return certs["wrong host" if name == "sni" else name]


def _wait_for(server: RealServer, folder: Path) -> None:
    deadline_s = time.monotonic() + _START_WITHIN_S
    for port in (server.port, *server.tls_ports.values()):
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                log = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
                assert time.monotonic() < deadline_s, f"{server.kind} does not listen on {port}:\n{log}"
                time.sleep(0.02)


def _written(folder: Path, name: str, cert: bytes, key: bytes) -> Certificate:
    stem = name.replace(" ", "-")
    paths = folder / f"{stem}.pem", folder / f"{stem}.key"
    for path, pem in zip(paths, (cert, key), strict=True):
        path.write_bytes(pem)
    return Certificate(str(paths[0]), str(paths[1]))


def _self_signed() -> tuple[bytes, bytes]:
    """For localhost and 127.0.0.1, by itself: what people make with one line of openssl."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(_LOOPBACK)])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).add_extension(names, critical=False)
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return builder.sign(key, hashes.SHA256()).public_bytes(pem), private
