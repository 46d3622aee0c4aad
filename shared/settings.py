"""The one settings object. Each ``__main__`` builds it once; functions below take the values they need.

A field's name is its environment variable in lower case; `.env` is read too, the environment wins.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.errors import ConfigurationError
from shared.topics import RetrySchedule, Topics, parse_delay

Network = IPv4Network | IPv6Network


class Settings(BaseSettings):
    """Everything that can be set from outside."""

    model_config = SettingsConfigDict(env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True)

    #: Where the API listens. Anything but loopback needs ADMIN_API_KEY.
    api_host: str = "127.0.0.1"
    api_port: int = Field(8000, ge=0, le=65535)
    #: State of `make up`: Kafka's and Postgres' files, logs, the generated ENCRYPTION_KEY.
    data_dir: Path = Path(".hooklog")
    #: How long ingest waits for the broker before it answers 503.
    ack_timeout_seconds: float = Field(5.0, gt=0, le=60)
    #: A delivery older than this ends as a dead letter (`expired`), whatever it still waits for. Pauses do not count.
    max_event_age_hours: float = Field(168.0, gt=0)

    #: So long nothing but failures of an endpoint, and its subscription is disabled; a 410 does it at once.
    disable_after_hours: float = Field(120.0, gt=0)

    kafka_bootstrap_servers: str = "127.0.0.1:9092"
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    kafka_sasl_username: str = ""
    kafka_sasl_password: SecretStr = SecretStr("")
    kafka_ssl_cafile: str = ""
    kafka_ssl_certfile: str = ""
    kafka_ssl_keyfile: str = ""
    #: Of `make up`: how many Kafka processes it starts. Of three, one may be lost, its disk included.
    kafka_brokers: Literal[1, 3] = 1
    database_url: SecretStr = SecretStr("postgresql://hooklog@127.0.0.1:5432/hooklog")
    #: Empty: no cache. Redis holds nothing that is not elsewhere.
    redis_url: SecretStr = SecretStr("")
    topic_prefix: str = Field("webhooks.", pattern=r"^[a-zA-Z0-9._-]{0,100}$")
    #: Of topics that are created; existing ones keep theirs. Bounds how many workers can share the load.
    partitions: int = Field(8, ge=1, le=1000)
    replication_factor: int = Field(1, ge=1, le=9)

    #: One retry tier each; attempts allowed = tiers + 1. x4: 10 s to 2 h 50 min, then dead letter.
    retry_delays: Annotated[tuple[int, ...], NoDecode] = (10, 40, 160, 640, 2560, 10240)
    #: The whole attempt: resolve, connect, send, receive. Standard Webhooks suggests 15 to 30 s.
    webhook_delivery_timeout_seconds: float = Field(10.0, gt=0, le=300)
    #: How long Redis keeps a subscription.
    cache_ttl_seconds: int = Field(300, ge=1)
    #: How long finished records stay in the queue topics. What is not finished is never deleted.
    log_retention_hours: float = Field(72.0, gt=0)
    #: How long the attempt log keeps a delivery, counted from its acceptance; whole days are dropped.
    attempt_log_retention_days: int = Field(90, ge=1, le=3650)
    max_payload_bytes: int = Field(262144, ge=1, le=16 * 1024 * 1024)
    #: Creating one more is 429. An event of POST /events may become so many deliveries.
    max_subscriptions_per_tenant: int = Field(5000, ge=1, le=50_000)
    #: Of one tenant's POST /events, payload x subscriptions, in each API process; more is 429. 0: any number.
    max_fanout_bytes_per_second: int = Field(33554432, ge=0)
    #: Attempts under way at once in one stream worker.
    max_in_flight: int = Field(400, ge=1, le=20000)
    #: Of those, at one endpoint. Each begins with a few and gets more as it answers.
    max_in_flight_per_endpoint: int = Field(100, ge=1, le=20000)
    #: What would wait longer for its endpoint's turn waits in a tier, out of the way of others.
    lane_patience_seconds: float = Field(1.0, ge=0.1, le=10)
    #: Networks in CIDR notation that the address guard lets through although they are not public.
    allowed_target_networks: Annotated[tuple[Network, ...], NoDecode] = ()
    #: Name servers, `address` or `address:port`, asked for endpoints' hosts instead of those in /etc/resolv.conf.
    dns_servers: Annotated[tuple[str, ...], NoDecode] = ()
    #: Set: management and status routes need `Authorization: Bearer` with it.
    admin_api_key: SecretStr = SecretStr("")
    #: Fernet keys, comma separated: the first encrypts, all decrypt. `make up` generates one.
    encryption_key: SecretStr = SecretStr("")
    #: Serves POST /point1, a receiver for first steps.
    dev_receiver: bool = False
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    #: /live, /ready and /metrics of the processes without an API, on loopback; 0: off.
    health_port: int = Field(0, ge=0, le=65535)
    #: `make up`: how often one process may die within a minute before the stack gives up.
    max_restarts: int = Field(5, ge=0)

    @field_validator("kafka_brokers", mode="before")
    @classmethod
    def _read_number(cls, value: Any) -> Any:
        return int(value) if isinstance(value, str) and value.strip().isdecimal() else value

    @field_validator("retry_delays", mode="before")
    @classmethod
    def _split_delays(cls, value: Any) -> Any:
        return tuple(parse_delay(part) for part in _parts(value)) if isinstance(value, str) else value

    @field_validator("allowed_target_networks", mode="before")
    @classmethod
    def _split_networks(cls, value: Any) -> Any:
        return tuple(ip_network(part) for part in _parts(value)) if isinstance(value, str) else value

    @field_validator("dns_servers", mode="before")
    @classmethod
    def _split_servers(cls, value: Any) -> Any:
        return tuple(name_server(part) for part in _parts(value)) if isinstance(value, str) else value

    @property
    def topics(self) -> Topics:
        return Topics(self.topic_prefix)

    @property
    def schedule(self) -> RetrySchedule:
        return RetrySchedule(self.retry_delays)


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment and `.env`. Raises ConfigurationError: one line, no value shown."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0]).upper() if first["loc"] else "settings"
        raise ConfigurationError(f"{name}: {first['msg']}") from None


def name_server(text: str) -> str:
    """The same in full: `192.0.2.1:53`, `[2001:db8::1]:53`. Raises ValueError."""
    bare, port = text, "53"
    if text.count(":") == 1 or "]:" in text:
        bare, _, port = text.rpartition(":")
    address = ip_address(bare[1:-1] if bare.startswith("[") and bare.endswith("]") else bare)
    if not 1 <= int(port) <= 65535:
        raise ValueError("a port outside 1 to 65535")
    return f"[{address}]:{int(port)}" if address.version == 6 else f"{address}:{int(port)}"


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
