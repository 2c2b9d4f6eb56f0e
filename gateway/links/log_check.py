"""Looks at the logs of mirror partitions in doubt: where they end, and that this mirror wrote the end.

The destination's log is the only checkpoint: nothing is appended before it was looked at.
"""

import asyncio
import time

from gateway.links.board import (
    BELIEF_S,
    METADATA_INTERVAL_S,
    REQUEST_TIMEOUT_S,
    RETRY_DELAY_S,
    TRANSPORT_ERRORS,
    Board,
    backoff_s,
    drop,
    wait_for,
)
from gateway.links.partition import MirrorPartition, Phase, digest_of
from gateway.links.sink import BARRIER_EPOCH, foreign_tail, log_end_offset, tail_batch
from gateway.state.records import MirrorStatus, MirrorTopicError
from gateway.upstreams.cluster import Cluster
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import KafkaError
from protocol.dense_batches import NO_TIMESTAMP
from protocol.errors import DecodeError
from protocol.record_batches import BatchView
from protocol.records import iterate_records
from protocol.replication import FetchTopic


class LogCheck:
    """Takes partitions out of doubt."""

    def __init__(self, board: Board, destination: Cluster) -> None:
        self._board = board
        self._destination = destination

    async def run(self, node_id: int) -> None:
        """Look at the logs of one destination broker until cancelled."""
        connection: BrokerConnection | None = None
        try:
            while True:
                now = time.monotonic()
                doubtful = [
                    p
                    for p in self._board.by_destination.get(node_id, ())
                    if p.phase is Phase.DOUBT and p.mirror.running and p.sending is None
                ]
                due = [p for p in doubtful if p.not_before <= now]
                if not due:
                    await wait_for(
                        self._board.wake_resolve[node_id], RETRY_DELAY_S if doubtful else METADATA_INTERVAL_S
                    )
                    continue
                try:
                    if connection is None or connection.closed:
                        connection = await self._destination.connect(node_id, linger_zero=True)
                    for p in due:
                        await self._look(connection, node_id, p)
                except TRANSPORT_ERRORS as error:
                    self._board.log.warning("log_end_unknown", node_id=node_id, error=str(error))
                    self._board.wake_metadata.set()
                    drop(connection)
                    connection = None
                    await asyncio.sleep(RETRY_DELAY_S * 5)
        finally:
            drop(connection)

    async def _look(self, connection: BrokerConnection, node_id: int, p: MirrorPartition) -> None:
        try:
            await self._resolve(connection, node_id, p)
        except KafkaError as error:
            # A leader is announced before it is ready, and named for a while after it moved. The other
            # partitions do not wait for this one.
            self._board.log.info("log_end_unknown", topic=p.name[0], partition=p.index, error=str(error))
            p.failed_looks += 1
            p.not_before = time.monotonic() + backoff_s(p.failed_looks)
            self._board.wake_metadata.set()

    async def _resolve(self, connection: BrokerConnection, node_id: int, p: MirrorPartition) -> None:
        record, generation = p.mirror.record, p.generation
        name = record.mirror_topic_name
        log_end, high_watermark = await log_end_offset(self._destination, node_id, name, p.index)
        if high_watermark != log_end:
            # A consumer is not shown the tail before its replicas have it.
            p.not_before = time.monotonic() + RETRY_DELAY_S
            return
        timestamp, batch = NO_TIMESTAMP, None
        if log_end > 0:
            topic = FetchTopic(name, record.topic_id, [])
            batch = await tail_batch(connection, topic, p.index, log_end, timeout_s=REQUEST_TIMEOUT_S)
            if p.generation != generation:
                return
            if batch is None and log_end != p.log_start:
                self._tail_missing(p, log_end)
                return
        # A log that was deleted to its end, by this mirror: that was recorded before.
        if batch is not None:
            reason = foreign_tail(batch, record.producer_id, log_end)
            ended = reason is None and batch.producer_epoch == BARRIER_EPOCH
            if ended and record.status is not MirrorStatus.PENDING_STOPPED:
                reason = (
                    f"the log ends with the barrier of a promote, but the mirror topic is {record.status}"
                )
            if reason is not None:
                self._board.fail(
                    p.mirror,
                    MirrorTopicError.ILLEGAL_STATE,
                    f"partition {p.index}: foreign writer: {reason}; delete and recreate the mirror topic",
                )
                return
            if ended:
                p.phase = Phase.DONE
                p.position = log_end - 1
                self._board.wake_metadata.set()
                return
            timestamp = batch.max_timestamp
            if p.tail is None:
                p.tail = _last_record(batch, record.filler_key)
        if p.generation == generation and p.phase is Phase.DOUBT and p.mirror.running:
            p.trust(log_end, timestamp)
            if p.source_leader is not None:
                self._board.wake_fetch[p.source_leader].set()
            self._board.wake_append[node_id].set()

    def _tail_missing(self, p: MirrorPartition, log_end: int) -> None:
        now = time.monotonic()
        p.not_before = now + RETRY_DELAY_S
        p.tail_missing_since = p.tail_missing_since or now
        if now - p.tail_missing_since > BELIEF_S:
            self._board.fail(
                p.mirror,
                MirrorTopicError.ILLEGAL_STATE,
                f"partition {p.index}: the last batch before the log's end at {log_end} is gone, so that "
                "nobody can tell who wrote it; somebody deleted records of the mirror topic: delete and "
                "recreate it",
            )


def _last_record(batch: BatchView, filler_key: bytes) -> tuple[int, bytes] | None:
    """Offset and digest of the last record of the batch that is no filler."""
    try:
        records = [record for record in iterate_records(batch) if record.key != filler_key]
    except DecodeError:
        return None
    return (records[-1].offset, digest_of(records[-1])) if records else None
