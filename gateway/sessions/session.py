"""A client session, from the first byte of its connection to the last.

Requests are taken one by one: read → gate by state → admit → decide → forward or reply. Those that need not
wait for anything are taken where their bytes arrive (`_take_at_once`), the others by a loop of its own
(`_serve`), never both at a time; the request path relays the upstream's responses. Who the client is finds
`authentication` out; LinkAttach hands the connection over to a cluster link.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog
from kio.schema.errors import ErrorCode

from gateway import observe
from gateway.security.java_hosts import java_host
from gateway.security.principals import Principal
from gateway.sessions import local_replies
from gateway.sessions.authentication import AuthenticationRefused, Authenticator
from gateway.sessions.client_gate import Authenticate, ClientGate
from gateway.sessions.request_path import Forward, Refuse, Reply, RequestPath
from gateway.sessions.services import SessionServices
from gateway.sessions.session_state import (
    ALLOWED_BEFORE_READY,
    SessionEvent,
    SessionState,
    next_state,
)
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import DialError
from gateway.wire import ConnectionClosed, FrameConnection
from protocol.acls import CLUSTER_NAME, Operation, ResourceType
from protocol.api_keys import ApiKey
from protocol.errors import FrameTooLarge, ProtocolError
from protocol.headers import RequestHeader, peek_request_header
from protocol.reverse import LinkAttachRequest

log = structlog.get_logger(__name__)

# After a client has gone, what it sent without waiting for an answer may still be on its way to the broker.
_FLUSH_UPSTREAM_S: Final = 5.0
# Of a client whom we know this much of a frame is allocated before it has come: a producer's usual largest.
_TRUSTED_BYTES: Final = (1 << 20) + (64 << 10)


class SessionRefused(Exception):
    """The client asked for what no answer can be given to; the connection is closed, as Kafka does."""

    def __init__(self, cause: str, reason: str) -> None:
        super().__init__(reason)
        self.cause = cause


class Session:
    """One client connection `wire` at the port of broker `node_id` (None: bootstrap). `run` ends with it."""

    def __init__(self, wire: FrameConnection, services: SessionServices, *, node_id: int | None) -> None:
        self.principal: Principal | None = None
        self._wire = wire
        self._services = services
        self._node_id = node_id
        self._state = SessionState.HANDSHAKE
        self._count = observe.traffic_of(services.listener).add_request
        # While `_serve` waits for requests: only then are they taken at once.
        self._resting: asyncio.Future[None] | None = None
        self._left_over: tuple[RequestHeader, bytearray] | None = None
        self._failure: Exception | None = None
        self._authenticator = Authenticator(wire, services.authentication)
        self._gate = ClientGate(services, node_id)
        self._path = RequestPath(
            wire,
            self._dial,
            max_in_flight=services.limits.max_in_flight,
            max_in_flight_bytes=services.limits.max_in_flight_bytes,
            listener=services.listener,
            on_upstream_end=self._upstream_ended,
        )
        self._end: tuple[str, str] | None = None
        self._give_up: asyncio.TimerHandle | None = None
        self._late: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._after: Callable[[], None] | None = None
        self._log = log.bind(listener=services.listener, peer=wire.peer, node_id=node_id)
        wire.on_readable = self._wake

    @property
    def state(self) -> SessionState:
        """Where the session is."""
        return self._state

    def idle_s(self) -> float:
        """Seconds since the client was last heard; 0 while it waits for an answer."""
        return time.monotonic() - self._wire.last_read_monotonic if self._path.waits_for_client else 0.0

    # --- life ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serves the client until either side ends the connection, or it was handed over to a link."""
        # The time that TLS took counts.
        self._expect_authentication(time.monotonic() - self._wire.opened_monotonic)
        try:
            self._open()
            await self._serve()
            if self._state is SessionState.DRAINING:
                await self._path.idle()
                self._ended("drained", "draining")
        except ConnectionClosed as end:
            self._ended("client_closed", end.reason)
        except SessionRefused as refusal:
            self._ended(refusal.cause, str(refusal))
        except FrameTooLarge as error:
            self._ended("frame_too_large" if error.looks_like is None else "not_kafka", str(error))
        except ProtocolError as error:
            self._ended("protocol_error", str(error))
        except DialError as error:
            observe.upstream_errors.labels(type(error).__name__).inc()
            self._ended("upstream_unreachable", str(error))
        finally:
            await self._finish()

    async def drain(self) -> None:
        """Takes no further request; `run` ends when those in flight are answered. Idempotent."""
        was = self._state
        self._change(SessionEvent.DRAIN)
        if was is not SessionState.DRAINING and self._state is SessionState.CLOSED:
            self.close("drained", "draining")
        self._wake()

    def close(self, cause: str, reason: str) -> None:
        """Ends the session after sending what was written. Idempotent."""
        if self._state is not SessionState.HANDED_OVER:
            self._ended(cause, reason)
            self._wire.close()
            self._path.wake()

    def abort(self) -> None:
        """Ends the session at once."""
        if self._state is not SessionState.HANDED_OVER:
            self._ended("aborted", "took too long to end")
            self._wire.abort()
            self._path.abort()

    def _open(self) -> None:
        if not self._services.serving():
            raise SessionRefused("not_ready", "the gateway has not read its state yet")
        try:
            principal = self._authenticator.open()
        except AuthenticationRefused as refusal:
            self._services.audit.login_refused(self._services.listener, self._wire.peer_host, str(refusal))
            raise SessionRefused("unauthenticated", str(refusal)) from None
        if principal is not None:
            self._change(SessionEvent.AUTHENTICATED)
            self._authenticated(principal, None)

    def _authenticated(self, principal: Principal, lifetime_s: float | None) -> None:
        for timer in (self._late, self._expiry):
            if timer is not None:
                timer.cancel()
        if lifetime_s is not None:
            self._expiry = asyncio.get_running_loop().call_later(
                lifetime_s, self._change, SessionEvent.EXPIRE
            )
        self.principal = principal
        self._gate.authenticated(principal, self._wire.peer_host)
        self._wire.max_frame_bytes = self._services.limits.max_frame_bytes
        self._wire.trusted_bytes = _TRUSTED_BYTES
        self._log = self._log.bind(principal=str(principal))

    def _change(self, event: SessionEvent) -> None:
        self._state = next_state(self._state, event)

    def _ended(self, cause: str, reason: str) -> None:
        if self._end is None:
            self._end = (cause, reason)

    async def _finish(self) -> None:
        for timer in (self._give_up, self._late, self._expiry):
            if timer is not None:
                timer.cancel()
        await self._path.linger(_FLUSH_UPSTREAM_S)
        self._path.close()
        self._wire.on_readable = None
        cause, reason = self._end or ("error", "internal error")
        if self._after is not None:
            cause = "handed_over"
            self._wire.charge_to(None)
            self._after()
        else:
            self._change(SessionEvent.CLOSE)
            self._wire.close()
        observe.disconnects.labels(self._services.listener, cause).inc()
        quiet = cause in {"client_closed", "drained", "idle", "handed_over"}
        if quiet:
            self._log.debug("session.ended", cause=cause, reason=reason)
        else:
            say = self._services.complaints.say
            say(self._log.warning, "session.ended", cause, cause=cause, reason=reason)
        if self._after is None:
            await self._wire.wait_closed()

    def _expect_authentication(self, spent_s: float = 0.0) -> None:
        timeout_s = self._services.limits.authentication_timeout_ms / 1000 - spent_s
        self._late = asyncio.get_running_loop().call_later(timeout_s, self._authentication_is_late)

    def _authentication_is_late(self) -> None:
        if self._state in ALLOWED_BEFORE_READY:
            self._authenticator.late()
            self.close("unauthenticated", "not authenticated in time")

    # --- requests --------------------------------------------------------------------------------------

    def _wake(self) -> None:
        resting = self._resting
        if resting is not None and not self._take_at_once():
            self._resting = None
            if not resting.done():
                resting.set_result(None)
        if self._wire.closed and self._give_up is None:
            # A broker that takes nothing must not hold a session whose client has gone.
            self._give_up = asyncio.get_running_loop().call_later(_FLUSH_UPSTREAM_S, self._path.abort)

    async def _serve(self) -> None:
        wire, path, gate = self._wire, self._path, self._gate
        while True:
            if self._failure is not None:
                raise self._failure
            left_over, self._left_over = self._left_over, None
            if left_over is not None:
                header, frame = left_over
            elif self._state is SessionState.DRAINING or self._state is SessionState.HANDED_OVER:
                return
            elif (next_frame := wire.next_frame()) is None:
                await self._rest()
                continue
            else:
                frame = next_frame
                header = peek_request_header(frame)
                self._count(header.api_key, header.api_version, len(frame))
            # What is left over was taken when the session was ready, perhaps before a drain began.
            if left_over is None and self._state is not SessionState.READY:
                await self._before_ready(header, frame)
                continue
            await path.admit(len(frame))
            if header.api_key == ApiKey.LINK_ATTACH:
                await self._attach(header, frame)
                continue
            decision = await gate.decide(header, frame)
            if isinstance(decision, Forward):
                await path.forward(header, decision)
                if decision.close_after is not None:
                    self._refuse(header, Refuse(decision.close_after))
            elif isinstance(decision, Reply):
                path.reply(header, decision.body)
            elif isinstance(decision, Authenticate):
                await self._authenticate(header, frame)
            else:
                self._refuse(header, decision)

    async def _rest(self) -> None:
        self._resting = asyncio.get_running_loop().create_future()
        try:
            await self._resting
        finally:
            self._resting = None

    def _take_at_once(self) -> bool:
        """Takes the requests that are there, until something must be waited for: that is left to `_serve`.

        True if nothing is left. Called where bytes arrive, so that a request costs no task.
        """
        wire, path, gate = self._wire, self._path, self._gate
        try:
            while self._state is SessionState.READY:
                frame = wire.next_frame()
                if frame is None:
                    return True
                header = peek_request_header(frame)
                self._count(header.api_key, header.api_version, len(frame))
                decision = gate.decide_at_once(header, frame) if path.admits(len(frame)) else None
                if decision is None:
                    self._left_over = header, frame
                    return False
                path.forward_now(header, decision)
        except Exception as error:  # noqa: BLE001 - raised by `_serve`
            self._failure = error
        return False

    def _refuse(self, header: RequestHeader, refusal: Refuse) -> None:
        observe.refusals.labels(observe.api_name(header.api_key), "closed").inc()
        raise SessionRefused("refused", refusal.reason)

    # --- authentication --------------------------------------------------------------------------------

    async def _before_ready(self, header: RequestHeader, frame: bytearray) -> None:
        if header.api_key not in ALLOWED_BEFORE_READY.get(self._state, ()):
            expired = self._state is SessionState.EXPIRED
            raise SessionRefused(
                "session_expired" if expired else "unauthenticated",
                f"{observe.api_name(header.api_key)} request while {self._state}",
            )
        await self._path.admit(len(frame))
        if header.api_key == ApiKey.LINK_ATTACH:
            self._path.reply(header, local_replies.link_attach_refused("Authenticate first."))
            raise SessionRefused("unauthenticated", f"LinkAttach of {len(frame)} bytes before authentication")
        if header.api_key != ApiKey.API_VERSIONS:
            await self._authenticate(header, frame)
            return
        decision = await self._gate.decide(header, frame)
        if not isinstance(decision, Reply):
            raise SessionRefused("refused", "ApiVersions cannot be answered")
        self._path.reply(header, decision.body)

    async def _authenticate(self, header: RequestHeader, frame: bytearray) -> None:
        was, began = self._state, time.monotonic()
        try:
            step = await self._authenticator.take(header, frame)
        except AuthenticationRefused as refusal:
            # From its beginning, so that how long it took to find the reason cannot be seen.
            self._services.audit.login_refused(self._services.listener, self._wire.peer_host, str(refusal))
            delay_s = self._services.limits.authentication_failure_delay_ms / 1000
            await asyncio.sleep(max(began + delay_s - time.monotonic(), 0))
            if refusal.body is not None and not self._wire.closed:
                self._path.reply(header, refusal.body)
            raise SessionRefused("unauthenticated", str(refusal)) from None
        if self._state is not was:
            raise SessionRefused("drained", "ended while authenticating")
        if step.event is not None:
            self._change(step.event)
        if step.principal is not None:
            self._authenticated(step.principal, step.lifetime_s)
        elif self._state is SessionState.REAUTHENTICATING and was is not self._state:
            self._expect_authentication()
        self._path.reply(header, step.body)

    # --- links -----------------------------------------------------------------------------------------

    async def _attach(self, header: RequestHeader, frame: bytearray) -> None:
        request = LinkAttachRequest.decode(header.api_version, memoryview(frame)[header.body_offset :])
        principal, attach, wire = self.principal, self._services.attach, self._wire
        if principal is None or attach is None or not self._may_attach(str(principal)):
            observe.refusals.labels("LINK_ATTACH", "principal").inc()
            self._log.warning("link.attach_refused", link=request.link_name)
            self._path.reply(
                header, local_replies.link_attach_refused(f"{principal} may not alter this cluster.")
            )
            return
        await self._path.idle()
        response = await attach.attach(principal, request)
        if self._state is not SessionState.READY:
            raise SessionRefused("drained", "ended while a link was attached")
        if response.error_code != ErrorCode.none:
            self._path.reply(header, response.encode())
            return
        self._change(SessionEvent.ATTACHED)
        self._path.reply(header, response.encode())
        self._after = lambda: attach.park(principal, request, wire, self._authenticator.left_s())

    def _may_attach(self, principal: str) -> bool:
        services = self._services
        acls = None if services.acls is None else services.acls()
        if acls is None:
            return principal in services.super_users
        host = java_host(self._wire.peer_host)
        return acls.allows(principal, host, Operation.ALTER, ResourceType.CLUSTER, CLUSTER_NAME)

    # --- upstream --------------------------------------------------------------------------------------

    async def _dial(self) -> BrokerConnection:
        with observe.upstream_dial_seconds.time():
            connection = await self._services.cluster.connect(self._node_id)
        connection.detach().charge_to(self._wire.account)
        return connection

    def _upstream_ended(self, error: Exception) -> None:
        if isinstance(error, ConnectionClosed):
            observe.upstream_errors.labels("closed").inc()
            self.close("upstream_closed", error.reason)
        elif isinstance(error, ProtocolError):
            observe.upstream_errors.labels("protocol").inc()
            # Nobody reads its answers any more: there is none to wait for at the end.
            self._path.abort()
            self.close("upstream_protocol_error", str(error))
        else:
            self._log.error("session.response_failed", error=repr(error), exc_info=error)
            self._path.abort()
            self.close("error", "internal error")
