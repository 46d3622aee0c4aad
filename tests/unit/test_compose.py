"""docker-compose.yml against its schema, and against the settings, commands and health checks of the code."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import stat
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer.main
import yaml

from deploy.container_keys import ENV_FILE, PASSWORD_FILE, make_keys
from deploy.embedded_kafka import Cluster, Node, properties
from deploy.kafka_jars import KAFKA_VERSION
from deploy.local_stack import APPS
from shared.health import serve_health
from shared.settings import Settings, load_settings
from tests.unit.kafka_properties import parsed

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]

#: What runs for good, and what runs to its end before it.
PROCESSES = ["api", "delivery-stream", "retry-scheduler", "attempt-sink"]
ONE_SHOTS = ["keys", "migrate"]
STORES = ["kafka", "postgres", "redis"]
OURS = PROCESSES + ONE_SHOTS

KAFKA_BEHAVIOUR = [
    "auto.create.topics.enable",
    "group.initial.rebalance.delay.ms",
    "offsets.retention.minutes",
    "offsets.topic.num.partitions",
    "offsets.topic.replication.factor",
    "transaction.state.log.min.isr",
    "transaction.state.log.replication.factor",
]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The `.env` that the `keys` service makes."""
    make_keys(tmp_path / ".env", tmp_path / "password")
    return tmp_path / ".env"


def test_compose_file_matches_its_schema() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    command = [str(checker), "--builtin-schema", "vendor.compose-spec", str(ROOT / "docker-compose.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_holds_all_processes_and_stores() -> None:
    assert set(SERVICES) == {*OURS, *STORES}


@pytest.mark.parametrize("service", OURS)
def test_every_variable_is_a_setting(service: str) -> None:
    assert set(_environment(service)) <= {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("service", [*PROCESSES, "migrate"])
def test_settings_accept_what_compose_gives(service: str, keys: Path) -> None:
    settings = _settings(service, keys)
    kafka = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"PLAINTEXT://{settings.kafka_bootstrap_servers}" == kafka
    assert settings.redis_url.get_secret_value().startswith("redis://redis:6379")
    assert settings.database_url.get_secret_value().split("@")[1] == "postgres:5432/hooklog"


@pytest.mark.parametrize("service", OURS)
def test_every_command_exists(service: str) -> None:
    match SERVICES[service]["command"]:
        case ["python", "-m", module]:
            assert _runs_with_dash_m(module)
        case ["hooklog", command]:
            assert command in _cli_commands()
        case other:
            pytest.fail(f"neither a module nor a command: {other}")


def test_the_processes_are_those_of_make_up() -> None:
    assert {name: SERVICES[name]["command"] for name in PROCESSES} == {
        name: ["python", "-m", module] for name, module in APPS.items()
    }


def test_only_the_api_is_published_and_on_loopback(keys: Path) -> None:
    port = _settings("api", keys).api_port
    assert SERVICES["api"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["api"]


def test_api_open_to_the_network_has_its_key(keys: Path) -> None:
    settings = _settings("api", keys)
    assert settings.api_host == "0.0.0.0"
    assert len(settings.admin_api_key.get_secret_value()) >= 32


def test_the_processes_start_where_the_keys_are() -> None:
    """`.env` is read from the working directory; the image's is the volume's."""
    assert f"WORKDIR {ENV_FILE.parent}\n" in (ROOT / "deploy/Dockerfile").read_text()
    for service in [*PROCESSES, "migrate"]:
        assert SERVICES[service]["volumes"] == [f"keys:{ENV_FILE.parent}:ro"]
        assert "working_dir" not in SERVICES[service]


def test_stores_never_see_the_encryption_key() -> None:
    mounts = [mount for store in STORES for mount in SERVICES[store].get("volumes", [])]
    assert [mount for mount in mounts if mount.startswith("keys:")] == []
    assert SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD_FILE"] == str(PASSWORD_FILE)


def test_keys_are_made_once_and_for_their_readers_only(tmp_path: Path) -> None:
    env_file, password_file = tmp_path / ".env", tmp_path / "password"
    make_keys(env_file, password_file)
    first = env_file.read_text(), password_file.read_text()
    make_keys(env_file, password_file)
    assert (env_file.read_text(), password_file.read_text()) == first
    assert first[1] in first[0]
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o400
    assert stat.S_IMODE(password_file.stat().st_mode) == 0o444


def test_keys_cut_off_half_way_are_finished(tmp_path: Path) -> None:
    """The password is there and may already be Postgres'; a draft of the rest lies about."""
    env_file, password_file = tmp_path / ".env", tmp_path / "password"
    password_file.write_text("already-used")
    env_file.with_name(".env.draft").write_text("ADMIN_API")
    make_keys(env_file, password_file)
    assert "hooklog:already-used@" in env_file.read_text()
    assert not env_file.with_name(".env.draft").exists()


def test_the_processes_wait_for_the_one_shots() -> None:
    done = "service_completed_successfully"
    for service in PROCESSES:
        assert SERVICES[service]["depends_on"] == {"migrate": {"condition": done}}
    assert SERVICES["migrate"]["depends_on"]["keys"] == {"condition": done}
    assert SERVICES["postgres"]["depends_on"]["keys"] == {"condition": done}


def test_every_lasting_service_has_a_health_check_and_restarts() -> None:
    for name in [*PROCESSES, *STORES]:
        assert SERVICES[name]["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}, name
        assert SERVICES[name]["restart"] == "unless-stopped", name


@pytest.mark.parametrize("service", PROCESSES)
def test_health_check_asks_the_port_its_process_serves(service: str, keys: Path) -> None:
    settings = _settings(service, keys)
    port = settings.api_port if service == "api" else settings.health_port
    assert port != 0
    assert f"'http://127.0.0.1:{port}/ready'" in SERVICES[service]["healthcheck"]["test"][-1]


@pytest.mark.parametrize(("troubles", "exit_code"), [({}, 0), ({"kafka": "no broker answers"}, 1)])
async def test_health_check_passes_only_when_ready(troubles: Mapping[str, str], exit_code: int) -> None:
    port = _free_port()
    serving = await serve_health(port, live=dict, ready=lambda: troubles)
    try:
        await _answers(port)
        script = SERVICES["delivery-stream"]["healthcheck"]["test"][-1].replace("8081", str(port))
        done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], capture_output=True, timeout=30)
        assert done.returncode == exit_code
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def test_our_containers_may_change_nothing() -> None:
    for service in OURS:
        settings = SERVICES[service]
        assert settings["read_only"] is True
        assert settings["cap_drop"] == ["ALL"]
        assert settings["security_opt"] == ["no-new-privileges:true"]


def test_every_service_is_bounded_and_every_image_has_a_version() -> None:
    for name, service in SERVICES.items():
        assert "memory" in service["deploy"]["resources"]["limits"], name
        tag = service["image"].partition(":")[2]
        assert tag[:1].isdigit(), name


def test_processes_have_time_to_drain() -> None:
    assert {SERVICES[name]["stop_grace_period"] for name in PROCESSES} == {"30s"}


def test_kafka_keeps_offsets_and_makes_no_topic_by_accident() -> None:
    kafka = SERVICES["kafka"]["environment"]
    assert int(kafka["KAFKA_OFFSETS_RETENTION_MINUTES"]) >= 365 * 24 * 60
    assert kafka["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_kafka_is_the_one_of_the_embedded_stack(tmp_path: Path) -> None:
    """The same version, and the same behaviour where the application can tell."""
    alone = Cluster(tmp_path, (Node(1, tmp_path, port=1, controller_port=2),))
    embedded = parsed(properties(alone.nodes[0], alone))
    kafka = SERVICES["kafka"]["environment"]
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"
    for name in KAFKA_BEHAVIOUR:
        assert kafka[f"KAFKA_{name.upper().replace('.', '_')}"] == embedded[name], name


def test_what_must_survive_lies_in_a_named_volume() -> None:
    named = {mount.partition(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])}
    assert named == set(COMPOSE["volumes"])
    kafka = SERVICES["kafka"]
    assert kafka["volumes"] == [f"kafka-data:{kafka['environment']['KAFKA_LOG_DIRS']}"]


def _environment(service: str) -> dict[str, str | None]:
    return dict(SERVICES[service].get("environment", {}))


def _settings(service: str, env_file: Path) -> Settings:
    """What the process in this service reads; names without a value are passed on only when set outside."""
    given = {name.lower(): value for name, value in _environment(service).items() if value is not None}
    return load_settings(_env_file=env_file, **given)


def _runs_with_dash_m(module: str) -> bool:
    found = importlib.util.find_spec(module)
    if found is not None and found.submodule_search_locations is not None:
        found = importlib.util.find_spec(f"{module}.__main__")
    return found is not None


def _cli_commands() -> set[str]:
    (hooklog,) = entry_points(group="console_scripts", name="hooklog")
    return set(getattr(typer.main.get_command(hooklog.load()), "commands", {}))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def _answers(port: int, within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s), httpx.AsyncClient(trust_env=False) as client:
        while True:
            try:
                await client.get(f"http://127.0.0.1:{port}/live")
            except httpx.TransportError:
                await asyncio.sleep(0.02)
            else:
                return
