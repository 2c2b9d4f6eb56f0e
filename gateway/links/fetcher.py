"""Fetches from the brokers of a link's source: one loop per broker, for all partitions that it leads."""

import asyncio
import time
from typing import Final

from kio.schema.errors import ErrorCode

from gateway.links.board import (
    BELIEF_S,
    REQUEST_TIMEOUT_S,
    RETRY_DELAY_S,
    TRANSPORT_ERRORS,
    Board,
    backoff_s,
    drop,
    wait_for,
)
from gateway.links.partition import MERGE_BYTES, MirrorPartition
from gateway.links.sink import EARLIEST, LATEST, OFFSET_OUT_OF_RANGE
from gateway.links.source import fetch
from gateway.links.source_check import SourceCheck
from gateway.state.records import MirrorTopicError
from gateway.upstreams.admin import list_offsets
from gateway.upstreams.cluster import Cluster
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import KafkaError
from protocol.codecs import Codec
from protocol.dense_batches import FillerRun, densify
from protocol.errors import DecodeError
from protocol.record_batches import MAGIC, BatchView, is_plain, read_batches
from protocol.replication import FetchedPartition, FetchPartition, FetchTopic
from protocol.transactions import AbortedTransactions

QUEUE_BYTES: Final = 4 << 20
BUFFER_BYTES: Final = 64 << 20
CORRUPT_FETCHES: Final = 3
ZSTD: Final = int(Codec.ZSTD)
# A frame stays in memory as long as a batch of it is queued: what is a small part of one is copied.
PINNED_PART: Final = 8


class Fetcher:
    """Fills the queues of the partitions."""

    def __init__(self, board: Board, source: Cluster) -> None:
        self._board = board
        self._source = source
        self._check = SourceCheck(board)
        self._turn = 0

    async def run(self, node_id: int) -> None:
        """Fetch from one source broker until cancelled."""
        connection: BrokerConnection | None = None
        failures = 0
        try:
            while True:
                wanted = self._wanted(node_id)
                if not wanted:
                    await wait_for(self._board.wake_fetch[node_id], RETRY_DELAY_S * 2)
                    continue
                try:
                    if connection is None or connection.closed:
                        connection = await self._source.connect(node_id)
                    unchecked = [p for p in wanted if p.checked_epoch != p.source_epoch]
                    if unchecked:
                        await self._check.check(connection, unchecked)
                        wanted = [p for p in wanted if p.checked_epoch == p.source_epoch]
                    if wanted:
                        await self._fetch(connection, node_id, wanted)
                    failures = 0
                    self._board.source_is_up()
                except TRANSPORT_ERRORS as error:
                    self._board.source_is_down(error)
                    self._board.wake_metadata.set()
                    drop(connection)
                    connection = None
                    failures += 1
                    await asyncio.sleep(backoff_s(failures))
        finally:
            drop(connection)

    def _wanted(self, node_id: int) -> list[MirrorPartition]:
        now = time.monotonic()
        room = BUFFER_BYTES - sum(p.queued_bytes for m in self._board.mirrors.values() for p in m.partitions)
        if room <= 0:
            return []
        wanted = [p for p in self._board.by_source.get(node_id, ()) if p.wants_fetch(now, QUEUE_BYTES)]
        # Everybody gets to be first: a broker gives of the others only what fits.
        self._turn = (self._turn + 1) % max(len(wanted), 1)
        return wanted[self._turn :] + wanted[: self._turn]

    async def _fetch(self, connection: BrokerConnection, node_id: int, wanted: list[MirrorPartition]) -> None:
        asked: dict[tuple[object, int], tuple[MirrorPartition, int]] = {}
        topics: dict[str, FetchTopic] = {}
        settings = self._board.settings
        for p in wanted:
            record = p.mirror.record
            name = record.source_topic_name
            topic = topics.setdefault(name, FetchTopic(name, record.source_topic_id, []))
            topic.partitions.append(
                FetchPartition(p.index, p.fetch_offset, settings.fetch_partition_bytes, p.source_epoch)
            )
            asked[name, p.index] = asked[record.source_topic_id, p.index] = (p, p.generation)
        # Partitions that are left out because their queues are full must not wait for quiet ones.
        full = any(p.queued_bytes >= QUEUE_BYTES for p in self._board.by_source.get(node_id, ()))
        code, answers = await fetch(
            connection,
            list(topics.values()),
            max_bytes=settings.fetch_response_bytes,
            max_wait_ms=min(20, settings.fetch_wait_ms) if full else settings.fetch_wait_ms,
            timeout_s=REQUEST_TIMEOUT_S,
        )
        if code:
            raise KafkaError(ErrorCode(code), "Fetch from the source")
        for answer in answers:
            found = asked.get((answer.topic, answer.partition))
            # What was asked for before a doubt is not for the queue of now.
            if found is not None and found[0].generation == found[1]:
                await self._fetched(found[0], answer)

    async def _fetched(self, p: MirrorPartition, answer: FetchedPartition) -> None:
        try:
            if answer.error_code == OFFSET_OUT_OF_RANGE:
                await self._out_of_range(p)
                return
            if answer.error_code:
                raise KafkaError(answer.error_code, f"Fetch of {answer.topic}-{p.index} from the source")
        except KafkaError as refusal:
            # What is wrong with one partition does not hold up the others.
            p.failed_fetches += 1
            p.fetch_refused = (p.fetch_refused or (time.monotonic(), ""))[0], str(refusal)
            p.fetch_not_before = time.monotonic() + backoff_s(p.failed_fetches)
            self._board.log.info("fetch_refused", topic=p.name[0], partition=p.index, error=str(refusal))
            self._board.wake_metadata.set()
            return
        p.out_of_range_since = None
        p.failed_fetches = 0
        p.fetch_refused = None
        p.source_ends_at(answer.last_stable_offset, answer.high_watermark, time.monotonic())
        p.source_start = max(p.source_start, answer.log_start_offset)
        try:
            self._queue(p, answer)
        except DecodeError as error:
            self._corrupt(p, str(error))
        self._fail_at_obstacle(p)
        if p.destination_leader is not None:
            self._board.wake_append[p.destination_leader].set()

    def _queue(self, p: MirrorPartition, answer: FetchedPartition) -> None:
        spans = answer.aborted_transactions
        aborted = AbortedTransactions(spans) if spans else None
        for batch in read_batches(_unpinned(answer.records)):
            # In every response from its beginning on, also what precedes the offset that was asked for.
            is_aborted = aborted is not None and aborted.include(batch)
            if batch.next_offset <= p.fetch_offset:
                continue
            if p.stop_offset is not None and batch.base_offset >= p.stop_offset:
                self._fill(p, p.stop_offset)
                break
            if batch.magic == MAGIC and not batch.verify_crc():
                self._corrupt(p, f"the batch at offset {batch.base_offset} fails its checksum")
                break
            epoch = batch.partition_leader_epoch
            if epoch != p.reading_epoch and batch.magic == MAGIC and epoch >= 0 and not self._see(p, batch):
                break
            if is_plain(batch, p.fetch_offset) and not is_aborted:
                p.enqueue(batch)
            elif not 0 <= batch.magic <= MAGIC or batch.codec > ZSTD:
                what = f"message format v{batch.magic}, codec {batch.codec}"
                where = f"partition {p.index}: the batch at offset {batch.base_offset}"
                message = f"{where} is in a form that this version does not know: {what}"
                p.obstacle = (MirrorTopicError.UNSUPPORTED_MESSAGE_FORMAT, message)
                break
            else:
                pieces = densify(
                    batch,
                    p.fetch_offset,
                    p.last_timestamp,
                    aborted=is_aborted,
                    filler_key=p.mirror.record.filler_key,
                    max_bytes=MERGE_BYTES >> p.merge_halvings,
                )
                for piece in pieces:
                    p.enqueue(piece)
            p.corrupt_fetches = 0

    def _see(self, p: MirrorPartition, batch: BatchView) -> bool:
        """Take note of a leader epoch of the source; False if it cannot be."""
        epoch = batch.partition_leader_epoch
        if not p.see_epoch(epoch, max(batch.base_offset, p.fetch_offset)):
            message = (
                f"partition {p.index}: the batch at offset {batch.base_offset} has the leader epoch {epoch}, "
                f"below that of what was copied before it; the source was made anew or lost records"
            )
            p.obstacle = (MirrorTopicError.NON_MONOTONIC_SOURCE_EPOCH, message)
            return False
        p.reading_epoch = epoch
        if p.new_epochs:
            self._board.wake_notes.set()
        return True

    def _fill(self, p: MirrorPartition, end: int) -> None:
        """Fillers for what the source has no batch for."""
        if end > p.fetch_offset:
            key = p.mirror.record.filler_key
            p.enqueue(FillerRun(p.fetch_offset, end - p.fetch_offset, p.last_timestamp, key))

    def _fail_at_obstacle(self, p: MirrorPartition) -> None:
        # What comes before it is appended first.
        if p.obstacle is not None and not p.queue and p.sending is None:
            self._board.fail(p.mirror, *p.obstacle)

    def _corrupt(self, p: MirrorPartition, what: str) -> None:
        p.corrupt_fetches += 1
        p.fetch_not_before = time.monotonic() + RETRY_DELAY_S * 2
        self._board.log.warning("source_corrupt", topic=p.name[0], partition=p.index, error=what)
        if p.corrupt_fetches >= CORRUPT_FETCHES:
            where = f"partition {p.index}: what the source sends from offset {p.fetch_offset} on is corrupt"
            p.obstacle = (MirrorTopicError.ILLEGAL_STATE, f"{where}: {what}")

    async def _out_of_range(self, p: MirrorPartition) -> None:
        if p.source_leader is None:
            return
        key, generation = (p.mirror.record.source_topic_name, p.index), p.generation
        start = (await list_offsets(self._source, p.source_leader, {key: EARLIEST}))[key]
        end = (await list_offsets(self._source, p.source_leader, {key: LATEST}))[key]
        if p.generation != generation:
            return
        now = time.monotonic()
        p.fetch_not_before = now + RETRY_DELAY_S * 2
        if start > p.fetch_offset:
            # What vanished before it was copied.
            p.source_start = max(p.source_start, start)
            self._fill(p, start if p.stop_offset is None else min(start, p.stop_offset))
            if p.destination_leader is not None:
                self._board.wake_append[p.destination_leader].set()
        elif end < p.fetch_offset:
            p.out_of_range_since = p.out_of_range_since or now
            if now - p.out_of_range_since > BELIEF_S:
                self._board.fail(
                    p.mirror,
                    MirrorTopicError.UNEXPECTED_TRUNCATION,
                    f"partition {p.index}: the source's log ends at {end}, behind the mirror's {p.position}; "
                    "the source lost records or was recreated",
                )


def _unpinned(records: memoryview) -> memoryview:
    """The records, in a buffer of their own if they are a small part of the frame that they came in."""
    if len(records) * PINNED_PART < memoryview(records.obj).nbytes:
        return memoryview(bytearray(records))
    return records
