"""The gateway's own Kafka client against real brokers: every protocol, mechanism and version."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from confluent_kafka import Producer

from compose.kafka import KafkaCluster
from compose.settings import Security
from gateway.config import ClusterConfig
from gateway.upstreams import admin, dialer, topic_configs
from gateway.upstreams.cluster import Cluster, DialConnector
from gateway.upstreams.errors import (
    AuthenticationFailed,
    ClusterIdMismatch,
    ConnectFailed,
    DialError,
    KafkaError,
    TlsFailed,
)
from tests.conftest import Clusters

SECURITIES: list[tuple[Security, str]] = [
    ("SSL", "PLAIN"),
    ("SASL_PLAINTEXT", "PLAIN"),
    ("SASL_PLAINTEXT", "SCRAM-SHA-256"),
    ("SASL_PLAINTEXT", "SCRAM-SHA-512"),
    ("SASL_SSL", "PLAIN"),
    ("SASL_SSL", "SCRAM-SHA-256"),
    ("SASL_SSL", "SCRAM-SHA-512"),
]


def connector_to(kafka: KafkaCluster, change: dict[str, Any] | None = None, **settings: Any) -> DialConnector:
    """As the gateway would reach it: through the `cluster` section of a configuration."""
    section = kafka.gateway_config(mechanism=settings.pop("mechanism", "SCRAM-SHA-512"))
    section["security"] |= change or {}
    config = ClusterConfig.model_validate(section, context={"folder": Path()})
    return DialConnector(config.bootstrap_servers, dialer.Security.from_config(config.security), **settings)


@asynccontextmanager
async def client_of(kafka: KafkaCluster, **settings: Any) -> AsyncIterator[Cluster]:
    cluster = Cluster(connector_to(kafka, **settings))
    try:
        yield cluster
    finally:
        await cluster.close()


async def until(condition: Callable[[], Any], timeout_s: float = 20) -> Any:
    """Asks again until the answer is true."""
    async with asyncio.timeout(timeout_s):
        while not (answer := await condition()):
            await asyncio.sleep(0.1)
    return answer


def produce(kafka: KafkaCluster, topic: str, records: int) -> None:
    producer = Producer({"bootstrap.servers": kafka.internal_bootstrap})
    for number in range(records):
        producer.produce(topic, str(number), partition=0)
    assert producer.flush(30) == 0


async def use_everything(kafka: KafkaCluster, cluster: Cluster, name: str) -> None:
    """Every request that a link makes, on one topic."""
    await cluster.start()
    assert cluster.cluster_id == kafka.cluster_id
    topic_id = await admin.create_topic(cluster, name, 2, 1, {"retention.ms": "1234567"})
    with pytest.raises(KafkaError, match="TOPIC_ALREADY_EXISTS"):
        await admin.create_topic(cluster, name, 2)

    async def led() -> Any:
        topic = (await cluster.metadata([name])).topics[name]
        partitions = topic.partitions.values()
        return topic if len(partitions) == 2 and all(p.leader >= 0 for p in partitions) else None

    topic = await until(led)
    assert topic.topic_id == topic_id
    assert (topic_id is None) is (kafka.wanted.version < "2.8")
    assert not topic.is_internal
    assert topic.partitions[0].leader_epoch >= 0
    leader = topic.partitions[0].leader
    produce(kafka, name, 10)
    key = (name, 0)
    for replica_id, isolation in ((-1, 0), (-1, 1), (2_000_000_000, 0)):
        offsets = await admin.list_offsets(cluster, leader, {key: admin.LATEST}, isolation, replica_id)
        assert offsets == {key: 10}
    both = await admin.list_offsets(cluster, leader, {key: admin.EARLIEST, (name, 1): admin.LATEST})
    assert both == {key: 0, (name, 1): 0}
    assert await admin.list_offsets(cluster, leader, {key: 2**60}) == {key: -1}

    first, second = await admin.init_producer_id(cluster), await admin.init_producer_id(cluster)
    assert second != first
    assert min(first, second) >= 0

    configs = await topic_configs.describe_topic_configs(cluster, name)
    retention = configs["retention.ms"]
    assert retention.own
    assert tuple(retention) == ("1234567", 1, False, False, False)
    assert configs["cleanup.policy"].is_default
    await admin.alter_topic_configs(cluster, name, {"retention.ms": None, "cleanup.policy": "compact"})

    async def altered() -> Any:
        configs = await topic_configs.describe_topic_configs(cluster, name)
        return configs["cleanup.policy"].value == "compact" and not configs["retention.ms"].own

    await until(altered)
    with pytest.raises(KafkaError, match="Invalid value wrong for configuration"):
        await admin.alter_topic_configs(cluster, name, {"cleanup.policy": "wrong"})
    await admin.delete_topic(cluster, name)

    async def gone() -> bool:
        return (await cluster.metadata([name])).topics[name].error_code != 0

    await until(gone)
    assert name not in (await cluster.metadata(None)).topics
    with pytest.raises(KafkaError, match="UNKNOWN_TOPIC_OR_PARTITION"):
        await topic_configs.describe_topic_configs(cluster, name)


@pytest.mark.parametrize("version", ["4.3.0", "3.9.1", "2.4.1"])
async def test_everything_on_every_version(
    clusters: Clusters, unique_name: Callable[[], str], version: str
) -> None:
    kafka = clusters(version)
    async with client_of(kafka) as cluster:
        await use_everything(kafka, cluster, unique_name())


@pytest.mark.parametrize(("security", "mechanism"), SECURITIES)
async def test_every_way_in(clusters: Clusters, security: Security, mechanism: str) -> None:
    kafka = clusters("4.3.0", security=security)
    async with client_of(kafka, mechanism=mechanism) as cluster:
        metadata = await cluster.metadata([])
        assert metadata.cluster_id == kafka.cluster_id
        connection = await cluster.connect(next(iter(metadata.brokers)), linger_zero=True)
        assert connection.features
        connection.close()
        await connection.wait_closed()


def test_uvloop_over_tls_and_sasl(clusters: Clusters, unique_name: Callable[[], str]) -> None:
    kafka = clusters("4.3.0", security="SASL_SSL")

    async def scenario() -> None:
        async with client_of(kafka) as cluster:
            await use_everything(kafka, cluster, unique_name())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("change", [{"password": "wrong"}, {"username": "nobody"}])
async def test_wrong_credentials(clusters: Clusters, mechanism: str, change: dict[str, str]) -> None:
    kafka = clusters("4.3.0", security="SASL_SSL")
    with pytest.raises(AuthenticationFailed, match="refused the credentials"):
        await connector_to(kafka, change, mechanism=mechanism).connect(None)


async def test_wrong_protocols(clusters: Clusters) -> None:
    kafka = clusters("4.3.0", security="SASL_SSL")
    host, port = kafka.nodes[0].host, kafka.nodes[0].port
    for name, error in (("PLAINTEXT", ConnectFailed), ("SASL_PLAINTEXT", ConnectFailed)):
        security = connector_to(kafka, {"ca_file": None, "protocol": "SASL_PLAINTEXT"})._security
        if name == "PLAINTEXT":
            security = dialer.Security()
        with pytest.raises(error):
            await dialer.dial(host, port, security)
    plain = clusters("4.3.0")
    with pytest.raises(DialError):
        await dialer.dial(plain.nodes[0].host, plain.nodes[0].port, connector_to(kafka)._security)


async def test_brokers_certificates_are_verified(clusters: Clusters) -> None:
    kafka = clusters("4.3.0", security="SASL_SSL")
    with pytest.raises(TlsFailed, match="CERTIFICATE_VERIFY_FAILED"):
        await connector_to(kafka, {"ca_file": None}).connect(None)


async def test_a_broker_that_wants_our_certificate(clusters: Clusters) -> None:
    kafka = clusters("4.3.0", security="SSL", config={"ssl.client.auth": "required"})
    identity = kafka.authority.client("gateway")
    files = {"certificate_file": str(identity.certificate_file), "key_file": str(identity.key_file)}
    with pytest.raises(TlsFailed, match="certificate"):
        await connector_to(kafka).connect(None)
    connection = await connector_to(kafka, files).connect(None)
    connection.close()
    await connection.wait_closed()


async def test_another_cluster(kafka_430: KafkaCluster) -> None:
    with pytest.raises(ClusterIdMismatch, match=kafka_430.cluster_id):
        await connector_to(kafka_430, expected_cluster_id="another").connect(None)


async def test_brokers_come_and_go(own_cluster: Clusters, unique_name: Callable[[], str]) -> None:
    kafka = own_cluster("4.3.0", brokers=2)
    two = kafka.nodes[1]
    async with client_of(kafka) as cluster:
        await cluster.start()
        kept = await cluster.connect(two.node_id)
        two.kill()
        await asyncio.wait_for(kept.wait_closed(), 5)
        with pytest.raises(ConnectFailed):
            await cluster.connect(two.node_id)
        # Whatever was kept open to the dead one is dialled anew, to the other.
        assert (await cluster.metadata([])).cluster_id == kafka.cluster_id
        two.start()

        async def back() -> bool:
            try:
                connection = await cluster.connect(two.node_id)
            except DialError:
                return False
            connection.close()
            await connection.wait_closed()
            return True

        await until(back)


async def test_a_frozen_broker_does_not_hold_us_up(own_cluster: Clusters) -> None:
    kafka = own_cluster("4.3.0", brokers=1)
    async with client_of(kafka, connect_timeout_s=0.5) as cluster:
        await cluster.start()
        node_id = kafka.nodes[0].node_id
        connection = await cluster.connect(node_id)
        kafka.nodes[0].pause()
        try:
            with pytest.raises(ConnectFailed, match="did not answer"):
                await cluster.connect(node_id)
            with pytest.raises(TimeoutError):
                await admin.list_offsets(connection, node_id, {("t", 0): -1}, timeout_s=0.5)
            assert connection.closed
        finally:
            kafka.nodes[0].resume()
        await connection.wait_closed()
        await until(lambda: _answers(cluster))


async def _answers(cluster: Cluster) -> bool:
    try:
        return bool((await cluster.metadata([], timeout_s=2)).brokers)
    except (DialError, TimeoutError):
        return False
