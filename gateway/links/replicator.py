"""Copies a link's mirror topics from source to destination, byte for byte and offset for offset.

Per source broker one loop fetches for all partitions that it leads, per destination broker one loop appends
(one batch per partition in a request, one request at a time) and one looks at the logs of the partitions
that are in doubt. The only checkpoint is the destination's log.

Modules beside this one: `partition` is what is known of a partition, `source` and `sink` the requests.
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Final, Protocol

import structlog
from kio.schema.errors import ErrorCode

from gateway.links.partition import Mirror, MirrorPartition, Phase
from gateway.links.sink import (
    BARRIER_EPOCH,
    EARLIEST,
    LATEST,
    Appended,
    foreign_tail,
    log_end_offset,
    produce,
    tail_batch,
)
from gateway.links.source import fetch
from gateway.state.records import MirrorRecord, MirrorStatus, MirrorTopicError
from gateway.tasks import Tasks
from gateway.upstreams.admin import list_offsets
from gateway.upstreams.cluster import Cluster, TopicMetadata
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import ConnectFailed, DialError, KafkaError
from gateway.wire import ConnectionClosed
from protocol.errors import ProtocolError
from protocol.record_batches import hole, read_batches
from protocol.replication import READ_COMMITTED, FetchedPartition, FetchPartition, FetchTopic, ProduceTopic

log = structlog.get_logger(__name__)

FETCH_PARTITION_BYTES: Final = 2 << 20
FETCH_BYTES: Final = 16 << 20
QUEUE_BYTES: Final = 4 << 20
BUFFER_BYTES: Final = 64 << 20
MERGE_BYTES: Final = 256 << 10
PRODUCE_BYTES: Final = 8 << 20
PRODUCE_TIMEOUT_MS: Final = 10_000
REQUEST_TIMEOUT_S: Final = 15.0
METADATA_INTERVAL_S: Final = 5.0
# A request that was under way when its connection was lost may still sit in the broker's queue.
LOSS_DELAY_S: Final = 1.0
RETRY_DELAY_S: Final = 0.1
BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
# A topic that is gone, or a log end behind us, is believed when it stays so for this long: metadata and
# high watermarks trail behind for a moment after a change of leader.
BELIEF_S: Final = 15.0

TRANSPORT_ERRORS: Final = (ConnectionClosed, DialError, KafkaError, ProtocolError, TimeoutError, OSError)

NONE: Final = 0
OFFSET_OUT_OF_RANGE: Final = 1
# What no further attempt changes: the record or batch itself is refused (`LogValidator`).
REFUSED_FOR_GOOD: Final = {
    2: "CORRUPT_MESSAGE",
    32: "INVALID_TIMESTAMP",
    43: "UNSUPPORTED_FOR_MESSAGE_FORMAT",
    76: "UNSUPPORTED_COMPRESSION_TYPE",
    87: "INVALID_RECORD",
}


class MirrorEvents(Protocol):
    """What the owner of the state is told; each call returns when it was written, or raises."""

    async def failed(self, mirror_topic: str, error: MirrorTopicError, message: str) -> None: ...

    async def stopping_at(self, mirror_topic: str, stop_offsets: Mapping[int, int]) -> None: ...

    async def stopped(self, mirror_topic: str) -> None: ...


class Replicator:
    """The data path of one link on its destination. `update` says what to copy, `run` copies for ever."""

    def __init__(
        self,
        link_name: str,
        source: Cluster,
        destination: Cluster,
        filler_key: bytes,
        events: MirrorEvents,
    ) -> None:
        self._source = source
        self._destination = destination
        self._filler_key = filler_key
        self._events = events
        self._tasks = Tasks(f"replicator of {link_name}")
        self._log = log.bind(link=link_name)
        self._mirrors: dict[str, Mirror] = {}
        self._wake_metadata = asyncio.Event()
        self._wake_fetch: dict[int, asyncio.Event] = {}
        self._wake_append: dict[int, asyncio.Event] = {}
        self._wake_resolve: dict[int, asyncio.Event] = {}
        self._by_source: dict[int, list[MirrorPartition]] = {}
        self._by_destination: dict[int, list[MirrorPartition]] = {}
        self.source_down_since: float | None = None
        self.source_error: str | None = None

    # What is to be copied.

    @property
    def mirrors(self) -> Mapping[str, Mirror]:
        """The mirror topics of this link, by name."""
        return self._mirrors

    def update(self, records: Iterable[MirrorRecord]) -> None:
        """Take over the mirror topics as they now stand in the state."""
        wanted = {record.mirror_topic_name: record for record in records}
        for name in self._mirrors.keys() - wanted.keys():
            self._stop(self._mirrors.pop(name))
        for name, record in wanted.items():
            mirror = self._mirrors.get(name)
            if mirror is None or mirror.record.producer_id != record.producer_id:
                if mirror is not None:
                    self._stop(mirror)
                mirror = self._mirrors[name] = Mirror(record)
                mirror.partitions = [MirrorPartition(mirror, i) for i in range(record.num_partitions)]
            mirror.record = record
            for partition in mirror.partitions:
                if record.stop_offsets is not None:
                    partition.stop_offset = record.stop_offsets.get(partition.index)
                if not mirror.running:
                    partition.doubt(time.monotonic())
                elif record.failover:
                    partition.clear()
        self._index()
        self._wake_metadata.set()

    def _stop(self, mirror: Mirror) -> None:
        for partition in mirror.partitions:
            partition.clear()
            partition.phase = Phase.FAILED

    def _index(self) -> None:
        by_source, by_destination = defaultdict(list), defaultdict(list)
        for mirror in self._mirrors.values():
            for partition in mirror.partitions:
                if partition.source_leader is not None:
                    by_source[partition.source_leader].append(partition)
                if partition.destination_leader is not None:
                    by_destination[partition.destination_leader].append(partition)
        self._by_source, self._by_destination = by_source, by_destination
        for node_id in by_source.keys() - self._wake_fetch.keys():
            self._wake_fetch[node_id] = asyncio.Event()
            self._tasks.spawn(self._fetch_loop(node_id), name=f"fetch from source broker {node_id}")
        for node_id in by_destination.keys() - self._wake_append.keys():
            self._wake_append[node_id] = asyncio.Event()
            self._wake_resolve[node_id] = asyncio.Event()
            self._tasks.spawn(self._append_loop(node_id), name=f"append at broker {node_id}")
            self._tasks.spawn(self._resolve_loop(node_id), name=f"look at logs of broker {node_id}")
        for event in (*self._wake_fetch.values(), *self._wake_append.values(), *self._wake_resolve.values()):
            event.set()

    async def run(self) -> None:
        """Copy until cancelled."""
        try:
            await self._metadata_loop()
        finally:
            await self._tasks.close()

    # Who leads what, and whether the topics are still the ones that we know.

    async def _metadata_loop(self) -> None:
        while True:
            self._wake_metadata.clear()
            if any(mirror.running for mirror in self._mirrors.values()):
                await self._refresh_leaders()
                self._settle()
                await asyncio.sleep(RETRY_DELAY_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake_metadata.wait(), METADATA_INTERVAL_S)

    async def _refresh_leaders(self) -> None:
        mirrors = [mirror for mirror in self._mirrors.values() if mirror.running]
        try:
            sources = (await self._source.metadata([m.record.source_topic_name for m in mirrors])).topics
            self.source_is_up()
        except TRANSPORT_ERRORS as error:
            self.source_is_down(error)
            sources = None
        try:
            own = (await self._destination.metadata([m.record.mirror_topic_name for m in mirrors])).topics
        except TRANSPORT_ERRORS as error:
            self._log.warning("destination_unreachable", error=str(error))
            own = None
        for mirror in mirrors:
            if sources is not None:
                self._check_source(mirror, sources.get(mirror.record.source_topic_name))
            if own is not None:
                self._check_destination(mirror, own.get(mirror.record.mirror_topic_name))
        self._index()

    def _check_source(self, mirror: Mirror, topic: TopicMetadata | None) -> None:
        record = mirror.record
        name = record.source_topic_name
        if record.failover:
            return
        if topic is None or topic.error_code:
            mirror.source_missing_since = mirror.source_missing_since or time.monotonic()
            if time.monotonic() - mirror.source_missing_since > BELIEF_S and topic and topic.error_code == 3:
                self._fail(
                    mirror,
                    MirrorTopicError.SOURCE_TOPIC_MAY_BE_DELETED,
                    f"source topic '{name}' does not exist any more",
                )
            return
        mirror.source_missing_since = None
        if record.source_topic_id is not None and topic.topic_id not in (None, record.source_topic_id):
            self._fail(
                mirror,
                MirrorTopicError.SOURCE_TOPIC_ID_CHANGED,
                f"source topic '{name}' was recreated: its id was {record.source_topic_id}, "
                f"now it is {topic.topic_id}",
            )
            return
        if len(topic.partitions) < record.num_partitions:
            self._fail(
                mirror,
                MirrorTopicError.SOURCE_PARTITIONS_DECREASED,
                f"source topic '{name}' has {len(topic.partitions)} partitions, "
                f"the mirror topic {record.num_partitions}",
            )
            return
        for partition in mirror.partitions:
            leader = topic.partitions.get(partition.index)
            partition.source_leader = leader.leader if leader and leader.leader >= 0 else None

    def _check_destination(self, mirror: Mirror, topic: TopicMetadata | None) -> None:
        record = mirror.record
        name = record.mirror_topic_name
        if topic is None or topic.error_code:
            mirror.destination_missing_since = mirror.destination_missing_since or time.monotonic()
            if (
                time.monotonic() - mirror.destination_missing_since > BELIEF_S
                and topic
                and topic.error_code == 3
            ):
                self._fail(mirror, MirrorTopicError.ILLEGAL_STATE, f"mirror topic '{name}' was deleted")
            return
        mirror.destination_missing_since = None
        if topic.topic_id != record.topic_id:
            self._fail(
                mirror,
                MirrorTopicError.ILLEGAL_STATE,
                f"mirror topic '{name}' was recreated by somebody else: its id was {record.topic_id}, "
                f"now it is {topic.topic_id}",
            )
            return
        for partition in mirror.partitions:
            leader = topic.partitions.get(partition.index)
            node_id = leader.leader if leader and leader.leader >= 0 else None
            if node_id != partition.destination_leader:
                partition.doubt(time.monotonic() + RETRY_DELAY_S)
            partition.destination_leader = node_id

    def source_is_up(self) -> None:
        """The source answered."""
        self.source_down_since = self.source_error = None

    def source_is_down(self, error: Exception) -> None:
        """The source did not answer, for this reason."""
        if self.source_down_since is None:
            self.source_down_since = time.monotonic()
            self._log.warning("source_unreachable", error=str(error))
        self.source_error = str(error)

    # Promote and failover: where a mirror ends, and when it has ended.

    def _settle(self) -> None:
        for mirror in self._mirrors.values():
            if mirror.settling or not mirror.running:
                continue
            if mirror.failure is not None:
                name = mirror.record.mirror_topic_name
                self._own(mirror, self._events.failed(name, *mirror.failure), "fail")
            elif not mirror.stopping:
                continue
            elif mirror.record.stop_offsets is None:
                self._own(mirror, self._decide_end(mirror), "decide the end")
            elif all(partition.phase is Phase.DONE for partition in mirror.partitions):
                name = mirror.record.mirror_topic_name
                self._own(mirror, self._events.stopped(name), "stop")

    def _own(self, mirror: Mirror, work: Coroutine[Any, Any, None], what: str) -> None:
        mirror.settling = True

        async def settle() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it was, it is tried again
                topic = mirror.record.mirror_topic_name
                self._log.warning("mirror_not_settled", topic=topic, wanted=what, error=str(error))
                await asyncio.sleep(1)
            finally:
                mirror.settling = False
                self._wake_metadata.set()

        self._tasks.spawn(settle(), name=f"{what}: {mirror.record.mirror_topic_name}")

    async def _decide_end(self, mirror: Mirror) -> None:
        record = mirror.record
        if record.failover:
            if any(p.phase is not Phase.READY or p.sending is not None for p in mirror.partitions):
                await asyncio.sleep(RETRY_DELAY_S)
                return
            ends = {p.index: p.position for p in mirror.partitions}
        else:
            ends = {}
            for p in mirror.partitions:
                if p.source_leader is None:
                    raise ConnectFailed(f"partition {p.index} of '{record.source_topic_name}' has no leader")
                key = (record.source_topic_name, p.index)
                found = await list_offsets(
                    self._source, p.source_leader, {key: LATEST}, isolation=READ_COMMITTED
                )
                ends[p.index] = found[key]
        await self._events.stopping_at(record.mirror_topic_name, ends)

    def _fail(self, mirror: Mirror, error: MirrorTopicError, message: str) -> None:
        for partition in mirror.partitions:
            partition.clear()
            partition.phase = Phase.FAILED
        if mirror.failure is None:
            mirror.failure = (error, message)
            self._log.error(
                "mirror_failed", topic=mirror.record.mirror_topic_name, error=error, message=message
            )
        self._wake_metadata.set()

    # From the source.

    async def _fetch_loop(self, node_id: int) -> None:
        connection: BrokerConnection | None = None
        failures = 0
        try:
            while True:
                wanted = self._wanted(node_id)
                if not wanted:
                    await _wait(self._wake_fetch[node_id], RETRY_DELAY_S * 2)
                    continue
                try:
                    if connection is None or connection.closed:
                        connection = await self._source.connect(node_id)
                    await self._fetch(connection, node_id, wanted)
                    failures = 0
                    self.source_is_up()
                except TRANSPORT_ERRORS as error:
                    self.source_is_down(error)
                    self._wake_metadata.set()
                    _drop(connection)
                    connection = None
                    failures += 1
                    await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S)) - 1])
        finally:
            _drop(connection)

    def _wanted(self, node_id: int) -> list[MirrorPartition]:
        now = time.monotonic()
        room = BUFFER_BYTES - sum(p.queued_bytes for m in self._mirrors.values() for p in m.partitions)
        if room <= 0:
            return []
        return [p for p in self._by_source.get(node_id, ()) if p.wants_fetch(now, QUEUE_BYTES)]

    async def _fetch(self, connection: BrokerConnection, node_id: int, wanted: list[MirrorPartition]) -> None:
        asked: dict[tuple[object, int], tuple[MirrorPartition, int]] = {}
        topics: dict[str, FetchTopic] = {}
        for p in wanted:
            record = p.mirror.record
            name = record.source_topic_name
            topic = topics.setdefault(name, FetchTopic(name, record.source_topic_id, []))
            topic.partitions.append(FetchPartition(p.index, p.fetch_offset, FETCH_PARTITION_BYTES))
            asked[name, p.index] = asked[record.source_topic_id, p.index] = (p, p.generation)
        # Partitions that are left out because their queues are full must not wait for quiet ones.
        full = any(p.queued_bytes >= QUEUE_BYTES for p in self._by_source.get(node_id, ()))
        code, answers = await fetch(
            connection,
            list(topics.values()),
            max_bytes=FETCH_BYTES,
            max_wait_ms=20 if full else 500,
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
        if answer.error_code == OFFSET_OUT_OF_RANGE:
            await self._out_of_range(p)
            return
        if answer.error_code:
            p.fetch_not_before = time.monotonic() + RETRY_DELAY_S * 2
            self._wake_metadata.set()
            return
        p.out_of_range_since = None
        p.source_end = answer.last_stable_offset
        for batch in read_batches(answer.records):
            if batch.next_offset <= p.fetch_offset:
                continue
            if p.stop_offset is not None and batch.base_offset >= p.stop_offset:
                break
            reason = hole(batch, p.fetch_offset)
            if reason is not None:
                v1 = batch.magic < 2
                error = MirrorTopicError.UNSUPPORTED_MESSAGE_FORMAT if v1 else MirrorTopicError.ILLEGAL_STATE
                p.obstacle = (error, f"partition {p.index}: this version cannot copy it exactly: {reason}")
                break
            if not batch.verify_crc():
                self._corrupt(p, batch.base_offset)
                return
            p.enqueue(batch)
        p.corrupt_fetches = 0
        if p.obstacle is not None and not p.queue:
            self._fail(p.mirror, *p.obstacle)
        elif p.destination_leader is not None:
            self._wake_append[p.destination_leader].set()

    def _corrupt(self, p: MirrorPartition, offset: int) -> None:
        p.corrupt_fetches += 1
        p.fetch_not_before = time.monotonic() + RETRY_DELAY_S * 2
        self._log.warning("source_batch_corrupt", topic=p.name[0], partition=p.index, offset=offset)
        if p.corrupt_fetches >= 3:
            p.obstacle = (
                MirrorTopicError.ILLEGAL_STATE,
                f"partition {p.index}: the source's batch at offset {offset} fails its checksum",
            )
            if not p.queue:
                self._fail(p.mirror, *p.obstacle)

    async def _out_of_range(self, p: MirrorPartition) -> None:
        if p.source_leader is None:
            return
        key = (p.mirror.record.source_topic_name, p.index)
        start = (await list_offsets(self._source, p.source_leader, {key: EARLIEST}))[key]
        end = (await list_offsets(self._source, p.source_leader, {key: LATEST}))[key]
        now = time.monotonic()
        p.fetch_not_before = now + RETRY_DELAY_S * 2
        if start > p.fetch_offset:
            message = (
                f"partition {p.index}: the source's log starts at {start}, the mirror continues at "
                f"{p.fetch_offset}; this version cannot copy exactly over what is missing"
            )
            p.obstacle = (MirrorTopicError.ILLEGAL_STATE, message)
            if not p.queue:
                self._fail(p.mirror, *p.obstacle)
        elif end < p.fetch_offset:
            p.out_of_range_since = p.out_of_range_since or now
            if now - p.out_of_range_since > BELIEF_S:
                self._fail(
                    p.mirror,
                    MirrorTopicError.UNEXPECTED_TRUNCATION,
                    f"partition {p.index}: the source's log ends at {end}, behind the mirror's {p.position}; "
                    "the source lost records or was recreated",
                )

    # To the destination.

    async def _append_loop(self, node_id: int) -> None:
        connection: BrokerConnection | None = None
        failures = 0
        turn = 0
        try:
            while True:
                ready = [p for p in self._by_destination.get(node_id, ()) if p.appendable]
                if not ready:
                    await _wait(self._wake_append[node_id], METADATA_INTERVAL_S)
                    continue
                # Everybody gets to be first, should a request not hold all.
                turn = (turn + 1) % len(ready)
                try:
                    if connection is None or connection.closed:
                        connection = await self._destination.connect(node_id, linger_zero=True)
                    await self._append(connection, ready[turn:] + ready[:turn])
                    failures = 0
                except TRANSPORT_ERRORS as error:
                    self._log.warning("append_failed", node_id=node_id, error=str(error))
                    self._wake_metadata.set()
                    _drop(connection)
                    connection = None
                    failures += 1
                    await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S)) - 1])
        finally:
            _drop(connection)

    async def _append(self, connection: BrokerConnection, ready: list[MirrorPartition]) -> None:
        topics: dict[str, ProduceTopic] = {}
        sent: list[MirrorPartition] = []
        size = 0
        now_ms = time.time_ns() // 1_000_000
        try:
            for p in ready:
                record = p.mirror.record
                name = record.mirror_topic_name
                topic = topics.setdefault(name, ProduceTopic(name, record.topic_id, []))
                sent.append(p)
                batch = p.take(MERGE_BYTES, self._filler_key, now_ms)
                topic.batches.append((p.index, batch))
                size += len(batch)
                if size >= PRODUCE_BYTES:
                    break
            answers = await produce(
                connection,
                list(topics.values()),
                timeout_ms=PRODUCE_TIMEOUT_MS,
                timeout_s=REQUEST_TIMEOUT_S,
            )
        except BaseException:
            for p in sent:
                p.sending = None
                p.doubt(time.monotonic() + LOSS_DELAY_S)
            raise
        for p in sent:
            # After a doubt that came meanwhile the log is looked at, whatever the answer was.
            if p.phase is Phase.READY:
                self._appended(p, answers.get(p.name))
            p.sending = None

    def _appended(self, p: MirrorPartition, answer: Appended | None) -> None:
        if answer is not None and answer.error_code == NONE:
            if answer.base_offset != p.position:
                self._fail(
                    p.mirror,
                    MirrorTopicError.ILLEGAL_STATE,
                    f"partition {p.index}: foreign writer: the record of source offset {p.position} was "
                    f"appended at {answer.base_offset}, since somebody else had written to the mirror topic",
                )
                return
            p.appended()
            if p.phase is Phase.DONE:
                self._wake_metadata.set()
            elif p.obstacle is not None and not p.queue:
                self._fail(p.mirror, *p.obstacle)
            if p.source_leader is not None:
                self._wake_fetch[p.source_leader].set()
            return
        code, message = (answer.error_code, answer.message) if answer else (-1, "no answer for the partition")
        if code in REFUSED_FOR_GOOD:
            self._fail(
                p.mirror,
                MirrorTopicError.ILLEGAL_STATE,
                f"partition {p.index}: the destination refuses the batch at offset {p.position} "
                f"with {REFUSED_FOR_GOOD[code]}: {message}",
            )
            return
        self._log.info("append_refused", topic=p.name[0], partition=p.index, code=code, message=message)
        p.doubt(time.monotonic() + RETRY_DELAY_S)
        self._wake_metadata.set()
        if p.destination_leader is not None:
            self._wake_resolve[p.destination_leader].set()

    # What the destination's logs hold.

    async def _resolve_loop(self, node_id: int) -> None:
        connection: BrokerConnection | None = None
        try:
            while True:
                now = time.monotonic()
                doubtful = [
                    p
                    for p in self._by_destination.get(node_id, ())
                    if p.phase is Phase.DOUBT and p.mirror.running and p.sending is None
                ]
                due = [p for p in doubtful if p.not_before <= now]
                if not due:
                    await _wait(
                        self._wake_resolve[node_id], RETRY_DELAY_S if doubtful else METADATA_INTERVAL_S
                    )
                    continue
                try:
                    if connection is None or connection.closed:
                        connection = await self._destination.connect(node_id, linger_zero=True)
                    for p in due:
                        await self._resolve(connection, node_id, p)
                except KafkaError as error:
                    # A leader is announced before it is ready, and named for a while after it moved.
                    self._log.info("log_end_unknown", node_id=node_id, error=str(error))
                    self._wake_metadata.set()
                    await asyncio.sleep(RETRY_DELAY_S)
                except TRANSPORT_ERRORS as error:
                    self._log.warning("log_end_unknown", node_id=node_id, error=str(error))
                    self._wake_metadata.set()
                    _drop(connection)
                    connection = None
                    await asyncio.sleep(RETRY_DELAY_S * 5)
        finally:
            _drop(connection)

    async def _resolve(self, connection: BrokerConnection, node_id: int, p: MirrorPartition) -> None:
        record = p.mirror.record
        name = record.mirror_topic_name
        log_end, high_watermark = await log_end_offset(self._destination, node_id, name, p.index)
        if high_watermark != log_end:
            # A consumer is not shown the tail before its replicas have it.
            p.not_before = time.monotonic() + RETRY_DELAY_S
            return
        if log_end > 0:
            topic = FetchTopic(name, record.topic_id, [])
            batch = await tail_batch(connection, topic, p.index, log_end, timeout_s=REQUEST_TIMEOUT_S)
            if batch is None:
                p.not_before = time.monotonic() + RETRY_DELAY_S
                return
            reason = foreign_tail(batch, record.producer_id, log_end)
            ended = reason is None and batch.producer_epoch == BARRIER_EPOCH
            if ended and record.status is not MirrorStatus.PENDING_STOPPED:
                reason = (
                    f"the log ends with the barrier of a promote, but the mirror topic is {record.status}"
                )
            if reason is not None:
                self._fail(
                    p.mirror,
                    MirrorTopicError.ILLEGAL_STATE,
                    f"partition {p.index}: foreign writer: {reason}; delete and recreate the mirror topic",
                )
                return
            if ended:
                p.phase = Phase.DONE
                p.position = log_end - 1
                self._wake_metadata.set()
                return
        if p.phase is Phase.DOUBT and p.sending is None and p.destination_leader == node_id:
            p.trust(log_end)
            if p.source_leader is not None:
                self._wake_fetch[p.source_leader].set()
            self._wake_append[node_id].set()


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), timeout_s)
    event.clear()


def _drop(connection: BrokerConnection | None) -> None:
    if connection is not None:
        connection.abort()
