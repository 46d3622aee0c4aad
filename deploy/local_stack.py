"""`make up`: the whole system in the foreground, on real Kafka, Postgres and Redis. What runs, and in which order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from deploy import embedded_kafka, embedded_postgres, embedded_redis, kafka_console, kafka_jars
from deploy.data_dir import DataDir
from deploy.first_event import DemoFailed, curl_to_paste, reason_to_skip, send_first_event
from deploy.profile import named, with_profile
from deploy.program import Program, bindable, take_port
from deploy.readiness import http_ready, kafka_answers, kafka_ready, postgres_ready, redis_ready
from deploy.supervisor import GaveUp, Service, Supervisor
from shared.bind_address import check_bind_address
from shared.encryption import Cipher
from shared.errors import ConfigurationError, HooklogError
from shared.kafka import client_options
from shared.settings import Settings, load_settings

#: The processes of the system and the modules that are them.
APPS = {
    "api": "ingest_api",
    "delivery-stream": "delivery_stream",
    "retry-scheduler": "retry_scheduler",
    "attempt-sink": "delivery_stream.attempt_sink",
}
_READY_WITHIN_S = 120.0
#: The processes give themselves 20 s to drain.
_DRAIN_WITHIN_S = 25.0
_CONFIGURATION_EXIT = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything decided before the first process starts."""

    settings: Settings
    data_dir: DataDir
    stores: tuple[Service, ...]
    apps: tuple[Service, ...]
    base_url: str
    jars: tuple[Path, ...]


def up() -> int:
    """The exit code: 0 after Ctrl-C, 1 after giving up, 2 for settings that cannot be used."""
    started = time.monotonic()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL + 1)  # its complaints while a broker starts are normal
    try:
        said = with_profile(os.environ, dotenv_values(".env"))
        plan = make_plan(said)
    except KeyboardInterrupt:
        return 130
    except ConfigurationError as error:
        return _fail(str(error), 2)
    except HooklogError as error:
        return _fail(str(error), 1)
    try:
        return asyncio.run(_run(plan, started))
    finally:
        plan.data_dir.forget_stack_env()
        plan.data_dir.close()


def make_plan(said: Mapping[str, str]) -> Plan:
    """Look at the settings, take DATA_DIR, choose ports, prepare the stores' files.

    Raises ConfigurationError, JarsMissing.
    """
    settings = settings_from(said)
    check_bind_address(settings)
    if key := named(said, "ENCRYPTION_KEY"):
        Cipher(key)
    api_port = _api_port(settings)
    data_dir = DataDir.open(settings.data_dir, versions={"postgres": embedded_postgres.POSTGRES_VERSION})
    try:
        return _plan(said, settings, data_dir, api_port)
    except BaseException:
        data_dir.close()
        raise


def settings_from(said: Mapping[str, str]) -> Settings:
    """The settings of what was said. `.env` and the profile are in it already. Raises ConfigurationError."""
    fields = {name: said[name.upper()] for name in Settings.model_fields if name.upper() in said}
    for name in ("kafka_bootstrap_servers", "database_url", "encryption_key"):  # empty: we bring our own
        if not fields.get(name, "").strip():
            fields.pop(name, None)
    return load_settings(_env_file=None, **fields)


def _plan(said: Mapping[str, str], settings: Settings, data_dir: DataDir, api_port: int) -> Plan:
    taken = {api_port}
    values: dict[str, str] = {"DATA_DIR": str(data_dir.path), "API_PORT": str(api_port)}
    # Postgres first: it is the one that may refuse DATA_DIR, and Kafka the one that fetches for long.
    if url := named(said, "DATABASE_URL"):
        postgres = Service("postgres", lambda: postgres_ready(url))
    else:
        postgres, url = _postgres(data_dir.path / "postgres", taken)
    values["DATABASE_URL"] = url
    jars: list[Path] = []
    if address := named(said, "KAFKA_BOOTSTRAP_SERVERS"):
        kafka = [Service("kafka", lambda: kafka_answers(client_options(settings)))]
    else:
        kafka, address, jars = _kafka(data_dir.path / "kafka", settings.kafka_brokers, taken)
        if settings.kafka_brokers > 1 and "REPLICATION_FACTOR" not in said:
            values["REPLICATION_FACTOR"] = str(settings.kafka_brokers)
    values["KAFKA_BOOTSTRAP_SERVERS"] = address
    redis, values["REDIS_URL"] = _redis(said, data_dir.path / "redis", taken)
    stores = (*kafka, postgres, redis) if redis else (*kafka, postgres)
    values["ENCRYPTION_KEY"] = named(said, "ENCRYPTION_KEY") or data_dir.encryption_key()
    complete = settings_from({**said, **values})
    base_url = f"http://{_address_to_call(settings.api_host)}:{api_port}"
    apps = _apps({**said, **values}, base_url, tuple(store.name for store in stores), taken)
    return Plan(complete, data_dir, stores, apps, base_url, tuple(jars))


def _kafka(folder: Path, brokers: int, taken: set[int]) -> tuple[list[Service], str, list[Path]]:
    """One service for each broker, the addresses, and the jars they run on."""
    cluster = embedded_kafka.Cluster.on_free_ports(folder, brokers, taken=taken, preferred=9092)
    jars = kafka_jars.ensure_jars()
    embedded_kafka.prepare(cluster, jars)
    programs = embedded_kafka.programs(cluster, jars)
    services = [
        Service(program.name, partial(kafka_ready, node.address, brokers), program)
        for node, program in zip(cluster.nodes, programs, strict=True)
    ]
    return services, cluster.bootstrap_servers, jars


def _postgres(folder: Path, taken: set[int]) -> tuple[Service, str]:
    port = take_port(5432, taken)
    embedded_postgres.prepare(folder)
    maintenance = embedded_postgres.url(folder, port=port)
    program = embedded_postgres.program(folder, port=port)
    url = embedded_postgres.url(folder, port=port, database="hooklog")
    return Service("postgres", lambda: postgres_ready(maintenance), program), url


def _redis(said: Mapping[str, str], folder: Path, taken: set[int]) -> tuple[Service | None, str]:
    """None and "" when there is none, or when the environment says REDIS_URL="" (no cache)."""
    if "REDIS_URL" in said:
        url = named(said, "REDIS_URL")
        return (Service("redis", lambda: redis_ready(url)) if url else None), url
    server = embedded_redis.find_server()
    if server is None:
        return None, ""
    port = take_port(6379, taken)
    own = embedded_redis.url(port)
    return Service("redis", lambda: redis_ready(own), embedded_redis.program(server, folder, port=port)), own


def _apps(values: Mapping[str, str], base_url: str, needs: tuple[str, ...], taken: set[int]) -> tuple[Service, ...]:
    environment = {name: value for name, value in values.items() if name.lower() in Settings.model_fields}
    services = []
    for name, module in APPS.items():
        own = dict(environment)
        ready_url = f"{base_url}/ready"
        if name != "api":
            own["HEALTH_PORT"] = str(take_port(0, taken))
            ready_url = f"http://127.0.0.1:{own['HEALTH_PORT']}/ready"
        command = (sys.executable, "-m", module)
        program = Program(name, command, environment=own, stop_within_s=_DRAIN_WITHIN_S)
        services.append(Service(name, _http(ready_url), program, needs, _CONFIGURATION_EXIT))
    return tuple(services)


def _http(url: str) -> Callable[[], Awaitable[str]]:
    return lambda: http_ready(url)


async def _run(plan: Plan, started: float) -> int:
    """Until a signal, or until a process will not run."""
    stop = asyncio.Event()
    async with Supervisor(plan.data_dir.path / "logs", say=say, max_restarts=plan.settings.max_restarts) as supervisor:
        _on_signals(stop, supervisor)
        scenario = asyncio.create_task(_bring_up(plan, supervisor, started))
        stopped = asyncio.create_task(stop.wait())
        try:
            return await _first_end(scenario, stopped, supervisor)
        finally:
            scenario.cancel()
            say("stopping" if not stop.is_set() else "stopping: finishing what is under way (Ctrl-C again: at once)")


async def _first_end(scenario: asyncio.Task[None], stopped: asyncio.Task[Any], supervisor: Supervisor) -> int:
    waiting: set[asyncio.Future[Any]] = {scenario, stopped, supervisor.failed}
    try:
        while not stopped.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                future.result()
    except GaveUp as gave_up:
        return _fail(f"giving up: {gave_up}", gave_up.exit_code)
    except ConfigurationError as error:
        return _fail(str(error), 2)
    except HooklogError as error:
        return _fail(f"giving up: {error}", 1)
    return 0


async def _bring_up(plan: Plan, supervisor: Supervisor, started: float) -> None:
    """In dependency order; then the demo. Raises GaveUp, ConfigurationError, NotConfirmed, StoreUnavailable."""
    names = [store.name for store in plan.stores]
    say(f"starting {', '.join(names)}; logs in {plan.data_dir.path / 'logs'}")
    if "redis" not in names:
        say("redis: none here, running without a cache (slower, nothing else)")
    supervisor.start(plan.stores)
    # Alembic and what it needs take a second to import: a second in which Kafka starts anyway.
    prepare = await asyncio.to_thread(import_module, "deploy.prepare")
    await supervisor.until_ready(names, _READY_WITHIN_S)
    await prepare.prepare_stores(plan.settings)
    supervisor.start(plan.apps)
    await supervisor.until_ready([app.name for app in plan.apps], _READY_WITHIN_S)
    say(f"all is ready after {time.monotonic() - started:.1f} s")
    env_file = plan.data_dir.write_stack_env(_addresses(plan))
    await _demo(plan)
    _print_addresses(plan, env_file)


async def _demo(plan: Plan) -> None:
    if reason := reason_to_skip(plan.settings):
        say(f"first event: skipped, {reason}")
        return
    try:
        lines = await send_first_event(plan.base_url, plan.settings, plan.data_dir)
    except DemoFailed as failed:
        say(f"!! first event: {failed}")
        return
    for line in lines:
        say(f"first event: {line}")


def _print_addresses(plan: Plan, env_file: Path) -> None:
    settings = plan.settings
    lines = [
        "",
        f"  API       {plan.base_url}   (documentation: {plan.base_url}/docs)",
        f"  Kafka     {settings.kafka_bootstrap_servers}   topics {settings.topic_prefix}*",
        f"  all       {env_file}   (to be sourced)",
    ]
    if plan.jars:
        script = plan.data_dir.path / "kafka-console"
        kafka_console.write_script(script, list(plan.jars), settings.kafka_bootstrap_servers)
        lines.append(f"  tools     {script} consumer|producer|topics|groups|offsets")
    if curl := curl_to_paste(plan.base_url, plan.data_dir, settings):
        lines += ["", "An event of your own, and its delivery:", "", *(f"  {line}" for line in curl)]
    for line in [*lines, "", "Ctrl-C stops all of it."]:
        say(line)


def _addresses(plan: Plan) -> dict[str, str]:
    return {
        "HOOKLOG_URL": plan.base_url,
        "KAFKA_BOOTSTRAP_SERVERS": plan.settings.kafka_bootstrap_servers,
        "DATABASE_URL": plan.settings.database_url.get_secret_value(),
        "REDIS_URL": plan.settings.redis_url.get_secret_value(),
        "TOPIC_PREFIX": plan.settings.topic_prefix,
    }


def _on_signals(stop: asyncio.Event, supervisor: Supervisor) -> None:
    def stop_or_hurry() -> None:
        if stop.is_set():
            supervisor.hurry()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop_or_hurry)


def _api_port(settings: Settings) -> int:
    port = bindable(settings.api_port, settings.api_host)
    if port is None:
        raise ConfigurationError(
            f"API_PORT: {settings.api_port} on {settings.api_host} is taken; name another (API_PORT=8001 make up)"
        )
    return port


def _address_to_call(host: str) -> str:
    """Where a listener on this address answers us."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read, not bound
    return f"[{local}]" if ":" in local else local


def _fail(text: str, code: int) -> int:
    sys.stderr.write(f"hooklog: {text}\n")
    sys.stderr.flush()
    return code


def say(line: str) -> None:
    """A line for the person; when nobody reads any more, that is no reason to end in disorder."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except OSError:
        pass
