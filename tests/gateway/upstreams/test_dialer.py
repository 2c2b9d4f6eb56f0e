"""Dialling: what a failure is called, and what the socket is told."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from certs.make_certs import TestAuthority
from gateway.config import SecurityConfig, SecurityProtocol, TlsConfig
from gateway.tls import ClientAuth, server_context
from gateway.upstreams import dialer
from gateway.upstreams.dialer import Security, dial
from gateway.upstreams.errors import AuthenticationFailed, ClusterIdMismatch, ConnectFailed, TlsFailed
from gateway.upstreams.metadata import ClusterMetadata
from protocol.api_keys import ApiKey
from tests.fakes.broker import FakeBroker


@pytest.fixture
async def broker() -> AsyncIterator[FakeBroker]:
    fake = await FakeBroker().start()
    yield fake
    await fake.close()


@pytest.fixture
def tls_security(authority: TestAuthority) -> Security:
    return Security.from_config(SecurityConfig(protocol=SecurityProtocol.SSL, ca_file=authority.ca_file))


def server_tls(authority: TestAuthority, client_auth: ClientAuth = ClientAuth.NONE) -> TlsConfig:
    identity = authority.server()
    return TlsConfig(
        certificate_file=identity.certificate_file,
        key_file=identity.key_file,
        client_ca_file=authority.ca_file,
        client_auth=client_auth,
    )


@pytest.fixture
async def tls_broker(authority: TestAuthority) -> AsyncIterator[FakeBroker]:
    fake = await FakeBroker().start(tls=server_context(server_tls(authority)))
    yield fake
    await fake.close()


async def test_a_dialled_connection_is_ready(broker: FakeBroker) -> None:
    told: list[ClusterMetadata] = []
    connection = await dial(
        "127.0.0.1",
        broker.port,
        Security(),
        node_id=3,
        client_id="me",
        expected_cluster_id="cluster-a",
        on_metadata=told.append,
    )
    assert connection.node_id == 3
    assert connection.api_versions[ApiKey.METADATA] == (5, 9)
    assert broker.requests[0].client_id == "me"
    assert told[0].brokers == {1: ("127.0.0.1", broker.port)}
    connection.close()
    await connection.wait_closed()


async def test_metadata_is_asked_for_only_if_wanted(broker: FakeBroker) -> None:
    connection = await dial("127.0.0.1", broker.port, Security())
    assert broker.count(ApiKey.METADATA) == 0
    connection.abort()
    await connection.wait_closed()


async def test_another_cluster_is_refused(broker: FakeBroker) -> None:
    with pytest.raises(ClusterIdMismatch, match="belongs to cluster cluster-a, not to cluster-b"):
        await dial("127.0.0.1", broker.port, Security(), expected_cluster_id="cluster-b")
    await broker.wait_for_connections(0)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


async def test_nobody_there() -> None:
    with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1"):
        await dial("127.0.0.1", free_port(), Security())


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 64, "", "a..b", "\udcff"])
async def test_no_such_host(host: str) -> None:
    with pytest.raises(ConnectFailed):
        await dial(host, 9 if host else free_port(), Security())


async def test_a_port_that_cannot_be() -> None:
    with pytest.raises(ConnectFailed):
        await dial("127.0.0.1", 70_000, Security())


async def test_a_host_that_swallows_everything() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(ConnectFailed, match=r"did not answer within 0\.2 s"):
            await dial("127.0.0.1", port, Security(), connect_timeout_s=0.2)


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that takes no more connections and does not say so."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent, ExitStack() as stack:
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        yield silent.getsockname()[1]


def resolver(monkeypatch: pytest.MonkeyPatch, *answers: list[int]) -> list[str]:
    """Names have the addresses 127.0.0.1 with these ports, one answer after the other; notes the names."""
    asked: list[str] = []

    async def resolve(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        ports = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", each)) for each in ports]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    return asked


async def test_every_address_of_a_name_is_tried(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    resolver(monkeypatch, [free_port(), free_port(), broker.port])
    connection = await dial("kafka", 9092, Security())
    connection.abort()
    await connection.wait_closed()


async def test_an_address_that_is_silent_does_not_hold_up_the_next(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    with black_hole() as one, black_hole() as two:
        resolver(monkeypatch, [one, two, broker.port])
        began = loop.time()
        connection = await dial("kafka", 9092, Security(), connect_timeout_s=20)
        assert loop.time() - began < 5
        connection.abort()
        await connection.wait_closed()
        await broker.wait_for_connections(0)
        resolver(monkeypatch, [one, two])
        with pytest.raises(ConnectFailed, match=r"no connection within 0\.5 s"):
            await dial("kafka", 9092, Security(), connect_timeout_s=0.5)


async def test_only_refusals_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver(monkeypatch, [free_port(), free_port()])
    with pytest.raises(ConnectFailed, match="Connect call failed"):
        await dial("kafka", 9092, Security(), connect_timeout_s=20)


async def test_names_are_resolved_at_every_dial(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolver(monkeypatch, [free_port()], [broker.port])
    with pytest.raises(ConnectFailed):
        await dial("kafka", 9092, Security())
    connection = await dial("kafka", 9092, Security())
    assert asked == ["kafka", "kafka"]
    connection.abort()
    await connection.wait_closed()


def test_families_take_turns() -> None:
    def info(family: int, host: str) -> Any:
        return (family, socket.SOCK_STREAM, 6, "", (host, 9092))

    six = [info(socket.AF_INET6, f"::{n}") for n in (1, 2, 3)]
    four = [info(socket.AF_INET, f"10.0.0.{n}") for n in (1, 2)]
    assert dialer._families_in_turn([*six, *four]) == [six[0], four[0], six[1], four[1], six[2]]
    assert dialer._families_in_turn([*four, *six]) == [four[0], six[0], four[1], six[1], six[2]]
    assert dialer._families_in_turn(four) == four


async def test_a_broker_of_ipv6() -> None:
    fake = FakeBroker()
    server = await asyncio.get_running_loop().create_server(fake._new_connection, "::1", 0)
    port = server.sockets[0].getsockname()[1]
    fake.brokers[1] = ("::1", port)
    connection = await dial("::1", port, Security(), expected_cluster_id="cluster-a")
    assert connection.peer == f"[::1]:{port}"
    connection.abort()
    await connection.wait_closed()
    with pytest.raises(ClusterIdMismatch, match=rf"\[::1\]:{port} belongs to"):
        await dial("::1", port, Security(), expected_cluster_id="cluster-b")
    server.close()
    await server.wait_closed()
    await fake.close()


async def test_a_name_without_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        return []

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    with pytest.raises(ConnectFailed, match="no address"):
        await dial("kafka", 9092, Security())


async def test_cancelling_leaves_nothing_open(broker: FakeBroker) -> None:
    async def never(header: Any, body: bytes) -> None:
        await asyncio.Event().wait()

    broker.handlers[ApiKey.API_VERSIONS] = never
    dialling = asyncio.create_task(dial("127.0.0.1", broker.port, Security()))
    await broker.wait_for_requests(1)
    assert broker.open_connections == 1
    dialling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dialling
    await broker.wait_for_connections(0)


async def test_socket_options(broker: FakeBroker) -> None:
    connection = await dial("127.0.0.1", broker.port, Security(), linger_zero=True, user_timeout_ms=4321)
    wire = connection.detach()
    assert wire._transport is not None
    sock = wire._transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 4321
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == struct.pack("ii", 1, 0)
    wire.abort()
    await wire.wait_closed()


async def test_what_was_not_delivered_is_dropped_with_linger_zero(broker: FakeBroker) -> None:
    reset = asyncio.Event()

    async def stop_reading(header: Any, body: bytes) -> None:
        await reset.wait()

    broker.handlers[ApiKey.LIST_OFFSETS] = stop_reading
    connection = await dial("127.0.0.1", broker.port, Security(), linger_zero=True)
    asking = [
        asyncio.create_task(connection.request_raw(ApiKey.LIST_OFFSETS, 1, (bytes(1 << 19),), timeout_s=10))
        for _ in range(20)
    ]
    await asyncio.sleep(0.1)
    connection.abort()
    await asyncio.gather(*asking, return_exceptions=True)
    await connection.wait_closed()
    reset.set()
    # What had arrived was read; nothing is sent on behind our back.
    await broker.wait_for_connections(0)
    assert broker.count(ApiKey.LIST_OFFSETS) < 20


async def test_tls_with_the_right_name(tls_broker: FakeBroker, tls_security: Security) -> None:
    connection = await dial("localhost", tls_broker.port, tls_security)
    connection.close()
    await connection.wait_closed()


async def test_tls_with_a_wrong_name(
    tls_broker: FakeBroker, tls_security: Security, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", tls_broker.port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    with pytest.raises(TlsFailed, match="Hostname mismatch"):
        await dial("kafka.example", tls_broker.port, tls_security)


async def test_tls_with_an_unknown_authority(tls_broker: FakeBroker) -> None:
    security = Security.from_config(SecurityConfig(protocol=SecurityProtocol.SSL))
    with pytest.raises(TlsFailed, match=r"CERTIFICATE_VERIFY_FAILED"):
        await dial("localhost", tls_broker.port, security)


async def test_tls_that_wants_our_certificate(authority: TestAuthority, tls_security: Security) -> None:
    broker = await FakeBroker().start(tls=server_context(server_tls(authority, ClientAuth.REQUIRED)))
    # asyncio's server leaves without the alert that a Java broker sends (see tests/e2e).
    with pytest.raises(ConnectFailed, match="is a certificate of ours expected"):
        await dial("localhost", broker.port, tls_security)
    identity = authority.client("gateway")
    security = SecurityConfig(
        protocol=SecurityProtocol.SSL,
        ca_file=authority.ca_file,
        certificate_file=identity.certificate_file,
        key_file=identity.key_file,
    )
    connection = await dial("localhost", broker.port, Security.from_config(security))
    connection.abort()
    await connection.wait_closed()
    await broker.close()


async def test_tls_where_there_is_none(broker: FakeBroker, tls_security: Security) -> None:
    with pytest.raises(TlsFailed):
        await dial("localhost", broker.port, tls_security, connect_timeout_s=1)


async def test_no_tls_where_there_is_some(tls_broker: FakeBroker) -> None:
    with pytest.raises(ConnectFailed, match="is TLS or SASL expected"):
        await dial("127.0.0.1", tls_broker.port, Security())


async def test_what_is_no_broker() -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(http, "127.0.0.1", 0)
    with pytest.raises(ConnectFailed, match="broke the protocol"):
        await dial("127.0.0.1", server.sockets[0].getsockname()[1], Security())
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0.05)


async def test_sasl_needs_credentials(broker: FakeBroker) -> None:
    security = Security(protocol=SecurityProtocol.SASL_PLAINTEXT, mechanism="PLAIN", username="me")
    with pytest.raises(AuthenticationFailed, match="password"):
        await dial("127.0.0.1", broker.port, security)


async def test_a_broker_without_sasl(broker: FakeBroker) -> None:
    security = Security(
        protocol=SecurityProtocol.SASL_PLAINTEXT, mechanism="PLAIN", username="me", password="secret"
    )
    del broker.versions[ApiKey.SASL_HANDSHAKE]
    with pytest.raises(ConnectFailed, match="authentication"):
        await dial("127.0.0.1", broker.port, security)


def test_security_shows_no_secret(authority: TestAuthority) -> None:
    security = Security.from_config(
        SecurityConfig.model_validate(
            {
                "protocol": "SASL_SSL",
                "sasl_mechanism": "PLAIN",
                "username": "me",
                "password": "s3cret",
                "ca_file": authority.ca_file,
            }
        )
    )
    assert security.password == "s3cret"
    assert security.ssl_context is not None
    assert "s3cret" not in repr(security)
    assert "s3cret" not in str(replace(security, username="you"))
