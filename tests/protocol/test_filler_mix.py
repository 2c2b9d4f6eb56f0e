"""Data and fillers together: every offset is covered, records are the source's, sizes are kept."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codecs import Codec, OutputTooLarge
from protocol.errors import DecodeError
from protocol.filler_mix import Mixed, Source, mix
from protocol.fillers import FillerFormat
from protocol.record_batches import (
    DELETE_HORIZON,
    LOG_APPEND_TIME,
    BatchView,
    encode_batch,
    seal,
)
from protocol.records import Record, build_batch, iterate_records
from protocol.varints import encode_varint
from tests.protocol.test_records import INT64, batch_of, only

KEY = bytes(range(1, 17))
FILLERS = FillerFormat(KEY)
T = 1_700_000_000_000


def filler(offset: int, timestamp: int) -> Record:
    return Record(offset, timestamp, KEY, None)


def view(records: Iterable[Record], **options: Any) -> BatchView:
    return only(build_batch(list(records), **options))


def mixed(sources: list[Source], start: int, stop: int, **options: Any) -> list[Mixed]:
    wanted = {"timestamp_ms": T, "max_bytes": 1 << 20, "limit_bytes": 1 << 24, "fixed": True} | options
    made = list(mix(sources, start, stop, FILLERS, producer_id=7, producer_epoch=0, **wanted))
    assert [each.first_offset for each in made] == [start, *(each.next_offset for each in made)][: len(made)]
    assert not made or made[-1].next_offset == stop
    for each in made:
        batch = only(each.batch)
        assert batch.verify_crc()
        assert (batch.base_offset, batch.producer_id, batch.producer_epoch) == (0, 7, 0)
        assert batch.base_sequence == each.first_offset % 2**31
        assert batch.count == batch.last_offset_delta + 1 == each.next_offset - each.first_offset
    return made


def records_of(made: list[Mixed]) -> list[Record]:
    found = []
    for first_offset, _, batch in made:
        records = list(iterate_records(only(batch)))
        assert only(batch).base_timestamp == records[0].timestamp
        assert only(batch).max_timestamp == max(record.timestamp for record in records)
        found += [record._replace(offset=first_offset + record.offset) for record in records]
    return found


def test_holes_become_fillers_with_the_time_of_the_record_before_them() -> None:
    first = Record(10, T + 5, b"a", b"1", (("h", None),))
    second, third = Record(13, T + 3, None, b""), Record(20, T + 9, b"c", None)
    made = mixed([Source(view([first, second])), Source(view([third]))], 8, 22)
    assert len(made) == 1
    assert records_of(made) == [
        filler(8, T), filler(9, T),
        first, filler(11, T + 5), filler(12, T + 5),
        second, *(filler(offset, T + 3) for offset in range(14, 20)),
        third, filler(21, T + 9),
    ]  # fmt: skip


def test_what_is_not_kept_becomes_fillers_with_its_own_time() -> None:
    aborted = view([Record(5, T + 1, b"k", b"v"), Record(7, T + 2, b"k", b"v")], codec=Codec.LZ4)
    made = mixed([Source(aborted, kept=False)], 5, 8)
    assert records_of(made) == [filler(5, T + 1), filler(6, T + 1), filler(7, T + 2)]


def test_nothing_to_cover() -> None:
    assert mixed([Source(view([Record(5, T, b"k", b"v")]))], 9, 9) == []


def test_a_range_within_a_batch() -> None:
    records = [Record(offset, T + offset, b"k%d" % offset, b"v") for offset in (10, 11, 14, 15)]
    made = mixed([Source(view(records))], 13, 15)
    assert records_of(made) == [filler(13, T + 11), records[2]]


@pytest.mark.parametrize("codec", list(Codec))
def test_compressed_sources(codec: Codec) -> None:
    records = [Record(offset, T, b"k", b"v" * 500) for offset in range(4)]
    (whole,) = mixed([Source(view(records[:2], codec=codec)), Source(view(records[2:], codec=codec))], 0, 4)
    assert only(whole.batch).codec == codec
    assert records_of([whole]) == records
    (holed,) = mixed([Source(view([records[0], records[3]], codec=codec))], 0, 4)
    assert only(holed.batch).codec == Codec.NONE
    assert records_of([holed]) == [records[0], filler(1, T), filler(2, T), records[3]]


def test_what_compression_does_not_make_smaller_stays_as_it_is() -> None:
    (made,) = mixed([Source(view([Record(0, T, None, b"")], codec=Codec.GZIP))], 0, 1)
    assert only(made.batch).codec == Codec.NONE


def test_different_codecs_are_not_compressed() -> None:
    gzip, zstd = (
        Source(view([Record(offset, T, b"k", b"v" * 500)], codec=codec))
        for offset, codec in enumerate((Codec.GZIP, Codec.ZSTD))
    )
    (made,) = mixed([gzip, zstd], 0, 2)
    assert only(made.batch).codec == Codec.NONE


def test_long_runs_are_batches_of_their_own() -> None:
    record = Record(0, T + 1, b"k", b"v")
    made = mixed([Source(view([record]))], 0, 112_005)
    counts = [each.next_offset - each.first_offset for each in made]
    assert counts == [1, 100_000, 10_000, 1_000, 1_000, 4]
    assert [only(each.batch).codec for each in made] == [0, 4, 4, 4, 4, 0]
    assert records_of(made) == [record, *(filler(offset, T + 1) for offset in range(1, 112_005))]


def test_long_runs_without_compression() -> None:
    made = mixed([], 5, 2505, fixed=False)
    assert [each.next_offset - each.first_offset for each in made] == [1000, 1000, 500]
    assert records_of(made) == [filler(offset, T) for offset in range(5, 2505)]


def test_no_batch_is_larger_than_it_may_be() -> None:
    records = [Record(offset, T, b"k", bytes(100)) for offset in range(0, 60, 3)]
    made = mixed([Source(view(records))], 0, 1060, max_bytes=500, fixed=False)
    assert max(len(each.batch) for each in made) <= 500
    found = records_of(made)
    assert [record for record in found if record.key != KEY] == records
    assert len(found) == 1060


def test_a_record_that_fits_only_compressed_is_alone_and_compressed() -> None:
    records = [Record(0, T, b"k", b"a"), Record(1, T, b"k", bytes(5000)), Record(2, T, b"k", b"c")]
    made = mixed([Source(view(records, codec=Codec.ZSTD))], 0, 4, max_bytes=1000)
    assert [each.next_offset - each.first_offset for each in made] == [1, 1, 2]
    assert [only(each.batch).codec for each in made] == [Codec.NONE, Codec.ZSTD, Codec.NONE]
    assert len(made[1].batch) < 1000
    assert records_of(made) == [*records, filler(3, T)]


def test_log_append_time_becomes_the_records_own() -> None:
    def stamped(records: list[Record], stamp: int) -> Source:
        batch = bytearray(build_batch(records, log_append_time=True))
        batch[35:43] = stamp.to_bytes(8, "big")
        seal(batch)
        return Source(only(batch))

    first = [Record(1, T + 50, b"a", b"1"), Record(3, T - 50, b"b", b"2")]
    second = [Record(4, T, b"c", b"3")]
    made = mixed([stamped(first, T + 7), stamped(second, T + 8)], 0, 6)
    assert [(each.first_offset, each.next_offset) for each in made] == [(0, 1), (1, 4), (4, 6)]
    assert not any(only(each.batch).attributes & LOG_APPEND_TIME for each in made)
    assert records_of(made) == [
        filler(0, T),
        first[0]._replace(timestamp=T + 7), filler(2, T + 7), first[1]._replace(timestamp=T + 7),
        second[0]._replace(timestamp=T + 8), filler(5, T + 8),
    ]  # fmt: skip


def test_a_delete_horizon_is_a_base_like_any_other() -> None:
    record = Record(0, T, b"k", None)
    section = b"\0" + encode_varint(-100) + build_batch([record])[64:]
    section = encode_varint(len(section)) + section
    batch = encode_batch(
        section, 1, attributes=DELETE_HORIZON, base_timestamp=T + 100, max_timestamp=T,
        producer_id=1, producer_epoch=0, base_sequence=0,
    )  # fmt: skip
    assert records_of(mixed([Source(only(batch))], 0, 1)) == [record]


def test_sequences_wrap() -> None:
    mixed([], 2**31 - 1, 2**31 + 2, max_bytes=90)


def test_timestamps_that_are_too_far_apart_for_one_batch() -> None:
    sources = [
        Source(view([Record(0, -(1 << 62), b"k", b"v")])),
        Source(view([Record(1, (1 << 62) + 1, b"k", b"v")])),
    ]
    made = mixed(sources, 0, 2)
    assert len(made) == 2
    assert [record.timestamp for record in records_of(made)] == [-(1 << 62), (1 << 62) + 1]


def record_bytes(body: bytes) -> bytes:
    return encode_varint(len(body)) + body


PLAIN = b"\x01\x01\0"  # no key, no value, no headers
BIG = encode_varint((1 << 63) - 1)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([only(build_batch([Record(5, T, b"k", b"v")]))] * 2, "begins before offset 6"),
        ([only(b"\0" * 11 + b"\x0e" + b"\0" * 14)], "magic 0"),
        ([batch_of(encode_varint(-5))], "a record of -5 bytes"),
        ([batch_of(encode_varint(0))], "a record of 0 bytes"),
        ([batch_of(encode_varint(9) + b"\0")], "a record of 9 bytes in 1"),
        ([batch_of(record_bytes(b"\0\0\x02" + PLAIN))], "with offset delta 1 after -1"),
        ([batch_of(record_bytes(b"\0\0\x01" + PLAIN))], "with offset delta -1 after -1"),
        ([batch_of(record_bytes(b"\0\0\0" + PLAIN) * 2, count=2, last_offset_delta=1)], "delta 0 after 0"),
        ([batch_of(b"\x02\0\x02\0\0\0")], "a record of 1 bytes"),
        ([batch_of(record_bytes(b"\0\0\0" + PLAIN) + b"?")], "1 bytes after 1 records"),
    ],
)  # fmt: skip
def test_broken_sources(sources: list[BatchView], message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        mixed([Source(batch) for batch in sources], 0, 9)


def test_a_timestamp_beyond_64_bits() -> None:
    batch = encode_batch(
        record_bytes(b"\0" + BIG + b"\0" + PLAIN), 1, attributes=0, base_timestamp=1, max_timestamp=1,
        producer_id=1, producer_epoch=0, base_sequence=0,
    )  # fmt: skip
    with pytest.raises(DecodeError, match="the timestamp 9223372036854775808"):
        mixed([Source(only(batch))], 0, 1)


def test_a_source_that_grows_beyond_its_limit() -> None:
    bomb = view([Record(0, T, b"k", bytes(100_000))], codec=Codec.GZIP)
    with pytest.raises(OutputTooLarge):
        mixed([Source(bomb)], 0, 1, limit_bytes=50_000)


# Each record: the hole before it, its timestamp, the size of its value.
RECORDS = st.lists(st.tuples(st.integers(0, 3), INT64, st.integers(0, 300)), min_size=1, max_size=6)
BATCHES = st.lists(st.tuples(RECORDS, st.sampled_from(list(Codec)), st.booleans(), st.booleans()), max_size=4)


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[Source], int, int]:
    """Consecutive batches with holes in and between them, and a range of their offsets."""
    offset = draw(st.integers(20, 1 << 33))
    start = offset + draw(st.integers(-20, 20))
    sources = []
    for fields, codec, stamped, kept in draw(BATCHES):
        records = []
        for hole, timestamp, size in fields:
            offset += hole
            records.append(Record(offset, timestamp, b"k", bytes(size)))
            offset += 1
        sources.append(Source(view(records, codec=codec, log_append_time=stamped), kept))
    return sources, start, start + draw(st.integers(0, 60))


@given(logs(), st.integers(100, 1000), st.booleans())
def test_every_offset_is_covered(log: tuple[list[Source], int, int], max_bytes: int, fixed: bool) -> None:
    sources, start, stop = log
    made = mixed(sources, start, stop, max_bytes=max_bytes, fixed=fixed, timestamp_ms=-1)
    expected = {}
    for batch, kept in sources:
        for record in iterate_records(batch):
            expected[record.offset] = record if kept else filler(record.offset, record.timestamp)
    found = records_of(made)
    assert [record.offset for record in found] == list(range(start, stop))
    before = [record.timestamp for offset, record in expected.items() if offset < start]
    last = before[-1] if before else -1
    for record in found:
        assert record == expected.get(record.offset, filler(record.offset, last))
        last = record.timestamp
