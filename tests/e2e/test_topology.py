"""The cluster changes under load: leaders move, a broker leaves and comes anew, the controller moves.

Java and librdkafka produce with idempotence and consume in groups, through relays that remember every byte:
nobody notices, nothing is lost or doubled, and no broker's address is ever told.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from compose.java_tools import run_tool
from compose.kafka import KafkaCluster, KafkaNode
from protocol.api_keys import ApiKey
from tests.e2e.front import NODE_IDS
from tests.e2e.raw_client import RawClient, make
from tests.e2e.watched import WatchedFront
from tests.e2e.workload import Consuming, Producing, check, eventually, in_log

Names = Callable[[], str]
WITHIN = timedelta(seconds=20)
PARTITIONS = 6
JAVA_PER_S = 300


class Admin:
    """Moves what the clients work with; all by the gateway, but for what it does not forward."""

    def __init__(self, kafka: KafkaCluster, watched: WatchedFront, *topics: str) -> None:
        self.kafka = kafka
        self._watched = watched
        self._topics = topics
        self._away: set[int] = set()

    def stop(self, node_id: int) -> None:
        self.kafka.nodes[node_id - 1].stop()
        self._away.add(node_id)

    def start(self, node_id: int) -> None:
        self.kafka.nodes[node_id - 1].start()
        self._away.discard(node_id)

    def bring_back(self) -> None:
        """Other tests find all brokers running."""
        for node_id in list(self._away):
            self.start(node_id)

    def _any(self) -> KafkaNode:
        return next(node for node in self.kafka.nodes if node.node_id not in self._away)

    def call(self, request: Any) -> Any:
        with self._watched.access(self._any().node_id).connect() as client:
            return client.call(request)

    def call_directly(self, request: Any) -> Any:
        node = self._any()
        with RawClient((node.host, node.internal_port)) as client:
            return client.call(request)

    def leaders(self, topic: str) -> list[int]:
        (found,) = self.call(make(ApiKey.METADATA, 12, topics=[{"name": topic}])).topics
        by_index = {int(each.partition_index): int(each.leader_id) for each in found.partitions}
        return [by_index[index] for index in sorted(by_index)]

    def brokers(self) -> set[int]:
        cluster = self.call(make(ApiKey.DESCRIBE_CLUSTER, 2, include_fenced_brokers=True))
        return {int(each.broker_id) for each in cluster.brokers}

    def controller(self) -> int:
        asked = [{"topic_name": "__cluster_metadata", "partitions": [{"partition_index": 0}]}]
        answer = self.call(make(ApiKey.DESCRIBE_QUORUM, 1, topics=asked))
        # While there is none a broker answers with an error.
        return int(answer.topics[0].partitions[0].leader_id) if answer.topics else -1

    def place(self, node_ids: list[int]) -> None:
        """Puts every partition on these brokers, led by each in turn, and has them lead."""
        count = len(node_ids)
        wanted = [
            (index, tuple(node_ids[(index + turn) % count] for turn in range(count)))
            for index in range(PARTITIONS)
        ]
        partitions = [{"partition_index": index, "replicas": replicas} for index, replicas in wanted]
        moving = make(
            ApiKey.ALTER_PARTITION_REASSIGNMENTS,
            0,
            timeout=WITHIN,
            topics=[{"name": topic, "partitions": partitions} for topic in self._topics],
        )
        eventually(lambda: self._done(self.call(moving)))
        asked = make(ApiKey.LIST_PARTITION_REASSIGNMENTS, 0, timeout=WITHIN, topics=None)
        eventually(lambda: not self.call(asked).topics)
        leading = [replicas[0] for _, replicas in wanted]

        def lead() -> bool:
            names = [{"topic": topic, "partitions": tuple(range(PARTITIONS))} for topic in self._topics]
            self.call(make(ApiKey.ELECT_LEADERS, 2, timeout=WITHIN, topic_partitions=names))
            return all(self.leaders(topic) == leading for topic in self._topics)

        eventually(lead)

    @staticmethod
    def _done(answer: Any) -> bool:
        codes = {each.error_code for topic in answer.responses for each in topic.partitions}
        return codes == {ErrorCode.none}


def move_leaders(admin: Admin) -> None:
    node_ids = [1, 2, 3]
    random.shuffle(node_ids)
    admin.place(node_ids)


def remove_and_add_a_broker(admin: Admin) -> None:
    admin.place([1, 2])
    admin.stop(3)
    admin.call_directly(make(ApiKey.UNREGISTER_BROKER, 0, broker_id=3))
    eventually(lambda: admin.brokers() == {1, 2})
    admin.start(3)
    eventually(lambda: admin.brokers() == {1, 2, 3})
    admin.place([3, 1, 2])


def move_the_controller(admin: Admin) -> None:
    before = admin.controller()
    admin.stop(before)
    eventually(lambda: admin.controller() not in {before, -1})
    admin.start(before)
    eventually(lambda: before in admin.brokers())
    admin.place([1, 2, 3])


def restart_one_after_the_other(admin: Admin) -> None:
    for node_id in NODE_IDS:
        admin.stop(node_id)
        admin.start(node_id)
        eventually(lambda: admin.brokers() == {1, 2, 3})
        # Only who is in sync may lead: all are, before the next one goes.
        admin.place([1, 2, 3])


Change = Callable[[Admin], None]


def live_through(
    kafka: KafkaCluster, watched: WatchedFront, name: Names, changes: list[Change], java_records: int
) -> None:
    topic, java_topic = name(), name()
    for each in (topic, java_topic):
        kafka.create_topic(each, PARTITIONS)
    admin, access = Admin(kafka, watched, topic, java_topic), watched.access()
    count = str(java_records)
    sizes = ("--num-records", count, "--payload-monotonic", "--throughput", str(JAVA_PER_S))
    until = ("--group", name(), "--from-beginning", "--max-messages", count, "--timeout-ms", "60000")

    def java(tool: str, *arguments: str, **properties: str) -> str:
        within_s = 120 + 2 * java_records / JAVA_PER_S
        settings = {key.replace("_", "."): value for key, value in properties.items()}
        named = ("--topic", java_topic, *arguments)
        return run_tool(tool, access.bootstrap, *named, properties=settings, timeout_s=within_s).stdout

    with (
        ThreadPoolExecutor(2) as pool,
        ExitStack() as stack,
        Consuming(access, topic, name()) as consuming,
        Producing(access, topic) as producing,
    ):
        stack.callback(admin.bring_back)
        sent = pool.submit(java, "kafka-producer-perf-test", *sizes, acks="all")
        read = pool.submit(java, "kafka-console-consumer", *until, group_protocol="consumer")
        producing.more()
        for change in changes:
            change(admin)
            producing.more()
        producing.stop()
        consuming.has(producing.delivered)
        assert f"{java_records} records sent" in sent.result()
        produced = sorted(in_log(kafka, java_topic))
        assert produced == sorted(b"%d" % number for number in range(java_records))
        assert sorted(set(read.result().encode().split())) == produced
    check(kafka, topic, producing)
    assert all(len(relay.received) > 1000 for relay in watched.relays[1:])
    assert not watched.addresses_told()


def test_clients_go_on_while_the_cluster_changes(
    breakable: KafkaCluster, watched: WatchedFront, unique_name: Names
) -> None:
    changes: list[Change] = [move_leaders, remove_and_add_a_broker, move_the_controller]
    live_through(breakable, watched, unique_name, changes, 6000)


@pytest.mark.soak
def test_clients_go_on_through_twenty_changes_and_rolling_restarts(
    breakable: KafkaCluster, watched: WatchedFront, unique_name: Names
) -> None:
    changes: list[Change] = [move_leaders, remove_and_add_a_broker]
    changes += [move_the_controller, restart_one_after_the_other]
    changes *= 5
    random.shuffle(changes)
    live_through(breakable, watched, unique_name, changes, 60_000)
