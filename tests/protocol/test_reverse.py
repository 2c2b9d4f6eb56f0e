"""LinkAttach and LinkBind: exact bytes, round trips, and everything that is not one of them."""

from collections.abc import Callable
from typing import Any, TypeAlias
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import DecodeError, UnsupportedVersion
from protocol.reverse import (
    ANY_BROKER,
    LinkAttachRequest,
    LinkAttachResponse,
    LinkBindRequest,
    LinkBindResponse,
)

Message: TypeAlias = LinkAttachRequest | LinkAttachResponse | LinkBindRequest | LinkBindResponse

TEXT = st.text(max_size=40)
INT16 = st.integers(-(2**15), 2**15 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
MESSAGES = st.one_of(
    st.builds(LinkAttachRequest, TEXT, st.none() | TEXT, TEXT, st.uuids(), INT64),
    st.builds(LinkAttachResponse, INT16, st.none() | TEXT, st.none() | TEXT, TEXT, INT32),
    st.builds(LinkBindRequest, st.integers(ANY_BROKER, 2**31 - 1)),
    st.builds(LinkBindResponse, INT16, st.none() | TEXT),
)

AGENT = UUID("00112233-4455-6677-8899-aabbccddeeff")
EXACT: list[tuple[Message, str]] = [
    (
        LinkAttachRequest("ab", None, "c", AGENT, 258),
        "0002 6162 ffff 0001 63 00112233445566778899aabbccddeeff 0000000000000102",
    ),
    (LinkAttachResponse(31, "no", "id", "gw-1", 3), "001f 0002 6e6f 0002 6964 0004 67772d31 00000003"),
    (LinkAttachResponse(0, None, None, "", 0), "0000 ffff ffff 0000 00000000"),
    (LinkBindRequest(7), "00000007"),
    (LinkBindRequest(ANY_BROKER), "ffffffff"),
    (LinkBindResponse(0, None), "0000 ffff"),
]


def decoder(message: Message) -> Callable[[int, Any], Message]:
    return type(message).decode


@pytest.mark.parametrize(("message", "data"), EXACT)
def test_bytes(message: Message, data: str) -> None:
    assert message.encode() == bytes.fromhex(data)
    assert decoder(message)(0, memoryview(bytearray.fromhex(data))) == message


def test_keys() -> None:
    keys = [
        kind.API_KEY.value
        for kind in (LinkAttachRequest, LinkAttachResponse, LinkBindRequest, LinkBindResponse)
    ]
    assert keys == [32000, 32000, 32001, 32001]


@given(MESSAGES)
def test_round_trip_truncation_and_trailing_bytes(message: Message) -> None:
    decode = decoder(message)
    body = message.encode()
    assert decode(0, body) == message
    for end in range(len(body)):
        with pytest.raises(DecodeError):
            decode(0, body[:end])
    with pytest.raises(DecodeError):
        decode(0, body + b"\x00")


@given(MESSAGES, st.sampled_from([-1, 1, 32767]))
def test_other_versions(message: Message, version: int) -> None:
    with pytest.raises(UnsupportedVersion):
        decoder(message)(version, message.encode())


@given(
    st.sampled_from([LinkAttachRequest, LinkAttachResponse, LinkBindRequest, LinkBindResponse]), st.binary()
)
def test_any_bytes(kind: type[Message], body: bytes) -> None:
    try:
        message = kind.decode(0, body)
    except DecodeError:
        return
    assert message.encode() == body


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (LinkAttachRequest, "ffff ffff 0001 63 00112233445566778899aabbccddeeff 0000000000000102"),
        (LinkAttachRequest, "0001 63 ffff ffff 00112233445566778899aabbccddeeff 0000000000000102"),
        (LinkAttachRequest, "0001 ff ffff 0001 63 00112233445566778899aabbccddeeff 0000000000000102"),
        (LinkAttachResponse, "0000 ffff ffff ffff 00000000"),
        (LinkAttachResponse, "0000 8000 ffff 0000 00000000"),
        (LinkBindRequest, "fffffffe"),
        (LinkBindResponse, "0000 fffe"),
    ],
    ids=["no name", "no cluster", "not UTF-8", "no instance", "negative length", "node -2", "length -2"],
)
def test_malformed(kind: type[Message], body: str) -> None:
    with pytest.raises(DecodeError):
        kind.decode(0, bytes.fromhex(body))
