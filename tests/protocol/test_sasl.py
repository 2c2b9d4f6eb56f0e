"""SASL clients against the RFCs' examples, a server written from RFC 5802, and servers that cheat."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.sasl import PlainClient, SaslError, ScramClient, sasl_client

# RFC 7677 §3.
NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def client() -> ScramClient:
    return ScramClient("SCRAM-SHA-256", "user", "pencil", nonce=NONCE)


def waiting_for_server_first() -> ScramClient:
    scram = client()
    assert scram.respond(b"") == b"n,,n=user,r=" + NONCE.encode()
    return scram


def waiting_for_server_final() -> ScramClient:
    scram = waiting_for_server_first()
    assert scram.respond(SERVER_FIRST) == CLIENT_FINAL
    return scram


def test_the_example_of_rfc_7677() -> None:
    scram = waiting_for_server_final()
    assert not scram.done
    assert scram.respond(SERVER_FINAL) is None
    assert scram.done


def test_a_server_that_does_not_know_the_password_is_found_out() -> None:
    for final in (b"v=" + base64.b64encode(bytes(32)), b"v=", b"", b"v"):
        scram = waiting_for_server_final()
        with pytest.raises(SaslError):
            scram.respond(final)
        assert not scram.done


def test_a_refusal_is_told() -> None:
    with pytest.raises(SaslError, match="invalid-proof"):
        waiting_for_server_final().respond(b"e=invalid-proof")


@pytest.mark.parametrize(
    ("server_first", "message"),
    [
        (SERVER_FIRST.replace(b"r=rOpr", b"r=xOpr"), "nonce"),
        (b"r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", "nonce"),
        (b"s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", "nonce"),
        (SERVER_FIRST.replace(b"s=W22Z", b"s=!"), "base64"),
        (SERVER_FIRST.replace(b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s="), "salt"),
        (SERVER_FIRST.replace(b"i=4096", b"i=4095"), "4095"),
        (SERVER_FIRST.replace(b"i=4096", b"i=1000001"), "1000001"),
        (SERVER_FIRST.replace(b"i=4096", b"i=4294967296"), "not a number"),
        (SERVER_FIRST.replace(b"i=4096", b"i=-5"), "not a number"),
        (SERVER_FIRST.replace(b"i=4096", "i=٤٠٩٦".encode()), "not a number"),
        (SERVER_FIRST.replace(b",i=4096", b""), "not a number"),
        (SERVER_FIRST + b",i=4096", "malformed"),
        (SERVER_FIRST + b",", "malformed"),
        (SERVER_FIRST + b",ab=c", "malformed"),
        (b"m=must," + SERVER_FIRST, "extension"),
        (b"\xff", "UTF-8"),
        (b"", "malformed"),
    ],
)
def test_server_first_messages_that_break_the_rules(server_first: bytes, message: str) -> None:
    with pytest.raises(SaslError, match=message):
        waiting_for_server_first().respond(server_first)


def test_a_server_may_not_speak_first() -> None:
    with pytest.raises(SaslError, match="before"):
        client().respond(b"hello")


def test_nonces_are_fresh() -> None:
    firsts = {ScramClient("SCRAM-SHA-512", "u", "p").respond(b"") for _ in range(10)}
    assert len(firsts) == 10


@settings(max_examples=20)
@given(
    username=st.text(min_size=1),
    password=st.text(min_size=1),
    mechanism=st.sampled_from(["SCRAM-SHA-256", "SCRAM-SHA-512"]),
)
def test_any_name_and_password(username: str, password: str, mechanism: str) -> None:
    username, password = (text.encode("utf-8", "replace").decode() for text in (username, password))
    digest = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}[mechanism]
    scram = sasl_client(mechanism, username, password)
    first = scram.respond(b"")
    assert first is not None
    bare = first.decode().removeprefix("n,,")
    name, nonce = bare.removeprefix("n=").rsplit(",r=", 1)
    assert name.replace("=2C", ",").replace("=3D", "=") == username
    server_first = f"r={nonce}-server,s={base64.b64encode(b'salt').decode()},i=4096"
    final = scram.respond(server_first.encode())
    assert final is not None
    without_proof, proof = final.decode().rsplit(",p=", 1)
    signed = f"{bare},{server_first},{without_proof}".encode()
    salted = hashlib.pbkdf2_hmac(digest, password.encode(), b"salt", 4096)
    stored = hashlib.new(digest, hmac.digest(salted, b"Client Key", digest)).digest()
    signature = hmac.digest(stored, signed, digest)
    key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True))
    assert hashlib.new(digest, key).digest() == stored
    server_key = hmac.digest(salted, b"Server Key", digest)
    verifier = base64.b64encode(hmac.digest(server_key, signed, digest))
    assert scram.respond(b"v=" + verifier) is None
    assert scram.done


def test_plain_is_one_message() -> None:
    plain = sasl_client("PLAIN", "alice", "sécret")
    assert plain.respond(b"") == "\0alice\0sécret".encode()
    assert not plain.done
    assert plain.respond(b"") is None
    assert plain.done


def test_plain_takes_no_data_from_the_server() -> None:
    with pytest.raises(SaslError):
        PlainClient("a", "b").respond(b"x")


@pytest.mark.parametrize(("username", "password"), [("a\0b", "c"), ("a", "b\0c")])
def test_plain_cannot_carry_nul(username: str, password: str) -> None:
    with pytest.raises(SaslError, match="NUL"):
        PlainClient(username, password)


def test_unknown_mechanisms() -> None:
    with pytest.raises(SaslError, match=r"GSSAPI.*PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"):
        sasl_client("GSSAPI", "a", "b")
