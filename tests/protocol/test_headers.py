import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.api_keys import ApiKey, is_flexible
from protocol.errors import DecodeError
from protocol.headers import (
    RequestHeader,
    encode_request_header,
    encode_response_header,
    peek_correlation_id,
    peek_request_header,
    response_body_offset,
    rewrite_request_correlation_id,
    rewrite_response_correlation_id,
)
from tests.protocol.real_frames import REQUESTS, RESPONSES, RealFrame

FLEXIBLE = (ApiKey.METADATA, 12)
PLAIN = (ApiKey.METADATA, 8)


@pytest.mark.parametrize("frame", REQUESTS, ids=str)
def test_headers_of_real_requests(frame: RealFrame) -> None:
    header = peek_request_header(frame.data)
    assert (header.api_key, header.api_version) == (frame.api_key, frame.version)
    encoded = encode_request_header(
        header.api_key, header.api_version, header.correlation_id, header.client_id
    )
    assert encoded == frame.data[: header.body_offset]


@pytest.mark.parametrize("frame", RESPONSES, ids=str)
def test_headers_of_real_responses(frame: RealFrame) -> None:
    offset = response_body_offset(frame.api_key, frame.version, frame.data)
    encoded = encode_response_header(frame.api_key, frame.version, peek_correlation_id(frame.data))
    assert encoded == frame.data[:offset]


int16 = st.integers(-(2**15), 2**15 - 1)
int32 = st.integers(-(2**31), 2**31 - 1)


@given(
    key=st.sampled_from(sorted(ApiKey)) | int16,
    version=st.integers(0, 20) | int16,
    correlation_id=int32,
    client_id=st.none() | st.text(max_size=40),
    body=st.binary(max_size=5),
    kind=st.sampled_from([bytes, bytearray, memoryview]),
)
def test_any_request_header(
    key: int, version: int, correlation_id: int, client_id: str | None, body: bytes, kind: type
) -> None:
    encoded = encode_request_header(key, version, correlation_id, client_id)
    expected = RequestHeader(key, version, correlation_id, client_id, len(encoded))
    assert peek_request_header(kind(encoded + body)) == expected


@given(key=st.sampled_from(sorted(ApiKey)), version=st.integers(0, 20), correlation_id=int32)
def test_any_response_header(key: int, version: int, correlation_id: int) -> None:
    frame = encode_response_header(key, version, correlation_id)
    assert peek_correlation_id(frame) == correlation_id
    assert response_body_offset(key, version, frame + b"body") == len(frame)


def test_private_requests_have_plain_headers() -> None:
    for key in (ApiKey.LINK_ATTACH, ApiKey.LINK_BIND):
        assert encode_request_header(key, 0, 1, "c") == struct.pack(">hhih", key, 0, 1, 1) + b"c"
        assert encode_response_header(key, 0, 7) == b"\x00\x00\x00\x07"


# Two tagged fields, 5 with two bytes and 300 with none.
TAGS = b"\x02\x05\x02ab\xac\x02\x00"


def test_tagged_fields_of_a_header_are_skipped() -> None:
    start = encode_request_header(*FLEXIBLE, 1, "me")[:-1]
    assert peek_request_header(start + TAGS + b"body").body_offset == len(start + TAGS)
    assert response_body_offset(*FLEXIBLE, b"\x00\x00\x00\x01" + TAGS + b"body") == 4 + len(TAGS)


def test_truncated_at_every_byte() -> None:
    request = encode_request_header(*FLEXIBLE, 1, "client")[:-1] + TAGS
    for length in range(len(request)):
        with pytest.raises(DecodeError, match="request header"):
            peek_request_header(request[:length])
    response = b"\x00\x00\x00\x01" + TAGS
    for length in range(len(response)):
        with pytest.raises(DecodeError, match="response header"):
            response_body_offset(*FLEXIBLE, response[:length])
    for length in range(4):
        with pytest.raises(DecodeError, match="response header"):
            peek_correlation_id(response[:length])


@pytest.mark.parametrize(
    "tags",
    [
        b"\xff\xff\xff\xff\x7f",
        b"\xff\xff\xff\xff\x07",
        b"\x80\x80\x80\x80\x80\x00",
        b"\x01\x00\xff\xff\xff\xff\x07",
        b"\x01\x00\x02a",
    ],
)
def test_hostile_tagged_fields(tags: bytes) -> None:
    with pytest.raises(DecodeError):
        peek_request_header(encode_request_header(*FLEXIBLE, 1, None)[:-1] + tags)
    with pytest.raises(DecodeError):
        response_body_offset(*FLEXIBLE, b"\x00\x00\x00\x01" + tags)


@pytest.mark.parametrize("length", [-2, -(2**15), 3, 2**15 - 1])
def test_hostile_client_id_length(length: int) -> None:
    with pytest.raises(DecodeError, match=f"client_id of .*{length}"):
        peek_request_header(struct.pack(">hhih", *PLAIN, 1, length) + b"ab")


def test_a_client_id_that_is_no_utf8_is_shown_as_kafka_shows_it() -> None:
    header = peek_request_header(struct.pack(">hhih", *PLAIN, 1, 3) + b"a\xffb")
    assert header.client_id == "a\N{REPLACEMENT CHARACTER}b"


@given(st.binary(max_size=40))
def test_random_bytes_are_refused_or_read_within_bounds(data: bytes) -> None:
    try:
        header = peek_request_header(data)
    except DecodeError:
        return
    assert header.body_offset <= len(data)


@given(start=st.sampled_from([FLEXIBLE, PLAIN]), rest=st.binary(max_size=40))
def test_random_bytes_after_a_known_key(start: tuple[int, int], rest: bytes) -> None:
    data = struct.pack(">hh", *start) + rest
    with contextlib.suppress(DecodeError):
        assert peek_request_header(data).body_offset <= len(data)
    with contextlib.suppress(DecodeError):
        assert response_body_offset(*start, rest) <= len(rest)


def test_correlation_ids_are_rewritten_in_place() -> None:
    request = bytearray(encode_request_header(*FLEXIBLE, 1, "me") + b"body")
    rewrite_request_correlation_id(request, -2)
    assert request == encode_request_header(*FLEXIBLE, -2, "me") + b"body"
    response = bytearray(encode_response_header(*FLEXIBLE, 1) + b"body")
    rewrite_response_correlation_id(memoryview(response), 2**31 - 1)
    assert response == encode_response_header(*FLEXIBLE, 2**31 - 1) + b"body"
    assert is_flexible(*FLEXIBLE)
