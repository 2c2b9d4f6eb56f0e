"""Upstream logins that must be renewed while a client is at work (KIP-368)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from kio.schema.errors import ErrorCode

from gateway.config import SecurityProtocol
from gateway.upstreams import login
from gateway.upstreams.dialer import Security
from protocol.api_keys import ApiKey
from tests.e2e.raw_client import batch, produce
from tests.fakes.broker import FakeBroker
from tests.gateway.sessions.lab import Lab, heartbeat, heartbeat_response, lab
from tests.gateway.sessions.test_session import Gate, closes
from tests.gateway.upstreams.test_login import Sessions

SASL = frozenset({ApiKey.SASL_HANDSHAKE, ApiKey.SASL_AUTHENTICATE})
UPSTREAM = Security(
    protocol=SecurityProtocol.SASL_PLAINTEXT, mechanism="PLAIN", username="alice", password="secret"
)


@asynccontextmanager
async def behind_logins(lifetime_ms: int) -> AsyncIterator[tuple[Lab, Sessions]]:
    made: list[Sessions] = []

    def prepare(broker: FakeBroker) -> None:
        made.append(Sessions(broker, lifetime_ms))

    async with lab(upstream=UPSTREAM, prepare=prepare) as here:
        yield here, made[0]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "_MIN_INTERVAL_S", 0.0)


async def test_a_client_notices_nothing_of_renewals() -> None:
    async with behind_logins(300) as (here, sessions):
        client = await here.client()
        await client.call(heartbeat())
        connections, logins = len(here.broker.connections), sessions.logins
        for _ in range(3):
            await asyncio.sleep(0.3)
            sent = [client.send(heartbeat()) for _ in range(5)]
            assert [(await client.receive_body())[0] for _ in sent] == sent
        assert sessions.logins == logins + 3
        assert len(here.broker.connections) == connections, "on the connection that it had"


async def test_a_login_is_renewed_between_requests_never_among_them() -> None:
    async with behind_logins(300) as (here, sessions):
        client = await here.client()
        await client.call(heartbeat())
        gate = Gate(lambda header, body: heartbeat_response())
        here.broker.handlers[ApiKey.HEARTBEAT] = gate
        first = client.send(heartbeat())
        await asyncio.sleep(0.35)
        before, logins = len(here.broker.requests), sessions.logins
        second, third = client.send(heartbeat()), client.send(heartbeat())
        await asyncio.sleep(0.1)
        assert sessions.logins == logins, "a request is still unanswered"
        gate.open.set()
        assert [(await client.receive_body())[0] for _ in range(3)] == [first, second, third]
        kinds = [header.api_key for header in here.broker.requests[before:]]
        assert kinds == [
            ApiKey.SASL_HANDSHAKE,
            ApiKey.SASL_AUTHENTICATE,
            ApiKey.HEARTBEAT,
            ApiKey.HEARTBEAT,
        ]


async def test_produce_without_acknowledgement_stays_in_order() -> None:
    seen: list[int] = []
    async with behind_logins(200) as (here, sessions):

        def take(_: object, body: bytes) -> None:
            seen.append(len(body))

        here.broker.handlers[ApiKey.PRODUCE] = take
        client = await here.client()
        for size in range(100, 140):
            client.send(produce(9, {"t": batch(b"x" * size)}, acks=0))
            await asyncio.sleep(0.02)
        await client.call(heartbeat())
        assert len(seen) == 40
        assert seen == sorted(seen)
        assert sessions.logins >= 4


async def test_a_login_that_cannot_be_renewed_ends_the_session() -> None:
    async with behind_logins(200) as (here, sessions):
        client = await here.client()
        assert (await client.call(heartbeat())).error_code == ErrorCode.none
        sessions.password = b"changed"
        await asyncio.sleep(0.25)
        client.send(heartbeat())
        await closes(client)
