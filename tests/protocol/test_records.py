"""Records one by one: those of real producers, round trips, and broken ones."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codecs import Codec, OutputTooLarge, compress
from protocol.errors import DecodeError
from protocol.record_batches import BatchView, encode_batch, read_batches
from protocol.records import Record, build_batch, iterate_records
from protocol.varints import encode_varint
from tests.protocol.captured_batches import PRODUCED, captured, produced_records

INT64 = st.integers(-(1 << 62), (1 << 62) - 1)
BYTES = st.none() | st.binary(max_size=80)
HEADERS = st.lists(st.tuples(st.text(max_size=5), BYTES), max_size=3).map(tuple)


@st.composite
def record_lists(draw: st.DrawFn, max_size: int = 12) -> list[Record]:
    """Records of a batch without holes."""
    base = draw(st.integers(0, 1 << 40))
    fields = draw(st.lists(st.tuples(INT64, BYTES, BYTES, HEADERS), min_size=1, max_size=max_size))
    return [Record(base + index, *rest) for index, rest in enumerate(fields)]


def only(data: bytes | bytearray) -> BatchView:
    (batch,) = read_batches(data)
    return batch


def batch_of(
    section: bytes, count: int = 1, codec: Codec = Codec.NONE, last_offset_delta: int = 0
) -> BatchView:
    return only(
        encode_batch(
            compress(codec, section),
            count,
            attributes=codec,
            base_timestamp=0,
            max_timestamp=0,
            producer_id=-1,
            producer_epoch=-1,
            base_sequence=-1,
            last_offset_delta=last_offset_delta,
        )
    )


@pytest.mark.parametrize("name", PRODUCED)
def test_records_of_real_producers(name: str) -> None:
    records = [record for batch in captured(name) for record in iterate_records(batch)]
    assert records == produced_records(name)


@pytest.mark.parametrize("name", ["java-none", "librdkafka-none"])
def test_build_batch_encodes_as_real_producers_do(name: str) -> None:
    records = produced_records(name)
    for batch in captured(name):
        built = build_batch(
            records[batch.base_offset : batch.next_offset],
            producer_id=batch.producer_id,
            producer_epoch=batch.producer_epoch,
            base_sequence=batch.base_sequence,
            partition_leader_epoch=0,
        )
        assert built == batch.raw


def test_markers() -> None:
    commit, aborted, abort = captured("librdkafka-transactions")
    assert [record.key for record in iterate_records(commit)] == [b"\0\0\0\1"]
    assert [record.value for record in iterate_records(aborted)] == [b"v1"]
    assert [record.key for record in iterate_records(abort)] == [b"\0\0\0\0"]


def test_log_append_time_is_the_timestamp_of_all_records() -> None:
    (batch,) = captured("librdkafka-log-append-time")
    records = list(iterate_records(batch))
    assert {record.timestamp for record in records} == {batch.max_timestamp}
    assert batch.max_timestamp > 1_790_000_000_000
    built = only(build_batch(records, log_append_time=True))
    assert list(iterate_records(built)) == records


@given(record_lists(), st.sampled_from(list(Codec)), st.booleans(), st.booleans())
def test_round_trip(records: list[Record], codec: Codec, transactional: bool, control: bool) -> None:
    batch = only(build_batch(records, codec=codec, transactional=transactional, control=control))
    assert list(iterate_records(batch)) == records
    assert batch.verify_crc()
    assert (batch.codec, batch.is_transactional, batch.is_control) == (codec, transactional, control)
    assert batch.max_timestamp == max(record.timestamp for record in records)


def test_offsets_may_have_holes() -> None:
    records = [Record(3, 1, b"a", None), Record(9, 0, b"b", None)]
    batch = only(build_batch(records))
    assert (batch.base_offset, batch.next_offset, batch.count) == (3, 10, 2)
    assert list(iterate_records(batch)) == records


def test_a_header_key_that_is_not_utf_8_survives() -> None:
    body = bytes.fromhex("0000000101") + encode_varint(1) + b"\x04\xff\xfe\x01"
    batch = batch_of(encode_varint(len(body)) + body)
    (record,) = iterate_records(batch)
    assert build_batch([record])[61:] == batch.records


def test_no_records_make_no_batch() -> None:
    with pytest.raises(ValueError, match="needs a record"):
        build_batch([])


def test_other_magics_are_not_decoded() -> None:
    (message,) = read_batches(struct.pack(">qiiBBqii", 7, 22, 0, 1, 0, 1000, -1, -1))
    with pytest.raises(DecodeError, match="magic 1"):
        list(iterate_records(message))


@pytest.mark.parametrize("codec", Codec)
def test_records_above_the_limit(codec: Codec) -> None:
    batch = only(build_batch([Record(0, 0, None, bytes(10_000))], codec=codec))
    with pytest.raises(OutputTooLarge):
        list(iterate_records(batch, 10_000))
    assert len(list(iterate_records(batch, 10_020))) == 1


@pytest.mark.parametrize(
    ("section", "count", "reason"),
    [
        ("01", 1, "record of -1 bytes"),
        ("0e000000010100", 2, "record of 7 bytes in 6"),
        ("0c000000010100", 2, "end within a varint"),
        ("0c000000010100ff", 1, "1 bytes after 1 records"),
        ("0c000002010100", 1, "offset delta 1 in a batch up to 0"),
        ("0c000001010100", 1, "offset delta -1"),
        ("0c000000030100", 1, "field of -2 bytes"),
        ("0c000000060100", 1, "field of 3 bytes in 2"),
        ("0c000000010101", 1, "-1 headers"),
        ("0c000000010102", 1, "1 headers in 0 bytes"),
        ("1000000001010201 01", 1, "header without a key"),
        ("0e00000001010000", 1, "1 bytes after the end of a record"),
        ("00", 1, "end within a varint"),
    ],
)
def test_broken_records(section: str, count: int, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        list(iterate_records(batch_of(bytes.fromhex(section), count)))


@given(record_lists(), st.sampled_from(list(Codec)), st.data())
def test_mutated_records(records: list[Record], codec: Codec, data: st.DataObject) -> None:
    section = bytearray(build_batch(records)[61:])
    for _ in range(data.draw(st.integers(1, 4))):
        section[data.draw(st.integers(0, len(section) - 1))] = data.draw(st.integers(0, 255))
    batch = batch_of(bytes(section), len(records), codec, len(records) - 1)
    with suppress(DecodeError):
        assert len(list(iterate_records(batch))) == len(records)


def test_truncated_anywhere() -> None:
    records = produced_records("java-none")
    section = build_batch(records)[61:]
    for length in range(len(section)):
        with pytest.raises(DecodeError):
            list(iterate_records(batch_of(section[:length], len(records), last_offset_delta=7)))
