"""Where the tests' stack comes from: what each source hands out can be used."""

from __future__ import annotations

import asyncio

import pytest

from deploy.readiness import kafka_ready, postgres_ready
from tests import stacks


def test_the_environment_names_a_stack_only_when_it_names_both_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert stacks.from_environment() is None
    monkeypatch.setenv("DATABASE_URL", "postgresql://somewhere/postgres")
    found = stacks.from_environment()
    assert found is not None
    assert found.bootstrap_servers == "127.0.0.1:1"


def test_a_docker_engine_that_does_not_answer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    assert not stacks.docker_answers()


def test_the_stack_of_this_run_takes_records_groups_and_queries(stack: stacks.Stack) -> None:
    assert asyncio.run(kafka_ready(stack.bootstrap_servers)) == ""
    assert asyncio.run(postgres_ready(stack.database_url)) == ""
