"""Parked connections: kept alive, bound to a source broker, replaced, bounded, and gone with their link."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from gateway.upstreams import parked as module
from gateway.upstreams.errors import ConnectFailed
from gateway.upstreams.parked import ParkedPool
from gateway.wire import ConnectionClosed, FrameConnection
from protocol.api_keys import ApiKey
from protocol.api_versions import encode_api_versions
from protocol.headers import RequestHeader, encode_response_header, peek_request_header
from protocol.reverse import ANY_BROKER, LinkBindRequest, LinkBindResponse

VERSIONS: dict[int, tuple[int, int]] = {ApiKey.API_VERSIONS: (0, 4), ApiKey.FETCH: (4, 13)}


class Agent:
    """The other end of a parked connection: a source half of few words."""

    def __init__(self, wire: FrameConnection) -> None:
        self.wire = wire
        self.requests: list[RequestHeader] = []
        self.bound_to: list[int] = []
        self.silent = False
        # What is answered instead, by API key.
        self.answers: dict[int, Callable[[RequestHeader], bytes | None]] = {}
        self.refusal: str | None = None

    async def serve(self) -> None:
        try:
            while True:
                frame = await self.wire.read_frame()
                header = peek_request_header(frame)
                self.requests.append(header)
                if self.silent:
                    continue
                if header.api_key in self.answers:
                    answer = self.answers[header.api_key](header)
                    if answer is None:
                        self.wire.abort()
                        return
                    self.wire.write_frame(answer)
                elif header.api_key == ApiKey.API_VERSIONS:
                    self.wire.write_frame(
                        *encode_api_versions(header.api_version, header.correlation_id, VERSIONS)
                    )
                else:
                    body = memoryview(frame)[header.body_offset :]
                    self.bound_to.append(LinkBindRequest.decode(header.api_version, body).node_id)
                    response = LinkBindResponse(7 if self.refusal else 0, self.refusal)
                    self.wire.write_frame(
                        encode_response_header(32001, 0, header.correlation_id), response.encode()
                    )
        except ConnectionClosed:
            pass

    def count(self, api_key: int) -> int:
        return sum(header.api_key == api_key for header in self.requests)


class Lab:
    """A pool, and agents that park their connections in it."""

    def __init__(self, pool: ParkedPool, port: int, accepted: asyncio.Queue[FrameConnection]) -> None:
        self.pool = pool
        self._port = port
        self._accepted = accepted
        self.agents: list[Agent] = []
        self.wires: list[FrameConnection] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> tuple[Agent, FrameConnection]:
        """A connection; the agent, and this side's end."""
        wire = FrameConnection(max_frame_bytes=1 << 20, name="agent")
        await asyncio.get_running_loop().create_connection(lambda: wire, "127.0.0.1", self._port)
        agent = Agent(wire)
        self.agents.append(agent)
        self.tasks.append(asyncio.create_task(agent.serve()))
        self.wires.append(await self._accepted.get())
        return agent, self.wires[-1]

    async def park(
        self, agent_id: UUID | None = None, epoch: int = 1, lifetime_s: float | None = None
    ) -> Agent:
        """A parked connection."""
        agent, wire = await self.connect()
        self.pool.park(wire, agent_id or uuid4(), epoch, lifetime_s)
        return agent


@pytest.fixture
async def lab(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    """A pool with short times."""
    monkeypatch.setattr(module, "KEEPALIVE_INTERVAL_S", 0.02)
    monkeypatch.setattr(module, "KEEPALIVE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(module, "BIND_TIMEOUT_S", 1.0)
    accepted: asyncio.Queue[FrameConnection] = asyncio.Queue()
    server = await asyncio.get_running_loop().create_server(
        lambda: FrameConnection(max_frame_bytes=100, name="pool", on_connected=accepted.put_nowait),
        "127.0.0.1",
        0,
    )
    lab = Lab(ParkedPool("hybrid"), server.sockets[0].getsockname()[1], accepted)
    yield lab
    await lab.pool.close()
    for agent in lab.agents:
        agent.wire.abort()
        await agent.wire.wait_closed()
    for wire in lab.wires:
        wire.abort()
        await wire.wait_closed()
    await asyncio.gather(*lab.tasks)
    server.close()
    await server.wait_closed()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_parked_connection_is_kept_alive(lab: Lab) -> None:
    agent = await lab.park()
    await until(lambda: agent.count(ApiKey.API_VERSIONS) >= 3)
    assert lab.pool.count == 1
    assert lab.wires[0].max_frame_bytes == module.MAX_PARKED_FRAME_BYTES


async def test_one_that_falls_silent_is_dropped(lab: Lab) -> None:
    agent = await lab.park()
    await until(lambda: agent.requests)
    agent.silent = True
    await until(lambda: lab.pool.count == 0)
    await until(lambda: agent.wire.closed)


async def test_so_is_one_that_is_closed(lab: Lab) -> None:
    agent = await lab.park()
    await until(lambda: agent.requests)
    agent.wire.close()
    await until(lambda: lab.pool.count == 0)


@pytest.mark.parametrize(
    "answer",
    [b"\0\0\0\0" + b"\xff" * 20, b"\0\0\0\7", b"\0\0\0\0\0\x0a\1\0\0\0\0\0"],
    ids=["garbage", "another's", "an error"],
)
async def test_so_is_one_that_answers_nonsense(lab: Lab, answer: bytes) -> None:
    agent, wire = await lab.connect()
    agent.answers[ApiKey.API_VERSIONS] = lambda header: header.correlation_id.to_bytes(4) + answer[4:]
    if answer[3]:
        agent.answers[ApiKey.API_VERSIONS] = lambda _: answer
    lab.pool.park(wire, uuid4(), 1)
    await until(lambda: lab.pool.count == 0)
    await until(lambda: agent.wire.closed)


@pytest.mark.parametrize("node_id", [None, 3])
async def test_a_connection_to_a_source_broker(lab: Lab, node_id: int | None) -> None:
    agent = await lab.park()
    connection = await lab.pool.connect(node_id)
    assert agent.bound_to == [ANY_BROKER if node_id is None else node_id]
    assert connection.node_id == node_id
    assert connection.api_versions[ApiKey.FETCH] == (4, 13)
    assert lab.pool.count == 0
    assert lab.wires[0].max_frame_bytes == module.MAX_FRAME_BYTES
    count = agent.count(ApiKey.API_VERSIONS)
    await asyncio.sleep(0.06)
    assert agent.count(ApiKey.API_VERSIONS) == count, "from now on it is its owner's"


async def test_it_waits_for_one_to_come(lab: Lab) -> None:
    waiting = [asyncio.create_task(lab.pool.connect(1)) for _ in range(2)]
    await asyncio.sleep(0.02)
    first = await lab.park()
    second = await lab.park()
    await asyncio.gather(*waiting)
    assert first.bound_to == second.bound_to == [1]


async def test_and_not_for_ever(lab: Lab) -> None:
    before = time.monotonic()
    with pytest.raises(ConnectFailed, match="the source of cluster link 'hybrid' is not attached"):
        await lab.pool.connect(1)
    assert 0.2 < time.monotonic() - before < 2


async def test_the_newest_is_used_first_and_the_dead_are_skipped(lab: Lab) -> None:
    old, new, dead = await lab.park(), await lab.park(), await lab.park()
    lab.wires[2].abort()
    await lab.pool.connect(1)
    assert (old.bound_to, new.bound_to, dead.bound_to) == ([], [1], [])


async def test_one_that_dies_at_the_bind_is_replaced(lab: Lab) -> None:
    good, bad = await lab.park(), await lab.park()
    bad.answers[ApiKey.LINK_BIND] = lambda _: None
    connection = await lab.pool.connect(1)
    assert good.bound_to == [1]
    assert not connection.closed


async def test_not_more_than_some_are_spent_on_one_wish(lab: Lab) -> None:
    agents = [await lab.park() for _ in range(5)]
    for agent in agents:
        agent.answers[ApiKey.LINK_BIND] = lambda _: None
    with pytest.raises(ConnectFailed, match="closes connections to broker 9"):
        await lab.pool.connect(9)
    assert lab.pool.count == 2


async def test_one_that_is_silent_at_the_bind_is_given_up(lab: Lab) -> None:
    good, bad = await lab.park(), await lab.park()
    bad.silent = True
    await lab.pool.connect(None)
    assert good.bound_to == [ANY_BROKER]
    await until(lambda: bad.wire.closed)


@pytest.mark.parametrize(("node_id", "what"), [(4, "broker 4"), (None, "any broker")])
async def test_a_refused_bind_says_why(lab: Lab, node_id: int | None, what: str) -> None:
    agent = await lab.park()
    agent.refusal = "256 connections are bound already"
    with pytest.raises(ConnectFailed, match=f"cannot reach {what}: 256 connections are bound already"):
        await lab.pool.connect(node_id)
    await until(lambda: agent.wire.closed)


async def test_a_refusal_of_the_versions_after_the_bind(lab: Lab) -> None:
    agent = await lab.park()

    def refuse_later(header: RequestHeader) -> bytes:
        if agent.bound_to:
            return header.correlation_id.to_bytes(4) + b"\0\x1f\0\0\0\0"
        return b"".join(
            bytes(p) for p in encode_api_versions(header.api_version, header.correlation_id, VERSIONS)
        )

    agent.answers[ApiKey.API_VERSIONS] = refuse_later
    with pytest.raises(ConnectFailed):
        await lab.pool.connect(2)
    await until(lambda: agent.wire.closed)


async def test_a_connection_ends_with_its_login_parked_or_bound(lab: Lab) -> None:
    parked, bound, stays = await lab.park(lifetime_s=0.3), await lab.park(lifetime_s=0.3), await lab.park()
    await until(lambda: stays.requests)
    # The newest is taken first.
    kept = await lab.pool.connect(1)
    connection = await lab.pool.connect(1)
    assert bound.bound_to
    await until(lambda: parked.wire.closed and bound.wire.closed)
    assert connection.closed
    assert not kept.closed
    assert not stays.wire.closed


async def test_all_connections_can_be_ended_at_once_and_new_ones_come(lab: Lab) -> None:
    parked, bound = await lab.park(), await lab.park()
    await until(lambda: bound.requests)
    connection = await lab.pool.connect(1)
    lab.pool.drop_all("the user was deleted")
    await until(lambda: parked.wire.closed and bound.wire.closed)
    assert connection.closed
    assert lab.pool.count == 0
    await lab.park()
    assert not (await lab.pool.connect(1)).closed


async def test_whoever_gives_up_waiting_leaves_no_connection_behind(lab: Lab) -> None:
    agent = await lab.park()
    await until(lambda: agent.requests)
    agent.silent = True
    wish = asyncio.create_task(lab.pool.connect(1))
    await until(lambda: agent.count(ApiKey.LINK_BIND))
    wish.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wish
    await until(lambda: agent.wire.closed)


# --- who may park -------------------------------------------------------------------------------------


async def test_a_newer_epoch_of_an_agent_replaces_the_older(lab: Lab) -> None:
    agent_id, other_id = uuid4(), uuid4()
    other = await lab.park(other_id, 9)
    old = [await lab.park(agent_id, 1) for _ in range(2)]
    assert lab.pool.refusal(agent_id, 2) is None
    new = await lab.park(agent_id, 2)
    await until(lambda: all(agent.wire.closed for agent in old))
    assert not new.wire.closed
    assert not other.wire.closed
    assert lab.pool.count == 2
    assert lab.pool.refusal(agent_id, 1) == f"a newer instance of agent {agent_id} is attached"
    assert lab.pool.refusal(agent_id, 2) is None


async def test_an_older_epoch_that_comes_late_is_not_taken(lab: Lab) -> None:
    agent_id = uuid4()
    assert lab.pool.refusal(agent_id, 1) is None
    await lab.park(agent_id, 2)
    late = await lab.park(agent_id, 1)
    await until(lambda: late.wire.closed)
    assert lab.pool.count == 1


async def test_there_is_a_limit(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PARKED", 2)
    await lab.park()
    assert lab.pool.refusal(uuid4(), 1) is None
    await lab.park()
    assert lab.pool.refusal(uuid4(), 1) == "2 connections are parked already"
    # Several may have been told yes at the same time.
    surplus = await lab.park()
    await until(lambda: surplus.wire.closed)
    assert lab.pool.count == 2


async def test_what_is_remembered_of_agents_is_bounded(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_AGENTS", 2)
    ids = [uuid4() for _ in range(3)]
    for agent_id in ids:
        await lab.park(agent_id, 5)
    assert [lab.pool.refusal(agent_id, 4) is None for agent_id in ids] == [True, False, False]


# --- the end ------------------------------------------------------------------------------------------


async def test_everything_goes_with_the_link(lab: Lab) -> None:
    bound, parked = await lab.park(), await lab.park()
    connection = await lab.pool.connect(1)
    bound, parked = (parked, bound) if parked.bound_to else (bound, parked)
    await lab.pool.close()
    await lab.pool.close()
    assert connection.closed
    await until(lambda: bound.wire.closed and parked.wire.closed)
    assert lab.pool.refusal(uuid4(), 1) == "the link is going away"
    late = await lab.park()
    await until(lambda: late.wire.closed)
    with pytest.raises(ConnectFailed):
        await lab.pool.connect(1)


async def test_the_end_wakes_those_who_wait(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BIND_TIMEOUT_S", 60.0)
    waiting = asyncio.create_task(lab.pool.connect(1))
    await asyncio.sleep(0.02)
    await lab.pool.close()
    with pytest.raises(ConnectFailed, match="not attached"):
        await asyncio.wait_for(waiting, 1)


async def test_the_end_during_a_bind(lab: Lab) -> None:
    agent = await lab.park()
    release: list[Any] = []

    def close_first(header: RequestHeader) -> bytes:
        if agent.bound_to:
            release.append(asyncio.create_task(lab.pool.close()))
        return b"".join(
            bytes(p) for p in encode_api_versions(header.api_version, header.correlation_id, VERSIONS)
        )

    agent.answers[ApiKey.API_VERSIONS] = close_first
    with pytest.raises(ConnectFailed):
        await lab.pool.connect(1)
    await asyncio.gather(*release)
    await until(lambda: agent.wire.closed)


async def test_bound_connections_that_ended_are_forgotten(lab: Lab) -> None:
    for _ in range(3):
        await lab.park()
        connection = await lab.pool.connect(1)
        connection.abort()
    assert len(lab.pool._bound) == 1


async def test_the_oldest_of_every_agent_is_called_back(lab: Lab) -> None:
    one, two = uuid4(), uuid4()
    for agent_id in (one, one, two):
        await lab.park(agent_id)
    assert [lab.pool.count_of(each) for each in (one, two, uuid4())] == [2, 1, 0]
    lab.pool.recall()
    assert [lab.pool.count_of(each) for each in (one, two)] == [1, 0]
    assert lab.wires[0].closed
    assert not lab.wires[1].closed
