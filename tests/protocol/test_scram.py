"""SCRAM servers against the RFCs' examples, our own client, and clients that cheat."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.sasl import HASHES, SaslError, ScramClient
from protocol.scram import ScramServer, unescape_name

# RFC 7677 §3.
CLIENT_NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
NONCE = (CLIENT_NONCE + SERVER_NONCE).encode()
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
FIRST = b"n,,n=user,r=" + CLIENT_NONCE.encode()
FINAL = b"c=biws,r=" + NONCE + b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def keys(mechanism: str, password: str, salt: bytes = SALT, iterations: int = 4096) -> dict[str, bytes | int]:
    name = HASHES[mechanism]
    salted = hashlib.pbkdf2_hmac(name, password.encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", name)
    return {
        "salt": salt,
        "iterations": iterations,
        "stored_key": hashlib.new(name, client_key).digest(),
        "server_key": hmac.digest(salted, b"Server Key", name),
    }


PENCIL = {mechanism: keys(mechanism, "pencil") for mechanism in HASHES}


def challenged(first: bytes = FIRST) -> ScramServer:
    server = ScramServer("SCRAM-SHA-256", nonce=SERVER_NONCE)
    server.read_first(first)
    server.challenge(**PENCIL["SCRAM-SHA-256"])  # type: ignore[arg-type] # a table of both types
    return server


def test_the_example_of_rfc_7677() -> None:
    server = ScramServer("SCRAM-SHA-256", nonce=SERVER_NONCE)
    assert server.read_first(FIRST) == "user"
    first = server.challenge(**PENCIL["SCRAM-SHA-256"])  # type: ignore[arg-type] # a table of both types
    assert first == b"r=" + NONCE + b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    assert server.finish(FINAL) == SERVER_FINAL


@settings(max_examples=20, deadline=None)
@given(
    mechanism=st.sampled_from(sorted(HASHES)),
    name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    wrong=st.booleans(),
)
def test_our_client_and_our_server_agree(mechanism: str, name: str, wrong: bool) -> None:
    client = ScramClient(mechanism, name, "Pencil" if wrong else "pencil")
    server = ScramServer(mechanism)
    assert server.read_first(client.respond(b"") or b"") == name
    challenge = server.challenge(**PENCIL[mechanism])  # type: ignore[arg-type] # a table of both types
    final = client.respond(challenge) or b""
    if wrong:
        with pytest.raises(SaslError, match="proof is wrong"):
            server.finish(final)
    else:
        assert client.respond(server.finish(final)) is None
        assert client.done


def test_every_server_has_a_nonce_of_its_own() -> None:
    challenges = set()
    for _ in range(3):
        server = ScramServer("SCRAM-SHA-512")
        server.read_first(FIRST)
        challenges.add(server.challenge(**PENCIL["SCRAM-SHA-512"]))  # type: ignore[arg-type] # both types
    assert len(challenges) == 3


@pytest.mark.parametrize(
    "first",
    [
        b"y,,n=user,r=abc",
        b"n,a=user,n=user,r=abc",
        b"n,,n=user,r=abc,x=1",
        b"n,,n=user,r=abc,tokenauth=false",
    ],
)
def test_first_messages_that_are_taken(first: bytes) -> None:
    assert ScramServer("SCRAM-SHA-256").read_first(first) == "user"


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (b"", "malformed"),
        (b"\xff", "malformed"),
        (b"n,,n=,r=abc", "malformed"),
        (b"n,,n=us=er,r=abc", "malformed"),
        (b"n,,n=user,r=", "malformed"),
        (b"n,,n=user,r=a\x20b", "malformed"),
        (b"n,,m=x,n=user,r=abc", "malformed"),
        (b"p=tls-unique,,n=user,r=abc", "malformed"),
        (b"n,,n=us\0er,r=abc", "malformed"),
        (b"n,,n=user,r=abc\n", "malformed"),
        (b"n,a=admin,n=user,r=abc", "another name"),
        (b"n,,n=user,r=abc,tokenauth=true", "delegation tokens"),
    ],
)
def test_first_messages_that_are_refused(first: bytes, why: str) -> None:
    with pytest.raises(SaslError, match=why):
        ScramServer("SCRAM-SHA-256").read_first(first)


@pytest.mark.parametrize(
    ("final", "why"),
    [
        (b"", "malformed"),
        (FINAL.replace(b"c=biws", b"c=eSws"), "channel binding"),
        (FINAL.replace(b"c=biws", b"c=biw"), "not base64"),
        (FINAL.replace(b"r=rO", b"r=rP"), "nonce"),
        (FINAL.replace(b"p=dHzb", b"p=dHza"), "proof is wrong"),
        (FINAL.replace(b"p=dHzb", b"p="), "wrong length"),
        (FINAL[:-1], "not base64"),
        (FINAL.replace(b",p=", b",x=1,p="), "proof is wrong"),
    ],
)
def test_final_messages_that_are_refused(final: bytes, why: str) -> None:
    with pytest.raises(SaslError, match=why):
        challenged().finish(final)


def test_a_final_message_comes_after_a_challenge() -> None:
    server = ScramServer("SCRAM-SHA-256", nonce=SERVER_NONCE)
    server.read_first(FIRST)
    with pytest.raises(SaslError, match="nonce"):
        server.finish(FINAL)


def test_the_channel_is_bound_as_the_first_message_said() -> None:
    # "y,,": the client could bind, and believes that this server cannot.
    server = challenged(FIRST.replace(b"n,,", b"y,,"))
    with pytest.raises(SaslError, match="channel binding"):
        server.finish(FINAL)
    with pytest.raises(SaslError, match="proof is wrong"):
        server.finish(FINAL.replace(b"c=biws", b"c=eSws"))


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_raise(message: bytes) -> None:
    for step in (ScramServer("SCRAM-SHA-256").read_first, challenged().finish):
        try:
            step(message)
        except SaslError:
            continue


def test_names_are_unescaped_once() -> None:
    assert unescape_name("a=2Cb=3Dc") == "a,b=c"
    assert unescape_name("=3D2C") == "=2C"
