"""Batch headers: walking, patching, and refusing."""

import struct
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import DecodeError
from protocol.record_batches import (
    BatchView,
    encode_batch,
    is_plain,
    read_batches,
    rewrite_for_append,
    turn_into_append,
)
from protocol.records import Record, build_batch, iterate_records
from tests.protocol.captured_batches import CODECS, PRODUCED, RAW, captured

ONE = build_batch([Record(5, 1000, b"k", b"v")])
LEGACY_V1 = struct.pack(">qiiBBqii", 7, 22, 0, 1, 0, 1000, -1, -1)


def patched(batch: bytes, form: str, position: int, *values: int) -> bytearray:
    changed = bytearray(batch)
    struct.pack_into(form, changed, position, *values)
    return changed


def only(data: bytes | bytearray) -> BatchView:
    (batch,) = read_batches(data)
    return batch


@pytest.mark.parametrize("name", PRODUCED)
def test_batches_of_real_producers(name: str) -> None:
    batches = captured(name)
    assert [(batch.base_offset, batch.count, batch.next_offset) for batch in batches] == [
        (0, 1, 1),
        (1, 6, 7),
        (7, 1, 8),
    ]
    assert {batch.codec for batch in batches} == {CODECS.index(name.rpartition("-")[2])}
    assert all(batch.verify_crc() for batch in batches)
    assert all(is_plain(batch, offset) for batch, offset in zip(batches, (0, 1, 7), strict=True))
    assert b"".join(batch.raw for batch in batches) == RAW[name]
    assert [batch.size_bytes for batch in batches] == [len(batch.raw) for batch in batches]
    assert [bytes(batch.raw[61:]) for batch in batches] == [bytes(batch.records) for batch in batches]
    assert batches[1].base_timestamp == batches[1].max_timestamp == 1_700_000_001_000
    assert {(batch.magic, batch.partition_leader_epoch) for batch in batches} == {(2, 0)}


def test_producer_fields_of_an_idempotent_producer() -> None:
    batches = captured("java-none")
    assert [(batch.producer_epoch, batch.base_sequence) for batch in batches] == [(0, 0), (0, 1), (0, 7)]
    assert len({batch.producer_id for batch in batches}) == 1


def test_a_transaction() -> None:
    commit, aborted, abort = captured("librdkafka-transactions")
    assert [batch.is_control for batch in (commit, aborted, abort)] == [True, False, True]
    assert all(batch.is_transactional and not batch.is_log_append_time for batch in (commit, aborted, abort))
    assert not is_plain(commit, 1)
    assert is_plain(aborted, 2), "whether it was aborted is not seen from the batch"


def test_log_append_time() -> None:
    (batch,) = captured("librdkafka-log-append-time")
    assert batch.is_log_append_time
    assert not is_plain(batch, 0)


@pytest.mark.parametrize(
    ("data", "expected", "plain"),
    [
        (ONE, 5, True),
        (ONE, 4, False),
        (ONE, 6, False),
        (build_batch([Record(5, 0, None, None), Record(7, 0, None, None)]), 5, False),
        (patched(ONE, ">i", 57, 0), 5, False),
        (patched(ONE, ">h", 21, 5), 5, False),
        (patched(ONE, ">h", 21, 0x44), 5, True),
        (patched(ONE, ">h", 21, 0x45), 5, False),
        (LEGACY_V1, 7, False),
    ],
)
def test_plain(data: bytes, expected: int, plain: bool) -> None:
    assert is_plain(only(data), expected) is plain


def test_a_batch_cut_anywhere_is_left_out() -> None:
    two = ONE + build_batch([Record(6, 0, b"k", b"v" * 100)])
    for length in range(len(two)):
        assert len(list(read_batches(two[:length]))) == (length >= len(ONE))


@pytest.mark.parametrize("length", [-(2**31), -1, 0, 48])
def test_a_batch_shorter_than_its_header(length: int) -> None:
    with pytest.raises(DecodeError, match=f"claims {length} bytes"):
        list(read_batches(patched(ONE, ">i", 8, length)))


@pytest.mark.parametrize("length", [-1, 13])
def test_a_message_shorter_than_its_header(length: int) -> None:
    with pytest.raises(DecodeError, match=f"magic 1 claims {length} bytes"):
        list(read_batches(patched(LEGACY_V1, ">i", 8, length)))


@pytest.mark.parametrize(
    ("form", "position", "value"),
    [(">q", 0, -1), (">i", 23, -1), (">i", 57, -1), (">q", 0, 2**63 - 1), (">i", 23, -(2**31))],
)
def test_numbers_that_cannot_be(form: str, position: int, value: int) -> None:
    with pytest.raises(DecodeError):
        list(read_batches(patched(ONE, form, position, value)))


def test_the_last_offset_of_all() -> None:
    assert only(patched(ONE, ">q", 0, 2**63 - 2)).next_offset == 2**63 - 1


def test_a_header_without_records() -> None:
    empty = encode_batch(
        b"",
        0,
        attributes=0,
        base_timestamp=0,
        max_timestamp=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        last_offset_delta=3,
    )
    batch = only(empty)
    assert (batch.size_bytes, batch.count, batch.next_offset) == (61, 0, 4)
    assert batch.verify_crc()


@pytest.mark.parametrize("magic", [0, 1, 3, 255])
def test_other_magics_have_a_view_and_are_walked_over(magic: int) -> None:
    legacy = patched(LEGACY_V1, ">B", 16, magic)
    old, new = read_batches(legacy + ONE)
    assert (old.magic & 0xFF, old.base_offset, old.size_bytes) == (magic, 7, len(LEGACY_V1))
    assert old.raw == legacy
    assert not is_plain(old, 7)
    assert new.raw == ONE


@given(st.binary(max_size=200))
def test_arbitrary_bytes(data: bytes) -> None:
    _never_fails_otherwise(data)


@given(st.data())
def test_mutated_batches(data: st.DataObject) -> None:
    mutated = bytearray(RAW[data.draw(st.sampled_from(PRODUCED))])
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, 60))] = data.draw(st.integers(0, 255))
    _never_fails_otherwise(mutated)


def _never_fails_otherwise(data: bytes | bytearray) -> None:
    with suppress(DecodeError):
        for batch in read_batches(data):
            is_plain(batch, 0)
            batch.verify_crc()
            assert 0 < len(batch.raw) == batch.size_bytes <= len(data)


def test_a_changed_byte_breaks_the_crc() -> None:
    for position in range(17, len(ONE)):
        changed = bytearray(ONE)
        changed[position] ^= 1
        assert not BatchView(memoryview(changed), 0).verify_crc()


@pytest.mark.parametrize("name", [*PRODUCED, "librdkafka-transactions"])
def test_rewritten_for_append(name: str) -> None:
    for batch in captured(name):
        before = bytes(batch.raw)
        rewritten = only(rewrite_for_append(batch, 77, 3, 2**31 - 1))
        assert (rewritten.base_offset, rewritten.partition_leader_epoch) == (0, -1)
        assert (rewritten.producer_id, rewritten.producer_epoch, rewritten.base_sequence) == (
            77,
            3,
            2**31 - 1,
        )
        assert not rewritten.is_transactional
        assert rewritten.is_control == batch.is_control
        assert rewritten.codec == batch.codec
        assert rewritten.verify_crc()
        # lastOffsetDelta and both timestamps, then the count and the records.
        assert rewritten.raw[23:43] == batch.raw[23:43]
        assert rewritten.raw[57:] == batch.raw[57:]
        assert bytes(batch.raw) == before


@pytest.mark.parametrize("name", [*PRODUCED, "librdkafka-transactions"])
def test_turned_into_an_append_where_it_lies(name: str) -> None:
    data = bytearray(RAW[name])
    batches = list(read_batches(data))
    wanted = [rewrite_for_append(batch, 77, 3, 2**31 - 1) for batch in batches]
    offsets = [batch.base_offset for batch in batches]
    turned = [turn_into_append(batch, 77, 3, 2**31 - 1) for batch in batches]
    assert turned == wanted
    assert b"".join(turned) == data, "nothing was copied"
    assert [batch.base_offset for batch in batches] == offsets


@pytest.mark.parametrize("make", [rewrite_for_append, turn_into_append])
def test_other_magics_are_not_rewritten(make: Callable[[BatchView, int, int, int], object]) -> None:
    data = bytearray(LEGACY_V1)
    with pytest.raises(DecodeError, match="magic 1"):
        make(only(data), 1, 0, 0)
    assert data == LEGACY_V1


def test_a_delete_horizon_is_cleared_and_the_timestamps_stay() -> None:
    # As the cleaner leaves it: the base timestamp is the horizon, the deltas count from there.
    batch = only(patched(build_batch([Record(5, 1000, b"k", None)]), ">h", 21, 0x40))
    rewritten = only(rewrite_for_append(batch, 1, 0, 5))
    assert rewritten.attributes == 0
    assert [record.timestamp for record in iterate_records(rewritten)] == [1000]
