"""Fetch requests and responses cut by hand, compared with what the library of messages makes of them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from protocol.api_keys import ApiKey
from protocol.errors import DecodeError
from protocol.fetch_refusals import (
    encode_fetch,
    fetch_partitions,
    fetch_refused,
    fetched_topics,
    refuse_fetched,
    session_id_of,
)
from protocol.messages import decode_request, decode_response, encode_request, encode_response
from protocol.request_views import FETCH_VERSIONS, has_transactional_records, read_fetch, read_produce
from tests.e2e.raw_client import batch, fill, make, produce
from tests.protocol.judges import blank

A, B = UUID(int=1), UUID(int=2)


def key(version: int) -> str:
    return "topic_id" if version >= 13 else "topic"


def names(version: int) -> tuple[Any, Any]:
    return (A, B) if version >= 13 else ("a", "b")


def request(version: int) -> Any:
    topics = [
        {key(version): name, "partitions": [{"partition": index, "fetch_offset": 7} for index in (0, 3)]}
        for name in names(version)
    ]
    fields = {"session_id": 5, "session_epoch": 0} if version >= 7 else {}
    return make(ApiKey.FETCH, version, topics=topics, max_bytes=9, **fields)


@pytest.mark.parametrize("version", FETCH_VERSIONS)
def test_a_request_made_anew(version: int) -> None:
    body = encode_request(request(version))
    view = read_fetch(version, b"header" + body, 6)
    frame = b"header" + body
    topics = {each.topic: fetch_partitions(version, frame, each) for each in view.topics}
    assert [list(each) for each in topics.values()] == [[0, 3], [0, 3]]
    assert encode_fetch(view, frame, topics, (5, 0)) == body
    first, second = names(version)
    rest = decode_request(ApiKey.FETCH, version, encode_fetch(view, frame, {second: topics[second]}, (0, -1)))
    assert [getattr(topic, key(version)) for topic in rest.topics] == [second]
    assert first not in [getattr(topic, key(version)) for topic in rest.topics]
    if version >= 7:
        assert (rest.session_id, rest.session_epoch) == (0, -1)


def response(version: int) -> Any:
    topics = [
        {key(version): name, "partitions": [{"partition_index": 0, "records": b"data"}]}
        for name in names(version)
    ]
    return blank(request(version), responses=topics, **({"session_id": 5} if version >= 7 else {}))


@pytest.mark.parametrize("version", FETCH_VERSIONS)
def test_refusals_in_a_response(version: int) -> None:
    body = encode_response(response(version))
    first, second = names(version)
    refused = {first: (29, (0, 3))}
    told = decode_response(ApiKey.FETCH, version, refuse_fetched(version, body, refused))
    found = {getattr(topic, key(version)): topic.partitions for topic in told.responses}
    assert [(each.partition_index, each.error_code, each.high_watermark) for each in found[first]] == [
        (0, ErrorCode.topic_authorization_failed, -1),
        (3, ErrorCode.topic_authorization_failed, -1),
    ]
    assert found[second][0].records == b"data"
    # And nothing else of the topic that is refused.
    assert len(told.responses) == 2
    assert refuse_fetched(version, body, refused).count(b"data") == 1
    other = refuse_fetched(version, body, {}, 77)
    expected = 77 if version >= 7 else 0
    assert session_id_of(version, other) == expected
    assert session_id_of(version, refuse_fetched(version, body, {})) == (5 if version >= 7 else 0)
    alone = decode_response(
        ApiKey.FETCH, version, fetch_refused(version, refused, session_id=3, error_code=0)
    )
    assert len(alone.responses[0].partitions) == 2


@pytest.mark.parametrize("version", [4, 12, 16])
def test_broken_responses(version: int) -> None:
    body = encode_response(response(version))
    for cut in (0, 3, 12, len(body) - 12):
        with pytest.raises(DecodeError):
            refuse_fetched(version, body[:cut], {})
    with pytest.raises(DecodeError):
        session_id_of(12, b"")


def test_a_topic_that_claims_to_be_longer_than_its_response() -> None:
    body = bytearray(encode_response(response(4)))
    # The length of the last records, which end the response.
    body[-8:-4] = (1000).to_bytes(4)
    with pytest.raises(DecodeError, match="ends at byte"):
        refuse_fetched(4, body, {})


@pytest.mark.parametrize("version", [3, 8, 9, 12, 13])
def test_transactional_records(version: int) -> None:
    name = A if version >= 13 else "a"

    def has(*batches: bytes) -> bool:
        topics = {(UUID(int=9 + i) if version >= 13 else f"t{i}"): each for i, each in enumerate(batches)}
        body = encode_request(produce(version, topics))
        return has_transactional_records(read_produce(version, b"xx" + body, 2))

    plain = batch(b"v")
    inside = batch(b"v", producer_id=1, producer_epoch=0, base_sequence=0, transactional=True)
    assert not has(plain)
    assert has(inside)
    assert has(plain, inside)
    assert not has(plain[:20])
    assert not has(inside[:16] + b"\x01" + inside[17:])
    nothing = fill(
        type(produce(version, {name: b""})),
        {
            "acks": -1,
            "topic_data": [
                {
                    ("topic_id" if version >= 13 else "name"): name,
                    "partition_data": [{"index": 0, "records": None}],
                }
            ],
        },
    )
    assert not has_transactional_records(read_produce(version, encode_request(nothing)))


def test_transactional_records_of_a_view_of_something_else() -> None:
    body = encode_request(produce(9, {"a": batch(b"v")}))
    view = read_produce(9, body)
    with pytest.raises(DecodeError):
        has_transactional_records(view._replace(frame=body[:20]))


@pytest.mark.parametrize("version", FETCH_VERSIONS)
def test_topics_of_a_response(version: int) -> None:
    body = encode_response(response(version))
    assert fetched_topics(version, body) == [*names(version)]
    with pytest.raises(DecodeError):
        fetched_topics(version, body[:20])
