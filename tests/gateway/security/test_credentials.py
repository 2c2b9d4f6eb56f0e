from __future__ import annotations

import base64
import hmac
import time
from dataclasses import dataclass

import pytest

from gateway.security.credentials import (
    SCRAM_SHA_256,
    SCRAM_SHA_512,
    Credentials,
    Keys,
    PlainTokenError,
    ScramKeys,
    parse_plain_token,
    scram_keys,
    verify,
)


@dataclass
class Stored:
    scram: dict[str, Keys]


def nobody(_name: str) -> Stored | None:
    return None


def test_the_keys_are_those_of_rfc_7677() -> None:
    # The example of RFC 7677 §3; the server's last message is HMAC(ServerKey, AuthMessage).

    keys = scram_keys("pencil", SCRAM_SHA_256, 4096, base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    auth_message = (
        b"n=user,r=rOprNGfwEbeRWgbNEkqO,"
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    signature = hmac.digest(keys.server_key, auth_message, "sha256")
    assert base64.b64encode(signature) == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.mark.parametrize("mechanism", [SCRAM_SHA_256, SCRAM_SHA_512])
def test_only_the_right_password_verifies(mechanism: str) -> None:
    keys = scram_keys("pässword", mechanism)
    assert verify("pässword", keys, mechanism)
    assert not verify("password", keys, mechanism)
    assert scram_keys("pässword", mechanism).salt != keys.salt


def test_weak_or_unknown_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="4096"):
        scram_keys("x", SCRAM_SHA_256, 100)
    with pytest.raises(ValueError, match="MD5"):
        scram_keys("x", "SCRAM-MD5")


def test_keys_do_not_format() -> None:
    keys = scram_keys("secret", SCRAM_SHA_256)
    assert "stored_key" not in repr(keys)
    assert "server_key" not in repr(keys)


async def test_static_users_come_before_those_of_the_state() -> None:
    stored = {"alice": Stored({SCRAM_SHA_256: scram_keys("state", SCRAM_SHA_256)})}
    credentials = Credentials({"alice": "static"}, stored.get)
    assert str(await credentials.verify_plain("alice", "static")) == "User:alice"
    assert await credentials.verify_plain("alice", "state") is None


@pytest.mark.parametrize("mechanism", [SCRAM_SHA_256, SCRAM_SHA_512])
async def test_users_of_the_state_verify_with_whatever_mechanism_they_have(mechanism: str) -> None:
    credentials = Credentials({}, {"bob": Stored({mechanism: scram_keys("pw", mechanism)})}.get)
    assert str(await credentials.verify_plain("bob", "pw")) == "User:bob"
    assert await credentials.verify_plain("bob", "PW") is None


async def test_nobody_is_let_in_under_a_name_without_keys() -> None:
    credentials = Credentials({}, {"carol": Stored({})}.get)
    assert await credentials.verify_plain("carol", "") is None
    assert await credentials.verify_plain("dave", "x") is None


async def test_an_unknown_user_takes_as_long_as_a_wrong_password() -> None:
    credentials = Credentials({"alice": "x"}, nobody)

    async def cost_s(name: str) -> float:
        # Of this process alone: a busy machine makes everything take longer, but not more work.
        start = time.process_time()
        await credentials.verify_plain(name, "wrong")
        return time.process_time() - start

    pairs = [(await cost_s("alice"), await cost_s("nobody")) for _ in range(10)]
    known, unknown = (min(costs) for costs in zip(*pairs, strict=True))
    assert 0.5 < known / unknown < 2


@pytest.mark.parametrize("mechanism", [SCRAM_SHA_256, SCRAM_SHA_512])
def test_scram_keys_are_the_users(mechanism: str) -> None:
    stored = scram_keys("state", mechanism, 8192)
    credentials = Credentials({"alice": "static"}, {"bob": Stored({mechanism: stored})}.get)
    assert verify("static", credentials.scram("alice", mechanism), mechanism)
    assert credentials.scram("bob", mechanism) is stored


@pytest.mark.parametrize("mechanism", [SCRAM_SHA_256, SCRAM_SHA_512])
def test_who_does_not_exist_has_keys_that_look_like_a_users(mechanism: str) -> None:
    other = SCRAM_SHA_512 if mechanism == SCRAM_SHA_256 else SCRAM_SHA_256
    credentials = Credentials({}, {"half": Stored({other: scram_keys("pw", other)})}.get, secret=b"s" * 32)
    real = scram_keys("pw", mechanism)
    for name in ("nobody", "half"):
        made = credentials.scram(name, mechanism)
        assert made == credentials.scram(name, mechanism), "who tries again must see the same salt"
        assert [len(key) for key in (made.salt, made.stored_key, made.server_key)] == [
            len(key) for key in (real.salt, real.stored_key, real.server_key)
        ]
        assert made.iterations == real.iterations
    assert credentials.scram("nobody", mechanism).salt != credentials.scram("nobody2", mechanism).salt
    twin = Credentials({}, nobody, secret=b"s" * 32)
    assert twin.scram("nobody", mechanism) == credentials.scram("nobody", mechanism)
    stranger = Credentials({}, nobody)
    assert stranger.scram("nobody", mechanism).salt != credentials.scram("nobody", mechanism).salt


@pytest.mark.parametrize(
    ("token", "parsed"),
    [
        (b"\0alice\0pw", ("alice", "pw")),
        (b"alice\0alice\0p w", ("alice", "p w")),
        (b"\0\xc3\xbc\0x", ("ü", "x")),
    ],
)
def test_plain_tokens(token: bytes, parsed: tuple[str, str]) -> None:
    assert parse_plain_token(token) == parsed


@pytest.mark.parametrize(
    "token", [b"", b"alice\0pw", b"\0\0pw", b"\0alice\0", b"bob\0alice\0pw", b"\0a\0b\0c", b"\0\xff\0x"]
)
def test_broken_plain_tokens_say_why_and_do_not_repeat_the_password(token: bytes) -> None:
    with pytest.raises(PlainTokenError) as caught:
        parse_plain_token(token)
    assert "pw" not in str(caught.value).replace("password", "")


def test_equal_keys_are_equal() -> None:
    assert scram_keys("a", SCRAM_SHA_256, salt=b"12345678") == scram_keys(
        "a", SCRAM_SHA_256, salt=b"12345678"
    )
    assert isinstance(scram_keys("a", SCRAM_SHA_256), ScramKeys)
