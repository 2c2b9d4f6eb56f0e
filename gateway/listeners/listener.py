"""Accepts connections at the ports of one listener and runs a session on each.

Accepting goes on whatever happens: without file descriptors it pauses, a failed TLS handshake costs only its
client. Connections over a limit (`admission`) are closed at once, silent and endless ones in time
(`deadlines`).
"""

from __future__ import annotations

import asyncio
import errno
import functools
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, cast

import structlog

from gateway import observe
from gateway.byte_budget import ByteBudget
from gateway.complaints import Complaints
from gateway.config import LimitsConfig
from gateway.listeners.admission import Admission, Refusal
from gateway.listeners.deadlines import Sample, Watch, interval_s
from gateway.listeners.endpoints import Endpoint, bind
from gateway.listeners.entrance import Entrance, Network, NotEntered, Visitor
from gateway.tasks import Tasks
from gateway.wire import FrameConnection

log = structlog.get_logger(__name__)

_BACKLOG: Final = 1024
_ACCEPT_RETRY_S: Final = 0.1
# What accept(2) says when the machine, not the client, is at its end; see trio's serve_listeners.
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
# So many connections are looked at without a pause: with 10,000 it would be felt.
_LOOKED_AT_ONCE: Final = 500


class ListenerSession(Protocol):
    """What a listener needs of a session."""

    async def run(self) -> None: ...
    async def drain(self) -> None: ...
    def close(self, cause: str, reason: str) -> None: ...
    def abort(self) -> None: ...
    def idle_s(self) -> float: ...


class Listener:
    """One listener of the configuration: several ports, one TLS context.

    `admission` and `budget` are shared with the other listeners; `max_connections` is of this one alone.
    """

    def __init__(
        self,
        name: str,
        endpoints: tuple[Endpoint, ...],
        make_session: Callable[[FrameConnection, int | None], ListenerSession],
        *,
        limits: LimitsConfig,
        admission: Admission | None = None,
        max_connections: int | None = None,
        budget: ByteBudget | None = None,
        ssl_context: ssl.SSLContext | None = None,
        proxies: Sequence[Network] | None = None,
        server_names: Mapping[str, int | None] | None = None,
    ) -> None:
        self.name = name
        self._endpoints = endpoints
        self._make_session = make_session
        self._limits = limits
        self._entrance = Entrance(
            name,
            max_frame_bytes=limits.max_frame_bytes_before_authentication,
            timeout_s=limits.authentication_timeout_ms / 1000,
            ssl_context=ssl_context,
            proxies=proxies,
            server_names=server_names,
        )
        self._admission = Admission(limits) if admission is None else admission
        self._max_connections = max_connections
        self._budget = budget
        self._acceptors = Tasks(f"listener {name}")
        self._connections = Tasks(f"connections of {name}")
        self._sockets: list[socket.socket] = []
        self._entering: set[asyncio.Task[None]] = set()
        self._sessions: dict[ListenerSession, tuple[FrameConnection, Watch]] = {}
        self._complaints = Complaints()
        self._log = log.bind(listener=name)

    @property
    def bound(self) -> bool:
        """Whether all ports are open."""
        return bool(self._sockets)

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

    @property
    def ports(self) -> dict[int | None, int]:
        """The bound port per node id, None for the bootstrap port."""
        return {
            endpoint.node_id: bound.getsockname()[1]
            for endpoint, bound in zip(self._endpoints, self._sockets, strict=True)
        }

    async def start(self) -> None:
        """Binds every port, or none: OSError says which could not be had."""
        bound: list[socket.socket] = []
        try:
            for endpoint in self._endpoints:
                bound.append(bind(endpoint, backlog=_BACKLOG))  # noqa: PERF401 - those before a failure get closed
        except OSError:
            for each in bound:
                each.close()
            raise
        self._sockets = bound
        for endpoint, each in zip(self._endpoints, bound, strict=True):
            self._acceptors.spawn(self._accept(each, endpoint), name=f"accept {endpoint.port}")
        self._acceptors.spawn(self._watch_deadlines(), name="deadlines")
        self._log.info("listener.bound", host=self._endpoints[0].host, ports=sorted(self.ports.values()))

    def abort(self) -> None:
        """Ends all sessions at once."""
        for session in list(self._sessions):
            session.abort()

    async def stop_accepting(self) -> None:
        """Closes the ports; sessions go on. Idempotent."""
        await self._acceptors.close()
        for each in self._sockets:
            each.close()
        self._sockets = []

    async def drain(self, timeout_s: float) -> None:
        """Closes the ports, lets sessions finish what is in flight, and ends those that take longer.

        Connections that are no session yet have nothing in flight: they end at once.
        """
        await self.stop_accepting()
        for task in self._entering:
            task.cancel()
        for session in list(self._sessions):
            await session.drain()
        if not await self._connections.wait(timeout_s):
            self._log.warning("listener.drain_incomplete", sessions=len(self._sessions), timeout_s=timeout_s)
        self.abort()
        await self._connections.close()

    async def _accept(self, listening: socket.socket, endpoint: Endpoint) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listening)
            except OSError as error:
                # Anything else is about one connection that is gone already (ECONNABORTED and the like).
                if error.errno in _OUT_OF_RESOURCES:
                    self._complaints.say(
                        self._log.error,
                        "listener.cannot_accept",
                        error=str(error),
                        connections=len(self._connections),
                    )
                    await asyncio.sleep(_ACCEPT_RETRY_S)
                continue
            refusal = self._admission.enter(self.name, self._max_connections)
            if refusal is not None:
                accepted.close()
                self._refused(refusal, address[0])
                continue
            serving = self._connections.spawn(
                self._serve(accepted, address[0], endpoint.node_id), name=f"{address[0]}:{address[1]}"
            )
            self._entering.add(serving)
            serving.add_done_callback(functools.partial(self._left, accepted))

    def _left(self, accepted: socket.socket, serving: asyncio.Task[None]) -> None:
        # Here and not in a `finally`, which a task that is cancelled before its first step does not come to.
        self._admission.leave(self.name)
        if serving in self._entering:
            self._entering.discard(serving)
            accepted.close()

    def _refused(self, refusal: Refusal, client: str) -> None:
        observe.connections_refused.labels(self.name, refusal.limit).inc()
        self._complaints.say(
            self._log.warning,
            "connection.refused",
            refusal.limit,
            limit=refusal.limit,
            value=refusal.value,
            client=client,
            connections=len(self._admission),
        )

    async def _serve(self, accepted: socket.socket, peer: str, node_id: int | None) -> None:
        observe.connections_total.labels(self.name).inc()
        with observe.connections_open.labels(self.name).track_inprogress():
            try:
                visitor = await self._entrance.identify(accepted)
            except NotEntered as error:
                self._not_entered(error, peer)
                return
            client = self._admission.client_group(visitor.host)
            refusal = self._admission.claim(client)
            if refusal is not None:
                accepted.close()
                self._refused(refusal, client)
                return
            try:
                await self._run_session(accepted, visitor, node_id)
            finally:
                self._admission.unclaim(client)

    async def _run_session(self, accepted: socket.socket, visitor: Visitor, node_id: int | None) -> None:
        try:
            arrival = await self._entrance.open(accepted, visitor, node_id)
        except NotEntered as error:
            self._not_entered(error, visitor.host)
            return
        if self._budget is not None:
            arrival.wire.charge_to(self._budget.open())
        session = self._make_session(arrival.wire, arrival.node_id)
        self._entering.discard(cast("asyncio.Task[None]", asyncio.current_task()))
        self._sessions[session] = (arrival.wire, Watch())
        try:
            await session.run()
        finally:
            del self._sessions[session]

    def _not_entered(self, error: NotEntered, peer: str) -> None:
        observe.connections_refused.labels(self.name, error.reason).inc()
        log, event = self._log.info, "connection.handshake_failed"
        if error.loud:
            log, event = self._log.warning, "connection.refused"
        self._complaints.say(log, event, error.reason, peer=peer, reason=error.reason, error=str(error))

    async def _watch_deadlines(self) -> None:
        while True:
            await asyncio.sleep(interval_s(self._limits))
            for number, (session, (wire, watch)) in enumerate(list(self._sessions.items())):
                if number % _LOOKED_AT_ONCE == _LOOKED_AT_ONCE - 1:
                    await asyncio.sleep(0)
                now = time.monotonic()
                sample = Sample(session.idle_s(), wire.frames_received, wire.in_frame, wire.unsent_s(now))
                overdue = watch.judge(sample, self._limits, now)
                if overdue is not None:
                    session.close(*overdue)
