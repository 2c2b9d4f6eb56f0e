"""Brokers told apart by server names on one port: stock clients, refused names, and a link."""

from __future__ import annotations

import socket
import ssl
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from certs.make_certs import TestAuthority
from compose.gateway_process import GatewayProcess
from compose.kafka import KafkaCluster
from protocol.api_keys import ApiKey
from tests.conftest import Clusters, has_failed
from tests.e2e.clients import Aiokafka, Client, KafkaPython, Librdkafka
from tests.e2e.front import NODE_IDS, Access, Front, Way
from tests.e2e.hosts import with_hosts
from tests.e2e.java_clients import Java
from tests.e2e.link_lab import LinkLab, produce
from tests.e2e.raw_client import Closed, RawClient, make
from tests.e2e.workload import eventually

Names = Callable[[], str]

BOOTSTRAP = "kafka.prod.causeway.test"
BROKERS = {node_id: f"b{node_id}.kafka.prod.causeway.test" for node_id in NODE_IDS}
HOSTS = dict.fromkeys([BOOTSTRAP, *BROKERS.values(), "b9.kafka.prod.causeway.test"], "127.0.0.1")
LISTENER = {
    "advertised_host": "b$(node_id).kafka.$(cluster).causeway.test",
    "bootstrap_host": "kafka.$(cluster).causeway.test",
}


@pytest.fixture(scope="module")
def server_tls(authority: TestAuthority) -> dict[str, str]:
    identity = authority.server("names-of-brokers", [BOOTSTRAP, f"*.{BOOTSTRAP}"])
    return {"certificate_file": str(identity.certificate_file), "key_file": str(identity.key_file)}


def named_front(
    kafka: KafkaCluster, authority: TestAuthority, tls: dict[str, str], ways: tuple[Way, ...], **config: Any
) -> Front:
    """A gateway whose listeners have one port each."""
    client_tls = {"client_ca_file": str(authority.ca_file), "client_auth": "required"}
    cluster = kafka.gateway_config() | {"name": "prod"}
    listener: dict[str, Any] = LISTENER | {"tls": tls | client_tls if ways == ("mtls",) else tls}
    return Front(
        kafka, authority, ways=ways, config={"cluster": cluster} | config, listener=listener, name="names"
    )


@pytest.fixture(scope="module", params=["sasl", "mtls"])
def front(
    request: pytest.FixtureRequest,
    breakable: KafkaCluster,
    authority: TestAuthority,
    server_tls: dict[str, str],
) -> Iterator[Front]:
    made = named_front(breakable, authority, server_tls, (request.param,))
    yield made
    made.close(keep_log=request.session.testsfailed > 0)


def by_name(front: Front) -> Access:
    """The only listener, at the name of the bootstrap."""
    ((way, _),) = front.ports.items()
    return replace(front.access(way), host=BOOTSTRAP)


@pytest.mark.parametrize("kind", [Librdkafka, Aiokafka, KafkaPython], ids=lambda kind: kind.name)
def test_stock_clients(kind: type[Client], front: Front, unique_name: Names) -> None:
    use_all_brokers(kind, front, unique_name)


# A JVM takes long, and with one way in it shows that it asks by name.
@pytest.mark.parametrize("front", ["sasl"], indirect=True)
def test_java(front: Front, unique_name: Names) -> None:
    use_all_brokers(Java, front, unique_name)


def use_all_brokers(kind: type[Client], front: Front, unique_name: Names) -> None:
    access, topic = by_name(front), unique_name()
    # One partition on each broker: whoever reads all has been at all names.
    front.kafka.create_topic(topic, 3, copies=1)
    sent = [f"{number}".encode() for number in range(30)]

    def work() -> list[bytes]:
        client = kind(access)
        client.produce(topic, sent)
        return client.consume(topic, unique_name(), len(sent))

    assert sorted(with_hosts(HOSTS, work)) == sorted(sent)


def test_each_name_leads_to_its_broker(front: Front) -> None:
    with connect(front, BOOTSTRAP) as client:
        told = client.call(make(ApiKey.METADATA, 12)).brokers
    port = by_name(front).port
    assert {broker.node_id: (broker.host, broker.port) for broker in told} == {
        node_id: (name, port) for node_id, name in BROKERS.items()
    }
    for node_id, name in BROKERS.items():
        with connect(front, name.upper()) as client:
            # Of a broker's config another one knows nothing.
            wanted = {"resource_type": 4, "resource_name": str(node_id), "configuration_keys": ["node.id"]}
            (result,) = client.call(make(ApiKey.DESCRIBE_CONFIGS, 4, resources=[wanted])).results
            assert result.error_code == 0, result.error_message
            assert [config.value for config in result.configs] == [str(node_id)]


def connect(front: Front, server_name: str | None) -> RawClient:
    """A raw client, logged in, that asks for this name, or none, at 127.0.0.1."""
    access = by_name(front)
    login: dict[str, Any] = {"user": access.user, "password": access.password} if access.way == "sasl" else {}
    return RawClient(("127.0.0.1", access.port), tls=asking(access.ssl_context(), server_name), **login)


def asking(context: ssl.SSLContext, server_name: str | None) -> ssl.SSLContext:
    """The context, which asks for this name whoever is connected to."""
    context.check_hostname = False
    wrap = context.wrap_socket

    def wrap_socket(sock: socket.socket, **settings: Any) -> ssl.SSLSocket:
        return wrap(sock, **settings | {"server_hostname": server_name})

    context.wrap_socket = wrap_socket  # type: ignore[method-assign,assignment]  # for one connection
    return context


@pytest.mark.parametrize("server_name", ["b9.kafka.prod.causeway.test", "b1.kafka.causeway.test", None])
def test_other_names_are_refused(front: Front, server_name: str | None) -> None:
    with pytest.raises((OSError, Closed)):
        connect(front, server_name).call(make(ApiKey.API_VERSIONS, 0))
    # Of a flood of refusals there is one line in some seconds.
    refused = eventually(
        lambda: [each for each in front.gateway.log_events() if each.get("event") == "connection.refused"]
    )
    assert {(each["reason"], each["level"]) for each in refused} == {("server_name", "warning")}
    series = f'causeway_connections_refused_total{{listener="{by_name(front).way}",reason="server_name"}}'
    assert series in metrics(front.gateway)


def metrics(gateway: GatewayProcess) -> str:
    with urllib.request.urlopen(f"{gateway.admin_url}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


class NamedLinkLab(LinkLab):
    """A link whose source half comes in by name."""

    def __init__(
        self, *arguments: Any, tls: dict[str, str], authority: TestAuthority, **settings: Any
    ) -> None:
        self._tls = tls
        self._ca_file = authority.ca_file
        super().__init__(*arguments)

    def _destination_config(self) -> dict[str, Any]:
        config = super()._destination_config()
        (listener,) = config["listeners"]
        del listener["broker_port"], listener["insecure"]
        listener |= LISTENER | {"tls": self._tls}
        config["cluster"] |= {"name": "prod"}
        return config

    def _post_link(
        self, gateway: GatewayProcess, cluster_id: str, peer: Mapping[str, str], configs: Mapping[str, str]
    ) -> None:
        if "bootstrap.servers" in configs:
            configs = {
                **configs,
                "bootstrap.servers": f"{BOOTSTRAP}:{self._lease[0]}",
                "security.protocol": "SASL_SSL",
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self._ca_file),
            }
        super()._post_link(gateway, cluster_id, peer, configs)


def test_a_source_that_dials_in_by_name(
    request: pytest.FixtureRequest,
    clusters: Clusters,
    kafka_391: KafkaCluster,
    authority: TestAuthority,
    server_tls: dict[str, str],
    unique_name: Names,
) -> None:
    source, destination = kafka_391, clusters("4.3.0")
    topic = unique_name()
    source.create_topic(topic, 2)
    produce(source, topic, 200, 2)

    def work() -> None:
        lab = NamedLinkLab(source, destination, tls=server_tls, authority=authority)
        try:
            lab.create_mirror(topic)
            lab.wait_mirrored(topic, 2)
            assert lab.compare(topic, 2) == 200
        finally:
            lab.close(failed=has_failed(request))

    with_hosts(HOSTS, work)
