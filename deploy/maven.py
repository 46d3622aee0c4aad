"""The Maven repository, through jgo: one jar at a time, and what Kafka's jars are.

``python -m deploy.maven`` resolves them again and writes deploy/kafka_jars.lock (`make lock-kafka`).
"""

from __future__ import annotations

import logging
import os
import ssl
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from jgo.maven import MavenContext
from jgo.maven._core import Dependency

from deploy.kafka_jars import KAFKA_VERSION, LOCK, THREADS, Jar, sha256

#: What the lock is resolved from. The logging binding must not manage versions: it would bring an older kafka-clients.
_ROOTS = (
    ("org.apache.kafka", "kafka_2.13", KAFKA_VERSION, False),
    ("org.apache.kafka", "kafka-tools", KAFKA_VERSION, False),
    ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.24.3", True),
)
_TIMEOUT_S = 30


def trust_this_machine() -> None:
    """Make `requests` trust the authorities this machine trusts; its own list does not know a company's proxy."""
    authorities = ssl.get_default_verify_paths().cafile
    if authorities and not os.environ.get("CURL_CA_BUNDLE"):
        os.environ.setdefault("REQUESTS_CA_BUNDLE", authorities)


def fetch_jar(jar: Jar, folder: Path) -> Path:
    """One jar. jgo takes a file that is there for whole, so ``folder`` is a temporary one. Raises OSError."""
    trust_this_machine()
    context = MavenContext(repo_cache=folder, timeout=_TIMEOUT_S)
    try:
        return context.project(jar.group, jar.artifact).at_version(jar.version).artifact("", "jar").resolve()
    except (requests.ConnectionError, requests.Timeout) as error:
        raise ConnectionError("no connection to the Maven repository") from error
    except RuntimeError as error:  # jgo's word for any other answer than 200
        raise OSError("the Maven repository does not have it") from error


def resolve(folder: Path) -> list[tuple[Jar, Path]]:
    """Kafka, its tools and a logging binding, with all that they need, fetched into ``folder``."""
    trust_this_machine()
    context = MavenContext(repo_cache=folder, timeout=_TIMEOUT_S)
    roots = [
        Dependency(context.project(group, artifact).at_version(version).artifact(), raw=raw)
        for group, artifact, version, raw in _ROOTS
    ]
    direct, transitive = context.resolver.resolve(roots)
    found = {(jar.groupId, jar.artifactId, jar.version) for jar in direct + transitive if jar.type == "jar"}
    jars = [Jar(*coordinates, sha256="") for coordinates in sorted(found)]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(zip(jars, pool.map(lambda jar: fetch_jar(jar, folder), jars), strict=True))


def main() -> int:
    """Write the lock."""
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        lines = [f"{jar.coordinates} {sha256(path)}\n" for jar, path in resolve(Path(folder))]
    LOCK.write_text("# Written by `make lock-kafka`; group:artifact:version sha256\n" + "".join(lines))
    sys.stdout.write(f"{len(lines)} jars\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
