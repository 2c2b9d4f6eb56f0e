"""Fetch and Produce by hand against kio's reading and writing of the same messages."""

import contextlib
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode
from kio.schema.fetch.v11 import response as fetch_v11
from kio.schema.fetch.v12 import response as fetch_v12
from kio.schema.fetch.v13 import response as fetch_v13
from kio.static.primitive import i32Timedelta

from protocol.errors import DecodeError
from protocol.messages import decode_request, encode_response
from protocol.replication import (
    READ_COMMITTED,
    FetchPartition,
    FetchTopic,
    ProduceTopic,
    decode_fetch,
    encode_fetch,
    encode_produce,
)

NO_TIME = i32Timedelta.parse(timedelta(0))
TOPIC_ID = UUID("11112222-3333-4444-5555-666677778888")
RESPONSES = {11: fetch_v11, 12: fetch_v12, 13: fetch_v13}
PARTITION = {
    "partition_index": 3,
    "error_code": ErrorCode.none,
    "high_watermark": 20,
    "last_stable_offset": 18,
    "log_start_offset": 2,
    "preferred_read_replica": -1,
}


@pytest.mark.parametrize("version", [11, 12, 13])
def test_fetch_request_is_what_kio_reads(version: int) -> None:
    topics = [
        FetchTopic("orders", TOPIC_ID, [FetchPartition(0, 17, 1000), FetchPartition(5, 2**40, 2000)]),
        FetchTopic("", UUID(int=1), []),
    ]
    body = encode_fetch(
        version, topics, max_wait_ms=500, min_bytes=1, max_bytes=4096, isolation_level=READ_COMMITTED
    )
    request = decode_request(1, version, body)
    assert request.replica_id == -1
    assert request.max_wait.total_seconds() == 0.5
    assert (request.min_bytes, request.max_bytes, request.isolation_level) == (1, 4096, 1)
    assert (request.session_id, request.session_epoch, request.rack_id) == (0, -1, "")
    assert request.forgotten_topics_data == ()
    named = [t.topic_id if version == 13 else t.topic for t in request.topics]
    assert named == ([TOPIC_ID, UUID(int=1)] if version == 13 else ["orders", ""])
    first = request.topics[0].partitions
    assert [(p.partition, p.fetch_offset, p.partition_max_bytes) for p in first] == [
        (0, 17, 1000),
        (5, 2**40, 2000),
    ]
    assert {(p.current_leader_epoch, p.log_start_offset) for p in first} == {(-1, -1)}


def _response(version: int, records: bytes | None, aborted: bool, code: ErrorCode = ErrorCode.none) -> bytes:
    forms = RESPONSES[version]
    transactions = (forms.AbortedTransaction(producer_id=1, first_offset=4),) if aborted else None
    partition = forms.PartitionData(
        **{**PARTITION, "error_code": code}, aborted_transactions=transactions, records=records
    )
    name = {"topic_id": TOPIC_ID} if version == 13 else {"topic": "orders"}
    topic = forms.FetchableTopicResponse(**name, partitions=(partition,))
    return encode_response(
        forms.FetchResponse(
            throttle_time=NO_TIME, error_code=ErrorCode.none, session_id=0, responses=(topic, topic)
        )
    )


@pytest.mark.parametrize("version", [11, 12, 13])
@pytest.mark.parametrize("records", [None, b"", b"x" * 200])
@pytest.mark.parametrize("aborted", [False, True])
def test_fetch_response_of_kio(version: int, records: bytes | None, aborted: bool) -> None:
    error, partitions = decode_fetch(version, memoryview(_response(version, records, aborted)))
    assert error == 0
    assert len(partitions) == 2
    p = partitions[1]
    assert p.topic == (TOPIC_ID if version == 13 else "orders")
    assert (p.partition, p.error_code) == (3, 0)
    assert (p.high_watermark, p.last_stable_offset, p.log_start_offset) == (20, 18, 2)
    assert p.aborted_transactions == ([(1, 4)] if aborted else [])
    assert bytes(p.records) == (records or b"")


@pytest.mark.parametrize("version", [12, 13])
def test_fetch_response_with_the_leader_in_a_tag(version: int) -> None:
    forms = RESPONSES[version]
    leader = forms.LeaderIdAndEpoch(leader_id=2, leader_epoch=7)
    partition = forms.PartitionData(
        **PARTITION, aborted_transactions=None, records=b"r", current_leader=leader
    )
    name = {"topic_id": TOPIC_ID} if version == 13 else {"topic": "orders"}
    topic = forms.FetchableTopicResponse(**name, partitions=(partition,))
    body = encode_response(
        forms.FetchResponse(
            throttle_time=NO_TIME, error_code=ErrorCode.none, session_id=0, responses=(topic,)
        )
    )
    assert bytes(decode_fetch(version, memoryview(body))[1][0].records) == b"r"


@pytest.mark.parametrize("version", [11, 12, 13])
def test_truncated_fetch_response(version: int) -> None:
    body = memoryview(_response(version, b"y" * 30, True))
    for size in range(len(body)):
        with pytest.raises(DecodeError):
            decode_fetch(version, body[:size])
    with pytest.raises(DecodeError, match="after its end"):
        decode_fetch(version, memoryview(bytes(body) + b"\0"))


@given(data=st.binary(max_size=200), version=st.sampled_from([11, 12, 13]))
def test_any_bytes_as_fetch_response(data: bytes, version: int) -> None:
    with contextlib.suppress(DecodeError):
        decode_fetch(version, memoryview(data))


@given(
    at=st.integers(0, 150),
    bad=st.sampled_from([b"\xff\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff\xff\xff"]),
    version=st.sampled_from([11, 12, 13]),
)
def test_lying_lengths(at: int, bad: bytes, version: int) -> None:
    body = bytearray(_response(version, b"y" * 30, True))
    body[at : at + len(bad)] = bad
    try:
        _, partitions = decode_fetch(version, memoryview(body))
    except DecodeError:
        return
    assert sum(len(p.records) for p in partitions) <= len(body)


def test_a_varint_of_six_bytes() -> None:
    with pytest.raises(DecodeError, match="more than 5 bytes"):
        decode_fetch(12, memoryview(bytes(10) + b"\xff\xff\xff\xff\xff\x01"))


def test_a_topic_name_that_is_not_utf8() -> None:
    body = bytes(10) + b"\0\0\0\1" + b"\0\1\xff" + bytes(4)
    with pytest.raises(DecodeError, match="UTF-8"):
        decode_fetch(11, memoryview(body))


@pytest.mark.parametrize("version", [9, 13])
def test_produce_request_is_what_kio_reads(version: int) -> None:
    big = bytes(range(256)) * 100
    topics = [
        ProduceTopic("orders", TOPIC_ID, [(0, b"one"), (9, big)]),
        ProduceTopic("other", UUID(int=7), [(1, b"")]),
    ]
    parts = encode_produce(version, topics, timeout_ms=1500)
    assert any(part is big for part in parts)
    request = decode_request(0, version, b"".join(parts))
    assert (request.transactional_id, request.acks) == (None, -1)
    assert request.timeout.total_seconds() == 1.5
    named = [t.topic_id if version == 13 else t.name for t in request.topic_data]
    assert named == ([TOPIC_ID, UUID(int=7)] if version == 13 else ["orders", "other"])
    assert [[(p.index, bytes(p.records)) for p in t.partition_data] for t in request.topic_data] == [
        [(0, b"one"), (9, big)],
        [(1, b"")],
    ]


def test_an_empty_produce_request() -> None:
    assert decode_request(0, 9, b"".join(encode_produce(9, [], timeout_ms=1))).topic_data == ()


def test_an_id_is_needed_where_the_version_has_no_names() -> None:
    with pytest.raises(ValueError, match="topic id of orders"):
        encode_fetch(13, [FetchTopic("orders", None, [])], max_wait_ms=0, max_bytes=1, isolation_level=0)
    with pytest.raises(ValueError, match="topic id of orders"):
        encode_produce(13, [ProduceTopic("orders", None, [])], timeout_ms=1)
