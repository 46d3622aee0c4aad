"""Three brokers of a test's own, which hold every record three times."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from deploy import embedded_kafka, kafka_jars
from deploy.embedded_kafka import Cluster
from tests.eventually import eventually
from tests.own_broker import BrokerProcess

BROKERS = 3


class OwnBrokers:
    """``async with OwnBrokers(folder) as brokers``: all three are ready; they are gone afterwards."""

    def __init__(self, folder: Path) -> None:
        self._jars = kafka_jars.ensure_jars()
        self._cluster = Cluster.on_free_ports(folder, BROKERS, taken=set())
        embedded_kafka.prepare(self._cluster, self._jars)
        self.bootstrap_servers = self._cluster.bootstrap_servers
        programs = embedded_kafka.programs(self._cluster, self._jars)
        self._brokers = {
            node.number: BrokerProcess(node, program, replicas=BROKERS)
            for node, program in zip(self._cluster.nodes, programs, strict=True)
        }

    async def __aenter__(self) -> OwnBrokers:
        try:
            for broker in self._brokers.values():
                broker.start()
            await asyncio.gather(*(broker.ready() for broker in self._brokers.values()))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for broker in self._brokers.values():
            await broker.kill()

    def __getitem__(self, number: int) -> BrokerProcess:
        """One of them, from 1, by the number it has in Kafka too."""
        return self._brokers[number]

    def lose_disk(self, number: int) -> None:
        """One that does not run has a new disk: it will start with nothing."""
        shutil.rmtree(self._cluster.nodes[number - 1].log_dir)
        embedded_kafka.prepare(self._cluster, self._jars)

    def controller(self) -> int:
        """The number of the controllers' leader. No client is told; it stands in every voter's own notes."""
        notes = [_election(node.log_dir) for node in self._cluster.nodes]
        newest = max(notes, key=lambda note: (note["leaderEpoch"], note["leaderId"]))
        assert newest["leaderId"] in self._brokers, f"no leader: {notes}"
        return int(newest["leaderId"])

    async def partitions(self, prefix: str) -> list[dict[str, Any]]:
        """Every partition of the topics under ``prefix``: `topic`, `partition`, `leader`, `replicas`, `isr`."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        try:
            await admin.start()
            names = [name for name in await admin.list_topics() if name.startswith(prefix)]
            described = await admin.describe_topics(names) if names else []
        finally:
            await admin.close()
        return [{"topic": topic["topic"], **partition} for topic in described for partition in topic["partitions"]]

    async def until_in_sync(self, prefix: str, within_s: float = 60) -> None:
        """Wait until all three hold all that is in the topics under ``prefix``."""

        async def all_hold() -> bool:
            try:
                found = await self.partitions(prefix)
            except KafkaError:
                return False
            return bool(found) and all(len(partition["isr"]) == BROKERS for partition in found)

        await eventually(all_hold, within_s=within_s)


def _election(log_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((log_dir / "__cluster_metadata-0/quorum-state").read_text())
    return found
