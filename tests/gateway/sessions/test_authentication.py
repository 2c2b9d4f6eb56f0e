"""Logging in and logging in again, as clients do it on the wire."""

from __future__ import annotations

import asyncio
import statistics
import time
from datetime import timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from gateway import observe
from gateway.config import Authentication, LimitsConfig
from gateway.security.credentials import SCRAM_MECHANISMS, Credentials
from gateway.security.policy import AuthenticationPolicy
from gateway.security.principals import Principal, user
from gateway.security.sasl import Accepted, Challenge, mechanisms
from gateway.sessions.authentication import session_lifetime_s
from gateway.sessions.session_state import SessionState
from gateway.wire import ConnectionClosed
from protocol.api_keys import ApiKey
from protocol.reverse import LinkAttachRequest
from tests.e2e.raw_client import make
from tests.gateway.security.issuer import Issuer
from tests.gateway.sessions.lab import PASSWORD, Client, heartbeat, lab, sasl_policy

ALL = ("PLAIN", *SCRAM_MECHANISMS)


async def closes(client: Client) -> None:
    with pytest.raises(ConnectionClosed):
        await client.wire.read_frame(10)


def outcomes(mechanism: str, outcome: str) -> float:
    return (
        observe.registry.get_sample_value(
            "causeway_authentications_total", {"mechanism": mechanism, "outcome": outcome}
        )
        or 0.0
    )


# --- mechanisms --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ALL)
async def test_every_mechanism_lets_in_whoever_knows_the_password(mechanism: str) -> None:
    before = outcomes(mechanism, "accepted")
    async with lab(policy=sasl_policy(names=ALL)) as here:
        client = await here.client()
        answer = await client.log_in(mechanism=mechanism)
        assert answer.error_code == ErrorCode.none
        assert answer.session_lifetime == timedelta()
        assert (await client.call(heartbeat())).error_code == ErrorCode.none
        assert str(here.sessions[0].principal) == "User:alice"
    assert outcomes(mechanism, "accepted") == before + 1


@pytest.mark.parametrize("mechanism", SCRAM_MECHANISMS)
@pytest.mark.parametrize(("name", "password"), [("alice", "guess"), ("nobody", PASSWORD)])
async def test_scram_tells_a_wrong_password_and_a_wrong_name_the_same(
    mechanism: str, name: str, password: str
) -> None:
    async with lab(policy=sasl_policy(names=ALL)) as here:
        client = await here.client()
        began = time.monotonic()
        answer = await client.log_in(name, password, mechanism)
        assert answer.error_code == ErrorCode.sasl_authentication_failed
        assert answer.error_message == (
            "Authentication failed during authentication due to invalid credentials "
            f"with SASL mechanism {mechanism}"
        )
        assert time.monotonic() - began > 0.1
        await closes(client)


@pytest.mark.parametrize("mechanism", ALL)
async def test_how_long_a_refusal_takes_says_nothing_of_whether_there_is_such_a_user(mechanism: str) -> None:
    async with lab(policy=sasl_policy(names=ALL)) as here:
        times: dict[str, list[float]] = {"alice": [], "nobody": []}
        for _ in range(5):
            # In turns, so that a machine that is busy for a while is so for both.
            for name, taken in times.items():
                client = await here.client()
                began = time.perf_counter()
                answer = await client.log_in(name, "guess", mechanism)
                taken.append(time.perf_counter() - began)
                assert answer.error_code == ErrorCode.sasl_authentication_failed
        known, unknown = (statistics.median(taken) for taken in times.values())
        assert 0.7 < known / unknown < 1.4


async def test_a_mechanism_that_is_not_offered_is_answered_with_those_that_are() -> None:
    async with lab(policy=sasl_policy(names=("SCRAM-SHA-512", "PLAIN"))) as here:
        client = await here.client()
        answer = await client.call(make(ApiKey.SASL_HANDSHAKE, 1, mechanism="SCRAM-SHA-256"))
        assert answer.error_code == ErrorCode.unsupported_sasl_mechanism
        assert answer.mechanisms == ("SCRAM-SHA-512", "PLAIN")
        await closes(client)


async def test_the_message_of_another_mechanism_is_refused() -> None:
    async with lab(policy=sasl_policy(names=ALL)) as here:
        client = await here.client()
        await client.call(make(ApiKey.SASL_HANDSHAKE, 1, mechanism="SCRAM-SHA-256"))
        token = f"\0alice\0{PASSWORD}".encode()
        answer = await client.call(make(ApiKey.SASL_AUTHENTICATE, 2, auth_bytes=token))
        assert answer.error_code == ErrorCode.sasl_authentication_failed
        await closes(client)


# --- tokens ------------------------------------------------------------------------------------------


def bearer_policy(issuer: Issuer, **options: Any) -> AuthenticationPolicy:
    offered = mechanisms(("OAUTHBEARER",), Credentials({}, lambda name: None), issuer.validator())
    return AuthenticationPolicy(method=Authentication.SASL, mechanisms=offered, **options)


async def bear(client: Client, token: str, authorization_id: str = "") -> Any:
    await client.call(make(ApiKey.SASL_HANDSHAKE, 1, mechanism="OAUTHBEARER"))
    authzid = f"a={authorization_id}" if authorization_id else ""
    message = f"n,{authzid},\1auth=Bearer {token}\1\1".encode()
    return await client.call(make(ApiKey.SASL_AUTHENTICATE, 2, auth_bytes=message))


async def test_a_token_lets_in_whom_it_is_about_until_it_expires() -> None:
    issuer = Issuer()
    async with lab(policy=bearer_policy(issuer)) as here:
        client = await here.client()
        answer = await bear(client, issuer.token(sub="robot", exp=int(time.time()) + 300))
        assert answer.error_code == ErrorCode.none
        assert timedelta(seconds=290) < answer.session_lifetime <= timedelta(seconds=300)
        assert (await client.call(heartbeat())).error_code == ErrorCode.none
        assert str(here.sessions[0].principal) == "User:robot"


async def test_a_token_that_is_refused_is_answered_with_an_error_and_then_a_failure() -> None:
    issuer = Issuer()
    async with lab(policy=bearer_policy(issuer)) as here:
        client = await here.client()
        unsecured = jwt.encode(issuer.claims(), "", algorithm="none")
        answer = await bear(client, unsecured)
        assert (answer.error_code, answer.auth_bytes) == (ErrorCode.none, b'{"status": "invalid_token"}')
        answer = await client.call(make(ApiKey.SASL_AUTHENTICATE, 2, auth_bytes=b"\1"))
        assert answer.error_code == ErrorCode.sasl_authentication_failed
        assert answer.error_message == '{"status": "invalid_token"}'
        await closes(client)


async def test_after_the_error_no_second_token_is_tried() -> None:
    issuer = Issuer()
    async with lab(policy=bearer_policy(issuer)) as here:
        client = await here.client()
        await bear(client, "no.token.atall")
        message = f"n,,\1auth=Bearer {issuer.token()}\1\1".encode()
        answer = await client.call(make(ApiKey.SASL_AUTHENTICATE, 2, auth_bytes=message))
        assert answer.error_code == ErrorCode.sasl_authentication_failed
        await closes(client)


async def test_the_authorization_id_must_be_the_name_in_the_token() -> None:
    issuer = Issuer()
    async with lab(policy=bearer_policy(issuer)) as here:
        client = await here.client()
        assert (await bear(client, issuer.token(sub="robot"), "robot")).error_code == ErrorCode.none
        other = await here.client()
        answer = await bear(other, issuer.token(sub="robot"), "admin")
        assert answer.error_code == ErrorCode.sasl_authentication_failed
        assert "(admin) that is different from the token's principal name (robot)" in answer.error_message
        await closes(other)


# --- re-authentication -------------------------------------------------------------------------------


async def test_a_session_says_how_long_it_lasts_and_can_be_renewed() -> None:
    renewed = outcomes("SCRAM-SHA-256", "renewed")
    async with lab(policy=sasl_policy(names=ALL, max_session_s=1.2)) as here:
        client = await here.client()
        answer = await client.log_in(mechanism="SCRAM-SHA-256")
        assert answer.session_lifetime == timedelta(milliseconds=1200)
        for _ in range(2):
            await asyncio.sleep(1.05)
            assert (await client.call(heartbeat())).error_code == ErrorCode.none
            answer = await client.log_in(mechanism="SCRAM-SHA-256")
            assert answer.error_code == ErrorCode.none
            assert answer.session_lifetime == timedelta(milliseconds=1200)
    assert outcomes("SCRAM-SHA-256", "renewed") == renewed + 2


async def test_an_expired_session_ends_at_the_next_request() -> None:
    async with lab(policy=sasl_policy(max_session_s=0.2)) as here:
        client = await here.client()
        await client.log_in()
        await client.call(heartbeat())
        await asyncio.sleep(0.3)
        assert here.sessions[0].state is SessionState.EXPIRED
        assert not client.wire.closed, "as with Kafka, a client that is silent is left alone"
        client.send(heartbeat())
        await closes(client)
        assert len(here.forwarded(ApiKey.HEARTBEAT)) == 1


async def test_an_expired_session_can_still_be_renewed() -> None:
    async with lab(policy=sasl_policy(max_session_s=0.2)) as here:
        client = await here.client()
        await client.log_in()
        await asyncio.sleep(1.1)
        assert (await client.log_in()).error_code == ErrorCode.none
        assert (await client.call(heartbeat())).error_code == ErrorCode.none


async def test_while_a_session_is_renewed_nothing_else_is_taken() -> None:
    async with lab(policy=sasl_policy(max_session_s=60)) as here:
        client = await here.client()
        await client.log_in()
        await client.call(make(ApiKey.SASL_HANDSHAKE, 1, mechanism="PLAIN"))
        client.send(heartbeat())
        await closes(client)
        assert not here.forwarded(ApiKey.HEARTBEAT)


async def test_requests_in_flight_are_answered_while_the_session_is_renewed() -> None:
    async with lab(policy=sasl_policy(max_session_s=60)) as here:
        client = await here.client()
        await client.log_in()
        first = client.send(heartbeat())
        shaken = client.send(make(ApiKey.SASL_HANDSHAKE, 1, mechanism="PLAIN"))
        token = f"\0alice\0{PASSWORD}".encode()
        done = client.send(make(ApiKey.SASL_AUTHENTICATE, 2, auth_bytes=token))
        last = client.send(heartbeat())
        got = [(await client.receive_body())[0] for _ in range(4)]
        assert got == [first, shaken, done, last]


async def test_a_renewal_may_not_change_who_the_client_is() -> None:
    async with lab(policy=sasl_policy(max_session_s=60)) as here:
        client = await here.client()
        await client.log_in()
        answer = await client.log_in("admin")
        assert answer.error_code == ErrorCode.sasl_authentication_failed
        assert answer.error_message == (
            "Cannot change principals during re-authentication from User.alice: User.admin"
        )
        await closes(client)
        assert str(here.sessions[0].principal) == "User:alice"


async def test_a_renewal_may_not_change_the_mechanism() -> None:
    async with lab(policy=sasl_policy(names=ALL, max_session_s=60)) as here:
        client = await here.client()
        await client.log_in()
        answer = await client.log_in(mechanism="SCRAM-SHA-256")
        assert answer.error_code == ErrorCode.sasl_authentication_failed
        assert "not supported for re-authentication of mechanism 'PLAIN'" in answer.error_message
        await closes(client)


async def test_a_renewal_with_a_wrong_password_ends_the_session() -> None:
    async with lab(policy=sasl_policy(names=ALL, max_session_s=60)) as here:
        client = await here.client()
        await client.log_in(mechanism="SCRAM-SHA-256")
        answer = await client.log_in(password="guess", mechanism="SCRAM-SHA-256")
        assert answer.error_code == ErrorCode.sasl_authentication_failed
        assert "during re-authentication" in answer.error_message
        await closes(client)


async def test_a_session_is_renewed_once_a_second_at_most() -> None:
    async with lab(policy=sasl_policy(max_session_s=60)) as here:
        client = await here.client()
        await client.log_in()
        assert (await client.log_in()).error_code == ErrorCode.none
        assert (await client.log_in()).error_code == ErrorCode.illegal_sasl_state
        assert (await client.call(heartbeat())).error_code == ErrorCode.none


async def test_a_session_without_an_end_is_not_renewed() -> None:
    async with lab(policy=sasl_policy()) as here:
        client = await here.client()
        await client.log_in()
        assert (await client.log_in()).error_code == ErrorCode.illegal_sasl_state
        assert (await client.call(heartbeat())).error_code == ErrorCode.none


async def test_who_does_not_finish_a_renewal_is_closed() -> None:
    limits = LimitsConfig(authentication_timeout_ms=300)
    async with lab(policy=sasl_policy(max_session_s=60), limits=limits) as here:
        client = await here.client()
        await client.log_in()
        await client.call(make(ApiKey.SASL_HANDSHAKE, 1, mechanism="PLAIN"))
        began = time.monotonic()
        await closes(client)
        assert time.monotonic() - began < 5


async def test_a_link_takes_over_a_connection_for_as_long_as_its_login_holds() -> None:
    attach = LinkAttachRequest("to-cloud", None, "source", UUID(int=7), 1)
    for bound_s in (60.0, None):
        policy = sasl_policy(max_session_s=bound_s)
        async with lab(policy=policy, super_users=frozenset({"User:alice"})) as here:
            client = await here.client()
            await client.log_in()
            client.send_body(ApiKey.LINK_ATTACH, 0, attach.encode())
            await client.receive_body()
            async with asyncio.timeout(5):
                while not here.attach.lifetimes:
                    await asyncio.sleep(0.01)
            (left_s,) = here.attach.lifetimes
            assert left_s is None if bound_s is None else left_s is not None and 50 < left_s <= 60


# --- how long ----------------------------------------------------------------------------------------


@given(
    bound=st.none() | st.floats(0.1, 1e6),
    left=st.none() | st.floats(-1e6, 1e6),
    now=st.floats(1e9, 2e9),
)
def test_a_session_lasts_as_long_as_the_shorter_of_its_bounds(
    bound: float | None, left: float | None, now: float
) -> None:
    lifetime = session_lifetime_s(bound, None if left is None else now + left, now)
    if bound is None and left is None:
        assert lifetime is None
    else:
        assert lifetime == pytest.approx(
            min(x for x in (bound, left) if x is not None) if (left or 0) >= 0 else 0, abs=1e-3
        )


async def test_an_exchange_ends_with_who_the_client_is() -> None:
    made = mechanisms(ALL, Credentials({"alice": PASSWORD}, lambda name: None))
    assert tuple(made) == ALL
    assert await made["PLAIN"]().respond(f"\0alice\0{PASSWORD}".encode()) == Accepted(user("alice"))
    first = await made["SCRAM-SHA-256"]().respond(b"n,,n=alice,r=abc")
    assert isinstance(first, Challenge)
    assert Principal("User", "alice") == user("alice")
