"""Users as Kafka's admin clients manage them."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from gateway.security.credentials import SCRAM_SHA_256, SCRAM_SHA_512, Credentials, scram_keys, verify
from gateway.sessions.scram_users import ScramUsers
from gateway.state.records import ScramKeys, UserRecord
from gateway.state.store import StateUnavailable
from protocol.api_keys import ApiKey
from protocol.messages import decode_response
from tests.e2e.raw_client import make
from tests.fakes.store import FakeStore
from tests.gateway.sessions.lab import heartbeat, lab

SHA_256, SHA_512 = 1, 2


def stored(name: str, *mechanisms: str) -> UserRecord:
    keys = {}
    for mechanism in mechanisms:
        made = scram_keys("old", mechanism)
        keys[mechanism] = ScramKeys(
            salt=made.salt, iterations=made.iterations, stored_key=made.stored_key, server_key=made.server_key
        )
    return UserRecord(name=name, scram=keys)


def users(*records: UserRecord) -> tuple[ScramUsers, FakeStore]:
    store = FakeStore()
    store._apply(records)
    return ScramUsers(store, {"static"}), store


def upsertion(name: str, mechanism: int = SHA_256, **changes: Any) -> dict[str, Any]:
    salt = b"0123456789abcdef"
    algorithm = "sha256" if mechanism == SHA_256 else "sha512"
    salted = hashlib.pbkdf2_hmac(algorithm, b"new", salt, 8192)
    usual = {
        "name": name,
        "mechanism": mechanism,
        "iterations": 8192,
        "salt": salt,
        "salted_password": salted,
    }
    return usual | changes


def deletion(name: str, mechanism: int = SHA_256) -> dict[str, Any]:
    return {"name": name, "mechanism": mechanism}


async def alter(
    here: ScramUsers,
    *,
    deletions: list[dict[str, Any]] | None = None,
    upsertions: list[dict[str, Any]] | None = None,
    allowed: bool = True,
) -> dict[str, tuple[ErrorCode, str | None]]:
    request = make(
        ApiKey.ALTER_USER_SCRAM_CREDENTIALS, 0, deletions=deletions or [], upsertions=upsertions or []
    )
    answer = decode_response(
        ApiKey.ALTER_USER_SCRAM_CREDENTIALS, 0, await here.alter(request, allowed=allowed)
    )
    return {result.user: (result.error_code, result.error_message) for result in answer.results}


def describe(here: ScramUsers, names: list[str] | None, *, allowed: bool = True) -> Any:
    asked = None if names is None else [{"name": name} for name in names]
    request = make(ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS, 0, users=asked)
    return decode_response(ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS, 0, here.describe(request, allowed=allowed))


async def test_a_password_that_is_set_lets_in() -> None:
    here, store = users()
    done = await alter(here, upsertions=[upsertion("bob"), upsertion("bob", SHA_512)])
    assert done == {"bob": (ErrorCode.none, None)}
    credentials = Credentials({}, store.state.users.get)
    assert str(await credentials.verify_plain("bob", "new")) == "User:bob"
    assert verify("new", credentials.scram("bob", SCRAM_SHA_256), SCRAM_SHA_256)
    assert verify("new", credentials.scram("bob", SCRAM_SHA_512), SCRAM_SHA_512)


async def test_a_user_goes_with_its_last_mechanism() -> None:
    here, store = users(stored("bob", SCRAM_SHA_256, SCRAM_SHA_512), stored("carol", SCRAM_SHA_256))
    assert await alter(here, deletions=[deletion("bob")]) == {"bob": (ErrorCode.none, None)}
    assert set(store.state.users["bob"].scram) == {SCRAM_SHA_512}
    await alter(here, deletions=[deletion("bob", SHA_512)])
    assert set(store.state.users) == {"carol"}


async def test_one_mechanism_cannot_be_exchanged_for_the_other_at_once() -> None:
    here, store = users(stored("bob", SCRAM_SHA_256))
    done = await alter(here, deletions=[deletion("bob")], upsertions=[upsertion("bob", SHA_512)])
    assert done["bob"][0] == ErrorCode.duplicate_resource
    assert set(store.state.users["bob"].scram) == {SCRAM_SHA_256}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"name": ""}, ErrorCode.unacceptable_credential),
        ({"name": "_causeway-x"}, ErrorCode.unacceptable_credential),
        ({"name": "a:b"}, ErrorCode.unacceptable_credential),
        ({"name": "static"}, ErrorCode.unacceptable_credential),
        ({"mechanism": 0}, ErrorCode.unsupported_sasl_mechanism),
        ({"mechanism": 3}, ErrorCode.unsupported_sasl_mechanism),
        ({"iterations": 4095}, ErrorCode.unacceptable_credential),
        ({"iterations": 16385}, ErrorCode.unacceptable_credential),
        ({"salt": b""}, ErrorCode.unacceptable_credential),
        ({"salt": bytes(1025)}, ErrorCode.unacceptable_credential),
        ({"salted_password": b""}, ErrorCode.unacceptable_credential),
    ],
)
async def test_credentials_that_cannot_be(change: dict[str, Any], error: ErrorCode) -> None:
    here, store = users()
    wrong = upsertion("bob") | change
    done = await alter(here, upsertions=[wrong, upsertion("fine")])
    assert done[wrong["name"]][0] == error
    assert done["fine"] == (ErrorCode.none, None)
    assert set(store.state.users) == {"fine"}, "what is right in a request is done"


async def test_what_is_not_there_cannot_be_deleted() -> None:
    here, _ = users(stored("bob", SCRAM_SHA_256))
    done = await alter(here, deletions=[deletion("bob", SHA_512), deletion("nobody"), deletion("x", 9)])
    assert [done[name][0] for name in ("bob", "nobody", "x")] == [
        ErrorCode.resource_not_found,
        ErrorCode.resource_not_found,
        ErrorCode.unsupported_sasl_mechanism,
    ]


async def test_nothing_is_changed_twice_in_a_request() -> None:
    here, store = users(stored("bob", SCRAM_SHA_256))
    before = store.state
    done = await alter(here, deletions=[deletion("bob")], upsertions=[upsertion("bob")])
    assert done["bob"][0] == ErrorCode.duplicate_resource
    done = await alter(here, upsertions=[upsertion("eve"), upsertion("eve")])
    assert done["eve"][0] == ErrorCode.duplicate_resource
    assert store.state is before


async def test_who_may_not_is_refused() -> None:
    here, store = users(stored("bob", SCRAM_SHA_256))
    done = await alter(here, deletions=[deletion("bob")], upsertions=[upsertion("eve")], allowed=False)
    assert {name: error for name, (error, _) in done.items()} == dict.fromkeys(
        ("bob", "eve"), ErrorCode.cluster_authorization_failed
    )
    assert set(store.state.users) == {"bob"}
    described = describe(here, None, allowed=False)
    assert described.error_code == ErrorCode.cluster_authorization_failed
    assert described.results == ()


async def test_a_state_that_cannot_be_written_is_said() -> None:
    here, store = users()
    store.failure = StateUnavailable("no broker")
    done = await alter(here, upsertions=[upsertion("bob")])
    assert done["bob"] == (ErrorCode.request_timed_out, "The gateway cannot write its state: no broker")


def test_users_are_described_without_their_keys() -> None:
    here, _ = users(stored("bob", SCRAM_SHA_256, SCRAM_SHA_512), stored("carol", SCRAM_SHA_512))
    nobody: list[str] = []
    for everybody in (None, nobody):
        answer = describe(here, everybody)
        assert {
            result.user: [info.mechanism for info in result.credential_infos] for result in answer.results
        } == {
            "bob": [SHA_256, SHA_512],
            "carol": [SHA_512],
        }
    (result,) = describe(here, ["bob"]).results
    assert [info.iterations for info in result.credential_infos] == [4096, 4096]


def test_who_is_asked_for_twice_or_unknown_is_an_error_of_its_own() -> None:
    here, _ = users(stored("bob", SCRAM_SHA_256))
    answer = describe(here, ["bob", "bob", "nobody", "static"])
    assert answer.error_code == ErrorCode.none
    assert {result.user: result.error_code for result in answer.results} == {
        "bob": ErrorCode.duplicate_resource,
        "nobody": ErrorCode.resource_not_found,
        "static": ErrorCode.resource_not_found,
    }


@pytest.mark.parametrize("super_user", [True, False])
async def test_sessions_answer_for_super_users_only(super_user: bool) -> None:
    here, store = users(stored("bob", SCRAM_SHA_256))
    principals = frozenset({"User:ANONYMOUS"}) if super_user else frozenset[str]()
    async with lab(super_users=principals, users=here) as gateway:
        client = await gateway.client()
        described = await client.call(make(ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS, 0, users=None))
        done = await client.call(
            make(ApiKey.ALTER_USER_SCRAM_CREDENTIALS, 0, deletions=[deletion("bob")], upsertions=[])
        )
        assert (await client.call(heartbeat())).error_code == ErrorCode.none
        assert not gateway.forwarded(ApiKey.ALTER_USER_SCRAM_CREDENTIALS)
    expected = ErrorCode.none if super_user else ErrorCode.cluster_authorization_failed
    assert (described.error_code, done.results[0].error_code) == (expected, expected)
    assert ("bob" in store.state.users) is not super_user
