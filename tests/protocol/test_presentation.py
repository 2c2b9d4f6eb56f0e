"""Every shape of fillers, look-alikes, and what cleaners, brokers and broken disks make of them."""

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codecs import Codec, compress
from protocol.fillers import FIXED_COUNTS, MOST_PLAIN, FillerFormat, FixedPayload, filler_tail
from protocol.presentation import Edit, KnownFillers, Region, present, splice
from protocol.record_batches import BatchView, encode_batch, read_batches
from protocol.records import Record, build_batch, iterate_records
from protocol.varints import encode_varint
from tests.protocol.test_records import only, record_lists

KEY = bytes(range(0xA0, 0xB0))
OTHER_KEY = bytes(range(0xC0, 0xD0))
FORMAT = FillerFormat(KEY)
KNOWN = KnownFillers(KEY, FORMAT.payloads())
EVERYWHERE = Region(0, None, KNOWN)
T = 1_700_000_000_000


def at(offset: int, batch: bytes | bytearray, leader_epoch: int = 3) -> bytes:
    """The batch as its leader stores it."""
    return struct.pack(">q", offset) + batch[8:12] + struct.pack(">i", leader_epoch) + batch[16:]


def fillers(offset: int, count: int, timestamp: int = T, *, fixed: bool = True) -> bytes:
    batch = FORMAT.encode(
        count, timestamp_ms=timestamp, producer_id=12, producer_epoch=0, base_sequence=0, fixed=fixed
    )
    return at(offset, batch)


def data(offset: int, count: int = 1, codec: Codec = Codec.NONE) -> bytes:
    return build_batch([Record(offset + i, T + i, b"k", b"v" * 50) for i in range(count)], codec=codec)


def mixed(offset: int, records: list[Record], stop: int) -> bytes:
    """A batch of data and fillers."""
    by_offset = {record.offset: record for record in records}
    whole = [by_offset.get(each, Record(each, T, KEY, None)) for each in range(offset, stop)]
    return build_batch(whole, producer_id=12, producer_epoch=0, base_sequence=0, partition_leader_epoch=3)


def shown(stored: bytes, *regions: Region) -> bytes:
    """What is seen of records that lie in the middle of a frame."""
    frame = bytearray(b"head" + stored + b"tail")
    edits = present(frame, 4, 4 + len(stored), regions or (EVERYWHERE,))
    assert edits == sorted(edits, key=lambda edit: edit.start)
    made = splice(frame, edits)
    assert made.startswith(b"head")
    assert made.endswith(b"tail")
    return bytes(made[4:-4])


def assert_control(batch: BatchView, stored: bytes, timestamp: int = T) -> None:
    before = only(stored)
    assert batch.attributes == 0x20
    assert batch.verify_crc()
    assert (batch.base_offset, batch.next_offset) == (before.base_offset, before.next_offset)
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (-1, -1, -1)
    assert batch.partition_leader_epoch == before.partition_leader_epoch
    assert batch.count == 1
    assert [*iterate_records(batch)] == [Record(batch.next_offset - 1, timestamp, b"\0\0\0\2", None)]


@pytest.mark.parametrize("count", [1, 3, 63, 64, 65, 999, *FIXED_COUNTS])
def test_a_batch_of_fillers(count: int) -> None:
    stored = fillers(1234, count)
    assert_control(only(shown(stored)), stored)


@pytest.mark.parametrize("count", [1, MOST_PLAIN])
def test_a_plain_batch_of_fillers(count: int) -> None:
    stored = fillers(1234, count, fixed=False)
    assert_control(only(shown(stored)), stored)


def test_fillers_of_several_timestamps() -> None:
    stored = build_batch([Record(5, T, KEY, None), Record(6, T - 400, KEY, None)])
    assert_control(only(shown(stored)), stored)


def test_more_plain_fillers_than_a_link_writes() -> None:
    stored = build_batch([Record(i, T, KEY, None) for i in range(MOST_PLAIN + 1)])
    assert_control(only(shown(stored)), stored)


def test_every_batch_among_others() -> None:
    parts = [
        data(0, 3), fillers(3, 1), fillers(4, 3), data(7), fillers(8, 1000), data(1008, 2, Codec.ZSTD),
        fillers(1010, 10_000), fillers(11010, 7), data(11017),
    ]  # fmt: skip
    batches = list(read_batches(shown(b"".join(parts))))
    assert len(batches) == len(parts)
    for batch, stored in zip(batches, parts, strict=True):
        if only(stored).producer_id == 12:
            assert_control(batch, stored)
        else:
            assert batch.raw == stored


def test_fillers_are_cut_out_of_mixed_batches() -> None:
    records = [
        Record(10, T + 5, b"a", b"1", (("h", b"v"),)),
        Record(13, T + 3, None, b"x" * 9000),
        Record(14, T + 3, b"b", None),
        Record(16, T + 9, KEY + b"?", KEY),
    ]
    for start, stop in ((8, 20), (10, 17), (10, 18), (9, 17)):
        stored = mixed(start, records, stop)
        batch = only(shown(stored))
        assert batch.verify_crc()
        assert [*iterate_records(batch)] == records
        before = only(stored)
        assert (batch.base_offset, batch.next_offset) == (start, stop)
        assert batch.raw[12:17] == before.raw[12:17]
        assert batch.raw[21:57] == before.raw[21:57]


@given(record_lists(), st.lists(st.integers(0, 30), min_size=1, max_size=12))
def test_mixed_batches(records: list[Record], holes: list[int]) -> None:
    start = offset = records[0].offset
    placed = []
    for record, hole in zip(records, holes, strict=False):
        offset += hole
        placed.append(record._replace(offset=offset))
        offset += 1
    stored = mixed(start, placed, offset)
    assert [*iterate_records(only(shown(stored)))] == placed


# --- what the destination's cleaner makes of them ----------------------------------------------------


def cleaned(
    records: list[Record], base_offset: int, last_offset: int, horizon: int | None = None
) -> bytearray:
    """A batch of which only these records are left, with or without a delete horizon (KIP-534)."""
    base = T if horizon is None else horizon
    section = b""
    for record in records:
        key = b"\x01" if record.key is None else encode_varint(len(record.key)) + record.key
        value = b"\x01" if record.value is None else encode_varint(len(record.value)) + record.value
        body = b"\0" + encode_varint(record.timestamp - base) + encode_varint(record.offset - base_offset)
        section += encode_varint(len(body + key + value) + 1) + body + key + value + b"\0"
    return encode_batch(
        section,
        len(records),
        attributes=0 if horizon is None else 0x40,
        base_timestamp=base if records else -1,
        max_timestamp=max((record.timestamp for record in records), default=T),
        producer_id=12,
        producer_epoch=0,
        base_sequence=0,
        base_offset=base_offset,
        last_offset_delta=last_offset - base_offset,
        partition_leader_epoch=3,
    )


@pytest.mark.parametrize("horizon", [None, T + 1, T + 63, T + 64, T - 64, T + 86_400_000, T + (1 << 40), -1])
def test_a_cleaned_batch_of_fillers(horizon: int | None) -> None:
    stored = cleaned([Record(700, T, KEY, None)], 5, 900, horizon)
    assert_control(only(shown(bytes(stored))), bytes(stored))


@pytest.mark.parametrize("horizon", [None, T + 86_400_000])
def test_a_cleaned_mixed_batch(horizon: int | None) -> None:
    rest = [Record(7, T, b"k", None), Record(12, T + 1, b"l", b"v")]
    stored = cleaned([rest[0], Record(9, T, KEY, None), rest[1]], 5, 20, horizon)
    batch = only(shown(bytes(stored)))
    assert batch.verify_crc()
    assert [*iterate_records(batch)] == rest
    assert batch.attributes == only(stored).attributes
    assert (batch.base_offset, batch.next_offset) == (5, 21)


@pytest.mark.parametrize("attributes", [0, Codec.ZSTD, 0x10, 0x20, 0x30, 0x40])
def test_an_emptied_batch(attributes: int) -> None:
    stored = encode_batch(
        b"", 0, attributes=attributes, base_timestamp=-1, max_timestamp=T, producer_id=12,
        producer_epoch=0, base_sequence=0, base_offset=5, last_offset_delta=7, partition_leader_epoch=3,
    )  # fmt: skip
    assert_control(only(shown(bytes(stored))), bytes(stored))


@pytest.mark.parametrize("count", FIXED_COUNTS)
@pytest.mark.parametrize("delta", [0, 86_400_000])
def test_what_is_left_of_a_compressed_batch(count: int, delta: int) -> None:
    body = b"\0" + encode_varint(-delta) + encode_varint(count - 1) + filler_tail(KEY)
    stored = encode_batch(
        compress(Codec.ZSTD, encode_varint(len(body)) + body), 1, attributes=Codec.ZSTD | 0x40 * (delta > 0),
        base_timestamp=T + delta, max_timestamp=T, producer_id=12, producer_epoch=0, base_sequence=0,
        base_offset=5, last_offset_delta=count - 1, partition_leader_epoch=3,
    )  # fmt: skip
    assert_control(only(shown(bytes(stored))), bytes(stored))


# --- look-alikes -------------------------------------------------------------------------------------


def compressed(records: bytes, count: int = 1, last_offset_delta: int = 999) -> bytes:
    return bytes(
        encode_batch(
            records, count, attributes=Codec.ZSTD, base_timestamp=T, max_timestamp=T, producer_id=1,
            producer_epoch=0, base_sequence=0, last_offset_delta=last_offset_delta,
        )
    )  # fmt: skip


FIXED_1000 = bytes(only(fillers(0, 1000)).records)


@pytest.mark.parametrize(
    "look_alike",
    [
        pytest.param(build_batch([Record(0, T, KEY, b"")]), id="value"),
        pytest.param(build_batch([Record(0, T, KEY, None, (("h", None),))]), id="header"),
        pytest.param(build_batch([Record(0, T, KEY + b"?", None)]), id="longer key"),
        pytest.param(build_batch([Record(0, T, b"?" + KEY, None)]), id="key behind"),
        pytest.param(build_batch([Record(0, T, b"k", KEY)]), id="as value"),
        pytest.param(build_batch([Record(0, T, b"k", filler_tail(KEY))]), id="whole tail as value"),
        pytest.param(build_batch([Record(0, T, OTHER_KEY, None)]), id="another key"),
        pytest.param(build_batch([Record(0, T, KEY, None)], control=True), id="control"),
        pytest.param(build_batch([Record(0, T, KEY, None)], codec=Codec.ZSTD), id="compressed"),
        pytest.param(build_batch([Record(0, T, KEY, None)], codec=Codec.GZIP), id="compressed otherwise"),
        pytest.param(compressed(FIXED_1000[:-1], 1000), id="a byte less"),
        pytest.param(compressed(FIXED_1000[:-1] + b"?", 1000), id="another byte"),
        pytest.param(compressed(FIXED_1000, 999), id="another count"),
        pytest.param(compressed(b"?" * 20), id="no zstd"),
        pytest.param(compressed(compress(Codec.ZSTD, bytes(200))), id="more than a filler"),
        pytest.param(compressed(b"?" * 97), id="too large"),
        pytest.param(
            bytes(FillerFormat(OTHER_KEY).encode(
                1000, timestamp_ms=T, producer_id=1, producer_epoch=0, base_sequence=0
            )),
            id="of another link",
        ),
    ],
)  # fmt: skip
def test_look_alikes_stay(look_alike: bytes) -> None:
    assert shown(look_alike) == look_alike
    between = fillers(0, 1) + look_alike + fillers(0, 1)
    control = shown(fillers(0, 1))
    assert shown(between) == control + look_alike + control


def plain(section: bytes, count: int = 1) -> bytes:
    return bytes(
        encode_batch(
            section, count, attributes=0, base_timestamp=T, max_timestamp=T, producer_id=1,
            producer_epoch=0, base_sequence=0,
        )
    )  # fmt: skip


FILLER = bytes(FORMAT.plain_records(1))


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(plain(FILLER, 2), id="claims two records"),
        pytest.param(plain(FILLER + b"?"), id="a byte too many"),
        pytest.param(plain(FILLER[:-1]), id="a byte too few"),
        pytest.param(plain(b"\xff\xff\xff\xff\xff" + FILLER[1:]), id="length of six bytes"),
        pytest.param(plain(b"\x01" + FILLER[1:]), id="negative length"),
        pytest.param(plain(encode_varint(len(FILLER) - 1) + b"\x01" + FILLER[2:]), id="attributes"),
        pytest.param(plain(encode_varint(30) + b"\0" + b"\xff" * 10 + FILLER[3:]), id="timestamp delta"),
        pytest.param(plain(encode_varint(19) + filler_tail(KEY)), id="no deltas"),
        pytest.param(plain(encode_varint(10) + bytes(10) + FILLER[:-3]), id="key of a record that is cut"),
        pytest.param(fillers(5, 1)[:-1] + b"?", id="plain CRC"),
        pytest.param(fillers(5, 1)[:30] + b"?" + fillers(5, 1)[31:], id="plain header CRC"),
        pytest.param(fillers(5, 1000)[:30] + b"?" + fillers(5, 1000)[31:], id="compressed header CRC"),
        pytest.param(
            mixed(0, [Record(1, T, b"k", b"v")], 2)[:-1] + b"?", id="CRC of a mixed one"
        ),
        pytest.param(fillers(5, 1)[:16] + b"\x01" + fillers(5, 1)[17:], id="magic"),
        pytest.param(fillers(5, 1)[:8] + struct.pack(">i", 48) + fillers(5, 1)[12:], id="too short"),
        pytest.param(fillers(5, 1)[:8] + struct.pack(">i", -9) + fillers(5, 1)[12:], id="negative size"),
        pytest.param(fillers(5, 1)[:8] + struct.pack(">i", 73) + fillers(5, 1)[12:], id="too long"),
        pytest.param(fillers(5, 1)[:23] + b"\xff" + fillers(5, 1)[24:], id="negative delta"),
        pytest.param(fillers(5, 1)[:57] + b"\xff" + fillers(5, 1)[58:], id="negative count"),
        pytest.param(fillers(5, 1000)[:57] + b"\xff" + fillers(5, 1000)[58:], id="negative compressed count"),
    ],
)  # fmt: skip
def test_what_is_broken_stays(broken: bytes) -> None:
    assert shown(broken) == broken


def test_a_mixed_batch_with_a_wrong_crc_stays() -> None:
    stored = bytearray(mixed(0, [Record(1, T, b"k", b"v" * 20)], 2))
    stored[-10] ^= 1
    assert shown(bytes(stored)) == stored


def test_what_a_broker_cut_off_stays() -> None:
    whole, control = fillers(3, 3), shown(fillers(3, 3))
    for length in range(1, len(whole)):
        assert shown(whole + whole[:length]) == control + whole[:length]


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes(before: bytes, after: bytes) -> None:
    shown(before + fillers(3, 3) + after)
    assert shown(fillers(3, 3) + data(6) + after).startswith(shown(fillers(3, 3)) + data(6))


@pytest.mark.parametrize("stored", [fillers(3, 3), fillers(3, 1000), mixed(3, [Record(4, T, b"k", b"v")], 7)])
def test_any_bit(stored: bytes) -> None:
    for bit in range(min(len(stored), 200) * 8):
        changed = bytearray(stored)
        changed[bit // 8] ^= 1 << bit % 8
        # Base offset and leader epoch are not in the CRC; negative offsets are in no region.
        not_covered = bit // 8 < 8 or 12 <= bit // 8 < 16
        assert (shown(bytes(changed)) != changed) == (not_covered and bit != 7)


# --- regions -----------------------------------------------------------------------------------------


def test_only_in_the_region() -> None:
    parts = [fillers(offset, 2) for offset in (0, 2, 4, 6)]
    found = [*read_batches(shown(b"".join(parts), Region(2, 6, KNOWN)))]
    assert [batch.is_control for batch in found] == [False, True, True, False]


def test_several_regions() -> None:
    other = KnownFillers(OTHER_KEY)
    parts = [build_batch([Record(i, T, key, None)]) for i, key in enumerate((KEY, OTHER_KEY) * 3)]
    found = shown(b"".join(parts), Region(0, 2, KNOWN), Region(3, 5, other), Region(5, None, other))
    assert [b.is_control for b in read_batches(found)] == [True, False, False, True, False, True]


def test_no_region() -> None:
    frame = bytearray(fillers(0, 1))
    assert present(frame, 0, len(frame), ()) == []


def test_without_payloads() -> None:
    stored = fillers(0, 1000)
    assert shown(stored, Region(0, None, KnownFillers(KEY))) == stored


def test_payloads_of_several_generations() -> None:
    # The same with a skippable frame behind it.
    older = FIXED_1000 + b"\x50\x2a\x4d\x18\0\0\0\0"
    known = KnownFillers(
        KEY, [*FORMAT.payloads(), FixedPayload(1000, len(older), hashlib.sha256(older).digest())]
    )
    for payload in (older, FIXED_1000):
        assert only(shown(compressed(payload, 1000), Region(0, None, known))).is_control
    assert shown(compressed(older, 1000)) == compressed(older, 1000)


# --- the type of timestamps --------------------------------------------------------------------------

STAMPED = Region(0, None, KNOWN, log_append_time=True)


def test_log_append_time_is_shown() -> None:
    plain_batch, gzip = data(0), data(1, codec=Codec.GZIP)
    stored = plain_batch + gzip + fillers(2, 2) + mixed(4, [Record(5, T, b"k", b"v")], 7)
    batches = [*read_batches(shown(stored, STAMPED))]
    assert [batch.attributes for batch in batches] == [0x08, 0x08 | Codec.GZIP, 0x20, 0x08]
    assert all(batch.verify_crc() for batch in batches)
    assert [record.offset for record in iterate_records(batches[3])] == [5]
    assert [batch.raw[23:] for batch in batches[:2]] == [plain_batch[23:], gzip[23:]]


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(data(0, 2), id="two timestamps"),
        pytest.param(build_batch([Record(0, T, b"k", b"v")], log_append_time=True), id="has it"),
        pytest.param(build_batch([Record(0, T, b"k", b"v")], control=True), id="control"),
        pytest.param(bytes(cleaned([Record(5, T, b"k", b"v")], 5, 5, T)), id="delete horizon"),
        pytest.param(data(0)[:-1] + b"?", id="CRC"),
    ],
)
def test_log_append_time_is_not_shown(stored: bytes) -> None:
    assert shown(stored, STAMPED) == stored


def test_an_edit_has_no_bytes_of_its_own() -> None:
    assert splice(bytearray(b"abcdef"), [Edit(0, 0, b"x"), Edit(1, 3, b""), Edit(6, 6, b"y")]) == b"xadefy"
