"""A hostile destination at a bound connection, with real brokers behind it."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from kio.schema.errors import ErrorCode

from compose.kafka import KafkaCluster
from gateway.sessions.bound_session import BoundSession
from gateway.sessions.link_gate import TopicCatalog
from gateway.tasks import Tasks
from gateway.upstreams.cluster import Cluster, DialConnector
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.dialer import Security, dial
from gateway.wire import ConnectionClosed, FrameConnection
from protocol.api_keys import ApiKey, supported_versions
from protocol.api_versions import link_versions
from tests.conftest import Clusters
from tests.e2e.raw_client import batch, make, produce
from tests.gateway.sessions.lab import Client

LATEST = -1
UNKNOWN = ErrorCode.unknown_topic_or_partition


class Destination:
    """The other side of a link: what it gets, byte for byte, is kept."""

    def __init__(self, kafka: KafkaCluster, allowed: Callable[[str], bool] | None) -> None:
        self.kafka = kafka
        self.cluster = Cluster(DialConnector(kafka.internal_bootstrap.split(","), Security()))
        self.heard = bytearray()
        self._catalog = TopicCatalog(self.cluster)
        self._allowed = allowed
        self._tasks = Tasks("destination")
        self._server: asyncio.Server | None = None
        self._clients: list[Client] = []

    async def bind(self, node_id: int | None = None) -> Client:
        """A new bound connection."""

        def accepted(wire: FrameConnection) -> None:
            session = BoundSession(
                wire,
                self.cluster,
                node_id,
                self._catalog,
                allowed=self._allowed,
            )
            self._tasks.spawn(session.run(), name="bound")

        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: FrameConnection(max_frame_bytes=100 << 20, name="source half", on_connected=accepted),
            "127.0.0.1",
        )
        heard = self.heard

        class Tapped(FrameConnection):
            def next_frame(self) -> bytearray | None:
                frame = super().next_frame()
                heard.extend(frame or b"")
                return frame

        wire = Tapped(max_frame_bytes=100 << 20, name="destination")
        await loop.create_connection(lambda: wire, "127.0.0.1", server.sockets[0].getsockname()[1])
        server.close()
        self._clients.append(Client(wire))
        return self._clients[-1]

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        await self._tasks.wait(5)
        await self._tasks.close()
        await self.cluster.close()


@asynccontextmanager
async def destination(
    kafka: KafkaCluster, allowed: Callable[[str], bool] | None = None
) -> AsyncIterator[Destination]:
    made = Destination(kafka, allowed)
    try:
        yield made
    finally:
        await made.close()


async def is_closed(client: Client) -> bool:
    try:
        await client.wire.read_frame(10)
    except ConnectionClosed:
        return True
    return False


async def topic_id(kafka: KafkaCluster, name: str) -> UUID:
    cluster = Cluster(DialConnector(kafka.internal_bootstrap.split(","), Security()))
    try:
        found = (await cluster.metadata([name])).topics[name].topic_id
    finally:
        await cluster.close()
    assert found is not None
    return found


def fill(kafka: KafkaCluster, topic: str, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": kafka.internal_bootstrap})
    for value in values:
        producer.produce(topic, value, partition=0)
    assert producer.flush(20) == 0


def commit(kafka: KafkaCluster, topic: str, group: str) -> None:
    """A committed offset, and with it the internal topic of offsets."""
    consumer = Consumer({"bootstrap.servers": kafka.internal_bootstrap, "group.id": group})
    deadline = time.monotonic() + 30
    while True:
        try:
            consumer.commit(offsets=[TopicPartition(topic, 0, 1)], asynchronous=False)
            break
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    consumer.close()


def fetch(topic: str | UUID, *, version: int, offset: int = 0, **more: Any) -> Any:
    values: dict[str, Any] = {"max_wait": timedelta(seconds=0), "min_bytes": 0, "max_bytes": 1 << 20}
    values["topics"] = [
        {
            "topic_id" if version >= 13 else "topic": topic,
            "partitions": [{"partition": 0, "fetch_offset": offset, "partition_max_bytes": 1 << 20}],
        }
    ]
    if version >= 7:
        values["forgotten_topics_data"] = ()
    if version < 15:
        values["replica_id"] = -1
    return make(ApiKey.FETCH, version, **(values | more))


def list_offsets(topic: str, *, replica_id: int = -1, timestamp: int = LATEST) -> Any:
    partition = {"partition_index": 0, "timestamp": timestamp}
    return make(
        ApiKey.LIST_OFFSETS,
        7,
        replica_id=replica_id,
        isolation_level=0,
        topics=[{"name": topic, "partitions": [partition]}],
    )


def metadata(topics: list[dict[str, Any]] | None, *, version: int = 12, create: bool = False) -> Any:
    return make(
        ApiKey.METADATA,
        version,
        topics=topics,
        allow_auto_topic_creation=create,
        include_topic_authorized_operations=False,
    )


def named(*names: str) -> list[dict[str, Any]]:
    return [{"topic_id": None, "name": name} for name in names]


# --- what a link needs -------------------------------------------------------------------------------


async def test_records_come_as_the_broker_has_them(
    kafka_430: KafkaCluster, unique_name: Callable[[], str]
) -> None:
    topic = unique_name()
    kafka_430.create_topic(topic)
    fill(kafka_430, topic, *(b"%d" % index for index in range(100)))
    async with destination(kafka_430) as there:
        client = await there.bind()
        direct = await dial(*address(kafka_430), Security())
        for asked in (
            fetch(topic, version=11),
            fetch(topic, version=11, isolation_level=1, rack_id="r1"),
            fetch(await topic_id(kafka_430, topic), version=13),
        ):
            got = (await client.call(asked)).responses[0].partitions[0]
            wanted = (await direct.request(asked)).responses[0].partitions[0]
            assert got.records == wanted.records
            assert got.high_watermark == 100
        direct.close()
        await direct.wait_closed()
        offsets = await client.call(list_offsets(topic))
        assert offsets.topics[0].partitions[0].offset == 100
        configs = await client.call(describe_configs(topic))
        assert configs.results[0].error_code == ErrorCode.none
        assert configs.results[0].configs


def address(kafka: KafkaCluster) -> tuple[str, int]:
    host, _, port = kafka.internal_bootstrap.split(",")[0].rpartition(":")
    return host, int(port)


def describe_configs(name: str, kind: int = 2) -> Any:
    resource = {"resource_type": kind, "resource_name": name, "configuration_keys": None}
    return make(ApiKey.DESCRIBE_CONFIGS, 4, resources=[resource])


async def test_versions_are_those_of_a_link(kafka_430: KafkaCluster) -> None:
    async with destination(kafka_430) as there:
        client = await there.bind()
        answer = await client.call(make(ApiKey.API_VERSIONS, 0))
        offered = {row.api_key: (row.min_version, row.max_version) for row in answer.api_keys}
        assert offered.keys() == link_versions().keys()
        assert ApiKey.PRODUCE not in offered


# --- a follower --------------------------------------------------------------------------------------


async def high_watermark(leader: BrokerConnection, topic: str) -> int:
    response = await leader.request(list_offsets(topic))
    offset: int = response.topics[0].partitions[0].offset
    return offset


async def test_a_fetch_as_a_follower_does_not_move_the_high_watermark(
    own_cluster: Clusters, unique_name: Callable[[], str]
) -> None:
    kafka = own_cluster(brokers=2)
    topic = unique_name()
    kafka.create_topic(topic)
    fill(kafka, topic, b"replicated")
    async with destination(kafka) as there:
        partition = (await there.cluster.metadata([topic])).topics[topic].partitions[0]
        (follower,) = set(partition.replicas) - {partition.leader}
        id_ = await topic_id(kafka, topic)
        client = await there.bind(partition.leader)
        await client.call(fetch(id_, version=13))
        leader = await there.cluster.connect(partition.leader)
        (paused,) = [node for node in kafka.nodes if node.node_id == follower]
        paused.pause()
        try:
            await leader.request(produce(9, {topic: batch(b"not replicated")}, acks=1))
            assert await high_watermark(leader, topic) == 1
            for version in (4, 7, 11, 12, 13, 14):
                asked = id_ if version >= 13 else topic
                await client.call(fetch(asked, version=version, offset=2, replica_id=follower))
            for version in (15, 16, 17):
                state = {"replica_id": follower, "replica_epoch": -1}
                await client.call(fetch(id_, version=version, offset=2, replica_state=state))
            for replica_id in (follower, 99, -2):
                answer = await client.call(list_offsets(topic, replica_id=replica_id))
                assert answer.topics[0].partitions[0].offset == 1, "a replica is told the log end"
            assert await high_watermark(leader, topic) == 1
            # The same at the broker itself, to see that it would have moved.
            await leader.request(fetch(topic, version=11, offset=2, replica_id=follower))
            assert await high_watermark(leader, topic) == 2
        finally:
            paused.resume()
            leader.close()
            await leader.wait_closed()


# --- what must not exist -----------------------------------------------------------------------------


def creating_metadata(version: int, name: str) -> Any:
    topics = named(name) if version >= 10 else [{"name": name}]
    fields: dict[str, Any] = {"topics": topics, "allow_auto_topic_creation": True}
    if version >= 8:
        fields["include_topic_authorized_operations"] = False
    if 8 <= version <= 10:
        fields["include_cluster_authorized_operations"] = False
    return make(ApiKey.METADATA, version, **fields)


async def test_nothing_is_created(clusters: Clusters, unique_name: Callable[[], str]) -> None:
    kafka = clusters(config={"auto.create.topics.enable": "true"})
    async with destination(kafka) as there:
        client = await there.bind()
        asked_for = {version: unique_name() for version in (4, 9, 12)}
        for version, name in asked_for.items():
            answer = await client.call(creating_metadata(version, name))
            assert answer.topics[0].error_code == UNKNOWN
        # The same at the broker itself, to see that it would have made them, and when.
        created = unique_name()
        await there.cluster.request(creating_metadata(12, created))
        async with asyncio.timeout(10):
            while created not in (topics := (await there.cluster.metadata(None)).topics):
                await asyncio.sleep(0.05)
        assert not set(asked_for.values()) & set(topics)
        # Version 3 cannot say no.
        client.send(make(ApiKey.METADATA, 3, topics=[{"name": unique_name()}]))
        assert await is_closed(client)


async def test_internal_topics_and_ours_do_not_exist(
    kafka_430: KafkaCluster, unique_name: Callable[[], str]
) -> None:
    topic, ours = unique_name(), f"_causeway-{uuid4().hex}"
    for each in (topic, ours):
        kafka_430.create_topic(each)
        fill(kafka_430, each, b"x")
    commit(kafka_430, topic, unique_name())
    async with destination(kafka_430) as there:
        client = await there.bind()
        everything = await client.call(metadata(None))
        names = {each.name for each in everything.topics}
        assert topic in names
        assert not [name for name in names if name.startswith(("__", "_causeway"))]
        for hidden in ("__consumer_offsets", ours):
            id_ = await topic_id(kafka_430, hidden)
            by_name = (await client.call(metadata(named(hidden)))).topics[0]
            assert (by_name.name, by_name.error_code, by_name.partitions) == (hidden, UNKNOWN, ())
            by_id = (await client.call(metadata([{"topic_id": id_, "name": None}]))).topics[0]
            assert (by_id.topic_id, by_id.error_code) == (id_, ErrorCode.unknown_topic_id)
            fetched = (await client.call(fetch(hidden, version=11))).responses[0]
            assert (fetched.topic, fetched.partitions[0].error_code) == (hidden, UNKNOWN)
            fetched = (await client.call(fetch(id_, version=13))).responses[0]
            assert (fetched.topic_id, fetched.partitions[0].error_code) == (id_, ErrorCode.unknown_topic_id)
            offsets = (await client.call(list_offsets(hidden))).topics[0]
            assert (offsets.name, offsets.partitions[0].error_code) == (hidden, UNKNOWN)
            epochs = (await client.call(epoch_end(hidden))).topics[0]
            assert (epochs.topic, epochs.partitions[0].error_code) == (hidden, UNKNOWN)
            configs = (await client.call(describe_configs(hidden))).results[0]
            assert (configs.resource_name, configs.error_code, configs.configs) == (hidden, UNKNOWN, ())
            producers = await client.call(
                make(ApiKey.DESCRIBE_PRODUCERS, 0, topics=[{"name": hidden, "partition_indexes": (0,)}])
            )
            assert (producers.topics[0].name, producers.topics[0].partitions[0].error_code) == (
                hidden,
                UNKNOWN,
            )
            offset = await client.call(offset_fetch("any", hidden))
            assert offset.groups[0].topics[0].partitions[0].committed_offset == -1
            assert offset.groups[0].topics[0].name == hidden


def epoch_end(topic: str) -> Any:
    partition = {"partition": 0, "leader_epoch": 0}
    return make(
        ApiKey.OFFSET_FOR_LEADER_EPOCH, 4, replica_id=-2, topics=[{"topic": topic, "partitions": [partition]}]
    )


def offset_fetch(group: str, *topics: str) -> Any:
    asked = [{"name": topic, "partition_indexes": (0,)} for topic in topics] or None
    return make(ApiKey.OFFSET_FETCH, 9, groups=[{"group_id": group, "topics": asked}])


async def test_a_topic_that_is_not_on_the_allow_list_does_not_exist(
    kafka_430: KafkaCluster, unique_name: Callable[[], str]
) -> None:
    mine, other, group = unique_name(), unique_name(), unique_name()
    for topic in (mine, other):
        kafka_430.create_topic(topic)
        fill(kafka_430, topic, b"x", b"y")
        commit(kafka_430, topic, group)
    async with destination(kafka_430, allowed=lambda name: name == mine) as there:
        client = await there.bind()
        assert [topic.name for topic in (await client.call(metadata(None))).topics] == [mine]
        assert (await client.call(metadata(named(other)))).topics[0].error_code == UNKNOWN
        for topic, code in ((mine, ErrorCode.none), (other, UNKNOWN)):
            answer = (await client.call(fetch(topic, version=11))).responses[0]
            assert (answer.topic, answer.partitions[0].error_code) == (topic, code)
        both = [describe_configs(name).resources[0] for name in (mine, other)]
        configs = await client.call(dataclasses.replace(describe_configs(mine), resources=tuple(both)))
        assert [(each.resource_name, each.error_code, bool(each.configs)) for each in configs.results] == [
            (mine, ErrorCode.none, True),
            (other, UNKNOWN, False),
        ]
        # Also where it was not asked for.
        committed = await client.call(offset_fetch(group))
        assert [topic.name for topic in committed.groups[0].topics] == [mine]


async def test_a_new_topic_is_found_by_its_id_and_among_all(
    kafka_430: KafkaCluster, unique_name: Callable[[], str]
) -> None:
    async with destination(kafka_430) as there:
        client = await there.bind()
        await client.call(metadata(None))
        topic = unique_name()
        kafka_430.create_topic(topic)
        assert topic in {each.name for each in (await client.call(metadata(None))).topics}
        await asyncio.sleep(1.1)
        answer = await client.call(fetch(await topic_id(kafka_430, topic), version=13))
        assert answer.responses[0].partitions[0].error_code == ErrorCode.none
        unknown = await client.call(fetch(uuid4(), version=13))
        assert unknown.responses[0].partitions[0].error_code == ErrorCode.unknown_topic_id


async def test_our_groups_do_not_exist(kafka_430: KafkaCluster, unique_name: Callable[[], str]) -> None:
    topic, group, ours = unique_name(), unique_name(), f"_causeway-{uuid4().hex}"
    kafka_430.create_topic(topic)
    for each in (group, ours):
        commit(kafka_430, topic, each)
    async with destination(kafka_430) as there:
        client = await there.bind()
        listed = await client.call(make(ApiKey.LIST_GROUPS, 5, states_filter=(), types_filter=()))
        ids = {each.group_id for each in listed.groups}
        assert group in ids
        assert not [each for each in ids if each.startswith("_causeway")]
        described = await client.call(
            make(ApiKey.DESCRIBE_GROUPS, 5, groups=(ours,), include_authorized_operations=False)
        )
        assert (described.groups[0].group_id, described.groups[0].group_state) == (ours, "Dead")
        for asked, offset in ((group, 1), (ours, -1)):
            answer = (await client.call(offset_fetch(asked, topic))).groups[0]
            assert (answer.group_id, answer.topics[0].partitions[0].committed_offset) == (asked, offset)


async def test_no_address_of_this_side_gets_out(
    kafka_430: KafkaCluster, unique_name: Callable[[], str]
) -> None:
    topic, group = unique_name(), unique_name()
    kafka_430.create_topic(topic)
    consumer = Consumer({"bootstrap.servers": kafka_430.internal_bootstrap, "group.id": group})
    consumer.subscribe([topic])
    for _ in range(50):
        consumer.poll(0.2)
        if consumer.assignment():
            break
    async with destination(kafka_430) as there:
        client = await there.bind()
        cluster = await client.call(metadata(named(topic)))
        assert [(b.host, b.port) for b in cluster.brokers] == [
            (f"node-{b.node_id}", 0) for b in cluster.brokers
        ]
        described = await client.call(
            make(ApiKey.DESCRIBE_CLUSTER, 1, include_cluster_authorized_operations=False)
        )
        assert described.brokers[0].host.startswith("node-")
        found = await client.call(make(ApiKey.FIND_COORDINATOR, 4, key_type=0, coordinator_keys=(group,)))
        assert found.coordinators[0].host.startswith("node-")
        old = await client.call(make(ApiKey.FIND_COORDINATOR, 2, key=group, key_type=0))
        assert old.host.startswith("node-")
        members = await client.call(
            make(ApiKey.DESCRIBE_GROUPS, 5, groups=(group,), include_authorized_operations=False)
        )
        assert members.groups[0].members[0].client_host == ""
        # A wrong leader epoch makes the broker tell where the leader is (KIP-951).
        id_ = await topic_id(kafka_430, topic)
        wrong = {"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1, "current_leader_epoch": 77}
        await client.call(fetch(id_, version=16, topics=[{"topic_id": id_, "partitions": [wrong]}]))
        host, port = address(kafka_430)
        assert host.encode() not in there.heard
        assert port.to_bytes(4, "big") not in there.heard
        assert b"localhost" not in there.heard
    consumer.close()


# --- what is not asked twice -------------------------------------------------------------------------


async def test_whatever_is_not_a_link_api_ends_the_connection(kafka_430: KafkaCluster) -> None:
    async with destination(kafka_430) as there:
        offered = link_versions()
        for key in [*ApiKey, 4711, -1]:
            versions = supported_versions(key) or range(1)
            refused = (
                {versions[0], versions[-1]}
                if key not in offered
                else {offered[key][0] - 1, offered[key][1] + 1}
            )
            for version in refused:
                if key == ApiKey.API_VERSIONS:
                    continue
                client = await there.bind()
                client.send_body(key, version, bytes(64))
                assert await is_closed(client), (key, version)


@pytest.mark.parametrize(
    "asked",
    [
        make(ApiKey.FIND_COORDINATOR, 4, key_type=1, coordinator_keys=("t",)),
        describe_configs("1", kind=4),
        describe_configs("1", kind=8),
        produce(9, {"any": batch(b"x")}),
        produce(9, {"any": batch(b"x")}, acks=0),
        make(ApiKey.INIT_PRODUCER_ID, 2, transactional_id=None, transaction_timeout=timedelta(seconds=1)),
        make(ApiKey.DELETE_GROUPS, 2, groups_names=("g",)),
        make(ApiKey.HEARTBEAT, 4, group_id="g", generation_id=1, member_id="m", group_instance_id=None),
    ],
)
async def test_what_a_link_does_not_need_ends_the_connection(kafka_430: KafkaCluster, asked: Any) -> None:
    async with destination(kafka_430) as there:
        client = await there.bind()
        client.send(asked)
        assert await is_closed(client)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0\1",
        b"\0\1\0\x0b\0\0\0\1\0\xff",
        # Metadata v12 whose array of topics would take 275 GB.
        b"\0\3\0\x0c\0\0\0\1\xff\xff\0\xff\xff\xff\xff\x7f",
        # ListGroups v4 with a tagged field that nobody knows, and one with a byte too many.
        b"\0\x10\0\4\0\0\0\1\xff\xff\0\1\1\x63\1\0",
        b"\0\x10\0\4\0\0\0\1\xff\xff\0\1\0\0",
    ],
)
async def test_garbage_ends_the_connection(kafka_430: KafkaCluster, frame: bytes) -> None:
    async with destination(kafka_430) as there:
        client = await there.bind()
        client.wire.write_frame(frame)
        assert await is_closed(client)


async def test_a_frame_larger_than_any_request_ends_the_connection(kafka_430: KafkaCluster) -> None:
    async with destination(kafka_430) as there:
        client = await there.bind()
        await client.call(make(ApiKey.API_VERSIONS, 0))
        transport = client.wire._transport
        assert transport is not None
        transport.write(((1 << 20) + 1).to_bytes(4, "big"))
        assert await is_closed(client)


async def test_there_are_no_fetch_sessions(kafka_430: KafkaCluster, unique_name: Callable[[], str]) -> None:
    topic = unique_name()
    kafka_430.create_topic(topic)
    async with destination(kafka_430) as there:
        client = await there.bind()
        answer = await client.call(fetch(topic, version=11, session_id=0, session_epoch=0))
        assert answer.session_id == 0
        answer = await client.call(fetch(topic, version=11, session_id=12345, session_epoch=3))
        assert (answer.error_code, answer.responses[0].topic) == (ErrorCode.none, topic)


async def test_a_broker_that_does_not_exist_ends_the_connection(kafka_430: KafkaCluster) -> None:
    async with destination(kafka_430) as there:
        client = await there.bind(4711)
        assert await is_closed(client)
