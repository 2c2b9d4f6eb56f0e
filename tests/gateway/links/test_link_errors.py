"""A link's trouble in the words of the REST contract."""

import socket

import pytest

from gateway.links.link_errors import kind_of
from gateway.links.requests import LinkErrorKind
from gateway.upstreams.cluster import Cluster, DialConnector
from gateway.upstreams.dialer import Security
from gateway.upstreams.errors import AuthenticationFailed, ConnectFailed, NameNotFound, TlsFailed
from gateway.wire import ConnectionClosed
from tests.fakes.kafka import FakeKafka
from tests.gateway.links.lab import cluster_of


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (AuthenticationFailed("wrong password"), LinkErrorKind.AUTHENTICATION_ERROR),
        (TlsFailed("unknown authority"), LinkErrorKind.AUTHENTICATION_ERROR),
        (NameNotFound("nobody:1"), LinkErrorKind.UNRESOLVABLE_BOOTSTRAP_ERROR),
        (TimeoutError(), LinkErrorKind.TIMEOUT_ERROR),
        (ConnectFailed("refused"), LinkErrorKind.BOOTSTRAP_TCP_CONNECTION_FAILED_ERROR),
        (ConnectionClosed("reset"), LinkErrorKind.BOOTSTRAP_TCP_CONNECTION_FAILED_ERROR),
    ],
)
def test_kinds(error: Exception, kind: LinkErrorKind) -> None:
    assert kind_of(error) is kind


async def test_a_name_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    cluster = Cluster(DialConnector(["nobody.invalid:9092"], Security()))
    with pytest.raises(NameNotFound, match="Name or service not known"):
        await cluster.metadata([])
    await cluster.close()


async def test_a_port_that_is_closed() -> None:
    broker = FakeKafka()
    await broker.start()
    cluster = cluster_of(broker)
    await broker.close()
    with pytest.raises(ConnectFailed) as error:
        await cluster.metadata([])
    assert not isinstance(error.value, NameNotFound)
    await cluster.close()
