"""The source half of a source-initiated link: dials the destination gateway and serves what it asks.

Every slot keeps one connection parked, two for each gateway that shares the link over there: dial like any
client, `LinkAttach`, answer keep-alives, and when `LinkBind` comes hand the connection to a bound session and
dial the next. Nothing here listens.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final
from uuid import UUID, uuid4

import structlog

from gateway.config import format_host_port, parse_host_port
from gateway.links.link_errors import kind_of
from gateway.links.requests import LinkErrorKind
from gateway.tasks import Tasks
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.dialer import Security, dial
from gateway.upstreams.errors import AuthenticationFailed, DialError, TlsFailed
from gateway.wire import ConnectionClosed, FrameConnection
from protocol.api_keys import ApiKey
from protocol.api_versions import encode_api_versions
from protocol.errors import DecodeError, ProtocolError
from protocol.headers import encode_response_header, peek_request_header
from protocol.reverse import (
    ANY_BROKER,
    DIAL_AGAIN,
    VERSION,
    LinkAttachRequest,
    LinkAttachResponse,
    LinkBindRequest,
    LinkBindResponse,
)

log = structlog.get_logger(__name__)

# For each gateway that shares the link over there.
PARKED_SLOTS: Final = 2
MOST_INSTANCES: Final = 16
DIALS_IN_VAIN: Final = 3
# The destination asks every 2 s; a connection that is silent for so long is dead.
SILENCE_TIMEOUT_S: Final = 10.0
ATTACH_TIMEOUT_S: Final = 10.0
BACKOFF_BASE_S: Final = 1.0
# A cut path must carry the link again within 15 s of its return, so waiting may not take longer than this.
BACKOFF_CAP_S: Final = 8.0
REFUSED_BACKOFF_S: Final = 30.0
STABLE_AFTER_S: Final = 5.0
# The kernel spreads connections evenly over processes: so many dials miss one of n with less than e⁻¹².
DIALS_PER_INSTANCE: Final = 12
MOST_DIALS: Final = 200
DIAL_AGAIN_WITHIN_S: Final = 0.05
USER_TIMEOUT_MS: Final = 10_000
# A destination needs a few per source broker; each costs a connection to a broker of ours.
MAX_BOUND: Final = 256
# Nothing but ApiVersions and LinkBind is asked of a parked connection.
PARKED_FRAME_BYTES: Final = 64 << 10
POLICY_VIOLATION: Final = 44

ServeBound = Callable[[FrameConnection, int | None], Awaitable[None]]
Versions = Mapping[int, tuple[int, int]]


class AttachRefused(DialError):
    """The destination gateway answered LinkAttach with an error; `code` is Kafka's.

    `instances` says how many processes share the address that was dialled.
    """

    def __init__(self, code: int, message: str, instances: int = 1) -> None:
        super().__init__(message)
        self.code = code
        self.instances = instances

    @property
    def dial_again(self) -> bool:
        """Whether another connection may reach a process that takes the link."""
        return self.code == DIAL_AGAIN


class _LoginEnds(Exception):
    """The login at the destination is about to end: a connection with a new one takes over."""


class SourceHalf:
    """Keeps connections parked at the destination of one link, for as long as `run` runs."""

    def __init__(
        self,
        *,
        link_name: str,
        link_id: str | None,
        source_cluster_id: str,
        bootstrap_servers: Sequence[str],
        security: Security,
        versions: Callable[[], Versions],
        serve_bound: ServeBound,
    ) -> None:
        self.link_id = link_id
        self.parked = 0
        self.bound = 0
        self.error: str | None = "not attached yet"
        self.error_kind = LinkErrorKind.TIMEOUT_ERROR
        self._link_name = link_name
        self._source_cluster_id = source_cluster_id
        self._bootstrap_servers = [parse_host_port(server) for server in bootstrap_servers]
        self._security = security
        self._versions = versions
        self._serve_bound = serve_bound
        self._agent_id: UUID = uuid4()
        self._agent_epoch = time.time_ns()
        self._turn = 0
        # How many gateways share the link over there, and how many slots run for them.
        self._instances = 1
        self._slots: set[int] = set()
        self._tasks = Tasks(f"source half of {link_name}")
        self._log = log.bind(link=link_name)

    async def run(self) -> None:
        """Park and serve until cancelled; then every connection of the link is closed."""
        try:
            self._fill_slots()
            await asyncio.Event().wait()
        finally:
            await self._tasks.close()

    @property
    def _wanted(self) -> int:
        return PARKED_SLOTS * min(self._instances, MOST_INSTANCES)

    def _fill_slots(self) -> None:
        for slot in sorted(set(range(self._wanted)) - self._slots):
            self._slots.add(slot)
            self._tasks.spawn(self._keep_parked(slot), name=f"slot {slot}")

    async def attach(self) -> tuple[BrokerConnection, LinkAttachResponse]:
        """Dial until the process with the links is reached, and attach; the caller owns the connection.

        DialError; AttachRefused is its no.
        """
        dialled = 0
        while True:
            dialled += 1
            try:
                return await self._attach_once()
            except AttachRefused as error:
                if not error.dial_again or dialled >= min(DIALS_PER_INSTANCE * error.instances, MOST_DIALS):
                    raise
            await asyncio.sleep(random.uniform(0, DIAL_AGAIN_WITHIN_S))  # noqa: S311 - no secret

    async def _attach_once(self) -> tuple[BrokerConnection, LinkAttachResponse]:
        host, port = self._bootstrap_servers[self._turn % len(self._bootstrap_servers)]
        self._turn += 1
        connection = await dial(
            host,
            port,
            self._security,
            client_id=f"causeway-link-{self._link_name}",
            user_timeout_ms=USER_TIMEOUT_MS,
        )
        try:
            request = LinkAttachRequest(
                self._link_name, self.link_id, self._source_cluster_id, self._agent_id, self._agent_epoch
            )
            body = await connection.request_raw(
                ApiKey.LINK_ATTACH, VERSION, [request.encode()], timeout_s=ATTACH_TIMEOUT_S
            )
            response = LinkAttachResponse.decode(VERSION, body)
            if response.error_code:
                text = response.error_message or "no reason given"
                raise AttachRefused(response.error_code, text, max(response.instance_count, 1))
        except ConnectionClosed as error:
            connection.abort()
            raise DialError(
                f"{format_host_port(host, port)} closed the connection at LinkAttach;"
                " is it a Causeway gateway?"
            ) from error
        except BaseException:
            connection.abort()
            raise
        return connection, response

    async def _keep_parked(self, slot: int) -> None:
        failures = 0
        while slot < self._wanted:
            started = time.monotonic()
            try:
                await self._park_once(slot)
                failures = 0
                continue
            except Exception as error:  # noqa: BLE001 - a slot that ended would not be missed
                if time.monotonic() - started >= STABLE_AFTER_S + SILENCE_TIMEOUT_S:
                    failures = 0
                failures += 1
                again = isinstance(error, AttachRefused) and error.dial_again
                if again and self.parked:
                    # Those that were reached have enough: one of them cannot be reached from here.
                    refused = failures > DIALS_IN_VAIN
                else:
                    if self.error is None or failures == 1:
                        self._log.warning("link_not_attached", error=str(error))
                    self.error, self.error_kind = str(error), kind_of(error)
                    # One that is to be dialled again is being started, or chance was against us.
                    refused = not again and isinstance(
                        error, (AuthenticationFailed, AttachRefused, TlsFailed)
                    )
            cap = REFUSED_BACKOFF_S if refused else min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** min(failures, 8))
            # Full jitter, except that a refusal waits at least half its time.
            await asyncio.sleep(random.uniform(cap / 2 if refused else 0, cap))  # noqa: S311 - no secret
        self._slots.discard(slot)

    async def _park_once(self, slot: int) -> None:
        """Attach, wait to be bound, and leave the connection to its session."""
        connection, response = await self.attach()
        self.link_id = self.link_id or response.link_id
        self._instances = max(response.instance_count, 1)
        self._fill_slots()
        if slot >= self._wanted:
            # There are fewer gateways than when it dialled.
            connection.abort()
            return
        if self.error is not None:
            self._log.info("link_attached", instance=response.instance_id)
        self.error = None
        wire = connection.detach()
        wire.max_frame_bytes = PARKED_FRAME_BYTES
        self.parked += 1
        try:
            node_id = await self._wait_for_bind(wire, connection.login_due_at)
        except _LoginEnds:
            wire.close()
            return
        except BaseException:
            wire.abort()
            raise
        finally:
            self.parked -= 1
        self._tasks.spawn(self._serve(wire, node_id), name=f"bound to {node_id}")

    async def _wait_for_bind(self, wire: FrameConnection, due_at: float) -> int | None:
        while True:
            if time.monotonic() >= due_at:
                raise _LoginEnds
            frame = await wire.read_frame(SILENCE_TIMEOUT_S)
            header = peek_request_header(frame)
            if header.api_key == ApiKey.API_VERSIONS:
                wire.write_frame(
                    *encode_api_versions(header.api_version, header.correlation_id, self._versions())
                )
            elif header.api_key == ApiKey.LINK_BIND:
                request = LinkBindRequest.decode(header.api_version, memoryview(frame)[header.body_offset :])
                response = LinkBindResponse(0, None)
                if self.bound >= MAX_BOUND:
                    text = f"{MAX_BOUND} connections are bound already"
                    response = LinkBindResponse(POLICY_VIOLATION, text)
                wire.write_frame(
                    encode_response_header(header.api_key, header.api_version, header.correlation_id),
                    response.encode(),
                )
                if response.error_code:
                    await wire.drain(SILENCE_TIMEOUT_S)
                    raise ProtocolError(f"the destination binds more than {MAX_BOUND} connections")
                return None if request.node_id == ANY_BROKER else request.node_id
            else:
                raise DecodeError(f"API key {header.api_key} on a parked connection")
            # One that asks and does not read is given no more.
            await wire.drain(SILENCE_TIMEOUT_S)

    async def _serve(self, wire: FrameConnection, node_id: int | None) -> None:
        self.bound += 1
        try:
            await self._serve_bound(wire, node_id)
        finally:
            self.bound -= 1
            wire.abort()
