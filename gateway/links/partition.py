"""One partition of a mirror topic: where its log ends, what is queued for it, what it waits for.

`position` is the source offset of the next record to append, which is also the log end of the mirror
partition. It is known only in READY; after a start and after anything unexpected the partition is in DOUBT
and its log is looked at before it is written to again.
"""

import hashlib
from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import takewhile
from typing import Final

from gateway.links.mirror_notes import payloads_of
from gateway.links.sink import BARRIER_EPOCH, DATA_EPOCH, sequence_of
from gateway.links.work_plan import slot_of
from gateway.state.records import MirrorRecord, MirrorStatus, MirrorTopicError
from protocol.dense_batches import LONGEST_RUN, NO_TIMESTAMP, FillerRun, Piece
from protocol.errors import DecodeError
from protocol.fillers import encode_filler_batch
from protocol.record_batches import BatchView, turn_into_append
from protocol.record_merge import merge_batches, merge_limit
from protocol.records import Record

# What is put together, of small batches or of what is left of one with holes, is not above this.
MERGE_BYTES: Final = 256 << 10
# How often the source's end is noted, and how many of these are kept, to know the lag in time.
ENDS_APART_S: Final = 0.25
MAX_ENDS: Final = 64


class Phase(Enum):
    """How far a partition may be trusted."""

    DOUBT = auto()
    READY = auto()
    DONE = auto()
    FAILED = auto()


def digest_of(record: Record) -> bytes:
    """What a record is recognised by."""
    return hashlib.sha256(repr(record).encode()).digest()


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A transaction at the source that a mirror waits for: nothing from `start_offset` on is copied.

    `last_write_ms` is the time of its last record, `waiting_s` for how long it has been seen. The producer is
    None where the source does not tell.
    """

    partition: int
    start_offset: int
    producer_id: int | None
    last_write_ms: int | None
    waiting_s: float


@dataclass(slots=True, eq=False)
class Mirror:
    """A mirror topic at work: its record, its partitions, and what was seen of its topics."""

    record: MirrorRecord
    partitions: list["MirrorPartition"] = field(default_factory=list)
    link_paused: bool = False
    # Since when a topic has been missing, or another than the one that was linked.
    source_odd_since: float | None = None
    destination_odd_since: float | None = None
    source_partitions: int | None = None
    _topic_trouble: tuple[float, str] | None = None
    # One change at a time is written to the state.
    settling: bool = False
    # Whether its compacted topic met a record without a key.
    refuses_keyless: bool = False
    compact_not_before: float = 0.0
    # Why it cannot go on, until the state says so too.
    failure: tuple[MirrorTopicError, str] | None = None

    @property
    def running(self) -> bool:
        """Whether its partitions are to be worked on."""
        record = self.record
        if record.topic_id is None:
            return False
        if self.stopping:
            # A failover needs nothing that a paused link would not do.
            return record.failover or not self.link_paused
        return record.status == MirrorStatus.ACTIVE and not self.link_paused

    @property
    def to_be_compacted(self) -> bool:
        """Whether the destination can compact what the source compacts: all is there, and no runway.

        Until then there may be records without a key to come, from before the source was compacted.
        """
        return (
            "compact" in self.record.configs.get("cleanup.policy", "")
            and not self.record.compacted
            and all(
                p.known and p.source_end == p.position and p.destination_start >= p.log_start
                for p in self.partitions
            )
        )

    def source_refuses(self, reason: str | None, now: float) -> None:
        """What the source says of its topic: why it is not to be had; None: it is."""
        if reason is None:
            self._topic_trouble = None
        else:
            self._topic_trouble = (self._topic_trouble or (now, ""))[0], reason

    @property
    def source_trouble(self) -> tuple[float, str] | None:
        """Since when its source topic, or a partition of it, is not to be had, and why."""
        troubles = [self._topic_trouble, *(p.fetch_refused for p in self.partitions)]
        return min((each for each in troubles if each is not None), default=None)

    @property
    def kept(self) -> bool:
        """Whether it is this gateway that sees to what concerns the mirror topic as a whole."""
        return bool(self.partitions) and self.partitions[0].held

    @property
    def stopping(self) -> bool:
        """Whether a promote or failover was asked for."""
        return self.record.status == MirrorStatus.PENDING_STOPPED


@dataclass(slots=True, eq=False)
class MirrorPartition:
    """Progress of one partition. Times are of the event loop's clock, in seconds."""

    mirror: Mirror
    index: int
    # Whether this gateway is to work on it; otherwise what is known of it was seen from outside, once it was.
    held: bool = True
    seen: bool = False
    phase: Phase = Phase.DOUBT
    position: int = 0
    fetch_offset: int = 0
    source_leader: int | None = None
    destination_leader: int | None = None
    queue: deque[Piece] = field(default_factory=deque)
    queued_bytes: int = 0
    # The timestamp of what comes before `fetch_offset`, for the fillers of a hole there.
    last_timestamp: int = NO_TIMESTAMP
    # The same of what comes before `position`.
    appended_timestamp: int = NO_TIMESTAMP
    # Log end after the append that is under way, None if none is. It outlives a doubt: while the broker may
    # still be about to append, looking at the log proves nothing.
    sending: int | None = None
    _sending_timestamp: int = NO_TIMESTAMP
    barrier_sent: bool = False
    # Whether what is under way could be made smaller, and by how many halvings it is.
    divisible: bool = False
    merge_halvings: int = 0
    # Appends, and looks at the log, that were refused in a row.
    refusals: int = 0
    # Until when its replicas are taken for slow.
    slow_until: float = 0.0
    failed_looks: int = 0
    # Last stable offset of the source; None before the first answer.
    source_end: int | None = None
    # Its high watermark, and since when the last stable offset has been what it is.
    source_watermark: int = 0
    stable_since: float | None = None
    # When the source was seen to end where; those that were reached are dropped.
    _ends: deque[tuple[float, int]] = field(default_factory=deque)
    open_transactions: tuple[OpenTransaction, ...] = ()
    # Leader epoch of the source, as Metadata has it, and the one for which `source_check` looked.
    source_epoch: int = -1
    checked_epoch: int | None = None
    # Leader epochs, with their first offsets, that were seen in batches and are not in the state yet; what
    # is from there on waits for that.
    new_epochs: list[tuple[int, int]] = field(default_factory=list)
    reading_epoch: int | None = None
    # Offset and digest of the last record that was copied, when the log was first looked at.
    tail: tuple[int, bytes] | None = None
    # Where the source's log begins, and the mirror's as its broker last had it; they are not below.
    source_start: int = 0
    destination_start: int = 0
    stop_offset: int | None = None
    not_before: float = 0.0
    fetch_not_before: float = 0.0
    out_of_range_since: float | None = None
    tail_missing_since: float | None = None
    corrupt_fetches: int = 0
    failed_fetches: int = 0
    # Since when the source refuses fetches, and how.
    fetch_refused: tuple[float, str] | None = None
    # What the source holds at `fetch_offset` that cannot be copied; the queue before it still is.
    obstacle: tuple[MirrorTopicError, str] | None = None
    # Raised by every doubt: an answer to an older fetch, or look at the log, is not for what is known now.
    generation: int = 0

    @property
    def name(self) -> tuple[str, int]:
        """Mirror topic and partition."""
        return self.mirror.record.mirror_topic_name, self.index

    @property
    def slot(self) -> int:
        """The slot of work that it is in."""
        return slot_of(*self.name)

    def hold(self, held: bool, now: float) -> None:
        """Another gateway has it from now on, or this one has it back: nothing is taken for granted."""
        if held is not self.held:
            self.held, self.seen = held, False
            self.doubt(now)

    @property
    def known(self) -> bool:
        """Whether it is known where its log ends, or a moment ago did."""
        return self.phase in (Phase.READY, Phase.DONE) or (not self.held and self.seen)

    def source_ends_at(self, last_stable_offset: int, high_watermark: int, now: float) -> None:
        """What a fetch said of the source's end."""
        if last_stable_offset != self.source_end:
            self.stable_since = now
            self._note_end(last_stable_offset, now)
        self.source_end = last_stable_offset
        self.source_watermark = high_watermark

    def _note_end(self, source_end: int, now: float) -> None:
        ends = self._ends
        while ends and ends[0][1] <= self.position:
            ends.popleft()
        if source_end <= self.position:
            return
        if len(ends) > 1 and now - ends[-1][0] < ENDS_APART_S:
            ends[-1] = ends[-1][0], source_end
        else:
            ends.append((now, source_end))
        if len(ends) > MAX_ENDS:
            # Half as exact, and never too small: an end counts from when one below it was seen.
            kept = [(ends[i][0], ends[min(i + 1, len(ends) - 1)][1]) for i in range(0, len(ends), 2)]
            self._ends = deque(kept)

    @property
    def behind_since(self) -> float | None:
        """Since when the source has had something that is not here; None if that is not known."""
        while self._ends and self._ends[0][1] <= self.position:
            self._ends.popleft()
        return self._ends[0][0] if self._ends else None

    @property
    def log_start(self) -> int:
        """Where the mirror's log is to begin."""
        return self.mirror.record.log_starts.get(self.index, 0)

    @property
    def epochs(self) -> list[tuple[int, int]]:
        """The recorded leader epochs of the source, with their first offsets."""
        return self.mirror.record.source_epochs.get(self.index, [])

    @property
    def copied_epoch(self) -> int | None:
        """The leader epoch of the last record before `position`; None if that is not known."""
        return next((epoch for epoch, start in reversed(self.epochs) if start < self.position), None)

    @property
    def append_limit(self) -> int | None:
        """The offset from which on nothing may be appended yet."""
        return self.new_epochs[0][1] if self.new_epochs else None

    def see_epoch(self, epoch: int, offset: int) -> bool:
        """Take note of the leader epoch of the source's records from that offset on; False: it cannot be."""
        before = [each for each, start in (*self.epochs, *self.new_epochs) if start <= offset]
        if before and epoch < before[-1]:
            return False
        known = self.new_epochs or self.epochs
        if not known or epoch > known[-1][0]:
            self.new_epochs.append((epoch, offset))
        return True

    def epochs_to_note(self) -> list[tuple[int, int]]:
        """What the state is to hold of epochs: the one that `position` is in, and what follows."""
        kept = [each for each in self.epochs if each[1] >= self.position]
        last = [each for each in self.epochs if each[1] < self.position][-1:]
        return [*last, *kept, *self.new_epochs]

    def epochs_noted(self) -> None:
        """The state has changed: what it holds by now need not be waited for."""
        noted = dict(self.epochs)
        self.new_epochs = [each for each in self.new_epochs if each[0] not in noted]

    @property
    def lag(self) -> int:
        """Records that the source's last stable offset is ahead; 0 before it is known."""
        return max(0, (self.source_end or 0) - self.position)

    def doubt(self, not_before: float) -> None:
        """Forget everything that was assumed of the log; it is looked at from `not_before` on."""
        if self.phase not in (Phase.READY, Phase.DOUBT):
            return
        # A doubt on top of another may ask for more patience, never for less.
        self.not_before = max(self.not_before, not_before) if self.phase is Phase.DOUBT else not_before
        self.phase = Phase.DOUBT
        self.clear()

    def clear(self) -> None:
        """Drop what is queued; what comes of fetches under way is dropped too."""
        self.queue.clear()
        self.queued_bytes = 0
        self.fetch_offset = self.position
        self.last_timestamp = self.appended_timestamp
        self.obstacle = None
        self.new_epochs = []
        self.reading_epoch = None
        self.generation += 1

    def trust(self, log_end: int, timestamp: int = NO_TIMESTAMP) -> None:
        """The log was looked at, ends here, and is ours; the timestamp of its last batch."""
        self.phase = Phase.READY
        self.appended_timestamp = timestamp
        self.position = log_end
        self.tail_missing_since = None
        self.failed_looks = 0
        # Whoever leads now may have forgotten it.
        self.destination_start = 0
        self.clear()
        if self.log_start > log_end:
            # The runway: nothing of it is the source's, and all of it is deleted.
            key = self.mirror.record.filler_key
            self.enqueue(FillerRun(log_end, self.log_start - log_end, NO_TIMESTAMP, key))

    def end_at(self, stop_offset: int | None) -> None:
        """Where the mirror ends, if that is decided; what is queued beyond is dropped."""
        self.stop_offset = stop_offset
        if stop_offset is None or self.fetch_offset <= stop_offset:
            return
        while self.queue and self.queue[-1].base_offset >= stop_offset:
            piece = self.queue.pop()
            self.queued_bytes -= piece.size_bytes
            self.fetch_offset = piece.base_offset
        last = self.queue[-1] if self.queue else None
        if isinstance(last, FillerRun) and last.next_offset > stop_offset:
            self._replace(-1, last.split(stop_offset - last.base_offset)[0])
            self.fetch_offset = stop_offset

    def _replace(self, index: int, piece: Piece) -> None:
        self.queued_bytes += piece.size_bytes - self.queue[index].size_bytes
        self.queue[index] = piece

    def wants_fetch(self, now: float, queue_bytes: int) -> bool:
        """Whether the next fetch should ask for this partition."""
        return (
            self.phase is Phase.READY
            and self.mirror.running
            and self.obstacle is None
            and self.queued_bytes < queue_bytes
            and now >= self.fetch_not_before
            and not (self.mirror.stopping and self.mirror.record.failover)
            and (self.stop_offset is None or self.fetch_offset < self.stop_offset)
        )

    @property
    def barrier_due(self) -> bool:
        """Whether everything up to the end of the mirror was appended and only the barrier is missing."""
        return self.mirror.stopping and self.stop_offset is not None and self.position >= self.stop_offset

    @property
    def appendable(self) -> bool:
        """Whether a Produce request may take something from this partition."""
        return (
            self.phase is Phase.READY
            and self.held
            and self.mirror.running
            and self.sending is None
            and ((bool(self.queue) and not self._waits) or self.barrier_due)
        )

    @property
    def _waits(self) -> bool:
        limit = self.append_limit
        return limit is not None and self.queue[0].base_offset >= limit

    def enqueue(self, piece: Piece) -> None:
        """Take over what continues at `fetch_offset`."""
        self.queue.append(piece)
        self.queued_bytes += piece.size_bytes
        self.fetch_offset = piece.next_offset
        self.last_timestamp = piece.max_timestamp

    def take(self, max_batch_bytes: int, filler_key: bytes, now_ms: int) -> bytes | bytearray | memoryview:
        """The batch to append next, marked as under way: merged small ones, one untouched, or the barrier.

        ValueError if nothing is due: a barrier in the wrong place would end the mirror.
        """
        if not self.appendable:
            raise ValueError(f"{self.name}: nothing to append")
        producer_id = self.mirror.record.producer_id
        self.barrier_sent = not self.queue
        self.divisible = False
        if self.barrier_sent:
            self.sending = self.position + 1
            return encode_filler_batch(filler_key, 1, now_ms, producer_id, BARRIER_EPOCH, 0)
        sequence = sequence_of(self.position)
        max_batch_bytes >>= self.merge_halvings
        self._split_run(max_batch_bytes)
        limit = self.append_limit
        ahead = (
            self.queue
            if limit is None
            else list(takewhile(lambda piece: piece.base_offset < limit, self.queue))
        )
        count = merge_limit(ahead, max_batch_bytes)
        if count > 1:
            small = [self.queue[i] for i in range(count)]
            try:
                merged = merge_batches(small, producer_id, DATA_EPOCH, sequence, max_batch_bytes)
            except DecodeError:
                # What cannot be read can still be forwarded as it is, for the broker to judge.
                pass
            else:
                self._take(merged.used)
                self.divisible = merged.used > 1
                return merged.batch
        piece = self.queue[0]
        self._take(1)
        if isinstance(piece, BatchView):
            return turn_into_append(piece, producer_id, DATA_EPOCH, sequence)
        self.divisible = piece.count > 1
        return piece.encode(producer_id, DATA_EPOCH, sequence)

    @property
    def wants_payloads(self) -> bool:
        """Whether fillers wait that are to be compressed once the state says how they are."""
        run = self.queue[0] if self.queue else None
        return isinstance(run, FillerRun) and run.is_long and self._compresses(run) and not self._noted

    def _compresses(self, run: FillerRun) -> bool:
        """Whether its fillers are to be compressed.

        What a compacted topic's cleaner leaves of them it would compress anew. A runway it never sees.
        """
        compacted = "compact" in self.mirror.record.configs.get("cleanup.policy", "")
        return not compacted or run.next_offset <= self.log_start

    @property
    def _noted(self) -> bool:
        record = self.mirror.record
        return set(payloads_of(record.filler_key)) <= set(record.filler_payloads)

    def _split_run(self, max_batch_bytes: int) -> None:
        run = self.queue[0]
        if not isinstance(run, FillerRun):
            return
        compressed = run.count >= LONGEST_RUN and self._compresses(run) and self._noted
        count = run.next_count(max_batch_bytes, compressed=compressed)
        first, rest = run.split(count, compressed=compressed)
        self._replace(0, first)
        if rest.count:
            self.queue.insert(1, rest)
            self.queued_bytes += rest.size_bytes

    def _take(self, count: int) -> None:
        for _ in range(count):
            piece = self.queue.popleft()
            self.queued_bytes -= piece.size_bytes
            self.sending = piece.next_offset
            self._sending_timestamp = piece.max_timestamp

    def appended(self) -> None:
        """The broker took what was under way, at `position`."""
        if self.barrier_sent:
            self.phase = Phase.DONE
        elif self.sending is not None:
            self.position = self.sending
            self.appended_timestamp = self._sending_timestamp
        self.sending = None
        self.refusals = 0
