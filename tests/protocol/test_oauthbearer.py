"""First messages of OAUTHBEARER, as RFC 7628 and Kafka's clients write them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.oauthbearer import BearerMessage, error_challenge, parse_bearer_message
from protocol.sasl import SaslError

# RFC 7628 §4.1.
RFC_MESSAGE = (
    b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01"
    b"auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01"
)


def test_the_example_of_rfc_7628() -> None:
    message = parse_bearer_message(RFC_MESSAGE)
    assert message == BearerMessage("vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==", "user@example.com")
    assert "vF9" not in repr(message)


@pytest.mark.parametrize(
    "message",
    [
        b"n,,\x01auth=Bearer a.b.c\x01\x01",
        b"n,,\x01auth=bearer   a.b.c\x01traceId=123\x01\x01",
        b"n,,\x01logicalCluster=lkc=1\x01auth=BEARER a.b.c\x01\x01",
    ],
)
def test_messages_as_clients_write_them(message: bytes) -> None:
    assert parse_bearer_message(message) == BearerMessage("a.b.c", "")


def test_a_name_is_unescaped() -> None:
    message = parse_bearer_message(b"n,a=a=2Cb=3D,\x01auth=Bearer x\x01\x01")
    assert message.authorization_id == "a,b="


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"", "first message$"),
        (b"\x01", "first message$"),
        (b"\xff", "first message$"),
        (b"n,,\x01\x01", "'auth' not specified"),
        (b"n,,\x01host=x\x01\x01", "'auth' not specified"),
        (b"n,,\x01auth=Bearer\x01\x01", "invalid 'auth' format"),
        (b"n,,\x01auth=Bearer a b\x01\x01", "invalid 'auth' format"),
        (b"n,,\x01auth=Basic YTpi\x01\x01", "Invalid scheme"),
        (b"n,,\x01auth=Bearer x\x01", "first message$"),
        (b"y,,\x01auth=Bearer x\x01\x01", "first message$"),
        (b"n,a=,\x01auth=Bearer x\x01\x01", "first message$"),
    ],
)
def test_messages_that_are_refused(message: bytes, why: str) -> None:
    with pytest.raises(SaslError, match=why):
        parse_bearer_message(message)


@given(st.binary(max_size=200).map(lambda tail: b"n,,\x01auth=Bearer " + tail) | st.binary(max_size=100))
def test_no_bytes_do_anything_but_raise(message: bytes) -> None:
    try:
        parse_bearer_message(message)
    except SaslError as error:
        assert "OAUTHBEARER" in str(error)  # noqa: PT017 - most inputs raise nothing worth a look


def test_the_error_is_what_clients_read() -> None:
    assert json.loads(error_challenge("invalid_token")) == {"status": "invalid_token"}
    assert json.loads(error_challenge("insufficient_scope", "kafka"))["scope"] == "kafka"
