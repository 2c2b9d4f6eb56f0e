"""Batches with holes: what stands at every offset afterwards, sizes, old formats, broken input."""

import struct
import zlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codecs import Codec, compress
from protocol.dense_batches import LONGEST_RUN, FillerRun, Piece, Section, densify
from protocol.errors import DecodeError
from protocol.record_batches import BatchView, encode_batch, read_batches, seal
from protocol.record_merge import append_form, merge_batches, merge_limit
from protocol.records import Record, build_batch, iterate_records
from protocol.varints import encode_varint

KEY = bytes(range(100, 116))
LARGE = 1 << 20
BYTES = st.none() | st.binary(max_size=60)
HEADERS = st.lists(st.tuples(st.text(max_size=5), BYTES), max_size=2).map(tuple)
TIMESTAMPS = st.integers(1_700_000_000_000, 1_700_000_000_050) | st.integers(-(1 << 61), 1 << 61)


def only(data: bytes | bytearray) -> BatchView:
    (batch,) = read_batches(data)
    return batch


def ending_at(data: bytes, next_offset: int) -> BatchView:
    """The batch, as if its last records had been removed."""
    changed = bytearray(data)
    struct.pack_into(">i", changed, 23, next_offset - 1 - only(data).base_offset)
    seal(changed)
    return only(changed)


def dense(
    batch: BatchView, start: int, *, previous: int = -1, aborted: bool = False, max_bytes: int = LARGE
) -> list[Piece]:
    """The pieces; checks that they follow each other up to the batch's end."""
    pieces = list(densify(batch, start, previous, aborted=aborted, filler_key=KEY, max_bytes=max_bytes))
    offset = start
    for piece in pieces:
        assert piece.base_offset == offset
        assert piece.count == piece.last_offset_delta + 1 > 0
        offset = piece.next_offset
    assert offset == batch.next_offset
    return list(pieces)


def stored(pieces: Sequence[Piece], *, merged: bool = False, max_bytes: int = LARGE) -> list[Record]:
    """The records as a broker would store them; checks every batch."""
    records: list[Record] = []
    left = list(pieces)
    while left:
        first = left[0].base_offset
        if merged:
            count = merge_limit(left, max_bytes)
            data, used = merge_batches(left[:count], 7, 0, first & 0x7FFFFFFF, max_bytes)
        else:
            data, used = append_form(left[0], 7, 0, first & 0x7FFFFFFF), 1
        batch = only(data)
        assert batch.verify_crc()
        assert batch.count == batch.last_offset_delta + 1 == left[used - 1].next_offset - first
        assert (batch.producer_id, batch.base_sequence) == (7, first & 0x7FFFFFFF)
        of_batch = list(iterate_records(batch))
        assert batch.max_timestamp == max(record.timestamp for record in of_batch)
        if any(record.key == KEY for record in of_batch):
            assert batch.codec == Codec.NONE, "fillers are found on the way to a client"
        records += [record._replace(offset=first + record.offset) for record in of_batch]
        del left[:used]
    return records


@st.composite
def compacted(draw: st.DrawFn) -> tuple[list[Record], BatchView]:
    """A batch with holes, and the records in it."""
    offset = base = draw(st.sampled_from([0, 77, 2**31 - 3, 2**60]))
    records: list[Record] = []
    for gap in draw(st.lists(st.integers(0, 3), min_size=1, max_size=8)):
        offset += gap if records else 0
        records.append(Record(offset, *draw(st.tuples(TIMESTAMPS, BYTES, BYTES, HEADERS))))
        offset += 1
    data = build_batch(records, codec=draw(st.sampled_from(list(Codec))))
    return [r for r in records if r.offset >= base], ending_at(data, offset + draw(st.integers(0, 3)))


@given(st.data())
def test_every_offset_holds_its_record_or_a_filler(data: st.DataObject) -> None:
    records, batch = data.draw(compacted())
    before = data.draw(st.integers(0, 3))
    start = data.draw(
        st.sampled_from([max(0, batch.base_offset - before), batch.base_offset, batch.next_offset - 1])
    )
    pieces = dense(batch, start, previous=42, max_bytes=data.draw(st.sampled_from([1, 100, 300, LARGE])))
    found = stored(pieces, merged=data.draw(st.booleans()), max_bytes=data.draw(st.integers(100, 4_000)))
    expected = {record.offset: record for record in records}
    timestamp = 42
    assert [record.offset for record in found] == list(range(start, batch.next_offset))
    for offset in range(min(start, batch.base_offset), batch.next_offset):
        if offset >= start:
            filler = Record(offset, timestamp, KEY, None, ())
            assert found[offset - start] == expected.get(offset, filler)
        if offset in expected:
            timestamp = expected[offset].timestamp


def test_aborted_records_become_fillers_of_their_times() -> None:
    records = [Record(5 + i, 1_000 + i // 2, b"k", b"v" * 50) for i in range(6)]
    batch = ending_at(build_batch(records, codec=Codec.ZSTD, transactional=True), 13)
    pieces = dense(batch, 3, previous=7, aborted=True)
    assert [(type(p), p.base_offset, p.count) for p in pieces] == [
        (FillerRun, 3, 2),
        (FillerRun, 5, 2),
        (FillerRun, 7, 2),
        (FillerRun, 9, 4),
    ]
    found = stored(pieces, merged=True)
    assert [r.timestamp for r in found] == [7, 7, 1000, 1000, 1001, 1001, 1002, 1002, 1002, 1002]
    assert {(r.key, r.value, r.headers) for r in found} == {(KEY, None, ())}


def test_a_marker_becomes_a_filler_of_its_time() -> None:
    marker = only(build_batch([Record(9, 555, bytes(4), bytes(6))], control=True, transactional=True))
    assert [(r.offset, r.timestamp) for r in stored(dense(marker, 9))] == [(9, 555)]
    assert [(r.offset, r.timestamp) for r in stored(dense(marker, 8, previous=4))] == [(8, 4), (9, 555)]


def test_what_a_gateway_shows_for_a_run_becomes_a_run_again() -> None:
    shown = ending_at(build_batch([Record(9, 555, b"\0\0\0\2", None)], control=True), 1_000)
    (piece,) = dense(shown, 100)
    assert (piece.base_offset, piece.count, piece.max_timestamp) == (100, 900, 555)


def test_an_empty_batch_is_a_run() -> None:
    empty = encode_batch(
        b"",
        0,
        attributes=0,
        base_timestamp=9,
        max_timestamp=9,
        producer_id=1,
        producer_epoch=0,
        base_sequence=0,
        base_offset=20,
        last_offset_delta=9,
    )
    (piece,) = dense(only(empty), 18, previous=3)
    assert (piece.base_offset, piece.count, piece.max_timestamp) == (18, 12, 3)


@pytest.mark.parametrize("codec", list(Codec))
def test_append_time_becomes_the_records_own(codec: Codec) -> None:
    records = [Record(i, 1_000 - i, b"%d" % i, b"v" * 100) for i in range(4)]
    batch = only(build_batch(records, codec=codec, log_append_time=True))
    (piece,) = dense(batch, 0)
    assert stored([piece]) == [record._replace(timestamp=1_000) for record in records]
    assert only(append_form(piece, 7, 0, 0)).codec == codec, "compressed as it was"


def test_a_record_above_the_bound_stays_alone_and_compressed() -> None:
    records = [Record(0, 0, b"a", b"x"), Record(1, 0, b"b", b"y" * 5_000), Record(3, 0, b"c", b"z")]
    batch = only(build_batch(records, codec=Codec.GZIP))
    pieces = dense(batch, 0, max_bytes=1_000)
    assert [(p.base_offset, p.count) for p in pieces] == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert len(append_form(pieces[1], 7, 0, 1)) < 1_000


def test_a_section_looks_like_a_batch() -> None:
    (section,) = dense(only(build_batch([Record(4, 10, b"a", b"x"), Record(5, 30, b"b", b"y")])), 4)
    assert isinstance(section, Section)
    assert (section.base_timestamp, section.max_timestamp, section.next_offset) == (10, 30, 6)
    assert section.size_bytes == len(append_form(section, 7, 0, 0))


def test_timestamps_too_far_apart_for_one_batch() -> None:
    low, high = -(1 << 62), (1 << 62) + 5
    # Each fits its batch's base, and not the other's.
    base = 0
    body = b"".join(
        encode_varint(len(record)) + record
        for record in (
            b"\0" + encode_varint(low) + encode_varint(0) + b"\1\1\0",
            b"\0" + encode_varint(high) + encode_varint(1) + b"\1\1\0",
        )
    )
    batch = encode_batch(
        body,
        2,
        attributes=0,
        base_timestamp=base,
        max_timestamp=high,
        producer_id=1,
        producer_epoch=0,
        base_sequence=0,
    )
    pieces = dense(only(batch), 0)
    assert [r.timestamp for p in pieces for r in stored([p])] == [low, high]
    assert len(pieces) == 2


# --- runs ---------------------------------------------------------------------------------------------


def test_a_run() -> None:
    run = FillerRun(10, LONGEST_RUN, 99, KEY)
    assert not run.is_long
    batch = only(run.encode(7, 0, 10))
    assert batch.size_bytes == run.size_bytes <= 256 << 10
    assert list(iterate_records(batch)) == [Record(i, 99, KEY, None) for i in range(LONGEST_RUN)]
    first, rest = run.split(3)
    assert [(r.base_offset, r.count, r.base_timestamp) for r in (first, rest)] == [
        (10, 3, 99),
        (13, 9_997, 99),
    ]


def test_a_long_run() -> None:
    run = FillerRun(10, 1 << 40, 99, KEY)
    assert run.is_long
    assert run.size_bytes < 1 << 20
    with pytest.raises(ValueError, match="in one batch"):
        _ = run.records
    first, rest = run.split(LONGEST_RUN)
    assert (first.next_offset, rest.next_offset) == (rest.base_offset, run.next_offset)


def test_a_long_run_goes_as_compressed_fillers_where_it_may() -> None:
    rest = FillerRun(10, 234_567, 99, KEY)
    sizes = []
    while rest.count:
        count = rest.next_count(256 << 10, compressed=True)
        first, rest = rest.split(count, compressed=True)
        batch = only(first.encode(7, 0, first.base_offset))
        assert batch.count == count
        assert batch.size_bytes <= 256 << 10
        assert first.compressed == (batch.codec == Codec.ZSTD)
        sizes.append((count, first.compressed))
    assert sizes == [(100_000, True)] * 2 + [(10_000, True)] * 3 + [(4_567, False)]


def test_a_run_in_batches_of_some_size() -> None:
    run = FillerRun(10, 10_000, 99, KEY)
    assert run.next_count(256 << 10, compressed=False) == 10_000
    assert run.next_count(100_000, compressed=False) == 2_500
    assert run.next_count(1, compressed=False) == 1
    first, _ = run.split(2_500, compressed=True)
    assert not first.compressed, "there is no such batch"


# --- old formats --------------------------------------------------------------------------------------


def message(
    offset: int,
    magic: int,
    key: bytes | None,
    value: bytes | None,
    timestamp: int = 0,
    attributes: int = 0,
) -> bytes:
    def field(data: bytes | None) -> bytes:
        return struct.pack(">i", -1) if data is None else struct.pack(">i", len(data)) + data

    rest = struct.pack(">bb", magic, attributes)
    rest += struct.pack(">q", timestamp) if magic else b""
    rest += field(key) + field(value)
    return struct.pack(">qiI", offset, len(rest) + 4, _crc32(rest)) + rest


def _crc32(data: bytes) -> int:
    return zlib.crc32(data)


@pytest.mark.parametrize("magic", [0, 1])
def test_a_single_old_message(magic: int) -> None:
    batch = only(message(7, magic, None, b"v", 55))
    expected = Record(7, 55 if magic else -1, None, b"v")
    assert stored(dense(batch, 7)) == [expected]
    filler = Record(6, 3, KEY, None)
    assert stored(dense(batch, 6, previous=3)) == [filler, expected]


@pytest.mark.parametrize("codec", [Codec.GZIP, Codec.SNAPPY, Codec.LZ4])
@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("stamped", [False, True])
def test_compressed_old_messages(magic: int, codec: Codec, stamped: bool) -> None:
    offsets = [100, 101, 103]
    inner = b"".join(
        message(offset - 100 if magic else offset, magic, b"k%d" % offset, b"v" * 30, 50 + offset)
        for offset in offsets
    )
    value = compress(codec, inner)
    if codec == Codec.LZ4 and magic == 0:
        value = value[:6] + bytes([value[6] ^ 0xFF]) + value[7:]
    flags = codec | (8 if stamped else 0)
    batch = only(message(103, magic, None, value, 999, flags))
    expected = [
        Record(
            o,
            -1 if not magic and not stamped else 999 if stamped and magic else 50 + o,
            b"k%d" % o,
            b"v" * 30,
        )
        for o in offsets
    ]
    if stamped and not magic:
        expected = [r._replace(timestamp=-1) for r in expected]
    found = stored(dense(batch, 100))
    assert [r for r in found if r.key != KEY] == expected
    assert [r.offset for r in found if r.key == KEY] == [102]
    assert [r for r in stored(dense(batch, 102)) if r.key != KEY] == expected[2:], "from within"


LZ4_WITH_SIZE = bytes.fromhex("04224d18") + b"\x68\x40" + bytes(20)


def wrapper(value: bytes, codec: Codec = Codec.GZIP, magic: int = 1) -> bytes:
    return message(9, magic, None, value, 1, codec)


def spoiled(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (spoiled(message(9, 1, b"k", b"v"), 20), "checksum"),
        (wrapper(b"no gzip"), "broken"),
        (wrapper(compress(Codec.GZIP, b"")), "empty"),
        (wrapper(compress(Codec.GZIP, message(0, 1, None, b"", 0, 1))), "compressed twice"),
        (wrapper(compress(Codec.GZIP, b"abc")), "ends within its head"),
        (wrapper(compress(Codec.GZIP, bytes(16) + b"\2" + bytes(20))), "magic 2"),
        (wrapper(compress(Codec.GZIP, message(0, 1, b"k", b"v")[:-1])), "bytes at byte 0"),
        (wrapper(LZ4_WITH_SIZE[:10], Codec.LZ4, 0), "ends within its head"),
        (wrapper(LZ4_WITH_SIZE, Codec.LZ4, 0), "broken"),
    ],
)
def test_broken_old_messages(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        dense(only(data), 9)


def with_fields(*fields: bytes) -> bytes:
    rest = struct.pack(">bbq", 1, 0, 0) + b"".join(fields)
    return struct.pack(">qiI", 9, len(rest) + 4, _crc32(rest)) + rest


NULL = struct.pack(">i", -1)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ((struct.pack(">i", 100), b"abc"), "a field of 100 bytes"),
        ((struct.pack(">i", -2), NULL), "a field of -2 bytes"),
        ((NULL, NULL, b"x"), "1 bytes follow"),
        ((NULL,), "ends within its head"),
    ],
)
def test_fields_of_old_messages_that_do_not_fit(fields: tuple[bytes, ...], reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        dense(only(with_fields(*fields)), 9)


# --- broken batches -----------------------------------------------------------------------------------


def batch_of(section: bytes, count: int, last_offset_delta: int = 5, base_timestamp: int = 0) -> BatchView:
    data = encode_batch(
        section,
        count,
        attributes=0,
        base_timestamp=base_timestamp,
        max_timestamp=base_timestamp,
        producer_id=1,
        producer_epoch=0,
        base_sequence=0,
        last_offset_delta=last_offset_delta,
    )
    return only(data)


def record(timestamp_delta: int, offset_delta: int) -> bytes:
    body = b"\0" + encode_varint(timestamp_delta) + encode_varint(offset_delta) + b"\1\1\0"
    return encode_varint(len(body)) + body


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        (batch_of(record(0, 6), 1), "offset delta 6"),
        (batch_of(record(0, -1) + record(0, 1), 2), "offset delta -1"),
        (batch_of(record(0, 1) + record(0, 1), 2), "a record at offset 1"),
        (batch_of(record(0, 1) + b"x", 1), "1 bytes after"),
        (batch_of(record(0, 1)[:-1], 1), "a record of"),
        (batch_of(b"\0", 1), "a record of 0 bytes"),
        (batch_of(encode_varint(2) + b"\0\0\0", 1), "as a record"),
        (batch_of(record(1, 0), 1, base_timestamp=(1 << 63) - 1), "beyond 64 bits"),
        (batch_of(b"", 1), "end within"),
    ],
)
def test_records_that_are_not_what_the_batch_claims(batch: BatchView, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        dense(batch, 0)
