"""Offsets that clients commit: told before they go to the broker, and refused while that cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from gateway.sessions.local_replies import offsets_not_committed
from gateway.state.store import StateUnavailable
from gateway.upstreams.metadata import nested_class
from protocol.api_keys import ApiKey
from protocol.headers import RequestHeader
from protocol.messages import decode_request, decode_response, request_class
from tests.gateway.sessions.lab import MIRROR_ID, lab

COMMITS = [
    *((ApiKey.OFFSET_COMMIT, version) for version in (2, 5, 8, 9, 10)),
    *((ApiKey.TXN_OFFSET_COMMIT, version) for version in (0, 2, 3, 5)),
]


@dataclass
class Commits:
    """Implements CommitGuard."""

    watching: bool = True
    failure: Exception | None = None
    told: list[tuple[str, Mapping[str | UUID, Mapping[int, int]]]] = field(default_factory=list)

    async def before_commit(self, group: str, offsets: Mapping[str | UUID, Mapping[int, int]]) -> None:
        if self.failure is not None:
            raise self.failure
        self.told.append((group, offsets))


def commit(key: int, version: int) -> Any:
    """Two partitions of one topic."""
    request = request_class(key, version)
    kind = "OffsetCommit" if key == ApiKey.OFFSET_COMMIT else "TxnOffsetCommit"
    partition = nested_class(request, f"{kind}RequestPartition")
    named: dict[str, Any] = {"topic_id": MIRROR_ID} if version == 10 else {"name": "mirror"}
    partitions = tuple(
        partition(partition_index=i, committed_offset=40 + i, committed_metadata="m") for i in (0, 1)
    )
    topics = (nested_class(request, f"{kind}RequestTopic")(**named, partitions=partitions),)
    if key == ApiKey.TXN_OFFSET_COMMIT:
        return request(transactional_id="x", group_id="g", producer_id=1, producer_epoch=0, topics=topics)
    more = {"retention_time": timedelta(milliseconds=-1)} if version < 5 else {}
    return request(group_id="g", member_id="", topics=topics, **more)


def codes(response: Any) -> dict[tuple[Any, int], ErrorCode]:
    return {
        (getattr(topic, "name", None) or topic.topic_id, p.partition_index): p.error_code
        for topic in response.topics
        for p in topic.partitions
    }


@pytest.mark.parametrize(("key", "version"), COMMITS)
async def test_a_commit_is_told_before_it_goes_on(key: int, version: int) -> None:
    commits = Commits()
    async with lab(commits=commits) as here:

        def takes(header: RequestHeader, body: bytes) -> Any:
            assert commits.told, "not before it is told"
            request = decode_request(key, header.api_version, body)
            answer = offsets_not_committed(request, ErrorCode.none)
            return decode_response(key, header.api_version, answer)

        here.broker.handlers[key] = takes
        client = await here.client()
        answer = await client.call(commit(key, version))
        topic = MIRROR_ID if version == 10 else "mirror"
        assert commits.told == [("g", {topic: {0: 40, 1: 41}})]
        assert codes(answer) == dict.fromkeys([(topic, 0), (topic, 1)], ErrorCode.none)
        commits.watching = False
        await client.call(commit(key, version))
        assert len(commits.told) == 1


@pytest.mark.parametrize(("key", "version"), COMMITS)
async def test_what_cannot_be_told_is_not_committed(key: int, version: int) -> None:
    async with lab(commits=Commits(failure=StateUnavailable("away"))) as here:
        client = await here.client()
        answer = await client.call(commit(key, version))
        assert set(codes(answer).values()) == {ErrorCode.coordinator_not_available}
        assert len(codes(answer)) == 2
        assert not here.broker.count(key)
