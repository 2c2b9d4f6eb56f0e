"""How clients get to the gateway, and it to its cluster: balancers, IPv6, several listeners, wrong ends."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from compose.gateway_process import GatewayProcess
from compose.kafka import KafkaCluster
from protocol.api_keys import ApiKey
from tests.conftest import Clusters
from tests.e2e.clients import Aiokafka, Client, Librdkafka
from tests.e2e.conftest import Fronts
from tests.e2e.front import NODE_IDS, WAYS, Access, Front, Way
from tests.e2e.haproxy import HaProxy
from tests.e2e.java_clients import Java
from tests.e2e.raw_client import Closed, RawClient, batch, make, produce
from tests.e2e.relay import Relay
from tests.e2e.workload import Consuming, Producing, eventually
from tests.gateway.upstreams.test_dialer import black_hole

Names = Callable[[], str]
FreePorts = Callable[[int], range]


def events(gateway: GatewayProcess, name: str) -> list[dict[str, Any]]:
    return [each for each in gateway.log_events() if each.get("event") == name]


def metrics(gateway: GatewayProcess) -> str:
    with urllib.request.urlopen(f"{gateway.admin_url}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def waiting_for(gateway: GatewayProcess) -> str:
    """What /readyz says is missing; empty if nothing is."""
    try:
        with urllib.request.urlopen(f"{gateway.admin_url}/readyz", timeout=5):
            return ""
    except urllib.error.HTTPError as error:
        return str(json.load(error)["waiting_for"])


# --- several listeners -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_each_listener_tells_its_own_addresses(front: Front, way: Way) -> None:
    with front.access(way).connect() as client:
        told = client.call(make(ApiKey.METADATA, 12)).brokers
    assert {broker.node_id: (broker.host, broker.port) for broker in told} == {
        1: ("localhost", front.ports[way][1])
    }
    # What opens one listener does not open another.
    other = replace(front.access("sasl" if way == "plain" else "plain"), way=way)
    with pytest.raises((OSError, Closed)):
        ask(other)


def ask(access: Access) -> None:
    with access.connect() as client:
        client.call(make(ApiKey.METADATA, 12))


# --- not Kafka ---------------------------------------------------------------------------------------------


def ended(front: Front, looks_like: str) -> dict[str, Any]:
    """The line of the log about a connection whose first bytes looked like that."""
    found: list[dict[str, Any]] = eventually(
        lambda: [
            each
            for each in front.gateway.log_events()
            if each.get("level") == "warning"
            and looks_like in str(each.get("reason", "")) + str(each.get("error"))
        ]
    )
    return found[-1]


def test_tls_and_http_at_a_port_without_tls(front: Front) -> None:
    address = ("127.0.0.1", front.ports["plain"][0])
    with socket.create_connection(address, timeout=10) as raw, pytest.raises((ssl.SSLError, OSError)):
        front.access("sasl").ssl_context().wrap_socket(raw, server_hostname="localhost")
    line = ended(front, "this is not Kafka, it looks like TLS")
    assert (line["event"], line["cause"]) == ("session.ended", "not_kafka")
    with pytest.raises((urllib.error.URLError, http.client.HTTPException, ConnectionError)):
        urllib.request.urlopen(f"http://127.0.0.1:{address[1]}/", timeout=10)
    assert ended(front, "it looks like HTTP")["cause"] == "not_kafka"
    assert 'causeway_disconnects_total{cause="not_kafka",listener="plain"}' in metrics(front.gateway)


def test_kafka_and_http_without_tls_at_a_port_with_tls(own_front: Fronts, kafka_430: KafkaCluster) -> None:
    front = own_front(kafka_430, ways=("sasl",))
    address = ("127.0.0.1", front.ports["sasl"][0])
    with RawClient(address, timeout_s=10) as client, pytest.raises((Closed, OSError)):
        client.call(make(ApiKey.API_VERSIONS, 0))
    line = ended(front, "this listener speaks TLS, the client does not but Kafka without TLS")
    assert (line["event"], line["reason"]) == ("connection.refused", "not_tls")
    with pytest.raises((urllib.error.URLError, http.client.HTTPException, ConnectionError)):
        urllib.request.urlopen(f"http://127.0.0.1:{address[1]}/", timeout=10)
    assert 'causeway_connections_refused_total{listener="sasl",reason="not_tls"} 2.0' in metrics(
        front.gateway
    )
    with front.access("sasl").connect() as client:
        client.call(make(ApiKey.API_VERSIONS, 0))


# --- behind a balancer -------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["send-proxy-v2", "send-proxy"])
def test_behind_haproxy(
    kafka_430: KafkaCluster, own_front: Fronts, free_ports: FreePorts, unique_name: Names, header: Any
) -> None:
    outside = free_ports(1 + len(NODE_IDS))
    listener = {
        "proxy_protocol": "required",
        "proxy_protocol_from": ["127.0.0.1/32"],
        "advertised_port": outside[0],
        "advertised_broker_port": outside[1],
    }
    front = own_front(
        kafka_430, ways=("sasl",), listener=listener, config={"limits": {"max_connections_per_ip": 2}}
    )
    with HaProxy(dict(zip(outside, front.ports["sasl"], strict=True)), header):
        client = Librdkafka(replace(front.access("sasl"), port=outside[0]))
        topic = unique_name()
        kafka_430.create_topic(topic)
        client.produce(topic, [b"1", b"2"])

        held = [come_from(front, "127.0.0.9", outside[0]) for _ in range(2)]
        with pytest.raises(OSError, match=r".*"):
            come_from(front, "127.0.0.9", outside[0])
        with come_from(front, "127.0.0.10", outside[0]) as other:
            other.sendall(b"\0\0\0\4nope")
            assert other.recv(1) == b""
        for each in held:
            each.close()
    (refused,) = events(front.gateway, "connection.refused")
    assert (refused["limit"], refused["client"]) == ("max_connections_per_ip", "127.0.0.9")
    (ended,) = events(front.gateway, "session.ended")
    assert ended["peer"].startswith("127.0.0.10:")

    # Whoever comes past the balancer has no header.
    with pytest.raises((OSError, Closed)):
        front.access("sasl").connect()
    assert eventually(lambda: 'reason="proxy"' in metrics(front.gateway))


def come_from(front: Front, host: str, port: int) -> ssl.SSLSocket:
    """A connection from that address with its TLS handshake done; OSError."""
    raw = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(host, 0))
    try:
        return (
            front.access("sasl")
            .ssl_context()
            .wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False)
        )
    except BaseException:
        raw.close()
        raise


# --- IPv6 --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kafka_on_ipv6() -> Iterator[KafkaCluster]:
    with KafkaCluster.start(host="[::1]") as kafka:
        yield kafka


@pytest.mark.parametrize("kind", [Librdkafka, Aiokafka, Java], ids=lambda kind: kind.name)
def test_ipv6_on_both_sides(
    kind: type[Client], kafka_on_ipv6: KafkaCluster, fronts: Fronts, unique_name: Names
) -> None:
    front = fronts(kafka_on_ipv6, listener={"bind": "[::1]", "advertised_host": "::1"})
    topic = unique_name()
    kafka_on_ipv6.create_topic(topic)
    client = kind(replace(front.access("sasl"), host="[::1]"))
    sent = [b"1", b"2", b"3"]
    client.produce(topic, sent)
    assert client.consume(topic, unique_name(), 3) == sent


def test_both_families_at_once(own_front: Fronts, kafka_430: KafkaCluster, unique_name: Names) -> None:
    front = own_front(kafka_430, ways=("plain",), listener={"bind": "[::]"})
    for host in ("::1", "127.0.0.1"):
        with RawClient((host, front.ports["plain"][0])) as client:
            client.send_frame(b"\0\x04" + bytes(20))
            assert client.is_closed()
    ended = eventually(lambda: len(found := events(front.gateway, "session.ended")) == 2 and found)
    assert sorted(each["peer"].rpartition(":")[0] for each in ended) == ["127.0.0.1", "[::1]"]


# --- clients that know only brokers' ports -----------------------------------------------------------------


def test_clients_that_know_only_broker_ports_wait_for_gateway_and_cluster(
    own_cluster: Clusters, own_front: Fronts, free_ports: FreePorts, unique_name: Names
) -> None:
    kafka = own_cluster()
    front = own_front(kafka, ways=("sasl",))
    topic, group, access = unique_name(), unique_name(), front.access("sasl")
    kafka.create_topic(topic)
    # Newer clients forget all brokers when none answers, and begin anew at the bootstrap port (KIP-899).
    older: dict[str, Any] = {"metadata.recovery.strategy": "none"}
    with (
        Consuming(access, topic, group, **older) as consuming,
        Producing(access, topic, per_s=100, **older) as producing,
    ):
        producing.more(20)
        consuming.has({0})
        front.gateway.terminate()
        (node,) = kafka.nodes
        node.stop()
        # Nobody is at the bootstrap port any more that they were told of.
        (listener,) = front.gateway.config["listeners"]
        listener |= {"broker_port": front.ports["sasl"][1], "port": free_ports(1)[0]}
        front.gateway.start(wait=False)
        bound = eventually(lambda: events(front.gateway, "listener.bound")[1:])
        assert set(front.ports["sasl"][1:]) < set(bound[0]["ports"])
        time.sleep(2)
        assert "cannot be reached" in waiting_for(front.gateway)
        node.start()
        producing.more(20, within_s=60)
        producing.stop()
        consuming.has(producing.delivered)
    assert not producing.failed


# --- bootstrap servers -------------------------------------------------------------------------------------


def test_dead_and_silent_bootstrap_servers(
    kafka_430: KafkaCluster, own_front: Fronts, free_ports: FreePorts, unique_name: Names
) -> None:
    topic = unique_name()
    kafka_430.create_topic(topic)
    with black_hole() as silent:
        before = [f"127.0.0.1:{free_ports(1)[0]}", f"127.0.0.1:{silent}"]
        cluster = kafka_430.gateway_config()
        cluster["bootstrap_servers"] = [*before, *cluster["bootstrap_servers"], "no-such-host.invalid:9092"]
        front = own_front(kafka_430, ways=("sasl",), config={"cluster": cluster})
        assert sends(front, topic)
        assert sends(front, topic, 1)


# --- another cluster ---------------------------------------------------------------------------------------


def test_a_cluster_that_takes_the_addresses_over_gets_no_byte(
    own_cluster: Clusters, kafka_391: KafkaCluster, own_front: Fronts, unique_name: Names
) -> None:
    kafka, stranger = own_cluster(), kafka_391
    topic = unique_name()
    for each in (kafka, stranger):
        each.create_topic(topic)
    (mine,), other = kafka.nodes, stranger.nodes[0]
    with Relay((mine.host, mine.port)) as relay:
        cluster = kafka.gateway_config() | {"bootstrap_servers": [f"127.0.0.1:{relay.address[1]}"]}
        front = own_front(kafka, ways=("sasl",), config={"cluster": cluster})
        assert sends(front, topic)
        relay.lead_to((other.host, other.port))
        mine.kill()
        assert eventually(lambda: stranger.cluster_id in waiting_for(front.gateway))
        for node_id in (None, 1):
            assert not sends(front, topic, node_id)
    (alarm, *_) = events(front.gateway, "upstream.wrong_cluster")
    assert alarm["level"] == "critical"
    assert f"belongs to cluster {stranger.cluster_id}, not to {kafka.cluster_id}" in alarm["error"]
    assert "causeway_wrong_cluster_total" in metrics(front.gateway)
    assert high_watermark(stranger, topic) == 0


def sends(front: Front, topic: str, node_id: int | None = None) -> bool:
    try:
        with front.access("sasl", node_id).connect(timeout_s=10) as client:
            answer = client.call(produce(9, {topic: batch(b"x")}))
    except (OSError, Closed):
        return False
    return bool(answer.responses[0].partition_responses[0].error_code == 0)


def high_watermark(kafka: KafkaCluster, topic: str) -> int:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": kafka.internal_bootstrap, "group.id": "-"})
    _, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=20)
    consumer.close()
    return int(high)
