"""A Kafka cluster as we see it: how its brokers are reached, and one kept connection to each for requests.

Whoever polls (Fetch, Produce) takes a connection of its own by `connect`: a broker works on one request per
connection at a time, so that a long poll would hold up everything behind it.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final, Protocol, TypeAlias

import structlog
from kio.schema.errors import ErrorCode

from gateway import observe
from gateway.config import format_host_port, parse_host_port
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.dialer import DEFAULT_MAX_FRAME_BYTES, Security, dial
from gateway.upstreams.errors import ClusterIdMismatch, ConnectFailed, DialError, TlsFailed
from gateway.upstreams.metadata import (
    ClusterMetadata,
    PartitionMetadata,
    TopicMetadata,
    metadata_request,
    read_metadata,
)
from gateway.upstreams.race import AllFailed, first_success
from gateway.wire import ConnectionClosed

__all__ = ["Cluster", "ClusterMetadata", "Connector", "DialConnector", "PartitionMetadata", "TopicMetadata"]

log = structlog.get_logger(__name__)

Address: TypeAlias = tuple[str, int]
# A message, or what makes it for the versions that the connection speaks.
Request: TypeAlias = Any | Callable[[BrokerConnection], Any]

DEFAULT_USER_TIMEOUT_MS: Final = 10_000
# For connections whose owner's right to send may end: what was sent must be delivered soon, or never.
LINGER_ZERO_USER_TIMEOUT_MS: Final = 2_500
# Many connections may find the same broker gone at once; one look at the cluster serves them all.
_REFRESH_INTERVAL_S: Final = 1.0
_RETRY_DELAY_S: Final = 0.2
# A broker that has not answered by then does not keep us from asking the next one too.
_NEXT_CANDIDATE_S: Final = 1.0
_ALARM_EVERY_S: Final = 60.0


class Connector(Protocol):
    """A way to the brokers of a cluster."""

    async def connect(self, node_id: int | None, *, linger_zero: bool = False) -> BrokerConnection:
        """A new connection to that broker, None: to any; DialError. The caller owns it."""
        ...


class DialConnector:
    """Dials brokers, whose addresses it learns from the cluster, resolving names anew each time.

    The first connection decides which cluster this is, unless `expected_cluster_id` does; every later one is
    checked against it.
    """

    def __init__(
        self,
        bootstrap_servers: Sequence[str | Address],
        security: Security,
        *,
        client_id: str = "causeway",
        connect_timeout_s: float = 5,
        expected_cluster_id: str | None = None,
        max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES,
        user_timeout_ms: int | None = DEFAULT_USER_TIMEOUT_MS,
    ) -> None:
        self._bootstrap = [
            parse_host_port(server) if isinstance(server, str) else server for server in bootstrap_servers
        ]
        if not self._bootstrap:
            raise ValueError("no bootstrap servers")
        self._security = security
        self._client_id = client_id
        self._connect_timeout_s = connect_timeout_s
        self._max_frame_bytes = max_frame_bytes
        self._user_timeout_ms = user_timeout_ms
        self._brokers: Mapping[int, Address] = {}
        self._failed_at: dict[Address, float] = {}
        self._alarmed_at: dict[Address, float] = {}
        self._turn = 0
        self._refresh_lock = asyncio.Lock()
        self._refreshed_at = float("-inf")
        self.cluster_id = expected_cluster_id

    def addresses(self) -> list[str]:
        """Where the brokers are, as far as they are known, else the bootstrap servers; as `host:port`."""
        return [format_host_port(*address) for address in self._brokers.values() or self._bootstrap]

    async def connect(self, node_id: int | None, *, linger_zero: bool = False) -> BrokerConnection:
        """A new connection; a broker that is not where it was is looked for through the others. DialError."""
        if node_id is None:
            return await self._connect_any(linger_zero=linger_zero)
        address = self._brokers.get(node_id)
        if address is None:
            await self._refresh()
            address = self._address(node_id)
        try:
            connection = await self._dial(address, node_id, linger_zero=linger_zero)
        except (ConnectFailed, TlsFailed) as error:
            await self._refresh_after(error)
            moved = self._address(node_id)
            if moved == address:
                raise
        else:
            moved = self._address_after(connection, node_id)
            if moved == address:
                return connection
            # Another broker of the cluster has taken the address over.
            connection.abort()
        return await self._dial(moved, node_id, linger_zero=linger_zero)

    def _address(self, node_id: int) -> Address:
        address = self._brokers.get(node_id)
        if address is None:
            raise ConnectFailed(f"cluster {self.cluster_id} has no broker {node_id} at present")
        return address

    def _address_after(self, connection: BrokerConnection, node_id: int) -> Address:
        try:
            return self._address(node_id)
        except ConnectFailed:
            connection.abort()
            raise

    async def _refresh_after(self, error: DialError) -> None:
        try:
            await self._refresh()
        except DialError:
            raise error from None

    async def _refresh(self) -> None:
        asked_at = time.monotonic()
        async with self._refresh_lock:
            if self._refreshed_at < asked_at - _REFRESH_INTERVAL_S:
                (await self._connect_any()).close()

    async def _connect_any(self, *, linger_zero: bool = False) -> BrokerConnection:
        self._turn += 1
        known = list(dict.fromkeys([*self._brokers.values(), *self._bootstrap]))
        turn = self._turn % len(known)
        # What failed last is tried last.
        candidates = sorted(
            known[turn:] + known[:turn], key=lambda address: self._failed_at.get(address, 0.0)
        )
        try:
            return await first_success(
                [functools.partial(self._dial, each, None, linger_zero=linger_zero) for each in candidates],
                delay_s=_NEXT_CANDIDATE_S,
                failures=(ConnectFailed, TlsFailed, ClusterIdMismatch),
                discard=BrokerConnection.abort,
            )
        except AllFailed as failed:
            serious = [error for error in failed.errors if not isinstance(error, ConnectFailed)]
            raise type((serious or failed.errors)[0])(str(failed)) from None

    async def _dial(self, address: Address, node_id: int | None, *, linger_zero: bool) -> BrokerConnection:
        began = time.monotonic()
        try:
            connection = await dial(
                *address,
                self._security,
                client_id=self._client_id,
                node_id=node_id,
                connect_timeout_s=self._connect_timeout_s,
                max_frame_bytes=self._max_frame_bytes,
                linger_zero=linger_zero,
                user_timeout_ms=LINGER_ZERO_USER_TIMEOUT_MS if linger_zero else self._user_timeout_ms,
                expected_cluster_id=self.cluster_id,
                on_metadata=self._learn,
            )
        except DialError as error:
            self._failed_at[address] = time.monotonic()
            if isinstance(error, ClusterIdMismatch):
                self._alarm(address, error)
            raise
        except asyncio.CancelledError:
            # Others were faster by far: not the one to begin with the next time.
            if (now := time.monotonic()) - began >= _NEXT_CANDIDATE_S:
                self._failed_at[address] = now
            raise
        self._failed_at.pop(address, None)
        return connection

    def _learn(self, metadata: ClusterMetadata) -> None:
        if self.cluster_id is None:
            self.cluster_id = metadata.cluster_id
        elif metadata.cluster_id != self.cluster_id:
            # Learned from another connection while this one was made.
            raise ClusterIdMismatch(f"reached cluster {metadata.cluster_id}, not {self.cluster_id}")
        if metadata.brokers:
            self._brokers = metadata.brokers
            current = {*metadata.brokers.values(), *self._bootstrap}
            self._failed_at = {address: at for address, at in self._failed_at.items() if address in current}
            self._alarmed_at = {address: at for address, at in self._alarmed_at.items() if address in current}
        self._refreshed_at = time.monotonic()

    def _alarm(self, address: Address, error: ClusterIdMismatch) -> None:
        """Requests would go to somebody else's data: nothing is more urgent for an operator."""
        observe.wrong_cluster.inc()
        now = time.monotonic()
        if now - self._alarmed_at.get(address, float("-inf")) >= _ALARM_EVERY_S:
            self._alarmed_at[address] = now
            log.critical("upstream.wrong_cluster", address=format_host_port(*address), error=str(error))


class Cluster:
    """Requests to the brokers behind a connector. DialError, ConnectionClosed, TimeoutError, DecodeError."""

    def __init__(self, connector: Connector) -> None:
        self.cluster_id: str | None = None
        self._connector = connector
        self._kept: dict[_Lane, BrokerConnection] = {}
        self._locks: dict[_Lane, asyncio.Lock] = {}
        self._closed = False

    async def start(self) -> None:
        """Reaches the cluster once, so that its id is known."""
        await self.metadata([])

    async def connect(self, node_id: int | None, *, linger_zero: bool = False) -> BrokerConnection:
        """A new connection that the caller owns; None: to any broker. DialError."""
        return await self._connector.connect(node_id, linger_zero=linger_zero)

    async def request(
        self,
        message: Request,
        *,
        node_id: int | None = None,
        timeout_s: float = 30,
        idempotent: bool = False,
    ) -> Any:
        """Sends a message, or what a function makes for the connection, over the kept one to that broker.

        Only an `idempotent` one is sent again, once, if the connection ends before the response has come.
        """
        return await self._request((node_id, False), message, timeout_s, idempotent=idempotent)

    async def _request(self, lane: _Lane, message: Request, timeout_s: float, *, idempotent: bool) -> Any:
        connection = await self._connection(lane)
        try:
            return await connection.request(_message_for(connection, message), timeout_s=timeout_s)
        except ConnectionClosed:
            if not idempotent or self._closed:
                raise
        connection = await self._connection(lane)
        return await connection.request(_message_for(connection, message), timeout_s=timeout_s)

    async def _connection(self, lane: _Lane) -> BrokerConnection:
        async with self._locks.setdefault(lane, asyncio.Lock()):
            self._check_open()
            connection = self._kept.get(lane)
            if connection is None or connection.closed:
                if connection is not None:
                    connection.close()
                connection = await self._connector.connect(lane[0])
                self._kept[lane] = connection
                # One that was closed meanwhile has to give back what it got too late.
                if self._closed:
                    await self._drop_kept()
                self._check_open()
            return connection

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectFailed("the client of this cluster is closed")

    async def metadata(self, topics: Sequence[str] | None, *, timeout_s: float = 30) -> ClusterMetadata:
        """About these topics, all (None) or none (empty); makes no topics. ClusterIdMismatch, KafkaError."""

        def message(connection: BrokerConnection) -> Any:
            return metadata_request(connection, topics)

        metadata = read_metadata(await self.request(message, timeout_s=timeout_s, idempotent=True))
        if self.cluster_id is None:
            self.cluster_id = metadata.cluster_id
        elif metadata.cluster_id != self.cluster_id:
            await self._drop_kept()
            error = ClusterIdMismatch(f"reached cluster {metadata.cluster_id}, not {self.cluster_id}")
            observe.wrong_cluster.inc()
            log.critical("upstream.wrong_cluster", error=str(error))
            raise error
        return metadata

    async def controller_request(self, message: Request, *, timeout_s: float = 30) -> Any:
        """Sends a message to the controller, again as long as it is elsewhere; a sent one is not repeated."""
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            try:
                controller = (await self.metadata([], timeout_s=max(left, 1))).controller_id
                lane = (controller if controller >= 0 else None, True)
                await self._connection(lane)
            except ConnectFailed:
                if time.monotonic() + _RETRY_DELAY_S > deadline:
                    raise
                await asyncio.sleep(_RETRY_DELAY_S)
                continue
            response = await self._request(lane, message, max(left, 1), idempotent=False)
            misplaced = ErrorCode.not_controller in _error_codes(response)
            if not misplaced or time.monotonic() + _RETRY_DELAY_S > deadline:
                return response
            await asyncio.sleep(_RETRY_DELAY_S)

    async def close(self) -> None:
        """Closes the kept connections; those from `connect` belong to their callers. Idempotent."""
        self._closed = True
        await self._drop_kept()

    async def _drop_kept(self) -> None:
        kept, self._kept = self._kept, {}
        for connection in kept.values():
            connection.close()
        for connection in kept.values():
            await connection.wait_closed()


# Node id, and whether it is for the controller: making topics takes long, and replies come in order.
_Lane: TypeAlias = tuple[int | None, bool]


def _message_for(connection: BrokerConnection, message: Request) -> Any:
    return message(connection) if callable(message) else message


def _error_codes(part: object) -> Iterator[ErrorCode]:
    if isinstance(part, ErrorCode):
        yield part
    elif isinstance(part, tuple):
        for item in part:
            yield from _error_codes(item)
    elif is_dataclass(part):
        for field in fields(part):
            yield from _error_codes(getattr(part, field.name))
