"""The properties of one node and of three, and whose folder is whose."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.embedded_kafka import Cluster, programs, properties
from shared.errors import ConfigurationError
from shared.settings import load_settings
from tests.unit.kafka_properties import parsed

_REPLICAS = [
    "default.replication.factor",
    "offsets.topic.replication.factor",
    "transaction.state.log.replication.factor",
    "share.coordinator.state.topic.replication.factor",
]
_IN_SYNC = ["min.insync.replicas", "transaction.state.log.min.isr", "share.coordinator.state.topic.min.isr"]


@pytest.mark.parametrize(("brokers", "replicas", "in_sync"), [(1, "1", "1"), (3, "3", "2")])
def test_everything_has_a_replica_on_each_node_and_outlives_one_of_three(
    tmp_path: Path, brokers: int, replicas: str, in_sync: str
) -> None:
    cluster = Cluster.on_free_ports(tmp_path, brokers, taken=set())
    for node in cluster.nodes:
        written = parsed(properties(node, cluster))
        assert {name: written[name] for name in _REPLICAS} == dict.fromkeys(_REPLICAS, replicas)
        assert {name: written[name] for name in _IN_SYNC} == dict.fromkeys(_IN_SYNC, in_sync)


def test_three_nodes_vote_for_each_other_and_share_nothing_else(tmp_path: Path) -> None:
    cluster = Cluster.on_free_ports(tmp_path, 3, taken=set())
    written = [parsed(properties(node, cluster)) for node in cluster.nodes]
    assert [one["node.id"] for one in written] == ["1", "2", "3"]
    assert {one["controller.quorum.voters"] for one in written} == {cluster.voters}
    assert [voter.split("@")[1] for voter in cluster.voters.split(",")] == [
        one["listeners"].rpartition("CONTROLLER://")[2] for one in written
    ]
    assert [f"PLAINTEXT://{address}" for address in cluster.bootstrap_servers.split(",")] == [
        one["advertised.listeners"] for one in written
    ]
    assert len({one["log.dirs"] for one in written}) == 3
    assert len({port for node in cluster.nodes for port in (node.port, node.controller_port)}) == 6
    names = [program.name for program in programs(cluster, [])]
    assert names == ["kafka-1", "kafka-2", "kafka-3"]


def test_a_single_node_is_where_it_always_was(tmp_path: Path) -> None:
    """A folder of before there were three is found again."""
    cluster = Cluster.on_free_ports(tmp_path, 1, taken=set())
    [node] = cluster.nodes
    assert (node.folder, node.log_dir) == (tmp_path, tmp_path / "data")
    assert cluster.voters == f"1@127.0.0.1:{node.controller_port}"
    [program] = programs(cluster, [])
    assert (program.name, program.directory) == ("kafka", tmp_path)


def test_the_preferred_ports_are_those_of_the_brokers_and_the_controllers_follow(tmp_path: Path) -> None:
    taken = {29092, 29094}
    cluster = Cluster.on_free_ports(tmp_path, 3, taken=taken, preferred=29092)
    ports = [node.port for node in cluster.nodes]
    assert ports == sorted(ports)
    assert min(node.controller_port for node in cluster.nodes) > max(ports)
    assert len(taken) == 8


@pytest.mark.parametrize(("made_for", "asked"), [("data", 3), ("node-1/data", 1), ("node-3/data", 1)])
def test_a_folder_of_another_number_is_refused_and_one_of_its_own_is_taken(
    tmp_path: Path, made_for: str, asked: int
) -> None:
    (tmp_path / made_for).mkdir(parents=True)
    Cluster.on_free_ports(tmp_path, asked, taken=set())  # begun and not formatted: nothing is in it
    (tmp_path / made_for / "meta.properties").touch()
    with pytest.raises(ConfigurationError, match=f"^KAFKA_BROKERS: .* cannot become {asked}"):
        Cluster.on_free_ports(tmp_path, asked, taken=set())
    Cluster.on_free_ports(tmp_path, 4 - asked, taken=set())


@pytest.mark.parametrize("text", ["0", "2", "-1", "4", "three", "3.5", ""])
def test_no_other_number_of_brokers_is_taken(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^KAFKA_BROKERS: Input should be 1 or 3$"):
        load_settings(_env_file=None, kafka_brokers=text)


@pytest.mark.parametrize(("text", "brokers"), [("1", 1), (" 3 ", 3)])
def test_one_and_three_are(text: str, brokers: int) -> None:
    assert load_settings(_env_file=None, kafka_brokers=text).kafka_brokers == brokers
