"""A gateway in front of clusters that ask who it is, and of those that are not what they should be."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from certs.make_certs import TestAuthority
from compose.kafka import KafkaCluster
from compose.settings import Security
from protocol.api_keys import ApiKey
from tests.conftest import Clusters
from tests.e2e.clients import Librdkafka
from tests.e2e.conftest import Fronts
from tests.e2e.front import Front
from tests.e2e.raw_client import Closed, make
from tests.e2e.relay import Relay

Names = Callable[[], str]


def serves(front: Front, unique_name: Names) -> None:
    client = Librdkafka(front.access("sasl"))
    topic = unique_name()
    client.create_topic(topic, 1)
    client.produce(topic, [b"one", b"two"])
    assert client.consume(topic, unique_name(), 2) == [b"one", b"two"]


@pytest.mark.parametrize(
    ("security", "mechanism"),
    [
        ("SSL", "PLAIN"),
        ("SASL_PLAINTEXT", "SCRAM-SHA-256"),
        ("SASL_PLAINTEXT", "SCRAM-SHA-512"),
        ("SASL_SSL", "PLAIN"),
        ("SASL_SSL", "SCRAM-SHA-512"),
    ],
)
def test_every_way_to_a_cluster(
    clusters: Clusters, own_front: Fronts, unique_name: Names, security: Security, mechanism: str
) -> None:
    kafka = clusters("4.3.0", security=security)
    front = own_front(kafka, ways=("sasl",), config={"cluster": kafka.gateway_config(mechanism=mechanism)})
    serves(front, unique_name)


def test_a_cluster_that_wants_our_certificate(
    clusters: Clusters, own_front: Fronts, unique_name: Names
) -> None:
    kafka = clusters("4.3.0", security="SSL", config={"ssl.client.auth": "required"})
    cluster = kafka.gateway_config()
    refused(own_front, kafka, cluster, "certificate")
    identity = kafka.authority.client("gateway")
    cluster["security"] |= {
        "certificate_file": str(identity.certificate_file),
        "key_file": str(identity.key_file),
    }
    serves(own_front(kafka, ways=("sasl",), config={"cluster": cluster}), unique_name)


def refused(own_front: Fronts, kafka: KafkaCluster, cluster: dict[str, Any], why: str) -> None:
    front = own_front(kafka, ways=("plain",), config={"cluster": cluster}, wait=False)
    never_serves(front, why)


def never_serves(front: Front, why: str) -> None:
    """The gateway logs why, does not become ready, and turns clients away."""
    deadline = time.monotonic() + 20
    while why not in front.gateway.log():
        assert time.monotonic() < deadline, front.gateway.log()
        time.sleep(0.1)
    assert not front.gateway.is_ready()
    assert front.gateway.running
    with pytest.raises(Closed), front.access("plain").connect() as client:
        client.call(make(ApiKey.METADATA, 9))


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_a_password_that_the_cluster_does_not_take(
    clusters: Clusters, own_front: Fronts, mechanism: str
) -> None:
    kafka = clusters("4.3.0", security="SASL_SSL")
    cluster = kafka.gateway_config(mechanism=mechanism)
    cluster["security"]["password"] = "not-the-password"
    refused(own_front, kafka, cluster, "refused the credentials")


def test_a_cluster_whose_certificate_is_for_another_host(
    clusters: Clusters, own_front: Fronts, unique_name: Names
) -> None:
    kafka = clusters("4.3.0", security="SASL_SSL")
    node = kafka.nodes[0]
    # The brokers' certificates name 127.0.0.1, and not this address of the same machine.
    with Relay((node.host, node.port), "127.0.0.2") as relay:
        cluster = kafka.gateway_config()
        cluster["bootstrap_servers"] = [f"127.0.0.2:{relay.address[1]}"]
        refused(own_front, kafka, cluster, "IP address mismatch")
        cluster["security"]["verify_hostname"] = False
        serves(own_front(kafka, ways=("sasl",), config={"cluster": cluster}), unique_name)
        assert relay.received


def test_a_cluster_of_an_authority_that_is_not_trusted(
    clusters: Clusters, own_front: Fronts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kafka = clusters("4.3.0", security="SASL_SSL")
    cluster = kafka.gateway_config()
    cluster["security"]["ca_file"] = str(TestAuthority(tmp_path_factory.mktemp("other")).ca_file)
    refused(own_front, kafka, cluster, "CERTIFICATE_VERIFY_FAILED")


def test_another_cluster_than_the_configured_one(kafka_430: KafkaCluster, own_front: Fronts) -> None:
    cluster = kafka_430.gateway_config() | {"cluster_id": kafka_430.cluster_id}
    front = own_front(kafka_430, ways=("plain",), config={"cluster": cluster})
    assert front.gateway.is_ready()
    front.gateway.terminate()
    front.gateway.config["cluster"]["cluster_id"] = "somebody-elses-cluster"
    front.gateway.start(wait=False)
    never_serves(front, f"belongs to cluster {kafka_430.cluster_id}, not to somebody-elses-cluster")
    # Loud: nothing is more urgent to whoever reads the log.
    assert any(event["level"] == "critical" for event in front.gateway.log_events())
