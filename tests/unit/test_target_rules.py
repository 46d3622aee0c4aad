"""Which URLs a subscription may name."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from pydantic import SecretStr

from ingest_api.target_rules import TargetRules, rules_of
from shared.settings import Settings

_LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


def _settings(*, dev_receiver: bool = False) -> Settings:
    return Settings(
        _env_file=None,
        api_port=8000,
        kafka_bootstrap_servers="127.0.0.1:9092,broker.example:9093",
        database_url=SecretStr("postgresql://u:p@localhost:5432/hooklog"),
        redis_url=SecretStr("redis://127.0.0.1:6379/0"),
        dev_receiver=dev_receiver,
        allowed_target_networks=_LOOPBACK,
    )


@pytest.mark.parametrize(
    "url",
    ["https://example.com/hook", "http://8.8.8.8/", "http://[2606:4700::1111]:8080/x?y=z", "http://127.0.0.1:9999/"],
)
def test_public_and_exempted_addresses_are_taken(url: str) -> None:
    rules_of(_settings()).check(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://100.64.0.1/",
        "http://[fe80::1]/",
        "http://[::ffff:192.168.0.1]/",
        "http://2130706433/",
        "http://0x7f.1/",
        "ftp://example.com/",
        "javascript:alert(1)",
        "//example.com/",
        "http://user:secret@example.com/",
        "http:///path",
        "",
    ],
)
def test_everything_else_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|has|holds|points)") as refused:
        rules_of(_settings()).check(url)
    assert "secret" not in str(refused.value)


def test_loopback_needs_its_exemption() -> None:
    with pytest.raises(ValueError, match="not public"):
        TargetRules((), frozenset()).check("http://127.0.0.1:9999/")


@pytest.mark.parametrize("port", [8000, 9092, 5432, 6379])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.9.9.9", "[::ffff:127.0.0.1]", "0.0.0.0"])
def test_the_stacks_own_ports_are_never_targets(host: str, port: int) -> None:
    with pytest.raises(ValueError, match="port of this installation"):
        rules_of(_settings(dev_receiver=True)).check(f"http://{host}:{port}/subscriptions/")


def test_a_remote_brokers_port_is_no_port_of_ours() -> None:
    rules_of(_settings()).check("http://127.0.0.1:9093/")


def test_the_receiver_is_a_target_while_it_is_served() -> None:
    rules_of(_settings(dev_receiver=True)).check("http://127.0.0.1:8000/point1?x=1")
    with pytest.raises(ValueError, match="port of this installation"):
        rules_of(_settings(dev_receiver=False)).check("http://127.0.0.1:8000/point1")
    with pytest.raises(ValueError, match="port of this installation"):
        rules_of(_settings(dev_receiver=True)).check("http://127.0.0.1:8000/point1/../subscriptions")
