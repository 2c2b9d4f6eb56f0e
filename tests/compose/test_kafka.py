"""`compose.kafka` on real brokers: every version, every protocol, and what a test may do to a broker."""

import socket
import time
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, KafkaException, Producer

from compose import local
from compose.java_tools import client_properties, run_tool
from compose.kafka import ROOT, KafkaCluster, KafkaUnavailable
from compose.local import LocalCluster, LocalNode
from compose.ports import PortLease, lease_ports
from tests.conftest import Clusters

VERSIONS = ("4.3.0", "3.9.1", "2.4.1")
Names = Callable[[], str]


def produce(config: dict[str, str], topic: str, *values: bytes, timeout_s: float = 20) -> None:
    problems: list[object] = []
    producer = Producer({**config, "acks": "all", "log_level": 0, "message.timeout.ms": timeout_s * 1000})
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: problems.append(error) if error else None)
    assert producer.flush(timeout_s + 5) == 0
    assert problems == []


def consume(config: dict[str, str], topic: str, count: int, timeout_s: float = 20) -> list[bytes | None]:
    settings = {**config, "group.id": f"{topic}-group", "auto.offset.reset": "earliest", "log_level": 0}
    consumer = Consumer(settings | {"enable.auto.commit": False})
    try:
        consumer.subscribe([topic])
        records = consumer.consume(count, timeout=timeout_s)
        return [record.value() for record in records if record.error() is None]
    finally:
        consumer.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_record_survives_kill_and_stop(version: str, own_cluster: Clusters, unique_name: Names) -> None:
    cluster = own_cluster(version)
    topic = unique_name()
    cluster.create_topic(topic, partitions=1)
    config = cluster.librdkafka_config()
    produce(config, topic, b"before")
    bootstrap = cluster.bootstrap

    cluster.nodes[0].kill()
    cluster.nodes[0].start()
    produce(config, topic, b"after kill")
    cluster.nodes[0].stop()
    cluster.nodes[0].start()

    assert cluster.bootstrap == bootstrap
    assert consume(config, topic, 2) == [b"before", b"after kill"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_sasl_over_tls(version: str, mechanism: str, clusters: Clusters, unique_name: Names) -> None:
    cluster = clusters(version, security="SASL_SSL")
    topic = unique_name()
    cluster.create_topic(topic)
    config = cluster.librdkafka_config("alice", mechanism)

    produce(config, topic, b"hello")

    assert consume(config, topic, 1) == [b"hello"]


def test_a_client_certificate_is_a_principal(own_cluster: Clusters, unique_name: Names) -> None:
    cluster = own_cluster(security="SSL", authorizer=True)
    topic = unique_name()
    cluster.create_topic(topic)
    identities = {name: cluster.authority.client(name) for name in ("admin", "alice")}
    admin, alice = (
        cluster.librdkafka_config()
        | {"ssl.certificate.location": str(identity.certificate_file)}
        | {"ssl.key.location": str(identity.key_file)}
        for identity in identities.values()
    )

    produce(admin, topic, b"hello")

    with pytest.raises(AssertionError, match="TOPIC_AUTHORIZATION_FAILED"):
        produce(alice, topic, b"no", timeout_s=5)
    properties = client_properties("SSL", ca_file=cluster.authority.ca_file, identity=identities["admin"])
    assert topic in run_tool("kafka-topics", cluster.bootstrap, "--list", properties=properties).stdout


def test_a_wrong_password_is_refused(clusters: Clusters, unique_name: Names) -> None:
    cluster = clusters("4.3.0", security="SASL_SSL")
    topic = unique_name()
    cluster.create_topic(topic)

    with pytest.raises(AssertionError):
        produce(cluster.librdkafka_config() | {"sasl.password": "wrong"}, topic, b"no", timeout_s=2)


@pytest.mark.parametrize("version", ["4.3.0", "2.4.1"])
def test_the_authorizer_lets_only_the_super_user_in(
    version: str, own_cluster: Clusters, unique_name: Names
) -> None:
    cluster = own_cluster(version, security="SASL_PLAINTEXT", authorizer=True)
    topic = unique_name()
    cluster.create_topic(topic)

    produce(cluster.librdkafka_config("admin"), topic, b"hello")

    with pytest.raises(AssertionError, match="TOPIC_AUTHORIZATION_FAILED"):
        produce(cluster.librdkafka_config("alice"), topic, b"no", timeout_s=5)


def test_three_brokers_serve_without_one(own_cluster: Clusters, unique_name: Names) -> None:
    cluster = own_cluster(brokers=3)
    topic = unique_name()
    cluster.create_topic(topic, partitions=3)
    config = cluster.librdkafka_config()

    cluster.nodes[1].kill()
    produce(config, topic, b"with two")

    assert consume(config, topic, 1) == [b"with two"]
    cluster.nodes[1].start()
    assert len(cluster.admin.list_topics(timeout=10).brokers) == 3


def test_a_paused_broker_keeps_silent_until_resumed(own_cluster: Clusters) -> None:
    cluster = own_cluster(config={"broker.session.timeout.ms": "30000"})

    cluster.nodes[0].pause()
    with pytest.raises(KafkaException):
        cluster.admin.list_topics(timeout=1)
    cluster.nodes[0].resume()

    assert len(cluster.admin.list_topics(timeout=10).brokers) == 1


def test_nothing_stays_after_close(own_cluster: Clusters) -> None:
    cluster = own_cluster(config={"message.max.bytes": "123456"})
    assert isinstance(cluster, LocalCluster) or cluster.provider == "Docker"
    if isinstance(cluster, LocalCluster):
        node = cluster.nodes[0]
        assert isinstance(node, LocalNode)
        assert "message.max.bytes=123456" in node.properties_file.read_text()

        cluster.close()

        assert node.process is not None
        assert not node.process.running
        assert not cluster.directory.exists()


def test_a_cluster_that_cannot_start_says_why_and_keeps_its_log() -> None:
    began = time.monotonic()

    with pytest.raises(KafkaUnavailable, match="broker 1 has ended; logs in ") as error:
        KafkaCluster.start(config={"log.retention.ms": "soon"})

    directory = ROOT / str(error.value).rpartition("logs in ")[2]
    assert "log.retention.ms" in (directory / "broker-1.log").read_text()
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("version", ["4.3.0", "2.4.1"])
def test_a_port_that_somebody_took_is_replaced(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAUSEWAY_KAFKA", "local")
    leases: list[PortLease] = []

    def lease(count: int) -> PortLease:
        leases.append(lease_ports(count))
        if len(leases) == 1:
            thief.bind(("127.0.0.1", leases[0][0]))
            thief.listen()
        return leases[-1]

    monkeypatch.setattr(local, "lease_ports", lease)
    with socket.socket() as thief, KafkaCluster.start(version) as cluster:
        assert len(leases) == 2
        assert cluster.nodes[0].port == leases[1][0]


def test_the_provider_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAUSEWAY_KAFKA", "podman")

    with pytest.raises(ValueError, match="docker or local"):
        KafkaCluster.start()


@pytest.mark.parametrize("brokers", [0, 4])
def test_a_cluster_has_one_to_three_brokers(brokers: int) -> None:
    with pytest.raises(ValueError, match="1 to 3 brokers"):
        KafkaCluster.start(brokers=brokers)
