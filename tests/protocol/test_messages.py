import dataclasses
import struct
from datetime import timedelta
from typing import Any

import kio.schema.metadata.v12 as metadata_v12
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kio.schema.metadata.v12.request import MetadataRequestTopic
from kio.schema.types import TopicName
from kio.static.primitive import Records, i64Timedelta

from protocol.api_keys import ApiKey
from protocol.errors import DecodeError, TooLargeToDecode, UnsupportedVersion
from protocol.headers import peek_request_header, response_body_offset
from protocol.messages import (
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    request_class,
    response_class,
)
from tests.protocol.real_frames import REQUESTS, RESPONSES, RealFrame

METADATA = metadata_v12.MetadataRequest(
    topics=(MetadataRequestTopic(topic_id=None, name=TopicName("orders")),),
    include_topic_authorized_operations=False,
)


@pytest.mark.parametrize("frame", REQUESTS, ids=str)
def test_real_requests(frame: RealFrame) -> None:
    body = frame.data[peek_request_header(frame.data).body_offset :]
    message = decode_request(frame.api_key, frame.version, body)
    assert type(message) is request_class(frame.api_key, frame.version)
    assert encode_request(message) == body


@pytest.mark.parametrize("frame", RESPONSES, ids=str)
def test_real_responses(frame: RealFrame) -> None:
    body = frame.data[response_body_offset(frame.api_key, frame.version, frame.data) :]
    message = decode_response(frame.api_key, frame.version, body)
    assert type(message) is response_class(frame.api_key, frame.version)
    assert encode_response(message) == body


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda body: memoryview(bytearray(body))])
def test_any_buffer(kind: Any) -> None:
    assert decode_request(3, 12, kind(encode_request(METADATA))) == METADATA


def test_a_view_with_gaps_is_read_as_what_it_shows() -> None:
    body = encode_request(METADATA)
    spread = bytes(byte for each in body for byte in (each, 0xFF))
    assert decode_request(3, 12, memoryview(spread)[::2]) == METADATA


@pytest.mark.parametrize(
    ("api_key", "version"),
    [(3, 14), (3, -1), (0, 2), (93, 0), (-1, 0), (ApiKey.LINK_ATTACH, 0), (ApiKey.LEADER_AND_ISR, 4)],
)
def test_unsupported_versions(api_key: int, version: int) -> None:
    for use in (
        lambda: request_class(api_key, version),
        lambda: response_class(api_key, version),
        lambda: decode_request(api_key, version, b""),
        lambda: decode_response(api_key, version, b""),
    ):
        with pytest.raises(UnsupportedVersion) as caught:
            use()
        assert (caught.value.api_key, caught.value.version) == (api_key, version)


def test_the_frame_that_makes_kio_allocate_275_gigabytes() -> None:
    for decode in (decode_request, decode_response):
        with pytest.raises(DecodeError):
            decode(ApiKey.METADATA, 12, b"\xff\xff\xff\xff\x7f")


# What the guard leaves to kio: values, not lengths.
@pytest.mark.parametrize(
    ("decode", "api_key", "version", "body"),
    [
        pytest.param(decode_request, 3, 12, b"\x01\x02\x00\x00", id="a boolean of 2"),
        pytest.param(decode_request, 3, 0, b"\x00\x00\x00\x01\x00\x01\xff", id="no UTF-8"),
        pytest.param(decode_request, 3, 0, b"\x00\x00\x00\x01\x00\x03\xed\xa0\x80", id="a surrogate"),
        pytest.param(decode_response, 12, 0, b"\x7f\xff", id="an unknown error code"),
        pytest.param(
            decode_request,
            8,
            2,
            b"\x00\x00" + bytes(4) + b"\x00\x00" + struct.pack(">q", 2**63 - 1) + bytes(4),
            id="a time span beyond Python's",
        ),
        pytest.param(
            decode_response, 40, 1, bytes(2) + struct.pack(">q", 2**63 - 1) + bytes(4), id="a time after 9999"
        ),
        pytest.param(
            decode_response, 40, 1, bytes(2) + struct.pack(">q", -2) + bytes(4), id="a negative time"
        ),
    ],
)
def test_values_that_kio_refuses(decode: Any, api_key: int, version: int, body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(api_key, version, body)


def test_the_error_names_the_message() -> None:
    with pytest.raises(DecodeError, match=r"HeartbeatResponse: 32767 is not a valid ErrorCode"):
        decode_response(12, 0, b"\x7f\xff")


def metadata_response(message: metadata_v12.MetadataResponse, tags: bytes) -> bytes:
    """Encode a response whose own tagged fields are `tags` instead of none."""
    encoded = encode_response(message)
    assert encoded.endswith(b"\x00")
    return encoded[:-1] + tags


def test_a_newer_brokers_tagged_fields_are_dropped() -> None:
    message = metadata_v12.MetadataResponse(throttle_time=timedelta(0), brokers=(), topics=())  # type: ignore[arg-type]  # a phantom type
    newer = metadata_response(message, b"\x02\x05\x03new\x80\x01\x00")
    assert decode_response(3, 12, newer) == message
    with pytest.raises(DecodeError):
        decode_response(3, 12, newer + b"\x00")
    with pytest.raises(DecodeError):
        decode_response(3, 12, newer[:-1])


def test_a_request_with_an_unknown_tagged_field_is_refused() -> None:
    body = encode_request(METADATA)[:-1] + b"\x01\x05\x03new"
    with pytest.raises(DecodeError, match=r"MetadataRequest: unknown tag 5"):
        decode_request(3, 12, body)


def test_a_request_that_would_be_huge_once_decoded_is_refused() -> None:
    one = MetadataRequestTopic(topic_id=None, name=TopicName("a" * 30))
    request = dataclasses.replace(METADATA, topics=(one,) * 1000)
    body = encode_request(request)
    assert decode_request(3, 12, body, max_bytes=len(body)) == request
    with pytest.raises(TooLargeToDecode, match=f"MetadataRequest of {len(body)} bytes, the limit is 999"):
        decode_request(3, 12, body, max_bytes=999)
    # Topics of 19 bytes each: there may be as many as would fit at 16.
    short = MetadataRequestTopic(topic_id=None, name=TopicName("a"))
    small = encode_request(dataclasses.replace(METADATA, topics=(short,) * 1000))
    assert len(small) < 20_000
    assert decode_request(3, 12, small, max_bytes=1000 * 20)
    narrow = b"\xe9\x07" + b"\x02a\x00" * 1000 + bytes(4)
    assert len(decode_request(3, 9, narrow, max_bytes=16_000).topics) == 1000
    with pytest.raises(TooLargeToDecode, match="more than 999 structures"):
        decode_request(3, 9, narrow, max_bytes=15_999)


ROUND_TRIPS = [
    (ApiKey.PRODUCE, 3),
    (ApiKey.PRODUCE, 13),
    (ApiKey.FETCH, 4),
    (ApiKey.FETCH, 18),
    (ApiKey.LIST_OFFSETS, 1),
    (ApiKey.LIST_OFFSETS, 11),
    (ApiKey.METADATA, 0),
    (ApiKey.METADATA, 13),
    (ApiKey.OFFSET_COMMIT, 2),
    (ApiKey.OFFSET_COMMIT, 10),
    (ApiKey.OFFSET_FETCH, 10),
    (ApiKey.FIND_COORDINATOR, 6),
    (ApiKey.JOIN_GROUP, 0),
    (ApiKey.JOIN_GROUP, 9),
    (ApiKey.SYNC_GROUP, 5),
    (ApiKey.DESCRIBE_GROUPS, 6),
    (ApiKey.SASL_HANDSHAKE, 1),
    (ApiKey.SASL_AUTHENTICATE, 2),
    (ApiKey.API_VERSIONS, 4),
    (ApiKey.CREATE_TOPICS, 7),
    (ApiKey.INIT_PRODUCER_ID, 6),
    (ApiKey.ADD_PARTITIONS_TO_TXN, 5),
    (ApiKey.CREATE_ACLS, 3),
    (ApiKey.DESCRIBE_CONFIGS, 4),
    (ApiKey.INCREMENTAL_ALTER_CONFIGS, 1),
    (ApiKey.CREATE_DELEGATION_TOKEN, 3),
    (ApiKey.DESCRIBE_CLIENT_QUOTAS, 1),
    (ApiKey.DESCRIBE_CLUSTER, 2),
    (ApiKey.CONSUMER_GROUP_HEARTBEAT, 1),
    (ApiKey.CONSUMER_GROUP_DESCRIBE, 1),
    (ApiKey.DESCRIBE_TOPIC_PARTITIONS, 0),
    (ApiKey.SHARE_FETCH, 2),
    (ApiKey.STREAMS_GROUP_HEARTBEAT, 0),
]


st.register_type_strategy(Records, st.binary())
# Near the limits of Python's timedelta kio encodes what it cannot decode.
st.register_type_strategy(
    i64Timedelta, st.integers(-(10**12), 10**12).map(lambda ms: timedelta(milliseconds=ms))
)


@pytest.mark.parametrize(("api_key", "version"), ROUND_TRIPS, ids=str)
@given(data=st.data())
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_round_trips(api_key: int, version: int, data: st.DataObject) -> None:
    request = data.draw(st.from_type(request_class(api_key, version)))
    assert decode_request(api_key, version, encode_request(request)) == request
    response = data.draw(st.from_type(response_class(api_key, version)))
    assert decode_response(api_key, version, encode_response(response)) == response
