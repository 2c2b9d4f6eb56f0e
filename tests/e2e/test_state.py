"""The state store on real brokers: several writers, lost answers, foreign records, brokers that go."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

from compose.kafka import KafkaCluster
from gateway.config import SecurityConfig
from gateway.state.acl_changes import follow_link
from gateway.state.kafka_client import ClusterError, KafkaClient
from gateway.state.records import Delete, Record, ScramKeys, State, StateFormatError, UserRecord
from gateway.state.store import StateUnavailable, Store
from gateway.state.topic import StateTopicError
from gateway.state.transaction import Transaction
from gateway.upstreams.dialer import Security
from protocol.records import Record as KafkaRecord
from protocol.records import build_batch
from tests.conftest import Clusters
from tests.gateway.security.acl_cases import acl


def user(name: str, count: int = 0) -> UserRecord:
    keys = ScramKeys(salt=b"", iterations=count, stored_key=b"", server_key=b"")
    return UserRecord(name=name, scram={"count": keys})


def count_of(state: State, name: str) -> int:
    record = state.users.get(name)
    return record.scram["count"].iterations if record else 0


def increment(name: str) -> Callable[[State], Sequence[Record | Delete]]:
    return lambda state: [user(name, count_of(state, name) + 1)]


def add_once(name: str) -> Callable[[State], Sequence[Record | Delete]]:
    def change(state: State) -> Sequence[Record | Delete]:
        if name in state.users:
            raise KeyError(name)
        return [user(name)]

    return change


@contextlib.asynccontextmanager
async def started(bootstrap: str, topic: str, **options: Any) -> AsyncIterator[Store]:
    store = Store(lambda: bootstrap.split(","), topic=topic, **options)
    try:
        await store.start()
        yield store
    finally:
        await store.stop()


def client(cluster: KafkaCluster) -> KafkaClient:
    return KafkaClient(lambda: {"bootstrap_servers": cluster.bootstrap, "request_timeout_ms": 5000})


def write_foreign(cluster: KafkaCluster, topic: str, key: bytes, value: bytes | None) -> None:
    producer = Producer({"bootstrap.servers": cluster.internal_bootstrap})
    producer.produce(topic, value, key)
    assert producer.flush(20) == 0


async def test_none_of_three_writers_increments_is_lost(
    kafka_430: KafkaCluster, unique_name: Callable[[], str]
) -> None:
    topic = unique_name()
    async with contextlib.AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(started(kafka_430.bootstrap, topic)) for _ in range(3)]

        async def write(store: Store) -> None:
            for _ in range(10):
                before = time.monotonic()
                state = await store.update(increment("n"))
                assert count_of(state, "n") > 0
                assert time.monotonic() - before < 25

        await asyncio.gather(*map(write, stores))
        assert [count_of(await store.read_to_end(), "n") for store in stores] == [30, 30, 30]


async def test_writes_and_deletions_are_seen_here_and_by_others(
    kafka_430: KafkaCluster, unique_name: Callable[[], str]
) -> None:
    topic = unique_name()
    async with started(kafka_430.bootstrap, topic) as one, started(kafka_430.bootstrap, topic) as other:
        seen: list[frozenset[str]] = []
        other.subscribe(lambda state: seen.append(frozenset(state.users)))
        assert set((await one.update(lambda _: [user("a"), user("b")])).users) == {"a", "b"}
        assert set(one.state.users) == {"a", "b"}
        assert set((await other.read_to_end()).users) == {"a", "b"}
        await one.update(lambda _: [Delete("user", "a")])
        assert set((await other.read_to_end()).users) == {"b"}
        # Both records of one transaction come at once.
        assert seen == [{"a", "b"}, {"b"}]
        assert one.topic_id == other.topic_id is not None
        assert one.staleness_s < 10
    async with started(kafka_430.bootstrap, topic) as late:
        assert set(late.state.users) == {"b"}


async def test_a_large_change_is_written_as_one(
    kafka_430: KafkaCluster, unique_name: Callable[[], str]
) -> None:
    """Ten thousand ACLs, more than a broker takes in one batch, and every one of them gone again."""
    acls = [acl(f"allow read topic literal topic-{at} User:somebody-with-a-name *") for at in range(10_000)]
    topic = unique_name()
    async with started(kafka_430.bootstrap, topic) as writer, started(kafka_430.bootstrap, topic) as reader:
        state = await writer.update(lambda state: follow_link(state, "L", acls))
        assert len(state.acls) == len(acls)
        assert (await reader.read_to_end()).acls == state.acls
        state = await writer.update(lambda state: follow_link(state, "L", acls[:1]))
        assert (await reader.read_to_end()).acls == state.acls
        assert len(state.acls) == 1


async def test_the_state_knows_whose_it_is(kafka_430: KafkaCluster, unique_name: Callable[[], str]) -> None:
    topic, own = unique_name(), kafka_430.cluster_id
    async with started(kafka_430.bootstrap, topic, cluster_id=lambda: own) as store:
        assert store.state == State()
        await store.keep_cluster_id()
        assert store.state.cluster_id == own
        written = store._position
        await store.keep_cluster_id()
        assert store._position == written
    async with started(kafka_430.bootstrap, topic, cluster_id=lambda: own) as late:
        assert late.state.cluster_id == own
    # As if the topic had been copied from another cluster.
    value = b'{"version":1,"cluster_id":"another"}'
    write_foreign(kafka_430, topic, b'{"kind":"cluster","name":"id"}', value)
    with pytest.raises(StateFormatError, match=f"is the state of cluster another, and this is cluster {own}"):
        async with started(kafka_430.bootstrap, topic, cluster_id=lambda: own):
            pass


async def test_nothing_is_read_from_or_written_to_another_cluster(
    kafka_430: KafkaCluster, unique_name: Callable[[], str]
) -> None:
    topic = unique_name()
    expected = [kafka_430.cluster_id]
    async with started(
        kafka_430.bootstrap, topic, cluster_id=lambda: expected[0], write_timeout_s=3
    ) as store:
        # As if the bootstrap servers led to another cluster from now on.
        expected[0] = "the-right-one"
        await store._asker.close()
        await store._writer.close()
        with pytest.raises(StateUnavailable, match="belongs to cluster"):
            await store.update(lambda _: [user("a")])
    absent = unique_name()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2), started(kafka_430.bootstrap, absent, cluster_id=lambda: expected[0]):
            pass
    assert absent not in kafka_430.admin.list_topics(timeout=10).topics


async def test_the_topic_is_made_for_keeping(kafka_430: KafkaCluster, unique_name: Callable[[], str]) -> None:
    topic = unique_name()
    async with started(kafka_430.bootstrap, topic) as store:
        resource = ConfigResource(ResourceType.TOPIC, topic)
        configs = kafka_430.admin.describe_configs([resource])[resource].result(20)
        assert configs["cleanup.policy"].value == "compact"
        assert configs["unclean.leader.election.enable"].value == "false"
        metadata = kafka_430.admin.list_topics(topic, timeout=20)
        assert list(metadata.topics[topic].partitions) == [0]
        assert store.topic_id is not None


async def test_a_change_that_raises_writes_nothing_and_blocks_nobody(
    kafka_430: KafkaCluster, unique_name: Callable[[], str]
) -> None:
    topic = unique_name()
    async with started(kafka_430.bootstrap, topic) as store:
        await store.update(add_once("a"))
        with pytest.raises(KeyError):
            await store.update(add_once("a"))
        assert await store.update(lambda _: []) == store.state
        assert set((await store.update(add_once("b"))).users) == {"a", "b"}


async def test_what_a_dead_writer_left_open_is_never_seen(
    kafka_430: KafkaCluster, unique_name: Callable[[], str]
) -> None:
    topic = unique_name()
    dead = client(kafka_430)
    async with started(kafka_430.bootstrap, topic) as store:
        transaction = await Transaction.begin(dead, topic)
        async with dead.exclusive():
            await transaction._add_partition(dead, topic)
            batch = _batch(transaction, b'{"kind":"user","name":"ghost"}', user("ghost").model_dump_json())
            await transaction._append(dead, topic, batch)
        assert (await store.read_to_end()).users == {}
        state = await store.update(add_once("a"))
        assert set(state.users) == {"a"}
    async with started(kafka_430.bootstrap, topic) as late:
        assert set(late.state.users) == {"a"}
    await dead.close()


def _batch(transaction: Transaction, key: bytes, value: str) -> bytes:
    record = KafkaRecord(0, int(time.time() * 1000), key, value.encode(), ())
    return build_batch(
        [record],
        producer_id=transaction.producer_id,
        producer_epoch=transaction.producer_epoch,
        base_sequence=0,
        transactional=True,
    )


async def test_a_fenced_writer_cannot_write(kafka_430: KafkaCluster, unique_name: Callable[[], str]) -> None:
    topic = unique_name()
    fenced = client(kafka_430)
    async with started(kafka_430.bootstrap, topic) as store:
        transaction = await Transaction.begin(fenced, topic)
        await Transaction.begin(fenced, topic)
        with pytest.raises(ClusterError, match="INVALID_PRODUCER_EPOCH"):
            await transaction.commit(fenced, topic, [(b'{"kind":"user","name":"b"}', b"{}")], [])
        await store.update(add_once("a"))
        with pytest.raises(ClusterError):
            await transaction.commit(fenced, topic, [(b'{"kind":"user","name":"b"}', b"{}")], [])
        assert set((await store.read_to_end()).users) == {"a"}
    await fenced.close()


async def test_a_commit_whose_answer_is_lost_is_not_done_twice(
    kafka_430: KafkaCluster, unique_name: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Transaction.commit
    lost: list[int] = []

    async def losing(self: Transaction, *arguments: Any) -> int:
        last = await commit(self, *arguments)
        if not lost:
            lost.append(last)
            raise ClusterError("the answer got lost")
        return last

    monkeypatch.setattr(Transaction, "commit", losing)
    async with started(kafka_430.bootstrap, unique_name()) as store:
        state = await store.update(increment("n"))
        assert lost
        assert count_of(state, "n") == 1
        await store.update(add_once("a"))
        assert count_of(await store.read_to_end(), "n") == 1


@pytest.mark.parametrize(
    ("partitions", "policy", "complaint"),
    [(2, "compact", "has 2 partitions"), (1, "delete", "cleanup.policy=delete")],
)
async def test_a_topic_of_another_shape_is_refused(
    kafka_430: KafkaCluster, unique_name: Callable[[], str], partitions: int, policy: str, complaint: str
) -> None:
    topic = unique_name()
    kafka_430.create_topic(topic, partitions, config={"cleanup.policy": policy})
    with pytest.raises(StateTopicError, match=complaint):
        async with started(kafka_430.bootstrap, topic):
            pass


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        (b"hello", b"world", "offset 0: the key b'hello' names no kind"),
        (b'{"kind":"user","name":"a"}', b'{"version":2,"name":"a"}', "offset 0: user 'a' has version 2"),
        (b'{"kind":"user","name":"a"}', b'{"version":1,"name":"a","more":1}', "offset 0: user 'a'"),
    ],
)
async def test_records_of_others_stop_the_start_until_they_are_deleted(
    kafka_430: KafkaCluster, unique_name: Callable[[], str], key: bytes, value: bytes, complaint: str
) -> None:
    topic = unique_name()
    kafka_430.create_topic(topic, config={"cleanup.policy": "compact"})
    write_foreign(kafka_430, topic, key, value)
    with pytest.raises(StateFormatError) as refused:
        async with started(kafka_430.bootstrap, topic):
            pass
    assert complaint in str(refused.value)
    assert "null value" in str(refused.value)
    write_foreign(kafka_430, topic, key, None)
    async with started(kafka_430.bootstrap, topic) as store:
        assert set((await store.update(add_once("b"))).users) == {"b"}


async def test_a_foreign_record_closes_a_running_store_until_it_is_deleted(
    kafka_430: KafkaCluster, unique_name: Callable[[], str]
) -> None:
    topic = unique_name()
    async with started(kafka_430.bootstrap, topic, read_timeout_s=1.0, write_timeout_s=3.0) as store:
        await store.update(add_once("a"))
        write_foreign(kafka_430, topic, b"hello", b"world")
        with pytest.raises(StateUnavailable, match="names no kind of record"):
            await store.read_to_end()
        with pytest.raises(StateUnavailable):
            await store.update(add_once("b"))
        assert set(store.state.users) == {"a"}
        write_foreign(kafka_430, topic, b"hello", None)
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(StateUnavailable):
                    await store.update(add_once("b"))
                    break
        assert set(store.state.users) == {"a", "b"}


async def test_a_topic_that_is_deleted_or_made_anew_is_not_trusted(
    kafka_430: KafkaCluster, unique_name: Callable[[], str]
) -> None:
    topic = unique_name()
    async with started(kafka_430.bootstrap, topic, read_timeout_s=2.0, check_interval_s=0.2) as store:
        await store.update(add_once("a"))
        kafka_430.admin.delete_topics([topic])[topic].result(20)
        with pytest.raises(StateUnavailable):
            await store.read_to_end()
        assert set(store.state.users) == {"a"}
        kafka_430.create_topic(topic, config={"cleanup.policy": "compact"})
        for _ in range(2):
            with pytest.raises(StateUnavailable):
                await store.read_to_end()
        async with asyncio.timeout(20):
            while store.staleness_s < 2:
                await asyncio.sleep(0.1)
        with pytest.raises(StateUnavailable, match="restart this gateway"):
            await store.update(add_once("b"))
        assert set(store.state.users) == {"a"}


async def test_a_compacted_topic_gives_the_same_state(
    clusters: Clusters, unique_name: Callable[[], str]
) -> None:
    cluster = clusters("4.3.0", config={"log.cleaner.backoff.ms": "100"})
    topic = unique_name()
    config = {
        "cleanup.policy": "compact",
        "segment.ms": "100",
        "min.cleanable.dirty.ratio": "0.01",
        "delete.retention.ms": "0",
    }
    cluster.create_topic(topic, config=config)
    async with started(cluster.bootstrap, topic) as store:
        for _ in range(40):
            await store.update(increment("n"))
            await store.update(lambda _: [user("gone")])
            await store.update(lambda _: [Delete("user", "gone")])
            await asyncio.sleep(0.02)
        await asyncio.sleep(3)
        await store.update(increment("n"))
        wanted = await store.read_to_end()
    async with started(cluster.bootstrap, topic) as late:
        assert late.state == wanted
        assert count_of(late.state, "n") == 41
        assert set(late.state.users) == {"n"}


async def test_it_waits_for_a_cluster_that_is_down_and_outlives_restarts(
    own_cluster: Clusters, unique_name: Callable[[], str]
) -> None:
    cluster, topic = own_cluster(), unique_name()
    node = cluster.nodes[0]
    node.stop()
    store = Store(lambda: cluster.bootstrap.split(","), topic=topic, read_timeout_s=1.5, write_timeout_s=3)
    waiting = asyncio.create_task(store.start())
    await asyncio.sleep(1)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    await store.stop()
    store = Store(
        lambda: cluster.bootstrap.split(","),
        topic=topic,
        read_timeout_s=2,
        write_timeout_s=4,
        check_interval_s=0.5,
    )
    waiting = asyncio.create_task(store.start())
    await asyncio.to_thread(node.start)
    try:
        async with asyncio.timeout(60):
            await waiting
        await _patiently(store, add_once("a"))
        await asyncio.to_thread(node.kill)
        before = time.monotonic()
        with pytest.raises(StateUnavailable):
            await store.read_to_end()
        with pytest.raises(StateUnavailable):
            await store.update(add_once("b"))
        assert time.monotonic() - before < 15
        assert store.staleness_s > 1
        assert set(store.state.users) == {"a"}
        await asyncio.to_thread(node.start)
        await _patiently(store, add_once("c"))
        assert set(store.state.users) == {"a", "c"}
        await asyncio.to_thread(node.pause)
        with pytest.raises(StateUnavailable):
            await store.read_to_end()
        await asyncio.to_thread(node.resume)
        await _patiently(store, add_once("d"))
        assert set(store.state.users) == {"a", "c", "d"}
    finally:
        await store.stop()


async def _patiently(store: Store, change: Callable[[State], Sequence[Record | Delete]]) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(StateUnavailable):
                await store.update(change)
                return


async def test_it_works_on_kafka_2_4(clusters: Clusters, unique_name: Callable[[], str]) -> None:
    cluster, topic = clusters("2.4.1"), unique_name()
    async with started(cluster.bootstrap, topic) as one, started(cluster.bootstrap, topic) as other:
        assert one.topic_id is None
        await asyncio.gather(*(store.update(increment("n")) for store in (one, other) for _ in range(5)))
        assert count_of(await other.read_to_end(), "n") == 10


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_it_logs_in(clusters: Clusters, unique_name: Callable[[], str], mechanism: str) -> None:
    cluster = clusters("4.3.0", 1, "SASL_SSL")
    config = SecurityConfig.model_validate(cluster.gateway_config(mechanism=mechanism)["security"])
    async with started(cluster.bootstrap, unique_name(), security=Security.from_config(config)) as store:
        assert count_of(await store.update(increment("n")), "n") == 1


async def test_the_death_of_the_leader_loses_nothing(
    own_cluster: Clusters, unique_name: Callable[[], str]
) -> None:
    cluster, topic = own_cluster("4.3.0", 3), unique_name()
    async with started(cluster.bootstrap, topic, write_timeout_s=60) as store:
        metadata = cluster.admin.list_topics(topic, timeout=20).topics[topic].partitions[0]
        assert len(metadata.replicas) == 3
        await store.update(increment("n"))
        leader = next(node for node in cluster.nodes if node.node_id == metadata.leader)
        killing = asyncio.create_task(asyncio.to_thread(leader.kill))
        for _ in range(5):
            await store.update(increment("n"))
        await killing
        assert count_of(await store.read_to_end(), "n") == 6
    async with started(cluster.bootstrap, topic) as late:
        assert count_of(late.state, "n") == 6
