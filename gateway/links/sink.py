"""Writing to a mirror partition, and finding out where its log ends and who wrote its tail.

A broker appends where its log ends. What makes an append land at the source's offset: one batch in flight,
the link's producer id with the offset as its sequence (a broker that remembers the producer takes only the
exact continuation, `ProducerStateManager`), and a look at the log end before anything is sent again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from gateway.links.source import fetch
from gateway.upstreams.admin import list_offsets
from gateway.upstreams.cluster import Cluster
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import KafkaError
from protocol.api_keys import ApiKey
from protocol.messages import decode_response
from protocol.record_batches import BatchView, read_batches
from protocol.replication import (
    PRODUCE_BY_ID,
    PRODUCE_BY_NAME,
    FetchPartition,
    FetchTopic,
    ProduceTopic,
    encode_produce,
)

# ListOffsets from a replica gives the leader's log end offset, from a consumer only the high watermark.
# No broker has this id, and asking changes nothing at the leader (`Partition.fetchOffsetForTimestamp`).
LOG_END_READER: Final = 2_000_000_000
LATEST: Final = -1
EARLIEST: Final = -2
OFFSET_OUT_OF_RANGE: Final = 1
SEQUENCE_MODULUS: Final = 1 << 31
DATA_EPOCH: Final = 0
BARRIER_EPOCH: Final = 1


@dataclass(frozen=True, slots=True)
class Appended:
    """A broker's answer for one partition of a Produce request."""

    error_code: int
    base_offset: int
    message: str | None


def sequence_of(offset: int) -> int:
    """The sequence number under which the record at this offset is written."""
    return offset % SEQUENCE_MODULUS


async def produce(
    connection: BrokerConnection,
    topics: Sequence[ProduceTopic],
    *,
    timeout_ms: int,
    timeout_s: float,
    may_send: Callable[[], bool] = lambda: True,
) -> Mapping[tuple[str, int], Appended]:
    """Send one batch per partition with acks=all; the answers by topic name and partition.

    By topic id where the broker can (KIP-516), so that a topic recreated under the name is not written to.
    `may_send` is asked last of all: at its no the request is not completed, and the connection ends.
    DecodeError, ConnectionClosed, TimeoutError and UnsupportedVersion as `BrokerConnection`.
    """
    _, newest = connection.api_versions.get(ApiKey.PRODUCE, (0, 0))
    if newest >= PRODUCE_BY_ID and all(topic.topic_id is not None for topic in topics):
        version = PRODUCE_BY_ID
    else:
        version = connection.pick_version(ApiKey.PRODUCE, PRODUCE_BY_NAME, PRODUCE_BY_NAME)
    parts = encode_produce(version, topics, timeout_ms=timeout_ms)
    body = await connection.request_guarded(
        ApiKey.PRODUCE, version, parts, timeout_s=timeout_s, may_send=may_send
    )
    names: dict[str | UUID | None, str] = {topic.topic_id: topic.name for topic in topics}
    answers: dict[tuple[str, int], Appended] = {}
    for topic in decode_response(ApiKey.PRODUCE, version, body).responses:
        name = names.get(topic.topic_id) if version >= PRODUCE_BY_ID else topic.name
        if name is None:
            continue
        for p in topic.partition_responses:
            answers[name, p.index] = Appended(int(p.error_code), p.base_offset, p.error_message)
    return answers


async def log_end_offset(destination: Cluster, node_id: int, topic: str, partition: int) -> tuple[int, int]:
    """Log end offset and high watermark of a partition, as its leader has them. KafkaError if it refuses."""
    key = (topic, partition)
    ends = await list_offsets(destination, node_id, {key: LATEST}, replica_id=LOG_END_READER)
    watermarks = await list_offsets(destination, node_id, {key: LATEST})
    return ends[key], watermarks[key]


async def tail_batch(
    connection: BrokerConnection,
    topic: FetchTopic,
    partition: int,
    log_end: int,
    *,
    timeout_s: float,
) -> BatchView | None:
    """The batch that holds the last offset below `log_end`; None if the log has none. KafkaError."""
    wanted = FetchTopic(topic.name, topic.topic_id, [FetchPartition(partition, log_end - 1, 1)])
    code, partitions = await fetch(
        connection, [wanted], max_bytes=1, max_wait_ms=0, timeout_s=timeout_s, read_committed=False
    )
    for fetched in partitions:
        code = code or fetched.error_code
        if fetched.partition == partition and not code:
            for batch in read_batches(fetched.records):
                if batch.base_offset < log_end <= batch.next_offset:
                    return batch
    if code not in (0, OFFSET_OUT_OF_RANGE):
        raise KafkaError(code, f"Fetch of the end of {topic.name}-{partition}")
    return None


def foreign_tail(batch: BatchView, producer_id: int, log_end: int) -> str | None:
    """Why the batch at the log's end was not written by this mirror, or None if it was."""
    if batch.producer_id != producer_id:
        return (
            f"the batch at offset {batch.base_offset} has producer id {batch.producer_id}, "
            f"the mirror writes with {producer_id}"
        )
    if batch.next_offset != log_end:
        return f"the batch at offset {batch.base_offset} ends at {batch.next_offset}, the log at {log_end}"
    if batch.producer_epoch == BARRIER_EPOCH:
        return None
    if batch.producer_epoch != DATA_EPOCH:
        return f"the batch at offset {batch.base_offset} has producer epoch {batch.producer_epoch}"
    # Not the count: the cleaner of a compacted topic takes records out (`DefaultRecordBatch.lastSequence`).
    end_sequence = sequence_of(batch.base_sequence + batch.last_offset_delta + 1)
    if end_sequence != sequence_of(log_end):
        return (
            f"the batch at offset {batch.base_offset} ends at sequence {end_sequence}, "
            f"at this log end the mirror would have written {sequence_of(log_end)}"
        )
    return None
