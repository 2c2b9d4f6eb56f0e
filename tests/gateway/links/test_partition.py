"""A partition's progress: what it wants, what it appends, and that a doubt forgets everything."""

import pytest

from gateway.links.mirror_notes import payloads_of
from gateway.links.partition import MERGE_BYTES, Mirror, MirrorPartition, Phase
from gateway.links.sink import foreign_tail, sequence_of
from gateway.state.records import MirrorRecord, MirrorStatus
from protocol.dense_batches import FillerRun
from protocol.record_batches import BatchView, read_batches
from protocol.records import Record, build_batch, iterate_records

KEY = bytes(range(16))
PID = 4711
QUEUE = 1 << 20


def record(**changes: object) -> MirrorRecord:
    base = MirrorRecord(
        link_name="l",
        cluster_link_id="x",
        filler_key=KEY,
        mirror_topic_name="t",
        source_topic_name="t",
        num_partitions=1,
        topic_id="11112222-3333-4444-5555-666677778888",
        producer_id=PID,
        state_time_ms=0,
    )
    return base.model_copy(update=changes)


def partition(**changes: object) -> MirrorPartition:
    return MirrorPartition(Mirror(record(**changes)), 0)


def batch(offset: int, count: int, size: int = 10) -> BatchView:
    records = [Record(offset + i, 1_000 + i, b"k%d" % i, bytes(size)) for i in range(count)]
    return next(iter(read_batches(bytearray(build_batch(records)))))


def view(data: bytes | bytearray | memoryview) -> BatchView:
    (found,) = read_batches(data)
    assert found.verify_crc()
    return found


def test_nothing_is_fetched_or_appended_in_doubt() -> None:
    p = partition()
    assert p.phase is Phase.DOUBT
    assert not p.wants_fetch(0.0, QUEUE)
    assert not p.appendable


def test_small_batches_are_merged_at_their_offsets() -> None:
    p = partition()
    p.trust(100)
    for offset in (100, 101, 103):
        p.enqueue(batch(offset, 2 if offset == 101 else 1))
    sent = view(p.take(QUEUE, KEY, 0))
    assert (sent.base_offset, sent.base_sequence, sent.count) == (0, 100, 4)
    assert (sent.producer_id, sent.producer_epoch) == (PID, 0)
    assert not p.appendable, "one append at a time"
    p.appended()
    assert (p.position, p.fetch_offset, p.queued_bytes, p.sending) == (104, 104, 0, None)


def test_a_large_batch_goes_as_it_is() -> None:
    p = partition()
    p.trust(0)
    large = batch(0, 3, size=20_000)
    records = bytes(large.records)
    p.enqueue(large)
    p.enqueue(batch(3, 1))
    sent = view(p.take(QUEUE, KEY, 0))
    assert bytes(sent.records) == records
    p.appended()
    assert p.position == 3
    assert p.appendable


def test_what_cannot_be_merged_is_forwarded_for_the_broker_to_judge() -> None:
    p = partition()
    p.trust(0)
    broken = bytearray(batch(0, 2).raw)
    broken[61] = 0x7E
    first = next(iter(read_batches(broken)))
    records = bytes(first.records)
    p.enqueue(first)
    p.enqueue(batch(2, 1))
    sent = view(p.take(QUEUE, KEY, 0))
    assert sent.count == 2
    assert bytes(sent.records) == records


def test_a_doubt_drops_the_queue_but_not_the_append_under_way() -> None:
    p = partition()
    p.trust(10)
    p.enqueue(batch(10, 5))
    p.enqueue(batch(15, 5, size=20_000))
    generation = p.generation
    p.take(QUEUE, KEY, 0)
    p.doubt(7.5)
    assert (p.phase, p.not_before) == (Phase.DOUBT, 7.5)
    assert p.sending is not None
    assert not p.queue
    assert p.generation > generation
    assert p.fetch_offset == 10


@pytest.mark.parametrize("phase", [Phase.DONE, Phase.FAILED])
def test_only_a_trusted_partition_can_be_doubted(phase: Phase) -> None:
    p = partition()
    p.phase = phase
    p.doubt(9.0)
    assert (p.phase, p.not_before) == (phase, 0.0)


def test_a_doubt_on_top_of_another_may_only_ask_for_more_patience() -> None:
    p = partition()
    p.trust(10)
    p.doubt(5.0)
    generation = p.generation
    p.doubt(9.0)
    assert p.not_before == 9.0
    assert p.generation > generation, "a look at the log that is under way does not count"
    p.doubt(6.0)
    assert p.not_before == 9.0
    p.trust(10)
    p.doubt(7.0)
    assert p.not_before == 7.0


def test_a_merge_that_was_too_large_is_made_smaller() -> None:
    p = partition()
    p.trust(0)
    for offset in range(8):
        p.enqueue(batch(offset, 1))
    size = batch(0, 1).size_bytes
    p.merge_halvings = 1
    assert view(p.take(size * 8, KEY, 0)).count == 4
    assert p.divisible
    p.appended()
    p.merge_halvings = 3
    assert view(p.take(size * 8, KEY, 0)).count == 1
    assert not p.divisible


def test_what_is_beyond_a_decided_end_is_dropped() -> None:
    p = partition(status=MirrorStatus.PENDING_STOPPED)
    p.trust(0)
    for offset in (0, 2, 4, 6):
        p.enqueue(batch(offset, 2))
    p.end_at(None)
    assert p.fetch_offset == 8
    p.end_at(4)
    assert [b.base_offset for b in p.queue] == [0, 2]
    assert (p.fetch_offset, p.queued_bytes) == (4, 2 * batch(0, 2).size_bytes)
    assert not p.barrier_due
    assert not p.wants_fetch(0.0, QUEUE)
    p.take(QUEUE, KEY, 0)
    p.appended()
    due: bool = p.barrier_due
    assert due


def test_an_append_under_way_may_pass_the_end() -> None:
    p = partition(status=MirrorStatus.PENDING_STOPPED)
    p.trust(0)
    p.enqueue(batch(0, 5))
    p.take(QUEUE, KEY, 0)
    p.end_at(3)
    p.appended()
    assert (p.position, p.barrier_due) == (5, True)
    p.take(QUEUE, KEY, 0)
    p.appended()
    assert (p.phase, p.position) == (Phase.DONE, 5)


def test_a_barrier_that_was_lost_is_not_believed_in_when_data_follows() -> None:
    """The destination may have lost its end meanwhile, so that records come before the barrier again."""
    p = partition(status=MirrorStatus.PENDING_STOPPED)
    p.end_at(5)
    p.trust(5)
    p.take(QUEUE, KEY, 0)
    assert p.barrier_sent
    p.sending = None
    p.doubt(0.0)
    p.trust(4)
    p.enqueue(batch(4, 1))
    p.take(QUEUE, KEY, 0)
    p.appended()
    assert (p.phase, p.position, p.barrier_due) == (Phase.READY, 5, True)


def test_the_barrier_ends_the_mirror() -> None:
    p = partition(status=MirrorStatus.PENDING_STOPPED)
    p.stop_offset = 5
    p.trust(4)
    assert not p.barrier_due
    assert p.wants_fetch(0.0, QUEUE)
    p.enqueue(batch(4, 1))
    assert not p.wants_fetch(0.0, QUEUE), "nothing beyond the end"
    p.take(QUEUE, KEY, 0)
    p.appended()
    due: bool = p.barrier_due
    assert due
    assert p.appendable
    barrier = view(p.take(QUEUE, KEY, 123_456))
    assert (barrier.producer_epoch, barrier.base_sequence, barrier.count) == (1, 0, 1)
    assert [(r.key, r.value, r.timestamp) for r in iterate_records(barrier)] == [(KEY, None, 123_456)]
    p.appended()
    assert p.phase is Phase.DONE
    assert p.position == 5


def test_a_failover_fetches_no_more() -> None:
    p = partition(status=MirrorStatus.PENDING_STOPPED, failover=True)
    p.trust(4)
    assert not p.wants_fetch(0.0, QUEUE)


@pytest.mark.parametrize("status", [MirrorStatus.PAUSED, MirrorStatus.STOPPED, MirrorStatus.FAILED])
def test_nothing_happens_unless_running(status: MirrorStatus) -> None:
    p = partition(status=status)
    p.trust(0)
    p.enqueue(batch(0, 1))
    assert not p.appendable
    assert not p.wants_fetch(0.0, QUEUE)


def test_nothing_is_written_before_the_topic_is_known() -> None:
    p = partition(topic_id=None)
    p.trust(0)
    p.enqueue(batch(0, 1))
    assert not p.appendable


def test_fetching_waits_for_room_and_time() -> None:
    p = partition()
    p.trust(0)
    assert p.wants_fetch(0.0, QUEUE)
    p.fetch_not_before = 2.0
    assert not p.wants_fetch(1.0, QUEUE)
    assert p.wants_fetch(2.0, QUEUE)
    p.enqueue(batch(0, 1))
    assert not p.wants_fetch(2.0, p.queued_bytes)


def test_lag() -> None:
    p = partition()
    assert p.lag == 0
    p.trust(10)
    p.source_end = 25
    assert p.lag == 15
    p.source_end = 3
    assert p.lag == 0


def own_tail(end: int, count: int = 3, epoch: int = 0, pid: int = PID) -> BatchView:
    data = build_batch(
        [Record(i, 0, b"k", b"v") for i in range(count)],
        producer_id=pid,
        producer_epoch=epoch,
        base_sequence=sequence_of(end - count),
    )
    stored = bytearray(data)
    stored[0:8] = (end - count).to_bytes(8)
    return next(iter(read_batches(bytes(stored))))


@pytest.mark.parametrize("end", [3, 2**31 - 1, 2**31, 2**31 + 1, 2**33 + 2])
def test_our_own_tail_is_known(end: int) -> None:
    assert foreign_tail(own_tail(end), PID, end) is None


def test_a_foreign_tail_is_named() -> None:
    assert "producer id 9" in str(foreign_tail(own_tail(30, pid=9), PID, 30))
    assert "producer id -1" in str(foreign_tail(own_tail(30, pid=-1), PID, 30))
    assert "epoch 2" in str(foreign_tail(own_tail(30, epoch=2), PID, 30))
    assert "ends at 30, the log at 31" in str(foreign_tail(own_tail(30), PID, 31))
    shifted = own_tail(30)
    moved = bytearray(shifted.raw)
    moved[0:8] = (28).to_bytes(8)
    (late,) = read_batches(bytes(moved))
    assert "sequence 30" in str(foreign_tail(late, PID, 31))


def test_the_barrier_is_ours() -> None:
    assert foreign_tail(own_tail(30, count=1, epoch=1), PID, 30) is None


def test_a_long_run_goes_in_parts() -> None:
    p = partition()
    p.trust(0)
    p.enqueue(FillerRun(0, 25_000, 99, KEY))
    p.enqueue(batch(25_000, 1))
    sizes = []
    while p.queue:
        sent = view(p.take(MERGE_BYTES, KEY, 0))
        assert sent.base_sequence == p.position
        assert sent.size_bytes <= MERGE_BYTES
        sizes.append(sent.count)
        p.appended()
    assert sum(sizes) == 25_001
    assert max(sizes) == 10_000
    assert (p.queued_bytes, p.appended_timestamp) == (0, 1_000)


def test_a_run_that_is_too_large_is_made_smaller() -> None:
    p = partition()
    p.trust(0)
    p.merge_halvings = 3
    p.enqueue(FillerRun(0, 10_000, 99, KEY))
    assert view(p.take(MERGE_BYTES, KEY, 0)).count == 1_250
    assert p.divisible


def test_an_end_within_a_run() -> None:
    p = partition()
    p.trust(0)
    p.enqueue(batch(0, 1))
    p.enqueue(FillerRun(1, 100, 99, KEY))
    p.enqueue(batch(101, 1))
    p.end_at(50)
    assert [each.next_offset for each in p.queue] == [1, 50]
    assert p.fetch_offset == 50
    assert p.queued_bytes == sum(each.size_bytes for each in p.queue)


def test_a_doubt_goes_back_to_the_timestamp_of_what_was_appended() -> None:
    p = partition()
    p.trust(0, 5)
    p.enqueue(batch(0, 1))
    assert p.last_timestamp == 1_000
    p.doubt(0)
    assert p.last_timestamp == 5


def counts(p: MirrorPartition) -> list[tuple[int, bool]]:
    """Records and whether they are compressed, of every batch that is taken."""
    taken = []
    while p.queue:
        sent = view(p.take(MERGE_BYTES, KEY, 0))
        taken.append((sent.count, sent.codec != 0))
        p.appended()
    return taken


def test_fillers_are_compressed_once_the_state_says_how() -> None:
    p = partition()
    p.trust(0)
    p.enqueue(FillerRun(0, 120_000, 99, KEY))
    assert [p.wants_payloads] == [True]
    assert view(p.take(MERGE_BYTES, KEY, 0)).codec == 0
    p.appended()
    p.mirror.record = record(filler_payloads=payloads_of(KEY))
    assert [p.wants_payloads] == [False]
    assert counts(p) == [(100_000, True), (10_000, True)]


def test_fillers_of_compacted_topics_are_not_compressed_but_for_the_runway() -> None:
    changes = {
        "filler_payloads": payloads_of(KEY),
        "configs": {"cleanup.policy": "compact"},
        "log_starts": {0: 110_000},
    }
    p = partition(**changes)
    p.trust(0)
    p.enqueue(FillerRun(110_000, 15_000, 99, KEY))
    assert counts(p) == [(100_000, True), (10_000, True), (10_000, False), (5_000, False)]
    assert not p.wants_payloads


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"source_end": 6}, False),
        ({"source_end": None}, False),
        ({"phase": Phase.DOUBT}, False),
        ({"destination_start": 2}, False),
    ],
)
def test_when_the_destination_compacts_too(changes: dict[str, object], expected: bool) -> None:
    p = partition(configs={"cleanup.policy": "compact"}, log_starts={0: 3})
    p.mirror.partitions.append(p)
    p.trust(5)
    p.source_end, p.destination_start = 5, 3
    for name, value in changes.items():
        setattr(p, name, value)
    assert p.mirror.to_be_compacted is expected
    p.mirror.record = record(configs={"cleanup.policy": "compact"}, log_starts={0: 3}, compacted=True)
    assert not p.mirror.to_be_compacted


def test_epochs_of_the_source() -> None:
    p = partition(source_epochs={0: [(3, 0), (5, 100)]})
    p.trust(50)
    assert p.copied_epoch == 3
    assert p.see_epoch(3, 50)
    assert p.see_epoch(5, 100)
    assert not p.new_epochs
    assert p.see_epoch(7, 200)
    assert [p.append_limit] == [200]
    assert not p.see_epoch(5, 300), "behind what is new"
    assert not p.see_epoch(3, 150), "behind what is recorded"
    assert p.epochs_to_note() == [(3, 0), (5, 100), (7, 200)]
    p.mirror.record = record(source_epochs={0: [(5, 100), (7, 200)]})
    p.epochs_noted()
    assert p.append_limit is None
    p.trust(201)
    assert (p.copied_epoch, p.epochs_to_note()) == (7, [(7, 200)])


def test_nothing_of_an_epoch_is_taken_before_it_is_recorded() -> None:
    p = partition()
    p.trust(0)
    for offset in range(4):
        p.enqueue(batch(offset, 1))
    p.see_epoch(1, 2)
    assert view(p.take(MERGE_BYTES, KEY, 0)).count == 2
    p.appended()
    ready = [p.appendable]
    p.mirror.record = record(source_epochs={0: [(1, 2)]})
    p.epochs_noted()
    assert [*ready, p.appendable] == [False, True]


def test_nothing_is_taken_when_nothing_is_due() -> None:
    p = partition()
    p.trust(0)
    with pytest.raises(ValueError, match="nothing to append"):
        p.take(MERGE_BYTES, KEY, 0)
