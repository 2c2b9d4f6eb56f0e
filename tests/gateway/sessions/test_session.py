from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode
from structlog.testing import capture_logs

from certs.make_certs import TestAuthority
from gateway.config import Authentication, LimitsConfig, TlsConfig
from gateway.security.acls import Acls
from gateway.sessions import presentation
from gateway.sessions.session import Session
from gateway.sessions.session_state import SessionState
from gateway.tls import ClientAuth, server_context
from gateway.upstreams.metadata import nested_class
from gateway.wire import ConnectionClosed
from protocol.api_keys import ApiKey
from protocol.headers import RequestHeader
from protocol.messages import decode_request, response_class
from protocol.reverse import LinkAttachRequest, LinkAttachResponse
from protocol.shown_responses import Presented
from tests.e2e.raw_client import batch, make, produce
from tests.gateway.security.acl_cases import acl
from tests.gateway.sessions.lab import Client, Lab, heartbeat, heartbeat_response, lab

ATTACH = LinkAttachRequest("to-cloud", None, "source", UUID(int=7), 1)
SASL = Authentication.SASL_PLAIN


async def closes(client: Client) -> None:
    with pytest.raises(ConnectionClosed):
        await client.wire.read_frame(10)


def metadata(*names: str, version: int = 12) -> Any:
    topics = [{"topic_id": None, "name": name} for name in names]
    return make(
        ApiKey.METADATA,
        version,
        topics=topics,
        allow_auto_topic_creation=False,
        include_topic_authorized_operations=False,
    )


class Gate:
    """A handler that holds answers back until it is opened."""

    def __init__(self, answer: Callable[[RequestHeader, bytes], Any]) -> None:
        self.open = asyncio.Event()
        self._answer = answer

    async def __call__(self, header: RequestHeader, body: bytes) -> Any:
        await self.open.wait()
        return self._answer(header, body)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


# --- forwarding --------------------------------------------------------------------------------------


async def test_a_request_goes_to_the_broker_of_the_port_and_its_answer_back() -> None:
    async with lab() as here:
        client = await here.client()
        here.broker.handlers[ApiKey.HEARTBEAT] = lambda header, body: heartbeat_response(
            ErrorCode.rebalance_in_progress
        )
        answer = await client.call(heartbeat())
        assert answer.error_code == ErrorCode.rebalance_in_progress
        (header,) = here.forwarded(ApiKey.HEARTBEAT)
        assert header.client_id == "lab"
        assert header.correlation_id == 0, "the broker sees ids of our own"


async def test_one_client_connection_is_one_upstream_connection_made_when_needed() -> None:
    async with lab() as here:
        await here.cluster.start()
        first, second = await here.client(), await here.client()
        await first.call(make(ApiKey.API_VERSIONS, 3, client_software_name="x", client_software_version="1"))
        assert here.broker.open_connections == 2, "only the kept ones"
        await first.call(heartbeat())
        await first.call(heartbeat())
        await second.call(heartbeat())
        assert here.broker.open_connections == 4
        await first.close()
        await until(lambda: here.broker.open_connections == 3)


async def test_answers_come_in_the_order_of_the_requests_whoever_gives_them() -> None:
    async with lab() as here:
        gate = Gate(lambda header, body: heartbeat_response())
        here.broker.handlers[ApiKey.HEARTBEAT] = gate
        client = await here.client()
        versions = make(ApiKey.API_VERSIONS, 0)
        sent = [client.send(message) for message in (heartbeat(), versions, heartbeat(), versions)]
        await until(lambda: len(here.forwarded(ApiKey.HEARTBEAT)) >= 1)
        await asyncio.sleep(0.05)
        gate.open.set()
        got = [(await client.receive_body())[0] for _ in sent]
        assert got == sent


async def test_what_need_not_wait_is_forwarded_where_it_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    async with lab() as here:
        client = await here.client()
        await client.call(heartbeat())
        (session,) = here.sessions
        monkeypatch.setattr(session._gate, "decide", None)
        for _ in range(3):
            assert (await client.call(heartbeat())).error_code == ErrorCode.none


async def test_what_must_wait_is_not_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    async with lab() as here:
        known = asyncio.Event()

        async def before_produce(topics: Iterable[str | UUID]) -> None:
            await known.wait()

        monkeypatch.setattr(here.mirrors, "before_produce", before_produce)
        produced = response_class(ApiKey.PRODUCE, 9)(responses=(), throttle_time=timedelta())
        here.broker.handlers[ApiKey.PRODUCE] = lambda header, body: produced
        client = await here.client()
        await client.call(heartbeat())
        sent = [client.send(heartbeat()), client.send(produce(9, {"t": batch(b"x")}))]
        sent += [client.send(heartbeat()) for _ in range(3)]
        await until(lambda: len(here.forwarded(ApiKey.HEARTBEAT)) == 2)
        await asyncio.sleep(0.05)
        assert len(here.forwarded(ApiKey.HEARTBEAT)) == 2
        known.set()
        assert [(await client.receive_body())[0] for _ in sent] == sent
        keys = [header.api_key for header in here.broker.requests]
        assert keys[-5:] == [ApiKey.HEARTBEAT, ApiKey.PRODUCE, *[ApiKey.HEARTBEAT] * 3]


async def test_a_request_that_was_taken_before_a_drain_began_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with lab() as here:
        client = await here.client()
        await client.call(heartbeat())
        (session,) = here.sessions
        draining = []

        def leave_it(header: RequestHeader, frame: bytearray) -> None:
            draining.append(asyncio.create_task(session.drain()))

        monkeypatch.setattr(session._gate, "decide_at_once", leave_it)
        assert (await client.call(heartbeat())).error_code == ErrorCode.none
        await closes(client)
        await asyncio.gather(*draining)


async def test_a_mistake_of_ours_with_a_response_ends_the_session_and_is_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def mistake(*_: object) -> Presented:
        raise ZeroDivisionError

    async with lab() as here:
        fetched = response_class(ApiKey.FETCH, 4)(throttle_time=timedelta(), responses=())
        here.broker.handlers[ApiKey.FETCH] = lambda header, body: fetched
        monkeypatch.setattr(presentation, "present_response", mistake)
        here.mirrors.shown = lambda topic: None
        client = await here.client()
        with capture_logs() as logs:
            client.send(make(ApiKey.FETCH, 4))
            await closes(client)
            await until(lambda: not here.listener.sessions)
        (logged,) = [entry for entry in logs if entry["event"] == "session.response_failed"]
        assert "ZeroDivisionError" in logged["error"]


async def test_no_more_requests_are_taken_than_may_be_in_flight() -> None:
    async with lab(limits=LimitsConfig(max_in_flight=3)) as here:
        gate = Gate(lambda header, body: heartbeat_response())
        here.broker.handlers[ApiKey.HEARTBEAT] = gate
        client = await here.client()
        for _ in range(10):
            client.send(heartbeat())
        await until(lambda: bool(here.sessions))
        path = here.sessions[0]._path
        await until(lambda: len(path.in_flight) == 3)
        await asyncio.sleep(0.1)
        assert len(path.in_flight) == 3
        gate.open.set()
        for _ in range(10):
            await client.receive()


async def test_produce_without_acknowledgement_takes_no_place_and_keeps_the_order() -> None:
    seen: list[bytes] = []
    async with lab(limits=LimitsConfig(max_in_flight=2)) as here:

        def take(header: RequestHeader, body: bytes) -> None:
            request = decode_request(ApiKey.PRODUCE, header.api_version, body)
            seen.append(bytes(request.topic_data[0].partition_data[0].records)[-6:-1])

        here.broker.handlers[ApiKey.PRODUCE] = take
        client = await here.client()
        for index in range(50):
            client.send(produce(9, {"t": batch(b"%05d" % index)}, acks=0))
        await client.call(heartbeat())
        assert seen == [b"%05d" % index for index in range(50)]


async def test_what_a_client_sent_before_it_left_reaches_the_broker() -> None:
    seen: list[int] = []
    async with lab() as here:

        async def take(header: RequestHeader, body: bytes) -> None:
            seen.append(len(body))

        here.broker.handlers[ApiKey.PRODUCE] = take
        for _ in range(10):
            seen.clear()
            client = await here.client()
            # The last is larger than one read, so that its end and the client's come together.
            for size in (10, 20, 60_000):
                client.send(produce(9, {"t": batch(b"x" * size)}, acks=0))
            await client.close()
            await until(lambda: len(seen) == 3)


async def test_the_broker_answers_a_client_that_has_left_before_it_is_left_too() -> None:
    async with lab() as here:
        gate = Gate(lambda header, body: heartbeat_response())
        here.broker.handlers[ApiKey.HEARTBEAT] = gate
        client = await here.client()
        client.send(heartbeat())
        await until(lambda: len(here.forwarded(ApiKey.HEARTBEAT)) == 1)
        await client.close()
        await asyncio.sleep(0.1)
        upstream = here.broker.connections[-1]
        assert not upstream.closed, "a broker drops what it has not handled yet when it is reset"
        gate.open.set()
        await until(lambda: upstream.closed)


async def test_a_broker_that_never_answers_is_left_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.sessions.session._FLUSH_UPSTREAM_S", 0.1)
    async with lab() as here:
        here.broker.handlers[ApiKey.HEARTBEAT] = Gate(lambda header, body: None)
        client = await here.client()
        client.send(heartbeat())
        await until(lambda: len(here.forwarded(ApiKey.HEARTBEAT)) == 1)
        await client.close()
        await until(lambda: here.listener.sessions == 0)
        await until(lambda: here.broker.connections[-1].closed)


async def test_a_client_that_does_not_read_is_not_read_for() -> None:
    async with lab(limits=LimitsConfig(max_in_flight=1000)) as here:
        answer = listing_of(1 << 20)
        here.broker.handlers[ApiKey.LIST_GROUPS] = lambda header, body: answer
        client = await here.client()
        client.wire._transport.pause_reading()  # type: ignore[union-attr] # there is no other way to be slow
        for _ in range(60):
            client.send(make(ApiKey.LIST_GROUPS, 3))
        await until(lambda: len(here.forwarded(ApiKey.LIST_GROUPS)) == 60)
        await asyncio.sleep(0.3)
        upstream = here.broker.connections[-1]
        assert upstream._transport.get_write_buffer_size() > 30 << 20  # type: ignore[union-attr]
        client.wire._transport.resume_reading()  # type: ignore[union-attr]
        for _ in range(60):
            assert len((await client.receive_body())[3]) > 1 << 20


def listing_of(size_bytes: int) -> Any:
    made: Any = response_class(ApiKey.LIST_GROUPS, 3)
    group = nested_class(made, "ListedGroup")
    groups = tuple(group(group_id="g" * 30_000, protocol_type="") for _ in range(size_bytes // 30_000 + 1))
    return made(throttle_time=timedelta(), error_code=ErrorCode.none, groups=groups)


async def test_addresses_are_those_of_the_gateway() -> None:
    async with lab() as here:
        here.broker.brokers[77] = ("10.0.0.1", 9092)
        answer = await (await here.client(None)).call(metadata())
        assert [(b.node_id, b.host, b.port) for b in answer.brokers] == [(1, "gateway.example", 9001)]


# --- what is refused by closing ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "version"),
    [
        (ApiKey.LEADER_AND_ISR, 0),
        (ApiKey.LINK_BIND, 0),
        (ApiKey.METADATA, 14),
        (ApiKey.HEARTBEAT, -1),
        (ApiKey.PRODUCE, 2),
        (4711, 0),
        (ApiKey.WRITE_TXN_MARKERS, 1),
        (ApiKey.SASL_HANDSHAKE, 2),
    ],
)
async def test_what_was_not_advertised_ends_the_connection_and_never_gets_to_a_broker(
    key: int, version: int
) -> None:
    async with lab() as here:
        client = await here.client()
        await client.call(heartbeat())
        client.send_body(key, version, bytes(40))
        await closes(client)
        assert {header.api_key for header in here.broker.requests} == {
            ApiKey.API_VERSIONS,
            ApiKey.HEARTBEAT,
            ApiKey.METADATA,
        }


@pytest.mark.parametrize(
    "frame", [b"", b"\0", b"\0\3\0\x0c\0\0\0\1\0\xff", b"\0\0\0\x09\0\0\0\1\xff\xff\0\xff\xff\xff\xff\x0f"]
)
async def test_a_malformed_frame_ends_the_connection(frame: bytes) -> None:
    async with lab() as here:
        client = await here.client()
        client.wire.write_frame(frame)
        await closes(client)


async def test_a_frame_above_the_limit_ends_the_connection_and_is_not_waited_for() -> None:
    async with lab(limits=LimitsConfig(max_frame_bytes=2048)) as here:
        client = await here.client()
        await client.call(heartbeat())
        with capture_logs() as logs:
            client.wire._transport.write((2049).to_bytes(4, "big"))  # type: ignore[union-attr]
            await closes(client)
        assert "2049" in logs[-1]["reason"]


async def test_sasl_after_the_authentication_is_an_illegal_state() -> None:
    async with lab() as here:
        client = await here.client()
        shaken = await client.call(make(ApiKey.SASL_HANDSHAKE, 1, mechanism="PLAIN"))
        authenticated = await client.call(make(ApiKey.SASL_AUTHENTICATE, 1, auth_bytes=b""))
        assert {shaken.error_code, authenticated.error_code} == {ErrorCode.illegal_sasl_state}


# --- authentication ----------------------------------------------------------------------------------


async def test_sasl_plain_lets_in_whoever_knows_the_password() -> None:
    async with lab(authentication=SASL) as here:
        client = await here.client()
        versions = await client.call(make(ApiKey.API_VERSIONS, 0))
        assert (17, 0, 1) in [(v.api_key, v.min_version, v.max_version) for v in versions.api_keys]
        assert (await client.log_in()).error_code == ErrorCode.none
        assert str(here.sessions[0].principal) == "User:alice"
        assert (await client.call(heartbeat())).error_code == ErrorCode.none


@pytest.mark.parametrize(("user", "password"), [("alice", "wrong"), ("mallory", "wonderland")])
async def test_bad_credentials_are_told_late_and_end_the_connection(user: str, password: str) -> None:
    async with lab(authentication=SASL) as here:
        client = await here.client()
        started = time.monotonic()
        answer = await client.log_in(user, password)
        assert answer.error_code == ErrorCode.sasl_authentication_failed
        assert time.monotonic() - started >= 0.1
        assert "Invalid username or password" in answer.error_message
        await closes(client)


async def test_a_broken_token_is_refused() -> None:
    async with lab(authentication=SASL) as here:
        client = await here.client()
        await client.call(make(ApiKey.SASL_HANDSHAKE, 1, mechanism="PLAIN"))
        answer = await client.call(make(ApiKey.SASL_AUTHENTICATE, 0, auth_bytes=b"no nul"))
        assert answer.error_code == ErrorCode.sasl_authentication_failed
        await closes(client)


async def test_an_unknown_mechanism_is_told_which_there_are() -> None:
    async with lab(authentication=SASL) as here:
        client = await here.client()
        answer = await client.call(make(ApiKey.SASL_HANDSHAKE, 1, mechanism="GSSAPI"))
        assert answer.error_code == ErrorCode.unsupported_sasl_mechanism
        assert answer.mechanisms == ("PLAIN",)
        await closes(client)


@pytest.mark.parametrize(
    "request_",
    [
        metadata(),
        heartbeat(),
        make(ApiKey.SASL_AUTHENTICATE, 2, auth_bytes=b"\0alice\0wonderland"),
        make(ApiKey.SASL_HANDSHAKE, 0, mechanism="PLAIN"),
    ],
)
async def test_before_the_handshake_nothing_else_is_answered(request_: Any) -> None:
    async with lab(authentication=SASL) as here:
        client = await here.client()
        client.send(request_)
        await closes(client)
        assert here.broker.requests == []


async def test_after_the_handshake_only_the_token_is_taken() -> None:
    async with lab(authentication=SASL) as here:
        client = await here.client()
        await client.call(make(ApiKey.SASL_HANDSHAKE, 1, mechanism="PLAIN"))
        client.send(make(ApiKey.API_VERSIONS, 0))
        await closes(client)


async def test_before_authentication_frames_must_be_small() -> None:
    limits = LimitsConfig(max_frame_bytes_before_authentication=1024)
    async with lab(authentication=SASL, limits=limits) as here:
        client = await here.client()
        client.send_body(ApiKey.API_VERSIONS, 0, bytes(2000))
        await closes(client)
        client = await here.client()
        await client.log_in()
        await client.call(heartbeat("g" * 3000))


async def test_who_does_not_authenticate_in_time_is_closed() -> None:
    async with lab(authentication=SASL, limits=LimitsConfig(authentication_timeout_ms=200)) as here:
        slow, quick = await here.client(), await here.client()
        await quick.log_in()
        await closes(slow)
        assert (await quick.call(heartbeat())).error_code == ErrorCode.none


async def test_an_api_versions_request_that_is_too_new_is_answered_in_version_0() -> None:
    async with lab(authentication=SASL) as here:
        client = await here.client()
        client.send_body(ApiKey.API_VERSIONS, 99, b"whatever comes by then")
        _, _, _, body = await client.receive_body()
        assert int.from_bytes(body[:2], "big") == ErrorCode.unsupported_version
        assert (await client.log_in()).error_code == ErrorCode.none


async def test_the_principal_of_a_client_certificate(authority: TestAuthority) -> None:
    server, alice = authority.server(), authority.client("alice")
    context = server_context(
        TlsConfig(
            certificate_file=server.certificate_file,
            key_file=server.key_file,
            client_ca_file=authority.ca_file,
            client_auth=ClientAuth.REQUIRED,
        )
    )
    tls = ssl.create_default_context(cafile=str(authority.ca_file))
    tls.load_cert_chain(alice.certificate_file, alice.key_file)
    async with lab(authentication=Authentication.MTLS, tls=context) as here:
        client = await here.client(tls=tls)
        await client.call(heartbeat())
        assert str(here.sessions[0].principal) == "User:CN=alice"
        await client.close()


async def test_without_certificate_nobody_is_anybody(authority: TestAuthority) -> None:
    server = authority.server()
    context = server_context(TlsConfig(certificate_file=server.certificate_file, key_file=server.key_file))
    tls = ssl.create_default_context(cafile=str(authority.ca_file))
    async with lab(authentication=Authentication.MTLS, tls=context) as here:
        client = await here.client(tls=tls)
        await closes(client)
        await client.close()


# --- upstream ----------------------------------------------------------------------------------------


async def test_a_broker_that_goes_takes_the_session_with_it_after_what_it_has_answered() -> None:
    async with lab() as here:

        def answer(header: RequestHeader, body: bytes) -> Any:
            if header.correlation_id == 2:
                here.broker.connections[-1].close()
                return None
            return heartbeat_response()

        here.broker.handlers[ApiKey.HEARTBEAT] = answer
        client = await here.client()
        for _ in range(4):
            client.send(heartbeat())
        await client.receive()
        await client.receive()
        await closes(client)


async def test_a_broker_that_stops_within_a_reply_leaves_no_half_reply() -> None:
    async with lab() as here:

        def answer(header: RequestHeader, body: bytes) -> Any:
            transport = here.broker.connections[-1]._transport
            assert transport is not None
            transport.write(b"\0\0\0\x20" + header.correlation_id.to_bytes(4, "big") + b"\0\0")
            transport.close()

        here.broker.handlers[ApiKey.HEARTBEAT] = answer
        client = await here.client()
        client.send(heartbeat())
        with pytest.raises(ConnectionClosed) as caught:
            await client.wire.read_frame(10)
        assert "in the middle" not in caught.value.reason


async def test_an_answer_to_another_request_than_is_due_ends_the_session() -> None:
    async with lab() as here:

        def answer(header: RequestHeader, body: bytes) -> Any:
            here.broker.connections[-1].write_frame(b"\0\0\x12\x34" + bytes(8))

        here.broker.handlers[ApiKey.HEARTBEAT] = answer
        client = await here.client()
        client.send(heartbeat())
        await closes(client)


async def test_nothing_more_is_awaited_of_a_broker_whose_answers_nobody_understands() -> None:
    async with lab() as here:
        client = await here.client()

        async def nonsense(header: RequestHeader, body: bytes) -> bytes:
            await asyncio.sleep(0.2)
            return b"\xff" * 40

        here.broker.handlers[ApiKey.FIND_COORDINATOR] = nonsense
        client.send(make(ApiKey.FIND_COORDINATOR, 3, key="group"))
        client.send(heartbeat())
        with pytest.raises(ConnectionClosed):
            await client.receive()
        # Not the seconds that a broker has for what it was sent.
        async with asyncio.timeout(2):
            while here.listener.sessions:
                await asyncio.sleep(0.01)


async def test_the_port_of_a_broker_that_does_not_exist_closes() -> None:
    async with lab() as here:
        client = await here.client(9)
        with capture_logs() as logs:
            client.send(make(ApiKey.API_VERSIONS, 0))
            await closes(client)
            await until(lambda: here.listener.sessions == 0)
        assert logs[-1]["cause"] == "upstream_unreachable"
        assert "9" in logs[-1]["reason"]


async def test_clients_are_turned_away_until_the_state_is_known() -> None:
    async with lab(authentication=SASL) as here:
        here.serving = False
        await closes(await here.client())
        here.serving = True
        assert (await (await here.client()).log_in()).error_code == ErrorCode.none


# --- links -------------------------------------------------------------------------------------------


async def attach(client: Client) -> LinkAttachResponse:
    client.send_body(ApiKey.LINK_ATTACH, 0, ATTACH.encode())
    return LinkAttachResponse.decode(0, (await client.receive_body())[3])


async def test_an_attached_connection_is_handed_over_open_with_its_roles_swapped() -> None:
    async with lab(authentication=SASL, super_users=frozenset({"User:admin"})) as here:
        client = await here.client()
        await client.log_in("admin")
        await client.call(heartbeat())
        assert (await attach(client)).error_code == ErrorCode.none
        await until(lambda: bool(here.attach.parked))
        await until(lambda: here.listener.sessions == 0)
        assert here.attach.principals == ["User:admin"]
        (parked,) = here.attach.parked
        parked.write_frame(b"a request of the destination")
        assert await client.wire.read_frame(5) == b"a request of the destination"
        client.wire.write_frame(b"an answer")
        assert await parked.read_frame(5) == b"an answer"
        assert here.sessions[0].state is SessionState.HANDED_OVER
        await here.sessions[0].drain()
        here.sessions[0].close("drained", "a handed over session is not ours to close")
        assert not parked.closed


async def test_only_super_users_attach_and_others_may_go_on() -> None:
    async with lab(authentication=SASL, super_users=frozenset({"User:admin"})) as here:
        client = await here.client()
        await client.log_in("alice")
        answer = await attach(client)
        assert answer.error_code == ErrorCode.cluster_authorization_failed
        assert "User:alice" in str(answer.error_message)
        assert here.attach.principals == []
        await client.call(heartbeat())


ALTER = acl("allow alter cluster literal kafka-cluster User:alice 127.0.0.1")


@pytest.mark.parametrize(
    ("acls", "attached"),
    [
        (Acls([ALTER]), True),
        (Acls([acl("allow all cluster literal kafka-cluster User:alice 10.9.9.9")]), False),
        (Acls([acl("allow describe cluster literal kafka-cluster User:alice *")]), False),
        (Acls([ALTER, acl("deny alter cluster literal kafka-cluster User:* *")]), False),
        # Not known for now.
        (None, False),
    ],
)
async def test_with_acls_an_attach_needs_alter_on_the_cluster(acls: Acls | None, attached: bool) -> None:
    async with lab(authentication=SASL, super_users=frozenset({"User:admin"}), acls=lambda: acls) as here:
        client = await here.client()
        await client.log_in("alice")
        refused = (await attach(client)).error_code == ErrorCode.cluster_authorization_failed
        assert refused is not attached
        assert len(here.attach.principals) == attached


async def test_an_attach_before_authentication_is_refused_and_closed() -> None:
    async with lab(authentication=SASL) as here:
        client = await here.client()
        assert (await attach(client)).error_code == ErrorCode.cluster_authorization_failed
        await closes(client)


async def test_a_refused_attach_leaves_the_session_as_it_was() -> None:
    async with lab() as here:
        here.attach.error = ErrorCode.invalid_request
        client = await here.client()
        assert (await attach(client)).error_code == ErrorCode.invalid_request
        await client.call(heartbeat())
        assert here.attach.parked == []


async def test_a_gateway_that_is_stopping_takes_no_link() -> None:
    async with lab() as here:
        here.attach.decided.clear()
        client = await here.client()
        client.send_body(ApiKey.LINK_ATTACH, 0, ATTACH.encode())
        await until(lambda: bool(here.attach.principals))
        await here.sessions[0].drain()
        here.attach.decided.set()
        await closes(client)
        assert here.attach.parked == []


# --- ending ------------------------------------------------------------------------------------------


async def test_draining_answers_what_is_in_flight_and_takes_nothing_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It may take longer than what is granted to a client that has gone.
    monkeypatch.setattr("gateway.sessions.session._FLUSH_UPSTREAM_S", 0.01)
    async with lab() as here:
        gate = Gate(lambda header, body: heartbeat_response())
        here.broker.handlers[ApiKey.HEARTBEAT] = gate
        busy, idle = await here.client(), await here.client()
        await idle.call(make(ApiKey.API_VERSIONS, 0))
        busy.send(heartbeat())
        await until(lambda: len(here.forwarded(ApiKey.HEARTBEAT)) == 1)
        for session in here.sessions:
            await session.drain()
        await closes(idle)
        busy.send(heartbeat())
        await asyncio.sleep(0.05)
        gate.open.set()
        await busy.receive()
        await closes(busy)
        assert len(here.forwarded(ApiKey.HEARTBEAT)) == 1


async def test_draining_before_authentication_closes() -> None:
    async with lab(authentication=SASL) as here:
        client = await here.client()
        await client.call(make(ApiKey.SASL_HANDSHAKE, 1, mechanism="PLAIN"))
        await here.sessions[0].drain()
        await closes(client)


async def test_aborting_ends_a_session_whose_broker_never_answers() -> None:
    async with lab() as here:
        here.broker.handlers[ApiKey.HEARTBEAT] = Gate(lambda header, body: None)
        client = await here.client()
        client.send(heartbeat())
        await until(lambda: len(here.forwarded(ApiKey.HEARTBEAT)) == 1)
        here.sessions[0].abort()
        await closes(client)
        await until(lambda: here.listener.sessions == 0)


async def test_a_waiting_client_is_not_idle() -> None:
    async with lab() as here:
        gate = Gate(lambda header, body: heartbeat_response())
        here.broker.handlers[ApiKey.HEARTBEAT] = gate
        client = await here.client()
        client.send(heartbeat())
        await until(lambda: len(here.forwarded(ApiKey.HEARTBEAT)) == 1)
        (session,) = here.sessions
        await asyncio.sleep(0.05)
        assert session.idle_s() == 0
        gate.open.set()
        await client.receive()
        await asyncio.sleep(0.05)
        assert session.idle_s() >= 0.05


async def test_nothing_is_left_behind() -> None:
    async with lab() as here:
        before = len(asyncio.all_tasks())
        for _ in range(20):
            client = await here.client()
            await client.call(heartbeat())
            await client.close()
        await until(lambda: here.listener.sessions == 0)
        await until(lambda: here.broker.open_connections <= 2)
        await asyncio.sleep(0.05)
        # The fake broker's own tasks end by themselves.
        assert len(asyncio.all_tasks()) <= before + 2


async def test_a_client_that_does_not_take_its_answers_is_idle() -> None:
    async with lab() as here:
        answer = listing_of(4 << 20)
        here.broker.handlers[ApiKey.LIST_GROUPS] = lambda header, body: answer
        client = await here.client()
        client.wire._transport.pause_reading()  # type: ignore[union-attr]
        for _ in range(8):
            client.send(make(ApiKey.LIST_GROUPS, 3))
        (session,) = await sessions_of(here)
        await until(lambda: len(here.forwarded(ApiKey.LIST_GROUPS)) == 8)
        await until(lambda: session.idle_s() > 0.1)
        client.wire._transport.resume_reading()  # type: ignore[union-attr]
        for _ in range(8):
            await client.receive_body()


async def sessions_of(here: Lab) -> list[Session]:
    await until(lambda: bool(here.sessions))
    return here.sessions
