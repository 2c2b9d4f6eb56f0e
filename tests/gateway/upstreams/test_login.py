"""Logins that a broker grants for a while only, and that are renewed before their time is over (KIP-368)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from gateway.upstreams import login
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import AuthenticationFailed
from gateway.wire import ConnectionClosed, FrameConnection
from protocol.api_keys import ApiKey
from protocol.headers import RequestHeader
from protocol.messages import decode_request, response_class
from tests.e2e.raw_client import make
from tests.fakes.broker import FakeBroker


class Sessions:
    """The SASL side of a broker, which counts logins; `lifetime_ms` is what it grants."""

    def __init__(self, broker: FakeBroker, lifetime_ms: int) -> None:
        self.lifetime_ms = lifetime_ms
        self.logins = 0
        self.password = b"\0alice\0secret"
        self.answering = asyncio.Event()
        self.answering.set()
        broker.handlers[ApiKey.SASL_HANDSHAKE] = self.handshake
        broker.handlers[ApiKey.SASL_AUTHENTICATE] = self.authenticate

    async def handshake(self, header: RequestHeader, body: bytes) -> Any:
        await self.answering.wait()
        return response_class(ApiKey.SASL_HANDSHAKE, 1)(error_code=ErrorCode.none, mechanisms=("PLAIN",))

    def authenticate(self, header: RequestHeader, body: bytes) -> Any:
        request = decode_request(ApiKey.SASL_AUTHENTICATE, header.api_version, body)
        right = bytes(request.auth_bytes) == self.password
        self.logins += right
        return response_class(ApiKey.SASL_AUTHENTICATE, header.api_version)(
            error_code=ErrorCode.none if right else ErrorCode.sasl_authentication_failed,
            error_message=None,
            auth_bytes=b"",
            session_lifetime=timedelta(milliseconds=self.lifetime_ms),
        )


def metadata() -> Any:
    return make(ApiKey.METADATA, 9, topics=[])


@asynccontextmanager
async def logged_in(lifetime_ms: int) -> AsyncIterator[tuple[FakeBroker, Sessions, BrokerConnection]]:
    broker = await FakeBroker().start()
    sessions = Sessions(broker, lifetime_ms)
    wire = FrameConnection(max_frame_bytes=1 << 20, name="test")
    await asyncio.get_running_loop().create_connection(lambda: wire, "127.0.0.1", broker.port)
    connection = BrokerConnection(wire, client_id="test", node_id=None)
    try:
        await connection.negotiate()
        await connection.authenticate("PLAIN", "alice", "secret")
        yield broker, sessions, connection
    finally:
        wire.abort()
        await wire.wait_closed()
        await broker.close()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets logins be renewed more than once in a second."""
    monkeypatch.setattr(login, "_MIN_INTERVAL_S", 0.0)


async def test_a_login_without_an_end_is_not_renewed() -> None:
    async with logged_in(0) as (_, sessions, connection):
        assert connection.session_lifetime_ms == 0
        assert connection.login_due_at == float("inf")
        await connection.request(metadata())
        assert sessions.logins == 1


@pytest.mark.usefixtures("soon")
async def test_a_login_is_renewed_before_its_time_is_over() -> None:
    async with logged_in(400) as (_, sessions, connection):
        assert connection.session_lifetime_ms == 400
        await connection.request(metadata())
        assert sessions.logins == 1
        for expected in (2, 3):
            await asyncio.sleep(0.36)
            await connection.request(metadata())
            assert sessions.logins == expected


@pytest.mark.usefixtures("soon")
async def test_nothing_else_is_sent_while_a_login_is_renewed() -> None:
    async with logged_in(300) as (broker, sessions, connection):
        await asyncio.sleep(0.3)
        before = len(broker.requests)
        sessions.lifetime_ms = 60_000
        sessions.answering.clear()
        asked = [asyncio.create_task(connection.request(metadata())) for _ in range(5)]
        await asyncio.sleep(0.05)
        assert [header.api_key for header in broker.requests[before:]] == [ApiKey.SASL_HANDSHAKE]
        sessions.answering.set()
        await asyncio.gather(*asked)
        assert [header.api_key for header in broker.requests[before:]] == [
            ApiKey.SASL_HANDSHAKE,
            ApiKey.SASL_AUTHENTICATE,
            *[ApiKey.METADATA] * 5,
        ]


@pytest.mark.usefixtures("soon")
async def test_a_login_that_is_not_renewed_ends_the_connection() -> None:
    async with logged_in(200) as (_, sessions, connection):
        sessions.password = b"changed"
        await asyncio.sleep(0.2)
        with pytest.raises(ConnectionClosed, match="could not be renewed"):
            await connection.request(metadata())
        assert connection.closed


@pytest.mark.usefixtures("soon")
async def test_a_renewal_that_is_cancelled_ends_the_connection() -> None:
    async with logged_in(200) as (_, sessions, connection):
        await asyncio.sleep(0.2)
        sessions.answering.clear()
        asked = asyncio.create_task(connection.request(metadata()))
        await asyncio.sleep(0.05)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert connection.closed, "the broker would take what comes next for a part of the login"


@pytest.mark.usefixtures("soon")
async def test_a_connection_that_was_given_away_is_renewed_by_its_owner() -> None:
    async with logged_in(300) as (_, sessions, connection):
        wire = connection.detach()
        heard: list[str] = []
        wire.on_readable = lambda: heard.append("owner")
        await connection.renew_detached()
        assert sessions.logins == 1, "it was not due yet"
        await asyncio.sleep(0.3)
        await connection.renew_detached()
        assert sessions.logins == 2
        assert heard == []
        wire.abort()
        await asyncio.sleep(0.05)
        assert heard, "what comes now is the owner's again"


async def test_what_the_broker_says_of_a_login_is_passed_on() -> None:
    async with logged_in(0) as (_, _, connection):
        with pytest.raises(AuthenticationFailed, match="refused the credentials"):
            await connection.authenticate("PLAIN", "alice", "other")
