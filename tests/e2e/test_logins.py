"""Stock clients log in by SCRAM and OAUTHBEARER, and do so again on living connections."""

from __future__ import annotations

import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import aiokafka.abc
import confluent_kafka
import pytest

from compose.kafka import KafkaCluster
from tests.e2e.clients import Aiokafka, Client, KafkaPython, Librdkafka
from tests.e2e.conftest import Fronts
from tests.e2e.front import Access, Front
from tests.e2e.java_clients import Java
from tests.e2e.token_issuer import WebIssuer

with warnings.catch_warnings():
    # As in `clients`.
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka.net.sasl.oauth

Names = Callable[[], str]
MECHANISMS = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
CLIENTS: tuple[type[Client], ...] = (Java, Librdkafka, Aiokafka, KafkaPython)

every_client = pytest.mark.parametrize("kind", CLIENTS, ids=lambda kind: kind.name)


class _AiokafkaTokens(aiokafka.abc.AbstractTokenProvider):  # type: ignore[misc] # aiokafka has no types
    def __init__(self, issuer: WebIssuer) -> None:
        self._issuer = issuer

    async def token(self) -> str:
        return self._issuer.token()


class _KafkaPythonTokens(kafka.net.sasl.oauth.AbstractTokenProvider):  # type: ignore[misc] # no types either
    def __init__(self, issuer: WebIssuer) -> None:
        super().__init__()
        self._issuer = issuer

    def token(self) -> str:
        return self._issuer.token()


@dataclass(frozen=True, kw_only=True)
class TokenAccess(Access):
    """How a client gets in by tokens of an issuer; `library` says whose settings are wanted."""

    issuer: WebIssuer
    library: str = ""

    def librdkafka(self) -> dict[str, Any]:
        """With a callback that fetches tokens."""

        def fetch(_: str) -> tuple[str, float]:
            return self.issuer.token(), time.time() + self.issuer.lifetime_s

        settings = super().librdkafka() | {"oauth_cb": fetch}
        return {
            key: value for key, value in settings.items() if key not in {"sasl.username", "sasl.password"}
        }

    def java(self) -> dict[str, str]:
        """With Kafka's own handler, which asks the issuer (KIP-768)."""
        package = "org.apache.kafka.common.security.oauthbearer"
        return super().java() | {
            "sasl.login.callback.handler.class": f"{package}.OAuthBearerLoginCallbackHandler",
            "sasl.oauthbearer.token.endpoint.url": f"{self.issuer.url}/token",
            "sasl.jaas.config": f'{package}.OAuthBearerLoginModule required clientId="c" clientSecret="s";',
        }

    def python(self) -> dict[str, Any]:
        """With a provider of tokens as the library wants it."""
        settings = super().python()
        del settings["sasl_plain_username"], settings["sasl_plain_password"]
        provider = _AiokafkaTokens if self.library == "aiokafka" else _KafkaPythonTokens
        return settings | {"sasl_oauth_token_provider": provider(self.issuer)}


@pytest.fixture(scope="module")
def issuer() -> Iterator[WebIssuer]:
    made = WebIssuer()
    yield made
    made.close()


@pytest.fixture(scope="module")
def logins(fronts: Fronts, kafka_430: KafkaCluster, issuer: WebIssuer) -> Front:
    """A gateway whose listener takes every mechanism, each login for 2.5 seconds."""
    listener = {
        "authentication": "sasl",
        "sasl_mechanisms": MECHANISMS,
        "oauthbearer": issuer.section(),
        "connections_max_reauth_ms": 2500,
    }
    return fronts(kafka_430, ways=("sasl",), listener=listener, name="logins")


@pytest.fixture(autouse=True)
def java_may_ask_the_issuer(issuer: WebIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Java asks no URL that it was not told of (CVE-2025-27817)."""
    allowed = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={issuer.url}/token"
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", allowed)


def access(front: Front, mechanism: str, issuer: WebIssuer, library: str = "") -> Access:
    """How a client gets in by a mechanism."""
    plain = replace(front.access("sasl"), mechanism=mechanism)
    if mechanism != "OAUTHBEARER":
        return plain
    fields = {name: getattr(plain, name) for name in Access.__dataclass_fields__}
    return TokenAccess(**fields, issuer=issuer, library=library)


@every_client
def test_clients_log_in_by_every_mechanism(
    kind: type[Client], logins: Front, issuer: WebIssuer, unique_name: Names
) -> None:
    topic = unique_name()
    logins.kafka.create_topic(topic)
    sent = []
    for mechanism in MECHANISMS[1:]:
        client = kind(access(logins, mechanism, issuer, kind.name))
        sent.append(mechanism.encode())
        client.produce(topic, sent[-1:])
    read = kind(access(logins, "OAUTHBEARER", issuer, kind.name)).consume(topic, unique_name(), len(sent))
    assert read == sent


@pytest.mark.parametrize("mechanism", MECHANISMS[1:3])
@pytest.mark.parametrize("wrong", [{"user": "nobody"}, {"password": "guess"}], ids=["user", "password"])
def test_who_is_not_let_in_is_told_so(
    mechanism: str, wrong: dict[str, Any], logins: Front, issuer: WebIssuer
) -> None:
    refused = replace(access(logins, mechanism, issuer), **wrong)
    errors: list[str] = []
    producer = confluent_kafka.Producer(
        refused.librdkafka() | {"error_cb": lambda error: errors.append(str(error))}
    )
    deadline = time.monotonic() + 10
    while not errors and time.monotonic() < deadline:
        producer.poll(0.1)
    assert f"due to invalid credentials with SASL mechanism {mechanism}" in errors[0]


def test_many_renewals_under_load_lose_nothing(logins: Front, issuer: WebIssuer, unique_name: Names) -> None:
    """Librdkafka and Java produce for several of their sessions' lives, on connections that stay."""
    topic = unique_name()
    logins.kafka.create_topic(topic)
    renewed = _series(logins, "causeway_authentications_total", 'outcome="renewed"')
    opened = _series(logins, "causeway_connections_total", 'listener="sasl"')
    with ThreadPoolExecutor(2) as pool:
        java = pool.submit(_produce_with_java, Java(access(logins, "OAUTHBEARER", issuer)), topic, 900)
        errors, sent = _produce_until(access(logins, "SCRAM-SHA-256", issuer), topic, java.done)
        assert java.result() == ""
    assert errors == []
    assert sent > 0
    assert _series(logins, "causeway_authentications_total", 'outcome="renewed"') >= renewed + 4
    assert _series(logins, "causeway_disconnects_total", 'cause="session_expired"') == 0
    assert _series(logins, "causeway_connections_total", 'listener="sasl"') <= opened + 8


def _produce_with_java(client: Java, topic: str, count: int) -> str:
    """What went wrong while it produced 100 records a second."""
    arguments = ("--topic", topic, "--num-records", str(count), "--record-size", "100", "--throughput", "100")
    done = client.tool("kafka-producer-perf-test", *arguments)
    said = done.stdout + done.stderr
    fine = f"{count} records sent" in said and "ERROR" not in said and "Exception" not in said
    return "" if fine else said


def _produce_until(access: Access, topic: str, done: Callable[[], bool]) -> tuple[list[str], int]:
    """Errors of a librdkafka producer that went on until `done`, and how much it delivered."""
    errors: list[str] = []
    delivered = 0

    def count(error: Any, _: Any) -> None:
        nonlocal delivered
        if error is None:
            delivered += 1
        else:
            errors.append(str(error))

    settings = {"error_cb": lambda error: errors.append(str(error)), "linger.ms": 1}
    producer = confluent_kafka.Producer(access.librdkafka() | settings)
    while not done():
        producer.produce(topic, b"x" * 100, on_delivery=count)
        producer.poll(0.01)
    if left := producer.flush(20):
        errors.append(f"{left} not delivered")
    return errors, delivered


def _page(front: Front) -> str:
    with urllib.request.urlopen(f"{front.gateway.admin_url}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def _series(front: Front, name: str, label: str) -> float:
    page = _page(front)
    lines = (line for line in page.splitlines() if line.startswith(f"{name}{{") and label in line)
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def test_a_refused_token_is_logged_and_told(logins: Front, unique_name: Names) -> None:
    stranger = WebIssuer("mallory")
    try:
        with pytest.raises(aiokafka.errors.KafkaError):
            Aiokafka(access(logins, "OAUTHBEARER", stranger, "aiokafka")).list_groups()
        assert "no key 'key-" in logins.gateway.log()
    finally:
        stranger.close()
