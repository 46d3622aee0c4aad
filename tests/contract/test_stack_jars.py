"""The cache of Kafka's jars: whatever was broken is whole afterwards, or the error says what is missing."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from rich.console import Console

from deploy.kafka_jars import KAFKA_VERSION, Jar, JarsMissing, ensure_jars, read_lock

_CONTENT = {name: name.encode() * 1000 for name in ("one", "two", "three")}
_JARS = [Jar("org.example", name, "1", hashlib.sha256(content).hexdigest()) for name, content in _CONTENT.items()]


class _Repository:
    """Serves jars from memory, and counts."""

    def __init__(self, without: str = "", cut: str = "") -> None:
        self.asked: list[str] = []
        self._without = without
        self._cut = cut

    def __call__(self, jar: Jar, folder: Path) -> Path:
        self.asked.append(jar.artifact)
        if jar.artifact == self._without:
            raise ConnectionError("no connection")
        content = _CONTENT[jar.artifact]
        path = folder / "nested" / jar.filename
        path.parent.mkdir()
        path.write_bytes(content[:100] if jar.artifact == self._cut else content)
        return path


def _ensure(folder: Path, repository: _Repository, screen: io.StringIO | None = None) -> list[Path]:
    return ensure_jars(folder, _JARS, fetch=repository, console=Console(file=screen or io.StringIO()))


def test_a_second_run_fetches_nothing(tmp_path: Path) -> None:
    first, second = _Repository(), _Repository()
    paths = _ensure(tmp_path, first)
    assert [path.read_bytes() for path in paths] == list(_CONTENT.values())
    assert _ensure(tmp_path, second) == paths
    assert sorted(first.asked) == sorted(_CONTENT)
    assert second.asked == []


def test_a_truncated_jar_is_fetched_again(tmp_path: Path) -> None:
    two = _ensure(tmp_path, _Repository())[1]
    two.write_bytes(two.read_bytes()[:500])
    again = _Repository()
    _ensure(tmp_path, again)
    assert again.asked == ["two"]
    assert two.read_bytes() == _CONTENT["two"]


def test_a_jar_that_cannot_be_fetched_is_named_and_the_others_stay(tmp_path: Path) -> None:
    screen = io.StringIO()
    with pytest.raises(JarsMissing, match=r"could not fetch org.example:two:1 .*no connection.*run again to resume"):
        _ensure(tmp_path, _Repository(without="two"), screen)
    assert "2/3" in screen.getvalue()
    again = _Repository()
    _ensure(tmp_path, again)
    assert again.asked == ["two"]


def test_a_download_with_other_bytes_is_never_put_in_place(tmp_path: Path) -> None:
    with pytest.raises(JarsMissing, match="sha256"):
        _ensure(tmp_path, _Repository(cut="three"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one-1.jar", "two-1.jar"]


def test_the_lock_holds_kafka_its_tools_and_a_logging_binding() -> None:
    jars = {(jar.artifact, jar.version) for jar in read_lock()}
    assert {("kafka_2.13", KAFKA_VERSION), ("kafka-tools", KAFKA_VERSION), ("kafka-clients", KAFKA_VERSION)} <= jars
    assert ("log4j-slf4j-impl", "2.24.3") in jars
    assert all(len(jar.sha256) == 64 for jar in read_lock())
