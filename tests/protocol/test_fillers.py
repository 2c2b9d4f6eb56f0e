"""The barrier and what clients see of it; look-alikes stay."""

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codecs import Codec
from protocol.fillers import (
    FILLER_KEY_BYTES,
    FIXED_COUNTS,
    FillerFormat,
    encode_filler_batch,
    present,
)
from protocol.record_batches import BatchView, encode_batch, read_batches, seal
from protocol.records import Record, build_batch, iterate_records
from protocol.varints import encode_varint

KEY = bytes(range(0xA0, 0xB0))
OTHER_KEY = bytes(range(0xC0, 0xD0))
FORMAT = FillerFormat(KEY)
BARRIER = encode_filler_batch(KEY, 1, 1_700_000_000_000, 12, 1, 0)


def only(data: bytes | bytearray | memoryview) -> BatchView:
    (batch,) = read_batches(data)
    return batch


def presented(
    batch: bytes, keys: tuple[bytes, ...] = (KEY,), before: bytes = b"", after: bytes = b""
) -> bytes:
    """What becomes of a batch in a frame."""
    frame = bytearray(before + batch + after)
    present(frame, keys)
    assert frame.startswith(before)
    assert frame.endswith(after)
    return bytes(frame[len(before) : len(before) + len(batch)])


def with_horizon(timestamp_delta: int) -> bytes:
    """A barrier as the cleaner of a compacted topic leaves it."""
    body = b"\0" + encode_varint(timestamp_delta) + b"\0\x20" + KEY + b"\x01\0"
    batch = encode_batch(
        encode_varint(len(body)) + body,
        1,
        attributes=0x40,
        base_timestamp=1_700_000_000_000,
        max_timestamp=1_700_000_000_000,
        producer_id=12,
        producer_epoch=1,
        base_sequence=0,
        base_offset=1234,
        partition_leader_epoch=3,
    )
    return bytes(batch)


def test_a_batch_of_fillers() -> None:
    for count in (1, 2, 1000):
        batch = only(encode_filler_batch(KEY, count, 1_700_000_000_000, 12, 1, 5))
        assert batch.verify_crc()
        assert (batch.attributes, batch.count, batch.next_offset) == (0, count, count)
        assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (12, 1, 5)
        assert list(iterate_records(batch)) == [
            Record(offset, 1_700_000_000_000, KEY, None) for offset in range(count)
        ]


@pytest.mark.parametrize("key", [b"", KEY[1:], KEY + b"?"])
def test_keys_that_are_none(key: bytes) -> None:
    with pytest.raises(ValueError, match="a filler key of"):
        encode_filler_batch(key, 1, 0, 1, 1, 0)


@pytest.mark.parametrize("count", [-1, 0, 1001, 9_999, 100_001])
def test_counts_that_no_batch_has(count: int) -> None:
    with pytest.raises(ValueError, match=f"a batch of {count} fillers"):
        encoded(count)


@pytest.mark.parametrize("count", [10_000, 100_000])
def test_counts_that_only_compressed_batches_have(count: int) -> None:
    with pytest.raises(ValueError, match=f"a batch of {count} fillers"):
        encoded(count, fixed=False)


def encoded(count: int, **options: bool) -> bytearray:
    return FORMAT.encode(
        count, timestamp_ms=5, producer_id=12, producer_epoch=0, base_sequence=2**31 - 2, **options
    )


@pytest.mark.parametrize("count", [1, 63, 64, 65, 999, *FIXED_COUNTS])
def test_a_batch_of_every_kind(count: int) -> None:
    batch = only(encoded(count))
    assert batch.verify_crc()
    assert batch.codec == (Codec.ZSTD if count in FIXED_COUNTS else Codec.NONE)
    assert (batch.base_offset, batch.count, batch.next_offset) == (0, count, count)
    assert (batch.base_timestamp, batch.max_timestamp) == (5, 5)
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (12, 0, 2**31 - 2)
    assert [*iterate_records(batch)] == [Record(offset, 5, KEY, None) for offset in range(count)]


def test_payloads_are_those_of_the_batches() -> None:
    payloads = FORMAT.payloads()
    assert tuple(payload.count for payload in payloads) == FIXED_COUNTS
    for payload in payloads:
        records = only(encoded(payload.count)).records
        assert (payload.size_bytes, payload.sha256) == (len(records), hashlib.sha256(records).digest())
    assert FillerFormat(KEY).payloads() == payloads
    assert {payload.sha256 for payload in FillerFormat(OTHER_KEY).payloads()}.isdisjoint(
        payload.sha256 for payload in payloads
    )
    # Far below the 1 MB that a topic takes by default.
    assert max(payload.size_bytes for payload in payloads) < 120_000


def pieces(length: int, *, max_bytes: int = 1 << 20, fixed: bool = True) -> list[int]:
    """The batches of a run."""
    made = []
    while length:
        made.append(FORMAT.next_count(length, max_bytes=max_bytes, fixed=fixed))
        length -= made[-1]
    return made


def test_a_run_is_split() -> None:
    assert pieces(1) == [1]
    assert pieces(999) == [999]
    assert pieces(1000) == [1000]
    assert pieces(2_212_007) == [100_000] * 22 + [10_000, 1000, 1000, 7]
    assert pieces(2007, fixed=False) == [1000, 1000, 7]


def test_a_run_is_split_to_what_a_topic_takes() -> None:
    sizes = {payload.count: 61 + payload.size_bytes for payload in FORMAT.payloads()}
    assert pieces(110_000, max_bytes=sizes[100_000]) == [100_000, 10_000]
    assert pieces(110_000, max_bytes=sizes[100_000] - 1) == [10_000] * 11
    assert pieces(100_000, max_bytes=sizes[10_000] - 1) == [1000] * 100
    for max_bytes in (sizes[1000] - 1, 100, 84):
        counts = pieces(1000, max_bytes=max_bytes)
        assert max(len(encoded(count, fixed=False)) for count in counts) <= max_bytes
    # Less than one filler takes is for the broker to refuse.
    assert pieces(2, max_bytes=1) == [1, 1]


def test_a_barrier_is_presented_as_a_control_batch() -> None:
    stored = bytearray(BARRIER)
    struct.pack_into(">q", stored, 0, 1234)
    before, batch = only(stored), only(presented(bytes(stored)))
    assert batch.is_control
    assert batch.verify_crc()
    assert (batch.base_offset, batch.next_offset, batch.count) == (1234, 1235, 1)
    assert (batch.partition_leader_epoch, batch.producer_id) == (before.partition_leader_epoch, 12)
    assert list(iterate_records(batch)) == [Record(1234, 1_700_000_000_000, b"\0\0\0\2", bytes(12))]


def test_every_barrier_in_a_frame() -> None:
    data = build_batch([Record(1, 5, b"k", b"v")])
    other = encode_filler_batch(OTHER_KEY, 1, 1, 1, 1, 0)
    frame = bytearray(b"head" + BARRIER + data + BARRIER + other + data + BARRIER)
    assert present(frame, (KEY, OTHER_KEY)) == 4
    batches = list(read_batches(frame[4:]))
    assert [batch.is_control for batch in batches] == [True, False, True, True, False, True]
    assert all(batch.verify_crc() for batch in batches)
    assert present(frame, (KEY, OTHER_KEY)) == 0


def test_in_a_memoryview() -> None:
    frame = bytearray(b"head" + BARRIER)
    assert present(memoryview(frame)[4:], [KEY]) == 1
    assert frame == b"head" + presented(BARRIER)


def test_nothing_to_present() -> None:
    frame = bytearray(BARRIER)
    assert present(frame, ()) == 0
    assert present(frame, [OTHER_KEY]) == 0
    assert present(bytearray(), [KEY]) == 0
    assert frame == BARRIER


@pytest.mark.parametrize("timestamp_delta", [0, 63, 64, -1, -86_400_000, 1 << 40, (1 << 63) - 1, -(1 << 63)])
def test_a_barrier_with_a_delete_horizon(timestamp_delta: int) -> None:
    stored = with_horizon(timestamp_delta)
    batch = only(presented(stored, before=bytes(100), after=bytes(100)))
    assert batch.attributes == 0x60
    assert batch.verify_crc()
    (record,) = iterate_records(batch)
    assert (record.offset, record.key, record.value) == (1234, b"\0\0\0\2", bytes(12))


def one_filler(**changed: int) -> bytes:
    """A barrier with something else in its header."""
    fields = {"attributes": 0, "base_timestamp": 0, "max_timestamp": 0, "producer_id": 12} | changed
    return bytes(
        encode_batch(BARRIER[61:], fields.pop("count", 1), producer_epoch=1, base_sequence=0, **fields)
    )


def resealed(position: int, value: int) -> bytes:
    """The barrier with another byte, and the CRC that goes with it."""
    batch = bytearray(BARRIER)
    batch[position] = value
    seal(batch)
    return bytes(batch)


@pytest.mark.parametrize(
    "look_alike",
    [
        pytest.param(build_batch([Record(0, 0, KEY, b"")]), id="value"),
        pytest.param(build_batch([Record(0, 0, KEY, None, (("h", None),))]), id="header"),
        pytest.param(build_batch([Record(0, 0, KEY + b"?", None)]), id="longer key"),
        pytest.param(build_batch([Record(0, 0, b"?" + KEY, None)]), id="key behind"),
        pytest.param(build_batch([Record(0, 0, b"k", KEY)]), id="as value"),
        pytest.param(build_batch([Record(0, 0, KEY, None), Record(1, 0, b"k", b"v")]), id="with another"),
        pytest.param(build_batch([Record(0, 0, b"k", b"v"), Record(1, 0, KEY, None)]), id="behind another"),
        pytest.param(build_batch([Record(0, 0, KEY, None), Record(1, 0, KEY, None)]), id="two"),
        pytest.param(build_batch([Record(0, 0, KEY, None)], control=True), id="control"),
        pytest.param(build_batch([Record(0, 0, KEY, None)], transactional=True), id="transactional"),
        pytest.param(build_batch([Record(0, 0, KEY, None)], log_append_time=True), id="log append time"),
        pytest.param(one_filler(attributes=Codec.GZIP), id="claims to be compressed"),
        pytest.param(one_filler(count=2, last_offset_delta=0), id="claims two records"),
        pytest.param(one_filler(last_offset_delta=1), id="claims two offsets"),
        pytest.param(bytes(encode_filler_batch(KEY, 2, 0, 1, 1, 0)), id="two fillers"),
        pytest.param(resealed(16, 1), id="magic"),
        pytest.param(resealed(11, 71), id="batch length"),
        pytest.param(resealed(61, 0x2E), id="record length"),
        pytest.param(resealed(62, 1), id="record attributes"),
        pytest.param(resealed(63, 0x80), id="timestamp delta"),
        pytest.param(resealed(64, 2), id="offset delta"),
        pytest.param(resealed(65, 0x1E), id="key length"),
        pytest.param(BARRIER[:30] + b"?" + BARRIER[31:], id="crc"),
    ],
)
def test_look_alikes_stay(look_alike: bytes) -> None:
    for around in (b"", bytes(100)):
        assert presented(look_alike, before=around, after=around) == look_alike


def test_a_barrier_that_is_cut() -> None:
    for length in range(1, len(BARRIER)):
        assert presented(BARRIER[:length]) == BARRIER[:length]
        assert presented(BARRIER[-length:]) == BARRIER[-length:]
    assert presented(with_horizon(-86_400_000)[:-1]) == with_horizon(-86_400_000)[:-1]


def test_a_barrier_with_another_bit() -> None:
    not_in_the_crc = {*range(8), *range(12, 16)}  # the base offset and the leader epoch, which brokers write
    for position in range(len(BARRIER)):
        changed = bytearray(BARRIER)
        changed[position] ^= 1
        assert present(changed, [KEY]) == (position in not_in_the_crc)


@given(st.lists(st.sampled_from([BARRIER, KEY, BARRIER[:70], BARRIER[40:], b"\x02", bytes(20)]), max_size=6))
def test_only_barriers_change(parts: list[bytes]) -> None:
    frame = bytearray(b"".join(parts))
    expected = bytes(frame).replace(BARRIER, presented(BARRIER))
    assert present(frame, [KEY]) == bytes(frame).count(presented(BARRIER))
    assert frame == expected


def test_the_key_has_16_bytes() -> None:
    assert len(KEY) == FILLER_KEY_BYTES
