"""Three Kafka brokers that replicate: KRaft, three copies of each partition, two of which must be in sync."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from services.embedded.kafka import Kafka, new_cluster_id
from tests.support.installation import until

from .links import Link, Links, stable_port

_PROPERTIES = """
node.id={number}
controller.quorum.voters={voters}
listeners=CLIENT://127.0.0.1:{port},PEER://127.0.0.1:{peer_port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=CLIENT://127.0.0.1:{link_port},PEER://127.0.0.1:{peer_link_port}
inter.broker.listener.name=PEER
listener.security.protocol.map=CLIENT:PLAINTEXT,PEER:PLAINTEXT,CONTROLLER:PLAINTEXT
min.insync.replicas=2
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.min.isr=2
"""


class Broker(Kafka):
    """One of several. Clients reach it over its `link`, the other brokers over `peer_link` and `controller_link`."""

    def __init__(self, folder: Path, number: int, links: Links) -> None:
        super().__init__(folder, lambda _: None)
        self.number = number
        self.port, self.peer_port, self.controller_port = stable_port(), stable_port(), stable_port()
        self.link, self.peer_link = links.to(self.port), links.to(self.peer_port)
        self.controller_link = links.to(self.controller_port)
        self.voters = self.shared_id = ""

    def cluster_id(self) -> str:
        return self.shared_id

    def properties(self, port: int, controller: int, data: Path) -> str:
        ours = _PROPERTIES.format(
            number=self.number,
            voters=self.voters,
            port=self.port,
            peer_port=self.peer_port,
            controller_port=self.controller_port,
            link_port=self.link.port,
            peer_link_port=self.peer_link.port,
        )
        return super().properties(port, controller, data) + ours  # the last of two equal names counts

    @property
    def runs(self) -> bool:
        return self._process() is not None

    @property
    def links(self) -> tuple[Link, ...]:
        """All on which it is reached."""
        return self.link, self.peer_link, self.controller_link

    def kill(self) -> None:
        process = self._running()
        process.kill()
        process.wait(30)

    def hang(self) -> None:
        """Stops the process: its connections stay open, and it neither answers nor ends."""
        self._running().suspend()

    def resume(self) -> None:
        self._running().resume()

    def heal(self) -> None:
        """Undoes everything but that it was killed."""
        for link in self.links:
            link.appear()
        if self.runs:
            self.resume()

    def _running(self) -> psutil.Process:
        process = self._process()
        assert process is not None, f"broker {self.number} does not run"
        return process


class Brokers:
    """The three of a folder."""

    def __init__(self, folder: Path, links: Links) -> None:
        self.all: list[Broker] = []
        for number in (1, 2, 3):
            home = folder / f"broker-{number}"
            home.mkdir(parents=True)
            self.all.append(Broker(home, number, links))
        voters = ",".join(f"{each.number}@127.0.0.1:{each.controller_link.port}" for each in self.all)
        shared_id = new_cluster_id()
        for each in self.all:
            each.voters, each.shared_id = voters, shared_id

    @property
    def servers(self) -> str:
        """The bootstrap servers: all brokers."""
        return ",".join(f"127.0.0.1:{each.link.port}" for each in self.all)

    def start(self, *which: Broker) -> None:
        """Starts some (all by default) at once: alone, the first would wait for the second."""
        with ThreadPoolExecutor() as at_once:
            for started in [at_once.submit(each.start) for each in which or self.all]:
                started.result()

    def stop(self) -> None:
        for each in self.all:
            if each.runs:
                each.kill()

    async def mend(self) -> None:
        """Undoes what a test did to them, and returns when every partition has three copies again."""
        for each in self.all:
            each.heal()
        await asyncio.to_thread(self.start)
        await self.until_in_sync()

    async def until_in_sync(self) -> None:
        """Returns when each partition of every topic has all its copies in sync."""

        async def in_sync() -> bool:
            try:
                return await self._in_sync()
            except KafkaError:
                return False

        await until(in_sync, 120)

    async def _in_sync(self) -> bool:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers, request_timeout_ms=5_000)
        await admin.start()
        try:
            topics = await admin.describe_topics()
        finally:
            await admin.close()
        partitions = [partition for topic in topics for partition in topic["partitions"]]
        return all(len(partition["isr"]) == len(partition["replicas"]) for partition in partitions)
