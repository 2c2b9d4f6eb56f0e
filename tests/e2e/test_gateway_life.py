"""A gateway and its cluster: who is away when, and what clients and operators see of it."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from confluent_kafka import Producer
from kio.schema.errors import ErrorCode

from compose.gateway_process import GatewayFailed, GatewayProcess
from compose.kafka import KafkaCluster
from protocol.api_keys import ApiKey
from tests.conftest import Clusters
from tests.e2e.conftest import Fronts, StartGateway
from tests.e2e.front import Front
from tests.e2e.raw_client import Closed, batch, make, produce


def readiness(gateway: GatewayProcess) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"{gateway.admin_url}/readyz", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def metrics(gateway: GatewayProcess) -> str:
    with urllib.request.urlopen(f"{gateway.admin_url}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def eventually(condition: Callable[[], bool], within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def can_produce(front: Front, topic: str) -> bool:
    try:
        with front.access("sasl", 1).connect(timeout_s=5) as client:
            answer = client.call(produce(9, {topic: batch(b"x")}))
    except (OSError, Closed, PermissionError):
        return False
    code = answer.responses[0].partition_responses[0].error_code
    return bool(code == ErrorCode.none)


def test_a_cluster_that_goes_and_comes_back(
    own_cluster: Clusters, own_front: Fronts, unique_name: Callable[[], str]
) -> None:
    kafka = own_cluster()
    topic = unique_name()
    kafka.create_topic(topic)
    front = own_front(kafka)
    assert can_produce(front, topic)
    (node,) = kafka.nodes
    node.kill()
    eventually(lambda: readiness(front.gateway)[0] == 503)
    code, body = readiness(front.gateway)
    assert code == 503
    assert "cannot be reached" in str(body["waiting_for"])
    # Ports stay open: whoever knows only them must find the way back.
    with socket.create_connection(("localhost", front.ports["plain"][1]), timeout=5):
        pass
    assert not can_produce(front, topic)
    node.start()
    eventually(lambda: readiness(front.gateway)[0] == 200)
    eventually(lambda: can_produce(front, topic))
    assert front.gateway.running


def test_a_gateway_that_starts_before_its_cluster(
    own_cluster: Clusters, own_front: Fronts, unique_name: Callable[[], str]
) -> None:
    kafka = own_cluster()
    topic = unique_name()
    kafka.create_topic(topic)
    front = own_front(kafka)
    front.gateway.terminate()
    (node,) = kafka.nodes
    node.stop()
    front.gateway.start(wait=False)
    eventually(lambda: is_listening(front.ports["sasl"][0]))
    eventually(lambda: "cannot be reached" in str(readiness(front.gateway)[1]))
    assert urllib.request.urlopen(f"{front.gateway.admin_url}/livez", timeout=5).status == 200
    assert not can_produce(front, topic)
    node.start()
    front.gateway.wait_ready()
    eventually(lambda: can_produce(front, topic))


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("localhost", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_another_cluster_than_the_configured_one_is_never_served(
    kafka_430: KafkaCluster, start_gateway: StartGateway, free_ports: Callable[[int], range]
) -> None:
    port = free_ports(2)[0]
    listener = {
        "name": "plain",
        "bind": "127.0.0.1",
        "port": port,
        "advertised_host": "localhost",
        "node_ids": "1",
        "insecure": True,
        "authentication": "none",
    }
    cluster = kafka_430.gateway_config() | {"cluster_id": "somebody-elses-cluster"}
    with pytest.raises(GatewayFailed, match="somebody-elses-cluster"):
        start_gateway(
            {"cluster": cluster, "authorization": "none", "listeners": [listener]}, ready_within_s=10
        )


def test_a_taken_port_is_an_error_that_names_it(kafka_430: KafkaCluster, start_gateway: StartGateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listener = {
            "name": "plain",
            "bind": "127.0.0.1",
            "port": port,
            "advertised_host": "localhost",
            "broker_port": 20000 if port != 20000 else 20001,
            "node_ids": "1",
            "insecure": True,
            "authentication": "none",
        }
        config = {"cluster": kafka_430.gateway_config(), "authorization": "none", "listeners": [listener]}
        with pytest.raises(
            GatewayFailed, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"
        ):
            start_gateway(config)


def test_a_state_that_a_newer_version_has_written_is_not_guessed_at(
    own_cluster: Clusters, start_gateway: StartGateway
) -> None:
    kafka = own_cluster()
    config = {"cluster": kafka.gateway_config(), "authorization": "none"}
    assert start_gateway(config).terminate() == 0
    producer = Producer({"bootstrap.servers": kafka.internal_bootstrap})
    newer = json.dumps({"version": 2, "name": "bob", "colour": "blue"})
    producer.produce("_causeway-state", newer, json.dumps({"kind": "user", "name": "bob"}))
    assert producer.flush(20) == 0
    with pytest.raises(GatewayFailed, match="'bob' has version 2, this gateway knows version 1"):
        start_gateway(config)


def long_fetch(topic: str, wait: timedelta) -> Any:
    partition = {"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1 << 20}
    return make(
        ApiKey.FETCH,
        11,
        replica_id=-1,
        max_wait=wait,
        min_bytes=1,
        topics=[{"topic": topic, "partitions": [partition]}],
        forgotten_topics_data=(),
    )


def test_a_gateway_that_is_told_to_stop_answers_what_it_has_taken(
    kafka_430: KafkaCluster, own_front: Fronts, unique_name: Callable[[], str]
) -> None:
    topic = unique_name()
    kafka_430.create_topic(topic)
    front = own_front(kafka_430)
    with front.access("plain", 1).connect() as waiting, front.access("plain", 1).connect() as idle:
        idle.call(make(ApiKey.API_VERSIONS, 0))
        waiting.call(make(ApiKey.API_VERSIONS, 0))
        waiting.send(long_fetch(topic, timedelta(seconds=3)))
        time.sleep(0.5)
        stopping = threading.Thread(target=front.gateway.terminate)
        stopping.start()
        assert idle.is_closed(within_s=2)
        eventually(lambda: not is_listening(front.ports["plain"][0]), within_s=2)
        assert waiting.receive().error_code == ErrorCode.none
        assert waiting.is_closed(within_s=5)
        stopping.join()
    assert not front.gateway.running
    assert "gateway.stopped" in front.gateway.log()


def test_what_happens_is_counted_and_secrets_are_not_told(front: Front) -> None:
    with pytest.raises(PermissionError):
        front.access("sasl").connect(password="not-the-password")
    with front.access("sasl").connect() as client:
        client.call(make(ApiKey.API_VERSIONS, 0))
        client.send_frame(b"\0\x04" + bytes(20))
        assert client.is_closed()
    page = metrics(front.gateway)
    for series in (
        'causeway_authentications_total{mechanism="PLAIN",outcome="refused"}',
        'causeway_authentications_total{mechanism="PLAIN",outcome="accepted"}',
        'causeway_requests_total{api="API_VERSIONS",version="0"}',
        'causeway_refusals_total{api="LEADER_AND_ISR",reason="closed"}',
        'causeway_connections_total{listener="sasl"}',
        'causeway_response_bytes_total{listener="sasl"}',
    ):
        assert series in page
    assert "not-the-password" not in front.gateway.log() + page
    assert "alice-secret" not in front.gateway.log() + page


def test_the_connection_limit_of_a_listener(kafka_430: KafkaCluster, own_front: Fronts) -> None:
    front = own_front(kafka_430, ways=("plain",), config={"limits": {"max_connections": 5}})
    held = [front.access("plain").connect() for _ in range(5)]
    for client in held:
        client.call(make(ApiKey.API_VERSIONS, 0))
    with front.access("plain").connect() as surplus:
        assert surplus.is_closed()
    held.pop().close()
    eventually(lambda: _answers(front))
    for client in held:
        client.close()


def _answers(front: Front) -> bool:
    try:
        with front.access("plain").connect() as client:
            client.call(make(ApiKey.API_VERSIONS, 0))
    except (Closed, OSError):
        return False
    return True
