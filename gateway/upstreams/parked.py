"""Connections that a source half has parked here: the way to a source that dials us.

A parked connection is kept alive with ApiVersions requests. `LinkBind` turns it into a connection to one
source broker; to whoever uses it, it is a connection like any that was dialled.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from gateway.tasks import Tasks
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import ConnectFailed, KafkaError
from gateway.wire import ConnectionClosed, FrameConnection
from protocol.errors import ProtocolError
from protocol.reverse import ANY_BROKER, VERSION, LinkBindRequest, LinkBindResponse

log = structlog.get_logger(__name__)

KEEPALIVE_INTERVAL_S: Final = 2.0
KEEPALIVE_TIMEOUT_S: Final = 6.0
BIND_TIMEOUT_S: Final = 10.0
BIND_ATTEMPTS: Final = 3
# A source half keeps at least two; more than this is a fault or an attack.
MAX_PARKED: Final = 64
# Of how many agents the newest epoch is kept in mind; every start of a source gateway is a new one.
MAX_AGENTS: Final = 1024
# Before it is bound a connection has only to answer ApiVersions and LinkBind.
MAX_PARKED_FRAME_BYTES: Final = 64 * 1024
MAX_FRAME_BYTES: Final = 100 * 1024 * 1024


@dataclass(slots=True, eq=False)
class _Parked:
    wire: FrameConnection
    connection: BrokerConnection
    agent_id: UUID
    agent_epoch: int


class ParkedPool:
    """The parked connections of one link; a `Connector` to its source."""

    def __init__(self, link_name: str) -> None:
        self._link_name = link_name
        self._log = log.bind(link=link_name)
        self._tasks = Tasks(f"parked connections of {link_name}")
        self._parked: deque[_Parked] = deque()
        self._epochs: dict[UUID, int] = {}
        self._bound: set[BrokerConnection] = set()
        self._arrived = asyncio.Condition()
        self._closed = False

    @property
    def count(self) -> int:
        """How many connections wait to be used."""
        return len(self._parked)

    def count_of(self, agent_id: UUID) -> int:
        """How many of them are of this agent."""
        return sum(parked.agent_id == agent_id for parked in self._parked)

    def recall(self) -> None:
        """End the oldest of every agent: to dial again is how a source half learns what has changed here."""
        oldest = {parked.agent_id: parked for parked in reversed(self._parked)}
        for parked in oldest.values():
            self._drop(parked)

    def refusal(self, agent_id: UUID, agent_epoch: int) -> str | None:
        """Why an attach of this agent cannot be taken, or None."""
        if self._closed:
            return "the link is going away"
        if agent_epoch < self._epochs.get(agent_id, agent_epoch):
            return f"a newer instance of agent {agent_id} is attached"
        if len(self._parked) >= MAX_PARKED:
            return f"{MAX_PARKED} connections are parked already"
        return None

    def park(
        self, wire: FrameConnection, agent_id: UUID, agent_epoch: int, lifetime_s: float | None = None
    ) -> None:
        """Take over a connection whose LinkAttach was answered; a newer epoch replaces the agent's older.

        After `lifetime_s` the login is over that it was made with, and so is the connection, bound or not.
        """
        if self.refusal(agent_id, agent_epoch) is not None:
            # Others were quicker between the question and now.
            wire.abort()
            return
        if agent_epoch > self._epochs.get(agent_id, agent_epoch - 1):
            self._epochs.pop(agent_id, None)
            self._epochs[agent_id] = agent_epoch
            if len(self._epochs) > MAX_AGENTS:
                del self._epochs[next(iter(self._epochs))]
            for old in [p for p in self._parked if p.agent_id == agent_id]:
                self._drop(old)
        wire.max_frame_bytes = MAX_PARKED_FRAME_BYTES
        connection = BrokerConnection(wire, client_id="causeway-link", node_id=None)
        parked = _Parked(wire, connection, agent_id, agent_epoch)
        self._parked.append(parked)
        self._tasks.spawn(self._keep_alive(parked), name=f"keep alive {connection.peer}")
        if lifetime_s is not None:
            asyncio.get_running_loop().call_later(lifetime_s, self._expire, parked)

    async def _keep_alive(self, parked: _Parked) -> None:
        try:
            while parked in self._parked:
                await parked.connection.negotiate(timeout_s=KEEPALIVE_TIMEOUT_S)
                async with self._arrived:
                    self._arrived.notify_all()
                await asyncio.sleep(KEEPALIVE_INTERVAL_S)
        except (ConnectionClosed, KafkaError, ProtocolError, TimeoutError, OSError) as error:
            if parked in self._parked:
                self._log.info("parked_connection_lost", peer=parked.connection.peer, error=str(error))
                self._drop(parked)

    def _expire(self, parked: _Parked) -> None:
        if not parked.connection.closed:
            self._log.info("link_login_expired", peer=parked.connection.peer)
        self._drop(parked)

    def drop_all(self, reason: str) -> None:
        """Ends every connection at once, bound ones too; new ones may come."""
        if self._parked or self._bound:
            self._log.warning("link_connections_dropped", reason=reason)
        for parked in list(self._parked):
            self._drop(parked)
        for connection in self._bound:
            connection.abort()
        self._bound.clear()

    def _drop(self, parked: _Parked) -> None:
        if parked in self._parked:
            self._parked.remove(parked)
        parked.connection.abort()

    async def connect(
        self,
        node_id: int | None,
        *,
        linger_zero: bool = False,  # noqa: ARG002 - nothing is written to a source
    ) -> BrokerConnection:
        """A connection to a source broker (None: to any). DialError if none can be had in time."""
        deadline = time.monotonic() + BIND_TIMEOUT_S
        last: Exception | None = None
        for _ in range(BIND_ATTEMPTS):
            parked = await self._take(deadline)
            connection = parked.connection
            try:
                await self._bind(connection, node_id)
            except (ConnectionClosed, KafkaError, ProtocolError, TimeoutError, OSError) as error:
                connection.abort()
                self._log.info("parked_connection_lost", peer=connection.peer, error=str(error))
                last = error
                continue
            except BaseException:
                # Nobody else knows of it any more.
                connection.abort()
                raise
            if self._closed:
                connection.abort()
                raise ConnectFailed(f"cluster link '{self._link_name}' is going away")
            parked.wire.max_frame_bytes = MAX_FRAME_BYTES
            parked.wire.trusted_bytes = parked.wire.max_frame_bytes
            self._bound = {bound for bound in self._bound if not bound.closed} | {connection}
            return connection
        broker = "any broker" if node_id is None else f"broker {node_id}"
        raise ConnectFailed(f"the source half of '{self._link_name}' closes connections to {broker}: {last}")

    async def _take(self, deadline: float) -> _Parked:
        while True:
            while self._parked:
                # The newest: the longer one was parked the likelier something in between forgot it.
                parked = self._parked.pop()
                if not parked.connection.closed:
                    return parked
            left = deadline - time.monotonic()
            if self._closed or left <= 0:
                raise ConnectFailed(f"the source of cluster link '{self._link_name}' is not attached")
            try:
                async with asyncio.timeout(left), self._arrived:
                    await self._arrived.wait_for(lambda: bool(self._parked) or self._closed)
            except TimeoutError:
                pass

    async def _bind(self, connection: BrokerConnection, node_id: int | None) -> None:
        request = LinkBindRequest(ANY_BROKER if node_id is None else node_id)
        body = await connection.request_raw(
            LinkBindRequest.API_KEY, VERSION, [request.encode()], timeout_s=BIND_TIMEOUT_S
        )
        response = LinkBindResponse.decode(VERSION, body)
        if response.error_code:
            raise ConnectFailed(
                f"the source half of cluster link '{self._link_name}' cannot reach "
                f"{'any broker' if node_id is None else f'broker {node_id}'}: {response.error_message}"
            )
        connection.node_id = node_id
        await connection.negotiate(timeout_s=BIND_TIMEOUT_S)

    async def close(self) -> None:
        """Drop every connection, bound ones too. Idempotent."""
        self._closed = True
        self.drop_all("the link is going away")
        async with self._arrived:
            self._arrived.notify_all()
        await self._tasks.close()
