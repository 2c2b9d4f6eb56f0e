"""The source half: dials, attaches, answers while parked, serves what is bound, and waits when refused."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.links import attach as module
from gateway.links.attach import AttachRefused, SourceHalf
from gateway.tasks import Tasks
from gateway.upstreams import dialer
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.dialer import Security
from gateway.upstreams.errors import AuthenticationFailed, ConnectFailed, DialError
from gateway.wire import ConnectionClosed, FrameConnection
from protocol.api_keys import ApiKey
from protocol.api_versions import encode_api_versions, link_versions
from protocol.errors import ProtocolError
from protocol.headers import encode_request_header, encode_response_header, peek_request_header
from protocol.reverse import (
    ANY_BROKER,
    DIAL_AGAIN,
    LinkAttachRequest,
    LinkAttachResponse,
    LinkBindRequest,
    LinkBindResponse,
)
from tests.gateway.links.lab import hurry, until

OK = LinkAttachResponse(0, None, "link-id", "instance", 1)
ELSEWHERE = LinkAttachResponse(DIAL_AGAIN, "links run in another worker process", None, "instance", 2)


class Gateway:
    """A destination gateway that attaches what comes, or answers otherwise."""

    def __init__(self) -> None:
        self.answer: LinkAttachResponse | None = OK
        self.silent = False
        # Answers in turn, before `answer`.
        self.first: list[LinkAttachResponse] = []
        self.attached: list[LinkAttachRequest] = []
        self.attached_at: list[float] = []
        self.clients: list[FrameConnection] = []
        self.parked: asyncio.Queue[BrokerConnection] = asyncio.Queue()
        self.tasks = Tasks("gateway")
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> Gateway:
        self._server = await asyncio.get_running_loop().create_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        await self.tasks.close()
        for wire in self.clients:
            wire.abort()
            await wire.wait_closed()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def _accept(self) -> FrameConnection:
        wire = FrameConnection(max_frame_bytes=1 << 20, name="gateway", on_connected=self._serve)
        self.clients.append(wire)
        return wire

    def _serve(self, wire: FrameConnection) -> None:
        self.tasks.spawn(self._attach(wire), name="attach")

    async def _attach(self, wire: FrameConnection) -> None:
        try:
            while True:
                frame = await wire.read_frame()
                header = peek_request_header(frame)
                if header.api_key == ApiKey.API_VERSIONS:
                    versions = encode_api_versions(header.api_version, header.correlation_id, link_versions())
                    wire.write_frame(*versions)
                    continue
                assert header.api_key == ApiKey.LINK_ATTACH
                body = memoryview(frame)[header.body_offset :]
                self.attached.append(LinkAttachRequest.decode(header.api_version, body))
                self.attached_at.append(time.monotonic())
                if self.silent:
                    continue
                answer = self.first.pop(0) if self.first else self.answer
                if answer is None:
                    wire.close()
                    return
                wire.write_frame(
                    encode_response_header(header.api_key, 0, header.correlation_id), answer.encode()
                )
                if not answer.error_code:
                    self.parked.put_nowait(BrokerConnection(wire, client_id="gateway", node_id=None))
                    return
        except ConnectionClosed:
            pass


class Bound:
    """What serves bound connections: keeps them until it is released."""

    def __init__(self) -> None:
        self.served: list[tuple[FrameConnection, int | None]] = []
        self.release = asyncio.Event()

    async def __call__(self, wire: FrameConnection, node_id: int | None) -> None:
        self.served.append((wire, node_id))
        await self.release.wait()


class Lab:
    """A source half in front of a gateway."""

    def __init__(self, gateway: Gateway, half: SourceHalf, bound: Bound, tasks: Tasks) -> None:
        self.gateway = gateway
        self.half = half
        self.bound = bound
        self.tasks = tasks

    def run(self) -> None:
        self.tasks.spawn(self.half.run(), name="half")

    async def parked(self) -> BrokerConnection:
        """The next connection that was parked, from the destination's side."""
        async with asyncio.timeout(5):
            return await self.gateway.parked.get()


def half_for(*servers: str, bound: Bound, security: Security | None = None) -> SourceHalf:
    return SourceHalf(
        link_name="hybrid",
        link_id=None,
        source_cluster_id="source-cluster",
        bootstrap_servers=servers,
        security=security or Security(),
        versions=link_versions,
        serve_bound=bound,
    )


@pytest.fixture
async def lab(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    """A half that does not wait long."""
    hurry(monkeypatch, BACKOFF_BASE_S=0.01, BACKOFF_CAP_S=0.05, ATTACH_TIMEOUT_S=0.3)
    gateway, bound, tasks = await Gateway().start(), Bound(), Tasks("lab")
    yield Lab(gateway, half_for(f"127.0.0.1:{gateway.port}", bound=bound), bound, tasks)
    await tasks.close()
    await gateway.close()


async def bind(connection: BrokerConnection, node_id: int) -> LinkBindResponse:
    body = await connection.request_raw(ApiKey.LINK_BIND, 0, [LinkBindRequest(node_id).encode()], timeout_s=5)
    return LinkBindResponse.decode(0, body)


async def test_it_keeps_connections_parked(lab: Lab) -> None:
    before = lab.half.error
    assert before == "not attached yet"
    lab.run()
    for _ in range(module.PARKED_SLOTS):
        connection = await lab.parked()
        await connection.negotiate(timeout_s=5)
        assert connection.api_versions == dict(link_versions())
    await until(lambda: lab.half.parked == module.PARKED_SLOTS)
    after: str | None = lab.half.error
    assert (after, lab.half.bound) == (None, 0)
    requests = lab.gateway.attached
    assert {r.link_name for r in requests} == {"hybrid"}
    assert {r.source_cluster_id for r in requests} == {"source-cluster"}
    assert len({(r.agent_id, r.agent_epoch) for r in requests}) == 1, "all of one agent"


async def test_it_keeps_as_many_for_every_gateway_that_shares_the_link(lab: Lab) -> None:
    lab.gateway.answer = LinkAttachResponse(0, None, "link-id", "instance", 3)
    lab.run()
    parked = [await lab.parked() for _ in range(3 * module.PARKED_SLOTS)]
    await until(lambda: lab.half.parked == 3 * module.PARKED_SLOTS)
    # Two of them are gone: what is parked for them ends, and is not replaced.
    lab.gateway.answer = OK
    for connection in parked:
        connection.abort()
    await until(lambda: lab.half.parked == module.PARKED_SLOTS)
    await asyncio.sleep(0.2)
    assert lab.half.parked == module.PARKED_SLOTS


async def test_a_gateway_that_cannot_be_reached_is_no_error(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch, DIAL_AGAIN_WITHIN_S=0.001)
    first = LinkAttachResponse(0, None, "link-id", "instance", 2)
    lab.gateway.first = [first, first]
    lab.gateway.answer = ELSEWHERE
    lab.run()
    await until(lambda: lab.half.parked == 2 and len(lab.gateway.attached) > 20)
    assert lab.half.error is None


async def test_the_id_that_it_was_given_is_the_one_that_it_asks_for(lab: Lab) -> None:
    lab.run()
    (await lab.parked()).abort()
    await lab.parked()
    await until(lambda: len(lab.gateway.attached) >= 3)
    assert lab.gateway.attached[0].link_id is None
    assert lab.gateway.attached[-1].link_id == "link-id"


@pytest.mark.parametrize(("asked", "served"), [(3, 3), (ANY_BROKER, None)])
async def test_a_bound_connection_is_served_and_replaced(lab: Lab, asked: int, served: int | None) -> None:
    lab.run()
    connection = await lab.parked()
    assert (await bind(connection, asked)).error_code == 0
    await until(lambda: lab.bound.served)
    assert lab.bound.served[0][1] == served
    assert lab.half.bound == 1
    await until(lambda: lab.half.parked == module.PARKED_SLOTS)
    lab.bound.release.set()
    await until(lambda: lab.half.bound == 0)
    await until(lambda: connection.closed)


async def test_what_came_after_the_bind_is_left_for_its_session(lab: Lab) -> None:
    lab.run()
    connection = await lab.parked()
    answers = asyncio.gather(bind(connection, 1), connection.negotiate(timeout_s=5), return_exceptions=True)
    await until(lambda: lab.bound.served)
    wire, _ = lab.bound.served[0]
    header = peek_request_header(await wire.read_frame(1))
    assert header.api_key == ApiKey.API_VERSIONS
    wire.abort()
    await answers


async def test_a_destination_cannot_bind_without_end(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bound connection is a connection to a broker of ours."""
    monkeypatch.setattr(module, "MAX_BOUND", 3)
    lab.run()
    refusals = []
    for _ in range(6):
        connection = await lab.parked()
        response = await bind(connection, 1)
        if response.error_code:
            refusals.append(response.error_message)
            await until(lambda c=connection: c.closed)  # type: ignore[misc]
    assert len(lab.bound.served) == 3
    assert refusals == ["3 connections are bound already"] * 3


@pytest.mark.parametrize(
    "request_",
    [
        encode_request_header(ApiKey.FETCH, 13, 1, "x"),
        encode_request_header(ApiKey.LINK_BIND, 9, 1, "x") + b"\0\0\0\1",
        encode_request_header(ApiKey.LINK_BIND, 0, 1, "x") + b"\0",
        b"\0",
        encode_request_header(ApiKey.API_VERSIONS, 0, 1, "x") + bytes(module.PARKED_FRAME_BYTES),
    ],
    ids=["fetch", "version", "short", "no header", "large"],
)
async def test_what_a_parked_connection_is_not_asked(lab: Lab, request_: bytes) -> None:
    lab.run()
    await lab.parked()
    await lab.parked()
    await until(lambda: lab.half.parked == module.PARKED_SLOTS)
    wire = lab.gateway.clients[0]
    wire.write_frame(request_)
    await until(lambda: wire.closed)
    await lab.parked()
    assert not lab.bound.served


async def test_a_destination_that_does_not_read_is_left(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, SILENCE_TIMEOUT_S=0.3, PARKED_SLOTS=1)
    lab.run()
    await lab.parked()
    wire = lab.gateway.clients[0]
    wire._control_reading(wanted=False)
    ask = encode_request_header(ApiKey.API_VERSIONS, 0, 1, "x")

    def asks_and_is_left() -> bool:
        if not wire.closed:
            for _ in range(500):
                wire.write_frame(ask)
        return len(lab.gateway.attached) > 1

    await until(asks_and_is_left, 30)


async def test_silence_ends_a_parked_connection(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, SILENCE_TIMEOUT_S=0.1)
    lab.run()
    wires = [await lab.parked() for _ in range(2)]
    await until(lambda: all(wire.closed for wire in wires))
    await lab.parked()


async def test_a_parked_connection_is_replaced_before_its_login_ends(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch, PARKED_SLOTS=1)
    soon = property(lambda _: time.monotonic() + 0.1)
    monkeypatch.setattr(BrokerConnection, "login_due_at", soon)
    lab.run()
    first = await lab.parked()
    await first.negotiate()
    assert not first.closed
    await asyncio.sleep(0.15)
    await first.negotiate()
    second = await lab.parked()
    await until(lambda: first.closed)
    assert lab.half.error is None, "nothing went wrong"
    assert not second.closed


async def test_everything_ends_with_it(lab: Lab) -> None:
    lab.run()
    bound, parked = await lab.parked(), await lab.parked()
    await bind(bound, 1)
    await until(lambda: lab.bound.served)
    await lab.tasks.close()
    await until(lambda: bound.closed and parked.closed)
    assert (lab.half.parked, lab.half.bound) == (0, 0)


# --- being refused ------------------------------------------------------------------------------------


async def test_a_refusal_says_why(lab: Lab) -> None:
    lab.gateway.answer = LinkAttachResponse(91, "there is no cluster link named 'hybrid' here", None, "i", 1)
    with pytest.raises(AttachRefused, match="there is no cluster link named") as refused:
        await lab.half.attach()
    assert refused.value.code == 91
    await until(lambda: lab.gateway.clients[0].closed)


async def test_a_refusal_without_a_reason(lab: Lab) -> None:
    lab.gateway.answer = LinkAttachResponse(42, None, None, "i", 1)
    with pytest.raises(AttachRefused, match="no reason given"):
        await lab.half.attach()


async def test_what_is_no_gateway_closes_the_connection(lab: Lab) -> None:
    lab.gateway.answer = None
    with pytest.raises(DialError, match="is it a Causeway gateway"):
        await lab.half.attach()


async def test_an_answer_that_cannot_be_read(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LinkAttachResponse, "encode", lambda _: b"")
    with pytest.raises(ProtocolError):
        await lab.half.attach()
    await until(lambda: lab.gateway.clients[0].closed)


async def test_no_answer_in_time(lab: Lab) -> None:
    lab.gateway.silent = True
    with pytest.raises(TimeoutError, match="did not answer LINK_ATTACH"):
        await lab.half.attach()
    await until(lambda: lab.gateway.clients[0].closed)


async def test_the_servers_take_turns(lab: Lab) -> None:
    half = half_for("127.0.0.1:1", f"127.0.0.1:{lab.gateway.port}", bound=lab.bound)
    with pytest.raises(ConnectFailed):
        await half.attach()
    connection, response = await half.attach()
    assert response == OK
    connection.abort()
    with pytest.raises(ConnectFailed):
        await half.attach()


@pytest.mark.parametrize(
    ("refuse", "least_s", "most_s"),
    [(True, 0.4, 1.6), (False, 0.0, 0.35)],
)
async def test_a_refused_half_is_patient_and_a_cut_one_is_not(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, *, refuse: bool, least_s: float, most_s: float
) -> None:
    hurry(monkeypatch, REFUSED_BACKOFF_S=0.8, PARKED_SLOTS=1)
    no = LinkAttachResponse(31, "belongs to another principal", None, "i", 1)
    lab.gateway.answer = no if refuse else None
    lab.run()
    await until(lambda: len(lab.gateway.attached) >= 4)
    times = lab.gateway.attached_at
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(wait >= least_s for wait in waits)
    assert min(waits) < most_s
    assert lab.half.error == "belongs to another principal" if refuse else "Causeway" in str(lab.half.error)


async def test_the_wait_grows_with_failures_and_is_forgotten_when_all_is_well(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch, PARKED_SLOTS=1, BACKOFF_BASE_S=0.001, BACKOFF_CAP_S=0.02)
    caps: list[float] = []

    def uniform(low: float, high: float) -> float:
        caps.append(high)
        return low

    monkeypatch.setattr(random, "uniform", uniform)
    lab.gateway.answer = None
    lab.run()
    await until(lambda: len(caps) >= 6)
    lab.gateway.answer = OK
    connection = await lab.parked()
    assert caps[:6] == [0.002, 0.004, 0.008, 0.016, 0.02, 0.02]
    await bind(connection, 1)
    lab.gateway.answer = None
    caps.clear()
    await until(lambda: caps)
    assert caps[0] == 0.002


async def test_a_long_life_is_forgotten_too(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, PARKED_SLOTS=1, SILENCE_TIMEOUT_S=0.05, STABLE_AFTER_S=-0.04, BACKOFF_BASE_S=0.001)
    caps: list[float] = []

    def uniform(low: float, high: float) -> float:
        caps.append(high)
        return low

    monkeypatch.setattr(random, "uniform", uniform)
    lab.run()
    for _ in range(3):
        await lab.parked()
    await until(lambda: len(caps) >= 3)
    assert set(caps) == {0.002}


async def test_a_wrong_password_is_a_refusal(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, REFUSED_BACKOFF_S=60.0, PARKED_SLOTS=1)

    async def refuse(*_: Any, **__: Any) -> Any:
        calls.append(1)
        raise AuthenticationFailed("the broker refused the credentials")

    calls: list[int] = []
    monkeypatch.setattr(module, "dial", refuse)
    lab.run()
    await asyncio.sleep(0.1)
    assert len(calls) == 1
    assert lab.half.error == "the broker refused the credentials"


async def test_a_slot_outlives_what_nobody_thought_of(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    real = dialer.dial
    calls: list[int] = []

    async def dial(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) <= 2:
            raise ZeroDivisionError("oh")
        return await real(*arguments, **named)

    monkeypatch.setattr(module, "dial", dial)
    lab.run()
    await lab.parked()
    await lab.parked()


# --- gateways of several processes --------------------------------------------------------------------------


async def test_it_dials_until_it_reaches_the_process_with_the_links(lab: Lab) -> None:
    lab.gateway.first = [ELSEWHERE] * 7
    connection, response = await lab.half.attach()
    connection.abort()
    assert response == OK
    assert len(lab.gateway.attached) == 8
    waited_s = lab.gateway.attached_at[-1] - lab.gateway.attached_at[0]
    assert waited_s < 7 * (module.DIAL_AGAIN_WITHIN_S + 0.5)


async def test_it_does_not_dial_for_ever(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DIAL_AGAIN_WITHIN_S", 0.001)
    monkeypatch.setattr(module, "DIALS_PER_INSTANCE", 3)
    lab.gateway.answer = ELSEWHERE
    with pytest.raises(AttachRefused, match="another worker process") as refusal:
        await lab.half.attach()
    assert refusal.value.dial_again
    assert len(lab.gateway.attached) == 6


async def test_a_gateway_whose_process_with_the_links_is_away_is_asked_again_soon(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its patience is not that with one that refuses the link."""
    monkeypatch.setattr(module, "DIALS_PER_INSTANCE", 1)
    monkeypatch.setattr(module, "REFUSED_BACKOFF_S", 600.0)
    lab.gateway.first = [ELSEWHERE] * 20
    lab.run()
    await lab.parked()
