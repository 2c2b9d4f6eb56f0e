"""Aborted transactions: which batches of a response are part of one."""

from protocol.record_batches import BatchView, read_batches
from protocol.records import Record, build_batch
from protocol.transactions import AbortedTransactions, control_type
from tests.protocol.captured_batches import captured


def only(data: bytes) -> BatchView:
    (batch,) = read_batches(data)
    return batch


def data(offset: int, producer_id: int, *, count: int = 1, transactional: bool = True) -> BatchView:
    records = [Record(offset + i, 0, b"k", b"v") for i in range(count)]
    return only(build_batch(records, producer_id=producer_id, producer_epoch=0, transactional=transactional))


def marker(offset: int, producer_id: int, kind: int) -> BatchView:
    key = bytes(2) + kind.to_bytes(2)
    batch = build_batch(
        [Record(offset, 0, key, bytes(6))],
        producer_id=producer_id,
        producer_epoch=0,
        transactional=True,
        control=True,
    )
    return only(batch)


ABORT, COMMIT = 0, 1


def judged(aborted: list[tuple[int, int]], *batches: BatchView) -> list[bool]:
    transactions = AbortedTransactions(aborted)
    return [transactions.include(batch) for batch in batches]


def test_interleaved_producers() -> None:
    assert judged(
        [(8, 3), (7, 1)],
        data(0, 9),
        data(1, 7),
        data(2, 9),
        data(3, 8, count=2),
        marker(5, 7, ABORT),
        data(6, 7),
        data(7, 8),
        marker(8, 8, ABORT),
        data(9, 8),
        marker(10, 7, COMMIT),
    ) == [False, True, False, True, False, False, True, False, False, False]


def test_a_producer_that_aborts_again_is_listed_again() -> None:
    assert judged(
        [(7, 0), (7, 4)], data(0, 7), marker(1, 7, ABORT), data(2, 7), marker(3, 7, COMMIT), data(4, 7)
    ) == [True, False, False, False, True]


def test_a_transaction_that_began_before_the_response() -> None:
    assert judged([(7, 2)], data(100, 7), marker(101, 7, ABORT), data(102, 7)) == [True, False, False]


def test_only_transactional_batches_are_part_of_one() -> None:
    assert judged([(7, 0)], data(0, 7, transactional=False), data(1, 7)) == [False, True]


def test_a_commit_marker_ends_no_aborted_transaction() -> None:
    assert judged([(7, 0)], marker(0, 7, COMMIT), data(1, 7)) == [False, True]


def test_a_transaction_begins_within_a_batch() -> None:
    assert judged([(7, 2)], data(0, 7, count=3)) == [True]


def test_without_a_list_nothing_is_aborted() -> None:
    assert judged([], data(0, 7), marker(1, 7, ABORT)) == [False, False]


def test_types_of_markers() -> None:
    assert control_type(marker(0, 7, ABORT)) == 0
    assert control_type(marker(0, 7, 2)) == 2
    empty = bytearray(marker(0, 7, ABORT).raw)
    empty[57:61] = bytes(4)
    assert control_type(only(bytes(empty))) is None
    short = build_batch([Record(0, 0, b"\0\0", b"")], control=True)
    assert control_type(only(short)) is None
    compressed = build_batch([Record(0, 0, bytes(4), b"")], control=True, codec=1)
    assert control_type(only(compressed)) == ABORT


def test_markers_of_a_broker() -> None:
    commit, _, abort = captured("librdkafka-transactions")
    assert [control_type(commit), control_type(abort)] == [COMMIT, ABORT]
