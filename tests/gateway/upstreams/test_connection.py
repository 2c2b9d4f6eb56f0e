"""A client's connection to a broker that answers late, wrongly, or not at all."""

from __future__ import annotations

import asyncio
import struct
import tracemalloc
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from kio.schema.api_versions.v4 import response as api_versions_v4
from kio.schema.errors import ErrorCode

from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import AuthenticationFailed, KafkaError
from gateway.wire import ConnectionClosed, FrameConnection
from protocol.api_keys import ApiKey
from protocol.errors import DecodeError, UnsupportedVersion
from protocol.headers import RequestHeader
from protocol.messages import decode_request, request_class, response_class
from tests.fakes.broker import FakeBroker


@pytest.fixture
async def broker() -> AsyncIterator[FakeBroker]:
    fake = await FakeBroker().start()
    yield fake
    await fake.close()


@pytest.fixture
async def connection(broker: FakeBroker) -> AsyncIterator[BrokerConnection]:
    wire = FrameConnection(max_frame_bytes=1 << 20, name="client")
    await asyncio.get_running_loop().create_connection(lambda: wire, "127.0.0.1", broker.port)
    made = BrokerConnection(wire, client_id="tester", node_id=7)
    yield made
    made.abort()
    await made.wait_closed()
    wire.abort()
    await wire.wait_closed()


def ask(connection: BrokerConnection, text: bytes = b"", timeout_s: float = 10) -> Any:
    """A request whose answer a test decides."""
    return connection.request_raw(ApiKey.LIST_OFFSETS, 1, (text,), timeout_s=timeout_s)


def echo(header: RequestHeader, body: bytes) -> bytes:
    return b"echo " + body


async def silence(header: RequestHeader, body: bytes) -> None:
    return None


async def test_negotiation_takes_the_newest_version_that_both_know(
    broker: FakeBroker, connection: BrokerConnection
) -> None:
    await connection.negotiate()
    assert connection.api_versions == {int(key): versions for key, versions in broker.versions.items()}
    assert [header.api_version for header in broker.requests] == [4, 3]
    assert broker.requests[0].client_id == "tester"


@pytest.mark.parametrize("newest", [0, 1, 2, 4])
async def test_negotiation_with_other_brokers(
    broker: FakeBroker, connection: BrokerConnection, newest: int
) -> None:
    broker.versions[ApiKey.API_VERSIONS] = (0, newest)
    await connection.negotiate()
    assert connection.api_versions[ApiKey.METADATA] == (5, 9)
    assert broker.requests[-1].api_version == newest


async def test_features(broker: FakeBroker, connection: BrokerConnection) -> None:
    def answer(header: RequestHeader, body: bytes) -> Any:
        # kio's types are narrower than what it takes.
        v4: Any = api_versions_v4
        return v4.ApiVersionsResponse(
            error_code=ErrorCode.none,
            api_keys=(),
            throttle_time=timedelta(),
            supported_features=(
                v4.SupportedFeatureKey(name="transaction.version", min_version=0, max_version=2),
            ),
            finalized_features_epoch=3,
            finalized_features=(
                v4.FinalizedFeatureKey(name="transaction.version", max_version_level=2, min_version_level=1),
            ),
        )

    broker.handlers[ApiKey.API_VERSIONS] = answer
    await connection.negotiate()
    assert connection.features == {"transaction.version": (0, 2)}
    assert connection.finalized_features == {"transaction.version": 2}


@pytest.mark.parametrize("code", [ErrorCode.cluster_authorization_failed, ErrorCode.unsupported_version])
async def test_negotiation_may_be_refused(
    broker: FakeBroker, connection: BrokerConnection, code: ErrorCode
) -> None:
    def refuse(header: RequestHeader, body: bytes) -> Any:
        if code == ErrorCode.unsupported_version or header.api_version == 0:
            return response_class(ApiKey.API_VERSIONS, 0)(error_code=code, api_keys=())
        return response_class(ApiKey.API_VERSIONS, header.api_version)(
            error_code=code, api_keys=(), throttle_time=timedelta()
        )

    broker.handlers[ApiKey.API_VERSIONS] = refuse
    with pytest.raises(KafkaError, match="ApiVersions"):
        await connection.negotiate()


async def test_pick_version(broker: FakeBroker, connection: BrokerConnection) -> None:
    await connection.negotiate()
    assert connection.pick_version(ApiKey.METADATA, 5, 13) == 9
    assert connection.pick_version(ApiKey.METADATA, 0, 7) == 7
    for bounds in ((10, 13), (0, 4)):
        with pytest.raises(UnsupportedVersion):
            connection.pick_version(ApiKey.METADATA, *bounds)
    for unknown in (ApiKey.FETCH, 12345):
        with pytest.raises(UnsupportedVersion):
            connection.pick_version(unknown, 0, 1)


async def test_requests_are_pipelined(broker: FakeBroker, connection: BrokerConnection) -> None:
    release = asyncio.Event()

    async def wait_then_echo(header: RequestHeader, body: bytes) -> bytes:
        await release.wait()
        return b"echo " + body

    broker.handlers[ApiKey.LIST_OFFSETS] = wait_then_echo
    asking = [asyncio.create_task(ask(connection, bytes([number]))) for number in range(20)]
    await asyncio.sleep(0.05)
    assert connection.outstanding == 20
    release.set()
    for number, answer in enumerate(await asyncio.gather(*asking)):
        assert answer == b"echo " + bytes([number])
    assert connection.outstanding == 0


async def test_a_request_without_reply(broker: FakeBroker, connection: BrokerConnection) -> None:
    broker.handlers[ApiKey.LIST_OFFSETS] = lambda header, body: None if body == b"quiet" else body
    none = await connection.request_raw(
        ApiKey.LIST_OFFSETS, 1, (b"qu", b"iet"), timeout_s=10, expects_reply=False
    )
    assert len(none) == 0
    assert await ask(connection, b"loud") == b"loud"
    assert broker.count(ApiKey.LIST_OFFSETS) == 2


async def test_a_timeout_ends_the_connection_for_all(
    broker: FakeBroker, connection: BrokerConnection
) -> None:
    broker.handlers[ApiKey.LIST_OFFSETS] = silence
    other = asyncio.create_task(ask(connection))
    await asyncio.sleep(0.01)
    with pytest.raises(TimeoutError, match="LIST_OFFSETS"):
        await ask(connection, timeout_s=0.05)
    with pytest.raises(ConnectionClosed):
        await other
    assert connection.closed
    with pytest.raises(ConnectionClosed):
        await ask(connection)


async def test_the_reply_to_a_cancelled_request_is_not_taken_for_another(
    broker: FakeBroker, connection: BrokerConnection
) -> None:
    release = asyncio.Event()

    async def wait_then_echo(header: RequestHeader, body: bytes) -> bytes:
        await release.wait()
        return body

    broker.handlers[ApiKey.LIST_OFFSETS] = wait_then_echo
    first = asyncio.create_task(ask(connection, b"first"))
    second = asyncio.create_task(ask(connection, b"second"))
    await asyncio.sleep(0.01)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    release.set()
    assert await second == b"second"


async def test_a_reply_out_of_order_ends_the_connection(
    broker: FakeBroker, connection: BrokerConnection
) -> None:
    def wrong(header: RequestHeader, body: bytes) -> None:
        broker.connections[0].write_frame(struct.pack(">i", header.correlation_id + 1), b"body")

    broker.handlers[ApiKey.LIST_OFFSETS] = wrong
    with pytest.raises(ConnectionClosed, match="broke the protocol: reply 1 where 0 to LIST_OFFSETS was due"):
        await ask(connection)
    assert connection.closed


async def test_a_frame_too_short_for_a_reply_ends_the_connection(
    broker: FakeBroker, connection: BrokerConnection
) -> None:
    broker.handlers[ApiKey.LIST_OFFSETS] = lambda header, body: broker.connections[0].write_frame(b"abc")
    with pytest.raises(ConnectionClosed, match="broke the protocol"):
        await ask(connection)


async def test_a_body_that_cannot_be_decoded_harms_nobody_else(
    broker: FakeBroker, connection: BrokerConnection
) -> None:
    broker.handlers[ApiKey.METADATA] = lambda header, body: b"\x7f\xff\xff\xff"
    broker.handlers[ApiKey.LIST_OFFSETS] = echo
    metadata = request_class(ApiKey.METADATA, 5)(topics=(), allow_auto_topic_creation=False)
    with pytest.raises(DecodeError):
        await connection.request(metadata)
    assert await ask(connection, b"x") == b"echo x"


async def test_the_end_of_the_broker_is_the_end_of_every_request(
    broker: FakeBroker, connection: BrokerConnection
) -> None:
    broker.handlers[ApiKey.LIST_OFFSETS] = silence
    asking = [asyncio.create_task(ask(connection)) for _ in range(3)]
    await asyncio.sleep(0.05)
    await broker.close()
    for task in asking:
        with pytest.raises(ConnectionClosed):
            await task
    await connection.wait_closed()
    assert connection.closed


async def test_an_idle_connection_notices_the_end(broker: FakeBroker, connection: BrokerConnection) -> None:
    broker.handlers[ApiKey.LIST_OFFSETS] = echo
    await ask(connection)
    await broker.close()
    await asyncio.wait_for(connection.wait_closed(), 5)
    assert connection.closed


async def test_closing_answers_whoever_waits(broker: FakeBroker, connection: BrokerConnection) -> None:
    broker.handlers[ApiKey.LIST_OFFSETS] = silence
    asking = asyncio.create_task(ask(connection))
    await asyncio.sleep(0.01)
    connection.close()
    connection.close()
    with pytest.raises(ConnectionClosed, match="closed by us"):
        await asking


async def test_a_connection_given_away_keeps_what_comes_after_the_reply(
    broker: FakeBroker, connection: BrokerConnection
) -> None:
    def answer_and_ask(header: RequestHeader, body: bytes) -> None:
        broker.reply(broker.connections[0], header, b"yours")
        broker.connections[0].write_frame(b"a request of ours")

    broker.handlers[ApiKey.LIST_OFFSETS] = answer_and_ask
    asking = asyncio.create_task(ask(connection))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="outstanding"):
        connection.detach()
    assert await asking == b"yours"
    wire = connection.detach()
    assert await wire.read_frame(10) == b"a request of ours"
    # It is not ours any more.
    connection.close()
    connection.abort()
    await connection.wait_closed()
    assert connection.closed
    with pytest.raises(ConnectionClosed):
        await ask(connection)
    assert not wire.closed


async def test_slow_brokers_slow_us_down(broker: FakeBroker, connection: BrokerConnection) -> None:
    blocked = asyncio.Event()

    async def stop_reading(header: RequestHeader, body: bytes) -> None:
        await blocked.wait()

    broker.handlers[ApiKey.LIST_OFFSETS] = stop_reading
    body = bytes(1_000_000)
    tracemalloc.start()
    asking = [asyncio.create_task(ask(connection, body, timeout_s=0.5)) for _ in range(100)]
    results = await asyncio.gather(*asking, return_exceptions=True)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert all(isinstance(result, TimeoutError | ConnectionClosed) for result in results)
    # Most were never handed to the transport, which would keep them all.
    assert peak_bytes < 20_000_000
    assert broker.count(ApiKey.LIST_OFFSETS) <= 1


def sasl(broker: FakeBroker, *answers: tuple[ErrorCode, bytes]) -> list[bytes]:
    """Makes the broker offer PLAIN and SCRAM and give these answers; returns what the client says."""
    said: list[bytes] = []
    left = list(answers)

    def handshake(header: RequestHeader, body: bytes) -> Any:
        wanted = decode_request(header.api_key, header.api_version, body).mechanism
        mechanisms = ("PLAIN", "SCRAM-SHA-256")
        code = ErrorCode.none if wanted in mechanisms else ErrorCode.unsupported_sasl_mechanism
        return response_class(ApiKey.SASL_HANDSHAKE, 1)(error_code=code, mechanisms=mechanisms)

    def authenticate(header: RequestHeader, body: bytes) -> Any:
        said.append(bytes(decode_request(header.api_key, header.api_version, body).auth_bytes))
        code, auth_bytes = left.pop(0)
        return response_class(ApiKey.SASL_AUTHENTICATE, header.api_version)(
            error_code=code,
            error_message="because",
            auth_bytes=auth_bytes,
            session_lifetime=timedelta(minutes=1),
        )

    broker.handlers[ApiKey.SASL_HANDSHAKE] = handshake
    broker.handlers[ApiKey.SASL_AUTHENTICATE] = authenticate
    return said


async def test_plain_login(broker: FakeBroker, connection: BrokerConnection) -> None:
    said = sasl(broker, (ErrorCode.none, b""))
    await connection.negotiate()
    await connection.authenticate("PLAIN", "alice", "secret")
    assert said == [b"\0alice\0secret"]
    assert connection.session_lifetime_ms == 60_000


@pytest.mark.parametrize(
    ("mechanism", "answers", "message"),
    [
        ("PLAIN", [(ErrorCode.sasl_authentication_failed, b"")], "refused the credentials: because"),
        ("PLAIN", [(ErrorCode.none, b"data")], "unexpected data"),
        ("SCRAM-SHA-256", [(ErrorCode.none, b"r=mine,s=AAAA,i=4096")], "nonce"),
        ("SCRAM-SHA-512", [], "does not offer SASL SCRAM-SHA-512; it offers PLAIN, SCRAM-SHA-256"),
        ("GSSAPI", [], "unknown SASL mechanism"),
    ],
)
async def test_failed_logins(
    broker: FakeBroker,
    connection: BrokerConnection,
    mechanism: str,
    answers: list[tuple[ErrorCode, bytes]],
    message: str,
) -> None:
    sasl(broker, *answers)
    await connection.negotiate()
    with pytest.raises(AuthenticationFailed, match=message) as caught:
        await connection.authenticate(mechanism, "alice", "s3cret")
    assert "s3cret" not in repr(caught.value)


def test_errors_of_brokers_read_well() -> None:
    assert str(KafkaError(36, "topic x")) == "TOPIC_ALREADY_EXISTS (36): topic x"
    assert str(KafkaError(ErrorCode.not_controller, "y")) == "NOT_CONTROLLER (41): y"
    assert str(KafkaError(9999, "z")) == "unknown error (9999): z"


@pytest.mark.parametrize("size", [10, 900_000])
async def test_a_guarded_request_is_sent_whole(
    broker: FakeBroker, connection: BrokerConnection, size: int
) -> None:
    broker.handlers[ApiKey.LIST_OFFSETS] = lambda _, body: bytes(body[-10:])
    asked = 0

    def may_send() -> bool:
        nonlocal asked
        asked += 1
        return True

    parts = (b"x" * (size // 2), bytes(range(100, 100 + size % 7)) + b"y" * (size - size // 2))
    answer = await connection.request_guarded(ApiKey.LIST_OFFSETS, 1, parts, timeout_s=10, may_send=may_send)
    assert bytes(answer) == (b"x" * 10 + parts[1])[-10:]
    assert asked == 1
    assert bytes(await ask(connection, b"next"))[-4:] == b"next"


@pytest.mark.parametrize("size", [10, 900_000])
async def test_a_guarded_request_that_may_not_be_sent_never_arrives(
    broker: FakeBroker, connection: BrokerConnection, size: int
) -> None:
    broker.handlers[ApiKey.LIST_OFFSETS] = echo
    with pytest.raises(ConnectionClosed, match="may not be sent any more"):
        await connection.request_guarded(
            ApiKey.LIST_OFFSETS, 1, (b"x" * size,), timeout_s=10, may_send=lambda: False
        )
    await asyncio.sleep(0.1)
    assert not broker.requests
