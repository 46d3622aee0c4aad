"""Options of every Kafka client, and the topics' configuration, from settings alone."""

from __future__ import annotations

import ssl

import pytest

from shared.broker import client_options, max_batch_bytes, max_record_bytes
from shared.errors import ConfigurationError
from shared.provisioning import topic_configs
from shared.settings import load_settings


def test_several_bootstrap_servers_are_a_list() -> None:
    options = client_options(load_settings(kafka_bootstrap_servers="a:1, b:2,"))
    assert options == {"bootstrap_servers": ["a:1", "b:2"], "security_protocol": "PLAINTEXT"}


def test_sasl_over_tls_carries_user_password_and_a_verifying_context() -> None:
    options = client_options(
        load_settings(
            kafka_security_protocol="SASL_SSL",
            kafka_sasl_mechanism="SCRAM-SHA-512",
            kafka_sasl_username="hooklog",
            kafka_sasl_password="secret",
        )
    )
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("hooklog", "secret")
    assert options["ssl_context"].verify_mode == ssl.CERT_REQUIRED
    assert options["ssl_context"].check_hostname


def test_a_tls_file_that_is_missing_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="KAFKA_SSL"):
        client_options(load_settings(kafka_security_protocol="SSL", kafka_ssl_cafile="/nowhere/ca.pem"))


@pytest.mark.parametrize("payload_bytes", [1, 262_144, 16 * 1024 * 1024])
def test_a_topic_takes_its_largest_record_though_compression_made_it_longer(payload_bytes: int) -> None:
    settings = load_settings(max_payload_bytes=payload_bytes)
    for topic in (settings.topics.deliveries, settings.topics.dead_letter):
        record_bytes = max_record_bytes(topic, settings)
        lz4_bytes = 19 + 8 * (record_bytes // 65536 + 1)  # frame, and each block that does not shrink
        assert record_bytes + lz4_bytes <= max_batch_bytes(topic, settings) <= record_bytes * 1.002


def test_every_topic_of_the_settings_is_configured_once() -> None:
    settings = load_settings(topic_prefix="p.", retry_delays="1s,1s,2s")
    tiers = ["p.retry-1s", "p.retry-2s", "p.retry-4s"]  # 1 s and 4 s are there for what waits for its turn
    names = ["p.events", "p.deliveries", *tiers, "p.parked", "p.dead-letter", "p.attempts"]
    configs = topic_configs(settings)
    assert list(configs) == names
    assert [name for name in names if configs[name]["retention.ms"] != "-1"] == ["p.dead-letter"]
    assert [name for name in names if configs[name]["message.timestamp.type"] == "LogAppendTime"] == tiers
