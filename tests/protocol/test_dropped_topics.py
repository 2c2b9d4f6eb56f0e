"""Metadata without the topics that its client may not see."""

from __future__ import annotations

import pytest

from protocol.api_keys import ApiKey
from protocol.broker_addresses import drop_topics
from protocol.errors import DecodeError
from protocol.headers import encode_response_header, response_body_offset
from protocol.messages import decode_response, encode_response
from tests.e2e.raw_client import make
from tests.protocol.judges import blank


@pytest.mark.parametrize("version", range(14))
def test_topics_alone_can_be_dropped(version: int) -> None:
    made = blank(
        make(ApiKey.METADATA, version),
        brokers=[{"node_id": 1, "host": "broker.internal", "port": 9092}],
        topics=[{"name": "a"}, {"name": "b"}],
    )
    frame = encode_response_header(ApiKey.METADATA, version, 7) + encode_response(made)
    parts = drop_topics(version, frame, "a".__eq__)
    assert isinstance(parts, list)
    shown = b"".join(parts)
    told = decode_response(
        ApiKey.METADATA, version, shown[response_body_offset(ApiKey.METADATA, version, shown) :]
    )
    assert [topic.name for topic in told.topics] == ["b"]
    assert told.brokers == made.brokers
    assert drop_topics(version, frame, "c".__eq__) is frame
    with pytest.raises(DecodeError):
        drop_topics(version, frame[:30], "a".__eq__)
