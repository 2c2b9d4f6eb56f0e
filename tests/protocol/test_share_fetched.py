"""The topics of ShareFetch responses, compared with what the library of messages makes of them."""

from __future__ import annotations

from uuid import UUID

import pytest

from protocol.api_keys import ApiKey
from protocol.errors import DecodeError
from protocol.messages import encode_response
from protocol.share_fetched import share_fetched_topics
from tests.e2e.raw_client import make
from tests.protocol.judges import blank

A, B = UUID(int=1), UUID(int=2)


def response(version: int, *topics: UUID) -> bytes:
    partition = {
        "partition_index": 3,
        "error_message": "none",
        "records": b"data" * 100,
        "acquired_records": [{"first_offset": 0, "last_offset": 7, "delivery_count": 1}] * 2,
    }
    answered = [{"topic_id": each, "partitions": [partition, {}]} for each in topics]
    endpoints = [{"node_id": 1, "host": "h", "port": 9092, "rack": None}]
    request = make(ApiKey.SHARE_FETCH, version)
    return encode_response(blank(request, responses=answered, node_endpoints=endpoints, error_message="m"))


@pytest.mark.parametrize("version", [1, 2])
def test_topics_of_a_response(version: int) -> None:
    for topics in ((), (A,), (B, A, B)):
        assert share_fetched_topics(response(version, *topics)) == [*topics]


def test_malformed_responses() -> None:
    whole = response(1, A, B)
    topics_end = len(whole) - len(response(1)) + 13
    for end in range(topics_end):
        with pytest.raises(DecodeError):
            share_fetched_topics(whole[:end])
    # The last thing of a topic: a tagged field of more bytes than there are.
    with pytest.raises(DecodeError, match="ends at byte"):
        share_fetched_topics(whole[: topics_end - 1] + b"\x01\x00\x64")
