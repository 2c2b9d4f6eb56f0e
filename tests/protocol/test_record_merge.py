"""Merging: the records stay what they were, whatever their batches; bounds and broken input."""

import random
import struct
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codecs import Codec, compress
from protocol.dense_batches import FillerRun
from protocol.errors import DecodeError
from protocol.record_batches import BatchView, encode_batch, read_batches, rewrite_for_append
from protocol.record_merge import SMALL_BATCH_BYTES, merge_batches, merge_limit
from protocol.records import Record, build_batch, iterate_records
from protocol.varints import encode_varint
from tests.protocol.captured_batches import CODECS, PRODUCED, captured, produced_records

LARGE = 1 << 20
SMALL_INT64 = st.integers(-(1 << 61), 1 << 61)
TIMESTAMPS = st.integers(1_700_000_000_000, 1_700_000_010_000) | st.just(-1) | SMALL_INT64
BYTES = st.none() | st.binary(max_size=100)
HEADERS = st.lists(st.tuples(st.text(max_size=5), BYTES), max_size=2).map(tuple)


@st.composite
def queues(draw: st.DrawFn) -> tuple[list[Record], list[BatchView]]:
    """Consecutive batches, and their records."""
    offset = draw(st.sampled_from([0, 77, 2**31 - 3, 2**62]))
    records: list[Record] = []
    batches: list[BatchView] = []
    for count in draw(st.lists(st.integers(1, 4), min_size=1, max_size=6)):
        codec = draw(st.sampled_from([Codec.NONE, *Codec]))
        of_batch = [
            Record(offset + index, *draw(st.tuples(TIMESTAMPS, BYTES, BYTES, HEADERS)))
            for index in range(count)
        ]
        records += of_batch
        offset += count
        batches += read_batches(build_batch(of_batch, codec=codec, transactional=draw(st.booleans())))
    return records, batches


def singles(*values: bytes, first: int = 0, timestamp: int = 1000, codec: int = 0) -> list[BatchView]:
    """Batches of one record."""
    return [
        next(read_batches(build_batch([Record(first + index, timestamp + index, b"k", value)], codec=codec)))
        for index, value in enumerate(values)
    ]


def merged_records(
    batches: Sequence[BatchView], max_bytes: int = LARGE
) -> tuple[BatchView, int, list[Record]]:
    """Merge; checks what holds for every result; offsets as in the source."""
    first = batches[0].base_offset
    merged, used = merge_batches(batches, 7, 1, first & 0x7FFFFFFF, max_bytes)
    (batch,) = read_batches(merged)
    assert batch.verify_crc()
    assert (batch.base_offset, batch.partition_leader_epoch) == (0, -1)
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (7, 1, first & 0x7FFFFFFF)
    assert batch.count == batch.last_offset_delta + 1 == batches[used - 1].next_offset - first
    assert batch.max_timestamp == max(source.max_timestamp for source in batches[:used])
    assert not batch.attributes & ~0x07
    assert used == 1 or batch.size_bytes <= max_bytes
    return batch, used, [r._replace(offset=first + r.offset) for r in iterate_records(batch)]


@given(queues())
def test_records_stay_what_they_were(queue: tuple[list[Record], list[BatchView]]) -> None:
    records, batches = queue
    _, used, found = merged_records(batches)
    assert used == len(batches)
    assert found == records


@given(queues(), st.integers(61, 600))
def test_a_bound_leaves_a_beginning_of_the_records(
    queue: tuple[list[Record], list[BatchView]], max_bytes: int
) -> None:
    records, batches = queue
    _, used, found = merged_records(batches, max_bytes)
    assert 1 <= used <= len(batches)
    assert found == records[: len(found)]


@pytest.mark.parametrize("name", PRODUCED)
def test_batches_of_real_producers(name: str) -> None:
    batches = captured(name)
    batch, used, found = merged_records(batches)
    assert used == 3
    assert found == produced_records(name)
    assert batch.codec == batches[0].codec
    assert batch.base_timestamp == found[0].timestamp


def test_an_aborted_record_between_markers_is_merged_alone() -> None:
    _, aborted, _ = captured("librdkafka-transactions")
    batch, _, found = merged_records([aborted])
    assert not batch.is_transactional
    assert [record.value for record in found] == [b"v1"]


def test_one_batch_is_rewritten_verbatim() -> None:
    (batch,) = singles(b"v" * 1000, first=9)
    assert merge_batches([batch], 7, 1, 9, 61) == (rewrite_for_append(batch, 7, 1, 9), 1)


def test_the_codec_is_kept_beside_batches_that_are_not_compressed() -> None:
    # librdkafka sends uncompressed what compression would not make smaller.
    value = b"v" * 100
    for name, codec in zip(CODECS[1:], list(Codec)[1:], strict=True):
        queue = singles(value, value) + singles(value, first=2, codec=codec)
        assert merged_records(queue)[0].codec == codec, name


def test_two_codecs_are_merged_uncompressed() -> None:
    queue = singles(b"a" * 99, codec=Codec.LZ4) + singles(b"b" * 99, first=1, codec=Codec.ZSTD)
    assert merged_records(queue)[0].codec == Codec.NONE


def test_what_does_not_shrink_is_not_compressed() -> None:
    assert merged_records(singles(b"", b"", codec=Codec.GZIP))[0].codec == Codec.NONE


def test_too_large_a_result_takes_half_as_many() -> None:
    queue = singles(*[b"v" * 100] * 9)
    size_bytes = merged_records(queue)[0].size_bytes
    assert [merged_records(queue, limit)[1] for limit in (size_bytes, size_bytes - 1, 400, 200)] == [
        9,
        4,
        2,
        1,
    ]


@pytest.mark.parametrize("codec", list(Codec)[1:])
def test_what_decompresses_to_too_much_is_left_alone(codec: Codec) -> None:
    bomb = singles(bytes(100_000), first=3, codec=codec)
    assert bomb[0].size_bytes < 6000
    queue = singles(b"a", b"b", b"c") + bomb
    assert merged_records(queue, 6001)[1] == 2
    assert merged_records([bomb[0], *singles(b"d", first=4)], 6001)[1] == 1
    assert merged_records(queue, LARGE)[1] == 4
    # Each alone is below the bound.
    halves = singles(bytes(60_000), bytes(60_000), codec=codec)
    assert merged_records(halves, 6001)[1] == 1
    assert merged_records(halves, 7600)[1] == 2


def test_many_records_of_all_sizes() -> None:
    sizes = [0, 1, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, *range(8150, 8200, 3), 70_000]
    records = [
        Record(index, 5000 + index // 3, b"k", bytes(size))
        for index, size in enumerate([*sizes, *[5] * 8200, *sizes])
    ]
    queue = [batch for record in records for batch in read_batches(build_batch([record]))]
    _, used, found = merged_records(queue, 1 << 30)
    assert used == len(records) > 8192
    assert found == records
    # The same in batches of two, whose second record has deltas of its own.
    pairs = [
        batch for at in range(0, len(records), 2) for batch in read_batches(build_batch(records[at : at + 2]))
    ]
    assert merged_records(pairs, 1 << 30)[2] == records


def test_the_base_timestamp_of_a_batch_need_not_be_that_of_a_record() -> None:
    body = b"\0" + encode_varint(1501) + b"\0\x01\x01\0"
    section = encode_varint(len(body)) + body
    header = {"attributes": 0, "producer_id": -1, "producer_epoch": -1, "base_sequence": -1}
    odd = encode_batch(section, 1, base_timestamp=-1, max_timestamp=1500, base_offset=2, **header)
    queue = [*singles(b"a", b"b", timestamp=1000), *read_batches(odd)]
    batch, _, found = merged_records(queue)
    assert [record.timestamp for record in found] == [1000, 1001, 1500]
    assert batch.base_timestamp == 1000
    first = encode_batch(section, 1, base_timestamp=-1, max_timestamp=1500, base_offset=0, **header)
    batch, _, found = merged_records([*read_batches(first), *singles(b"a", first=1)])
    assert [record.timestamp for record in found] == [1500, 1000]
    assert (batch.base_timestamp, batch.max_timestamp) == (1500, 1500)


def test_attributes_of_a_record_are_kept() -> None:
    queue = [
        with_section(batch, bytes(batch.records[:1]) + b"\x55" + batch.records[2:])
        for batch in singles(b"a", b"b")
    ]
    merged, _ = merge_batches(queue, 1, 0, 0, LARGE)
    (batch,) = read_batches(merged)
    assert (batch.records[1], batch.records[len(batch.records) // 2 + 1]) == (0x55, 0x55)


def with_section(batch: BatchView, section: bytes, codec: int = 0) -> BatchView:
    """The batch with another records section."""
    changed = encode_batch(
        compress(codec, section),
        batch.count,
        attributes=codec,
        base_timestamp=batch.base_timestamp,
        max_timestamp=batch.max_timestamp,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        base_offset=batch.base_offset,
        last_offset_delta=batch.last_offset_delta,
    )
    return next(read_batches(changed))


def with_header(batch: BatchView, form: str, position: int, value: int) -> BatchView:
    """The batch with another number in its header."""
    changed = bytearray(batch.raw)
    struct.pack_into(form, changed, position, value)
    return next(read_batches(changed))


def test_no_batches() -> None:
    with pytest.raises(ValueError, match="nothing"):
        merge_batches([], 1, 0, 0, LARGE)


@pytest.mark.parametrize(
    ("form", "position", "value", "reason"),
    [
        (">h", 21, 0x20, "attributes 0x20"),
        (">h", 21, 0x08, "attributes 0x8"),
        (">h", 21, 5, "codec 5"),
        (">b", 16, 1, "magic 1"),
        (">q", 0, 3, "does not follow offset 1"),
        (">q", 0, 1, "does not follow offset 1"),
        (">i", 57, 2, "hole"),
        (">i", 23, 1, "hole"),
    ],
)
def test_batches_that_cannot_be_merged(form: str, position: int, value: int, reason: str) -> None:
    one, two, three = singles(b"a", b"b", b"c")
    with pytest.raises(DecodeError, match=reason):
        merge_batches([one, two, with_header(three, form, position, value)], 1, 0, 0, LARGE)


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ("", "ends within"),
        ("0c", "claims 6 of 0"),
        ("01", "claims -1 of 0"),
        ("80", "end within a varint"),
        ("ffffffffff01", "longer"),
        ("0c0000000101000e", "1 bytes follow the 1 records"),
        ("0e000000010100", "claims 7 of 6"),
        ("0c000002010100", "offset delta 1 as record 0"),
        ("0c00008102010100", "offset delta -129 as record 0"),
        ("0200", "ends within"),
        ("020000000101", "offset delta 0 as record 0"),
        ("0c00ffffffffffffffffffff01", "longer"),
    ],
)
def test_broken_records(section: str, reason: str) -> None:
    one, two, three = singles(b"a", b"b", b"c")
    broken = with_section(two, bytes.fromhex(section))
    with pytest.raises(DecodeError, match=f"the record at offset [12]: .*{reason}"):
        merge_batches([one, broken, three], 1, 0, 0, LARGE)


def test_timestamps_beyond_64_bits() -> None:
    one, two = singles(b"a", b"b")
    latest, earliest = (1 << 63) - 1, -(1 << 63)
    with pytest.raises(DecodeError, match="beyond 64 bits"):
        merge_batches(
            [with_header(one, ">q", 27, latest), with_header(two, ">q", 27, earliest)], 1, 0, 0, LARGE
        )
    shifted = with_header(with_section(one, bytes.fromhex("0c000200010100")), ">q", 27, latest)
    with pytest.raises(DecodeError, match="beyond 64 bits"):
        merge_batches([shifted, two], 1, 0, 0, LARGE)


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.LZ4])
def test_truncated_anywhere(codec: Codec) -> None:
    batches = captured("java-none")
    for index, batch in enumerate(batches):
        for length in range(len(batch.records)):
            queue = list(batches)
            queue[index] = with_section(batch, bytes(batch.records[:length]), codec)
            with pytest.raises(DecodeError):
                merge_batches(queue, 1, 0, 0, LARGE)


@given(st.sampled_from(PRODUCED), st.integers(0, 2), st.data())
def test_mutated_batches(name: str, index: int, data: st.DataObject) -> None:
    queue = captured(name)
    mutated = bytearray(queue[index].raw)
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(17, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    with suppress(DecodeError):
        queue[index] = next(read_batches(mutated))
        merge_batches(queue, 1, 0, 0, LARGE)


@given(queues(), st.data())
def test_mutated_records(queue: tuple[list[Record], list[BatchView]], data: st.DataObject) -> None:
    _, batches = queue
    index = data.draw(st.integers(0, len(batches) - 1))
    section = bytearray(batches[index].records)
    for _ in range(data.draw(st.integers(1, 3))):
        section[data.draw(st.integers(0, len(section) - 1))] = data.draw(st.integers(0, 255))
    batches[index] = with_section(batches[index], bytes(section))
    with suppress(DecodeError):
        merge_batches(batches, 1, 0, 0, LARGE)


def test_merge_limit() -> None:
    small, smaller = singles(b"v" * 1000, b"v" * 500)
    large = singles(bytes(SMALL_BATCH_BYTES))[0]
    just_small = singles(bytes(SMALL_BATCH_BYTES - 73))[0]
    assert (just_small.size_bytes, large.size_bytes > SMALL_BATCH_BYTES) == (SMALL_BATCH_BYTES, True)
    assert merge_limit([], LARGE) == 0
    assert merge_limit([small], 10) == 1
    assert merge_limit([large, small], LARGE) == 1
    assert merge_limit([small, large, small], LARGE) == 1
    assert merge_limit([small, smaller, large], LARGE) == 2
    assert merge_limit(deque([small, smaller, just_small]), LARGE) == 3
    total = small.size_bytes + smaller.size_bytes
    assert [merge_limit([small, smaller], limit) for limit in (total, total - 1)] == [2, 1]


def filler(offset: int, count: int = 1) -> FillerRun:
    return FillerRun(offset, count, 1_000, bytes(range(16)))


def test_fillers_are_merged_uncompressed() -> None:
    (first,) = singles(b"a" * 900, codec=Codec.ZSTD)
    merged, used = merge_batches([first, filler(1), filler(2, 3)], 7, 0, 0, LARGE)
    (batch,) = read_batches(merged)
    assert (used, batch.codec, batch.count) == (3, Codec.NONE, 5)
    assert [r.value for r in iterate_records(batch)] == [b"a" * 900, None, None, None, None]


def test_large_compressed_batches_are_not_mixed_with_fillers_without_a_backlog() -> None:
    (data,) = singles(random.Random(1).randbytes(6_000), codec=Codec.ZSTD)
    (plain,) = singles(bytes(6_000))
    assert merge_limit([data, filler(1)], LARGE) == 1
    assert merge_limit([filler(0), data], LARGE) == 1
    assert merge_limit([plain, filler(1)], LARGE) == 2
    assert merge_limit([data, *[filler(1 + i) for i in range(40)]], LARGE) == 41
