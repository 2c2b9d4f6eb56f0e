"""Dials a broker: TCP, TLS with host name verification, ApiVersions, SASL, the check of the cluster id."""

from __future__ import annotations

import asyncio
import functools
import itertools
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeAlias

from gateway.config import SecurityConfig, SecurityProtocol, format_host_port
from gateway.tls import ReloadingContext, client_context
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import (
    AuthenticationFailed,
    ClusterIdMismatch,
    ConnectFailed,
    KafkaError,
    NameNotFound,
    TlsFailed,
)
from gateway.upstreams.metadata import ClusterMetadata, metadata_request, read_metadata
from gateway.upstreams.race import AllFailed, first_success
from gateway.wire import ConnectionClosed, FrameConnection
from protocol.errors import ProtocolError

DEFAULT_MAX_FRAME_BYTES: Final = 100 * 1024 * 1024
# The "connection attempt delay" of RFC 8305.
_NEXT_ADDRESS_S: Final = 0.25
_AddressInfo: TypeAlias = tuple[int, int, int, str, tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class Security:
    """How to get into a cluster; `username` and `password` with a SASL mechanism only."""

    protocol: SecurityProtocol = SecurityProtocol.PLAINTEXT
    mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)
    verify_hostname: bool = True

    @classmethod
    def from_config(cls, config: SecurityConfig) -> Self:
        """From the `security` section of the configuration; TlsError if a file cannot be used."""
        return cls(
            protocol=config.protocol,
            mechanism=config.sasl_mechanism,
            username=config.username,
            password=config.password.get_secret_value() if config.password else None,
            ssl_context=ReloadingContext(lambda: client_context(config))
            if config.protocol.uses_tls
            else None,
            verify_hostname=config.verify_hostname,
        )


async def dial(
    host: str,
    port: int,
    security: Security,
    *,
    client_id: str = "causeway",
    node_id: int | None = None,
    connect_timeout_s: float = 5,
    max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES,
    linger_zero: bool = False,
    user_timeout_ms: int | None = None,
    expected_cluster_id: str | None = None,
    on_metadata: Callable[[ClusterMetadata], None] | None = None,
) -> BrokerConnection:
    """A connection ready for requests; TCP and TLS, and the rest, each in `connect_timeout_s`. DialError.

    With `linger_zero` closing drops what the peer has not taken: what was not delivered when a connection
    died is never delivered later. `user_timeout_ms` is TCP_USER_TIMEOUT (RFC 5482). `on_metadata` is told
    what the broker says of its cluster.
    """
    wire = await _open(
        host,
        port,
        security,
        timeout_s=connect_timeout_s,
        max_frame_bytes=max_frame_bytes,
        linger_zero=linger_zero,
        user_timeout_ms=user_timeout_ms,
    )
    connection = BrokerConnection(wire, client_id=client_id, node_id=node_id)
    where = format_host_port(host, port)
    try:
        async with asyncio.timeout(connect_timeout_s):
            await _enter(connection, security, where, connect_timeout_s)
            if expected_cluster_id is not None or on_metadata is not None:
                metadata = await _ask_cluster(
                    connection, security, where, expected_cluster_id, connect_timeout_s
                )
                if on_metadata is not None:
                    on_metadata(metadata)
    except BaseException as error:
        connection.abort()
        if isinstance(error, TimeoutError):
            raise ConnectFailed(f"{where} did not answer within {connect_timeout_s} s") from error
        raise
    return connection


async def _enter(connection: BrokerConnection, security: Security, where: str, timeout_s: float) -> None:
    with _as_dial_errors(security, where, "ApiVersions"):
        await connection.negotiate(timeout_s=timeout_s)
    if not security.protocol.uses_sasl:
        return
    if security.mechanism is None or security.username is None or security.password is None:
        raise AuthenticationFailed(f"{where}: SASL needs a mechanism, a user name and a password")
    with _as_dial_errors(security, where, "authentication"):
        await connection.authenticate(
            security.mechanism, security.username, security.password, timeout_s=timeout_s
        )


async def _ask_cluster(
    connection: BrokerConnection, security: Security, where: str, expected: str | None, timeout_s: float
) -> ClusterMetadata:
    with _as_dial_errors(security, where, "Metadata"):
        response = await connection.request(metadata_request(connection, []), timeout_s=timeout_s)
        metadata = read_metadata(response)
    if expected is not None and metadata.cluster_id != expected:
        raise ClusterIdMismatch(f"{where} belongs to cluster {metadata.cluster_id}, not to {expected}")
    return metadata


@contextmanager
def _as_dial_errors(security: Security, where: str, stage: str) -> Iterator[None]:
    try:
        yield
    except ConnectionClosed as end:
        # With TLS 1.3 the server judges our certificate after the handshake has ended for us.
        if isinstance(end.cause, ssl.SSLError):
            raise TlsFailed(f"{where}: {end.cause}") from end
        expected = "a certificate of ours" if security.protocol.uses_tls else "TLS or SASL"
        raise ConnectFailed(f"{where}: {end.reason} during {stage}; is {expected} expected?") from end
    except (ProtocolError, KafkaError) as error:
        raise ConnectFailed(f"{where}: {stage}: {error}") from error


async def _open(
    host: str,
    port: int,
    security: Security,
    *,
    timeout_s: float,
    max_frame_bytes: int,
    linger_zero: bool,
    user_timeout_ms: int | None,
) -> FrameConnection:
    where = format_host_port(host, port)
    loop = asyncio.get_running_loop()
    wire: FrameConnection | None = None
    connected: socket.socket | None = None
    try:
        async with asyncio.timeout(timeout_s):
            connected = await _connect(host, port)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if linger_zero:
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if user_timeout_ms is not None:
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, user_timeout_ms)
            wire = FrameConnection(max_frame_bytes=max_frame_bytes, name=where)
            # How many connections there are is up to us.
            wire.trusted_bytes = max_frame_bytes
            made = wire
            await loop.create_connection(
                lambda: made,
                sock=connected,
                ssl=security.ssl_context,
                server_hostname=host if security.ssl_context is not None else None,
            )
            return made
    except BaseException as error:
        if wire is not None:
            wire.abort()
        if connected is not None:
            connected.close()
        if isinstance(error, ssl.SSLError) or (
            isinstance(error, ConnectionError) and security.ssl_context is not None and connected is not None
        ):
            raise TlsFailed(f"{where}: TLS handshake: {error}") from error
        if isinstance(error, TimeoutError):
            raise ConnectFailed(f"{where}: no connection within {timeout_s} s") from error
        if isinstance(error, OSError):
            failed = NameNotFound if isinstance(error, socket.gaierror) else ConnectFailed
            raise failed(f"{where}: {error.strerror or error}") from error
        raise


async def _connect(host: str, port: int) -> socket.socket:
    """The first connection to one of the name's addresses; OSError."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (UnicodeError, OverflowError) as error:
        # A broker may advertise anything.
        raise OSError(f"not an address: {error}") from error
    if not found:
        raise OSError(f"{host} has no address")
    try:
        return await first_success(
            [functools.partial(_connect_to, *address) for address in _families_in_turn(found)],
            delay_s=_NEXT_ADDRESS_S,
            failures=(OSError,),
            discard=socket.socket.close,
        )
    except AllFailed as failed:
        raise failed.errors[-1] from None


async def _connect_to(
    family: int, kind: int, proto: int, _canonical: str, address: tuple[Any, ...]
) -> socket.socket:
    candidate = socket.socket(family, kind, proto)
    try:
        candidate.setblocking(False)
        await asyncio.get_running_loop().sock_connect(candidate, address)
    except BaseException:
        candidate.close()
        raise
    return candidate


def _families_in_turn(found: Sequence[_AddressInfo]) -> list[_AddressInfo]:
    """The resolver's order, IPv6 and IPv4 alternating: where one of them is broken the other comes soon."""
    first = [each for each in found if each[0] == found[0][0]]
    other = [each for each in found if each[0] != found[0][0]]
    pairs = itertools.zip_longest(first, other)
    return [each for pair in pairs for each in pair if each is not None]
