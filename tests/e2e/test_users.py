"""Users through Kafka's own APIs and tools, answered as a broker answers; logins that brokers let expire."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from compose.java_tools import ToolFailed, run_tool
from compose.kafka import KafkaCluster
from protocol.api_keys import ApiKey
from tests.conftest import Clusters
from tests.e2e.clients import Librdkafka
from tests.e2e.conftest import Fronts
from tests.e2e.front import Access, Front
from tests.e2e.raw_client import Closed, RawClient, make

Names = Callable[[], str]
SHA_256, SHA_512 = 1, 2


@pytest.fixture(scope="module")
def users(fronts: Fronts, kafka_430: KafkaCluster) -> Front:
    """A gateway of which alice is a super user, and bob is none."""
    listener = {"authentication": "sasl", "sasl_mechanisms": ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]}
    config = {
        "super_users": ["User:alice"],
        "users": [{"name": "alice", "password": "alice-secret"}, {"name": "bob", "password": "bob-secret"}],
    }
    return fronts(kafka_430, ways=("sasl",), listener=listener, config=config, name="users")


def kafka_configs(access: Access, name: str, *arguments: str) -> str:
    entity = ("--entity-type", "users", "--entity-name", name)
    done = run_tool("kafka-configs", access.bootstrap, *entity, *arguments, properties=access.java())
    return done.stdout + done.stderr


def test_kafka_configs_manages_the_users_of_the_gateway(users: Front, unique_name: Names) -> None:
    alice, name, topic = users.access("sasl"), unique_name(), unique_name()
    users.kafka.create_topic(topic)
    wish = "SCRAM-SHA-256=[iterations=8192,password=x-secret],SCRAM-SHA-512=[password=x-secret]"
    said = kafka_configs(alice, name, "--alter", "--add-config", wish)
    assert f"Completed updating config for user {name}" in said
    for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        made = replace(alice, user=name, password="x-secret", mechanism=mechanism)
        Librdkafka(made).produce(topic, [mechanism.encode()])
    assert "SCRAM-SHA-256=iterations=8192, SCRAM-SHA-512=iterations=4096" in kafka_configs(
        alice, name, "--describe"
    )
    bob = replace(alice, user="bob", password="bob-secret")
    with pytest.raises(ToolFailed, match="ClusterAuthorizationException"):
        kafka_configs(bob, name, "--alter", "--delete-config", "SCRAM-SHA-256,SCRAM-SHA-512")
    kafka_configs(alice, name, "--alter", "--delete-config", "SCRAM-SHA-256,SCRAM-SHA-512")
    with pytest.raises(PermissionError):
        replace(alice, user=name, password="x-secret").connect()


def upsertion(name: str, mechanism: int = SHA_256, **changes: Any) -> dict[str, Any]:
    salted = hashlib.pbkdf2_hmac("sha256", b"secret", b"salt", 4096)
    usual = {"name": name, "mechanism": mechanism, "iterations": 4096, "salt": b"salt"}
    return usual | {"salted_password": salted} | changes


def deletion(name: str, mechanism: int = SHA_256) -> dict[str, Any]:
    return {"name": name, "mechanism": mechanism}


def alterations(name: str) -> list[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Deletions and upsertions, one request each.

    Not two mechanisms of one user in a request: a broker refuses that, KIP-554 and kafka-configs do not.
    """
    other = f"{name}-other"
    return [
        ([deletion(name)], []),
        ([deletion("")], []),
        ([deletion(name, 7)], [upsertion(other)]),
        ([], [upsertion("")]),
        ([], [upsertion(name, 0)]),
        ([], [upsertion(name, iterations=4095), upsertion(other, iterations=16385)]),
        ([], [upsertion(name), upsertion(name)]),
        ([deletion(other)], [upsertion(other)]),
        ([], [upsertion(name)]),
        ([], [upsertion(name, SHA_512)]),
        ([deletion(name)], [upsertion(name, SHA_512)]),
        ([deletion(name)], []),
        ([deletion(name, SHA_512), deletion(other)], []),
        ([], []),
    ]


def descriptions(name: str) -> list[list[dict[str, str]]]:
    return [[{"name": name}], [{"name": name}, {"name": name}], [{"name": name}, {"name": "no-" + name}]]


def answers(client: RawClient, name: str) -> list[Any]:
    """What a server says to all of it, with nothing in it that differs by itself."""
    said: list[Any] = []
    for deletions, upsertions in alterations(name):
        request = make(ApiKey.ALTER_USER_SCRAM_CREDENTIALS, 0, deletions=deletions, upsertions=upsertions)
        answer = client.call(request)
        said.append(
            sorted((each.user, each.error_code, each.error_message or None) for each in answer.results)
        )
        for wish in descriptions(name):
            # A broker learns from the controller what was changed.
            time.sleep(0.05)
            described = client.call(make(ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS, 0, users=wish))
            said.append((described.error_code, described.error_message or None))
            said.append(
                sorted(
                    (
                        each.user,
                        each.error_code,
                        each.error_message or None,
                        sorted((info.mechanism, info.iterations) for info in each.credential_infos),
                    )
                    for each in described.results
                )
            )
    return said


def test_answers_about_users_are_kafkas(users: Front, kafka_430: KafkaCluster, unique_name: Names) -> None:
    name, node = unique_name(), kafka_430.nodes[0]
    with RawClient((node.host, node.port)) as broker, users.access("sasl").connect() as gateway:
        assert answers(gateway, name) == answers(broker, name)


# --- sessions that expire ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forgetful(clusters: Clusters) -> KafkaCluster:
    """A broker that lets logins last for three seconds."""
    return clusters("4.3.0", security="SASL_PLAINTEXT", config={"connections.max.reauth.ms": "3000"})


def outcome(client: RawClient, request: Any) -> Any:
    """Error code and text of an answer, or that there was none."""
    try:
        answer = client.call(request)
    except Closed:
        return "closed"
    # Without an error a broker says nothing at length zero.
    return answer.error_code, getattr(answer, "error_message", None) or None


def handshake(mechanism: str = "PLAIN") -> Any:
    return make(ApiKey.SASL_HANDSHAKE, 1, mechanism=mechanism)


def token(user: str, password: str) -> Any:
    return make(ApiKey.SASL_AUTHENTICATE, 2, auth_bytes=f"\0{user}\0{password}".encode())


ALICE, BOB = ("alice", "alice-secret"), ("bob", "bob-secret")
VERSIONS = make(ApiKey.API_VERSIONS, 0)
SCENES: dict[str, list[Any]] = {
    "renewed": [handshake(), token(*ALICE), VERSIONS],
    "another user": [handshake(), token(*BOB)],
    "wrong password": [handshake(), token("alice", "guess")],
    "another mechanism": [handshake("SCRAM-SHA-256"), token(*ALICE)],
    "unknown mechanism": [handshake("GSSAPI"), token(*ALICE)],
    "something in between": [handshake(), VERSIONS],
    "no handshake": [token(*ALICE), VERSIONS],
    "too soon": [handshake(), token(*ALICE), handshake(), VERSIONS],
}
EXPIRED: dict[str, list[Any]] = {
    "renewed late": [handshake(), token(*ALICE), VERSIONS],
    "not renewed": [VERSIONS],
    "no handshake": [token(*ALICE)],
}


def plays(connect: Callable[[], RawClient]) -> dict[str, list[Any]]:
    """What becomes of each scene, on a connection of its own that is logged in."""
    said = {}
    expired = {name: connect() for name in EXPIRED}
    for name, requests in SCENES.items():
        with connect() as client:
            said[name] = [outcome(client, request) for request in requests]
    time.sleep(3.2)
    for name, client in expired.items():
        with client:
            said[name + " (expired)"] = [outcome(client, request) for request in EXPIRED[name]]
    return said


def test_renewals_are_judged_as_a_broker_judges_them(
    own_front: Fronts, kafka_430: KafkaCluster, forgetful: KafkaCluster
) -> None:
    listener = {
        "authentication": "sasl",
        "sasl_mechanisms": ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
        "connections_max_reauth_ms": 3000,
    }
    users = [{"name": name, "password": password} for name, password in (ALICE, BOB)]
    front = own_front(kafka_430, ways=("sasl",), listener=listener, config={"users": users})
    host, port = forgetful.bootstrap.split(":")
    ours = plays(lambda: front.access("sasl").connect())
    kafkas = plays(lambda: RawClient((host, int(port)), user="alice", password="alice-secret"))
    # Both refuse these; a broker closes without a word where we say why, and the other way round.
    for scene in ("another mechanism", "unknown mechanism", "something in between"):
        for said in (ours.pop(scene), kafkas.pop(scene)):
            assert said[-1] == "closed" or said[-1][0] != 0
    assert ours == kafkas


def test_clients_notice_nothing_of_the_gateways_own_renewals(
    own_front: Fronts, forgetful: KafkaCluster, unique_name: Names
) -> None:
    """For four of the sessions that the broker grants, one connection is at work and another rests."""
    front = own_front(forgetful, ways=("plain",))
    topic = unique_name()
    forgetful.create_topic(topic)
    ask = make(ApiKey.METADATA, 12, topics=[{"topic_id": None, "name": topic}])
    with front.access("plain", 1).connect() as busy, front.access("plain", 1).connect() as resting:
        resting.call(ask)
        deadline = time.monotonic() + 11
        while time.monotonic() < deadline:
            assert busy.call(ask).topics[0].error_code == 0
            time.sleep(0.01)
        assert resting.call(ask).topics[0].error_code == 0
    Librdkafka(front.access("plain")).produce(topic, [b"x"])
    assert front.gateway.is_ready()
    assert "could not be renewed" not in front.gateway.log()
