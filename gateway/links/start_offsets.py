"""Where a new mirror topic starts: `mirror.start.offset.spec`, and what that costs.

A partition that starts at offset N is a *runway* of N fillers and data behind it: a broker gives the first
record of a log offset 0, whatever its source's has. The runway is deleted once it is built.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from kio.schema.errors import ErrorCode

from gateway.links import errors
from gateway.upstreams.admin import EARLIEST, LATEST, list_offsets
from gateway.upstreams.cluster import Cluster, TopicMetadata
from gateway.upstreams.errors import KafkaError

_NO_OFFSET: Final = -1
_PATIENCE_S: Final = 10.0
_RETRY_DELAY_S: Final = 0.2
_NOT_YET: Final = frozenset(
    {
        ErrorCode.unknown_topic_or_partition,
        ErrorCode.leader_not_available,
        ErrorCode.not_leader_or_follower,
        ErrorCode.offset_not_available,
    }
)
# What compressed fillers take on every replica, and how many a single partition gets per second, about.
_BYTES_PER_FILLER: Final = 0.6
_FILLERS_PER_S: Final = 5_000_000


def parse_spec(spec: str) -> int:
    """The timestamp that ListOffsets has for it: EARLIEST, LATEST or ms. ValueError says what it must be."""
    word = spec.strip().lower()
    if word == "earliest":
        return EARLIEST
    if word == "latest":
        return LATEST
    try:
        moment = datetime.fromisoformat(spec.strip())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        milliseconds = round(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        milliseconds = -1
    if milliseconds < 0:
        raise ValueError("must be earliest, latest or a time as 2026-01-31T12:00:00Z")
    return milliseconds


async def start_offsets(source: Cluster, name: str, topic: TopicMetadata, spec: str) -> dict[int, int]:
    """First offset by partition of the source topic, 0 left out. Raises as `list_offsets`."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return await _start_offsets(source, name, topic, spec)
        except KafkaError as error:
            # Leaders are announced before they are ready, and named for a while after they moved.
            if error.code not in _NOT_YET or time.monotonic() > deadline:
                raise
        await asyncio.sleep(_RETRY_DELAY_S)
        topic = (await source.metadata([name])).topics.get(name, topic)


async def _start_offsets(source: Cluster, name: str, topic: TopicMetadata, spec: str) -> dict[int, int]:
    wanted = parse_spec(spec)
    starts = await _offsets(source, name, topic, EARLIEST)
    if wanted != EARLIEST:
        found = await _offsets(source, name, topic, wanted)
        if _NO_OFFSET in found.values():
            ends = await _offsets(source, name, topic, LATEST)
            found = {p: ends[p] if offset == _NO_OFFSET else offset for p, offset in found.items()}
        starts = {p: max(start, found[p]) for p, start in starts.items()}
    return {p: start for p, start in sorted(starts.items()) if start > 0}


async def _offsets(source: Cluster, name: str, topic: TopicMetadata, timestamp: int) -> dict[int, int]:
    by_leader: dict[int, dict[tuple[str, int], int]] = defaultdict(dict)
    for index, partition in topic.partitions.items():
        if partition.leader < 0:
            raise KafkaError(ErrorCode.leader_not_available, f"partition {index} of source topic '{name}'")
        by_leader[partition.leader][name, index] = timestamp
    found: dict[int, int] = {}
    for leader, partitions in by_leader.items():
        answers = await list_offsets(source, leader, partitions)
        found |= {index: offset for (_, index), offset in answers.items()}
    return found


def check_runway(name: str, starts: Mapping[int, int], most: int) -> None:
    """LinkError if a partition would start so far behind 0 that it costs more than was agreed on."""
    index = max(starts, key=starts.__getitem__, default=None)
    if index is None or starts[index] <= most:
        return
    total = sum(starts.values())
    raise errors.invalid_request(
        f"Partition {index} of source topic '{name}' starts at offset {starts[index]:,}, above "
        f"'mirror.runway.max.records' of the link, {most:,}. To give its records the same offsets, all "
        f"{total:,} offsets before the topic's first records are filled once and deleted again: about "
        f"{total * _BYTES_PER_FILLER / 1e6:,.0f} MB written to every replica, at least "
        f"{starts[index] / _FILLERS_PER_S:,.0f} s. Raise that config to agree to it."
    )
