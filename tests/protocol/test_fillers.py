"""Filler batches: what is in them, how runs are split, how compressed ones are known."""

import hashlib

import pytest

from protocol.codecs import Codec
from protocol.fillers import (
    FILLER_KEY_BYTES,
    FIXED_COUNTS,
    FillerFormat,
    encode_filler_batch,
)
from protocol.record_batches import BatchView, read_batches
from protocol.records import Record, iterate_records

KEY = bytes(range(0xA0, 0xB0))
OTHER_KEY = bytes(range(0xC0, 0xD0))
FORMAT = FillerFormat(KEY)


def only(data: bytes | bytearray | memoryview) -> BatchView:
    (batch,) = read_batches(data)
    return batch


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


@pytest.mark.parametrize("count", [-1, 0, 10_001, 99_999, 100_001])
def test_counts_that_no_batch_has(count: int) -> None:
    with pytest.raises(ValueError, match=f"a batch of {count} fillers"):
        encoded(count)


@pytest.mark.parametrize("count", [100_000])
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
    assert pieces(20_007, fixed=False) == [10_000, 10_000, 7]


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


def test_the_key_has_16_bytes() -> None:
    assert len(KEY) == FILLER_KEY_BYTES
