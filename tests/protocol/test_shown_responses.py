"""Every version of every response that tells about a mirror's log; nothing else in it changes."""

import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from protocol.api_keys import ApiKey
from protocol.errors import DecodeError, UnsupportedVersion
from protocol.headers import encode_response_header, response_body_offset
from protocol.messages import decode_response, encode_response, response_class
from protocol.presentation import KnownFillers, Region
from protocol.record_batches import read_batches
from protocol.shown_responses import SHOWN_VERSIONS, ShownPartition, ShownTopic, present_response
from tests.e2e.raw_client import fill
from tests.protocol.schema_bytes import build
from tests.protocol.test_presentation import KEY, KNOWN, data, fillers

MIRROR, OTHER = UUID(int=1), UUID(int=2)
NAMES = {MIRROR: "mirror", OTHER: "other"}
REGION = Region(0, None, KNOWN)
EVERY = [(key, version) for key, versions in SHOWN_VERSIONS.items() for version in versions]
FETCHES = [(key, version) for key, version in EVERY if key in (ApiKey.FETCH, ApiKey.SHARE_FETCH)]
OFFSETS = [(key, version) for key, version in EVERY if (key, version) not in FETCHES]


def each(versions: Sequence[tuple[int, int]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("key", "version"), versions, ids=[f"{ApiKey(k).name}-v{v}" for k, v in versions]
    )


def with_header(key: int, version: int, body: bytes) -> bytearray:
    return bytearray(encode_response_header(key, version, 7) + body)


def decoded(key: int, version: int, frame: bytearray) -> Any:
    return decode_response(key, version, memoryview(frame)[response_body_offset(key, version, frame) :])


def shown_as(**partition: Any) -> Any:
    """What is known of the mirror's partition 1; of partition 0 and of the other topic nothing is."""
    of_mirror = {0: ShownPartition(), 1: ShownPartition(**partition)}.__getitem__
    topics: dict[str | UUID, ShownTopic] = {MIRROR: of_mirror, NAMES[MIRROR]: of_mirror}
    return topics.get


def fetched(key: int, version: int, records: dict[UUID, list[bytes]], **more: Any) -> bytearray:
    """A response with the records of every partition, and other fields of all of them."""
    by_id = key == ApiKey.SHARE_FETCH or version >= 13
    fields: dict[str, Any] = {"error_code": ErrorCode.none} | more
    if key == ApiKey.FETCH:
        fields = {"high_watermark": 500, "last_stable_offset": 400} | fields
        fields |= {"log_start_offset": fields.get("log_start_offset", 3)} if version >= 5 else {}
        if version < 5:
            fields.pop("log_start_offset", None)
        fields["aborted_transactions"] = [{"producer_id": 5, "first_offset": 6}]
        fields |= {"preferred_read_replica": 3} if version >= 11 else {}
    else:
        fields |= {"error_message": "x", "acknowledge_error_message": None}
        fields |= {"current_leader": {"leader_id": 1, "leader_epoch": 2}}
        fields["acquired_records"] = [{"first_offset": 1, "last_offset": 2, "delivery_count": 3}]
    topics = [
        {
            **({"topic_id": topic} if by_id else {"topic": NAMES[topic]}),
            "partitions": [
                {"partition_index": index, "records": each, **fields} for index, each in enumerate(all_of)
            ],
        }
        for topic, all_of in records.items()
    ]
    top: dict[str, Any] = {"throttle_time": timedelta(milliseconds=5), "responses": topics}
    top |= {"error_code": ErrorCode.none} if key == ApiKey.SHARE_FETCH or version >= 7 else {}
    if key == ApiKey.SHARE_FETCH:
        top |= {"acquisition_lock_timeout": timedelta(seconds=1), "error_message": None}
    return with_header(key, version, encode_response(fill(response_class(key, version), top)))


STORED = fillers(10, 1) + data(11, 2) + fillers(13, 10_000) + fillers(10_013, 3)
KINDS = [True, False, True, True]


@each(FETCHES)
def test_fillers_of_the_mirrors_partition_only(key: int, version: int) -> None:
    small = data(5)
    frame = fetched(key, version, {OTHER: [STORED, small], MIRROR: [STORED, STORED + STORED[:50]]})
    before = decoded(key, version, frame)
    frame, batches = present_response(key, version, frame, shown_as(regions=(REGION,)))
    after = decoded(key, version, frame)
    assert batches == 3
    records = after.responses[1].partitions[1].records
    assert [batch.is_control for batch in read_batches(records)] == KINDS
    assert records.endswith(STORED[:50])
    assert KEY not in records[:-50]

    def without(response: Any) -> str:
        return repr(response).replace(repr(response.responses[1].partitions[1].records), "")

    assert without(after) == without(before)


@each(FETCHES)
@pytest.mark.parametrize("count", [1, 100, 1000])
def test_sizes_of_any_length(key: int, version: int, count: int) -> None:
    """Sizes of one, two and three bytes, before and after."""
    stored = fillers(0, 1) * count
    frame = fetched(key, version, {MIRROR: [b"", stored]})
    frame, batches = present_response(key, version, frame, shown_as(regions=(REGION,)))
    after = decoded(key, version, frame)
    assert batches == count
    found = list(read_batches(after.responses[0].partitions[1].records))
    assert [batch.is_control for batch in found] == [True] * count


@each(FETCHES)
def test_the_same_frame_if_there_is_nothing_to_change(key: int, version: int) -> None:
    for records in ({OTHER: [STORED]}, {MIRROR: [STORED, data(5)]}, {MIRROR: [b"", b""]}, {}):
        frame = fetched(key, version, records)
        before = bytes(frame)
        after, batches = present_response(key, version, frame, shown_as(regions=(REGION,)))
        assert after is frame
        assert after == before
        assert not batches


@each([pair for pair in FETCHES if pair[0] == ApiKey.FETCH])
def test_null_records(key: int, version: int) -> None:
    frame = fetched(key, version, {MIRROR: [None, None]})  # type: ignore[list-item]  # brokers may send it
    before = bytes(frame)
    after, _ = present_response(key, version, frame, shown_as(regions=(REGION,), log_start=9))
    if version >= 5:
        assert decoded(key, version, after).responses[0].partitions[1].log_start_offset == 9
    else:
        assert after == before


@each([pair for pair in FETCHES if pair[0] == ApiKey.FETCH])
def test_log_starts_that_a_broker_forgot(key: int, version: int) -> None:
    for log_start, expected in ((0, 3), (3, 3), (10, 10)):
        frame = fetched(key, version, {MIRROR: [STORED, STORED]})
        frame, _ = present_response(key, version, frame, shown_as(log_start=log_start))
        partitions = decoded(key, version, frame).responses[0].partitions
        assert partitions[1].records == STORED
        if version >= 5:
            assert [partition.log_start_offset for partition in partitions] == [3, expected]


@each([pair for pair in FETCHES if pair[0] == ApiKey.FETCH])
def test_what_is_below_the_log_start_is_out_of_range(key: int, version: int) -> None:
    below = data(5, 3) + data(8, 4)
    # The last batch that may be below ends at 8.
    for log_start, gone in ((7, False), (8, True), (100, True)):
        frame = fetched(key, version, {MIRROR: [below, below], OTHER: [below]})
        before = decoded(key, version, frame)
        frame, batches = present_response(
            key, version, frame, shown_as(log_start=log_start, regions=(REGION,))
        )
        after = decoded(key, version, frame)
        assert after.responses[0].partitions[0] == before.responses[0].partitions[0]
        assert after.responses[1] == before.responses[1]
        assert not batches
        partition = after.responses[0].partitions[1]
        if not gone:
            assert partition.records == below
            continue
        # As a broker has it.
        assert partition.error_code == ErrorCode.offset_out_of_range
        assert (partition.high_watermark, partition.last_stable_offset) == (-1, -1)
        assert getattr(partition, "log_start_offset", -1) == -1
        assert getattr(partition, "preferred_read_replica", -1) == -1
        assert partition.aborted_transactions is None
        assert partition.records == b""


@each([pair for pair in FETCHES if pair[0] == ApiKey.FETCH])
def test_errors_stay(key: int, version: int) -> None:
    for error in (ErrorCode.offset_out_of_range, ErrorCode.not_leader_or_follower):
        frame = fetched(key, version, {MIRROR: [b"", b""]}, error_code=error, log_start_offset=-1)
        before = bytes(frame)
        after, _ = present_response(key, version, frame, shown_as(log_start=9, regions=(REGION,)))
        assert after == before


def test_share_fetches_go_on_below_the_log_start() -> None:
    frame = fetched(ApiKey.SHARE_FETCH, 1, {MIRROR: [b"", STORED]})
    frame, batches = present_response(
        ApiKey.SHARE_FETCH, 1, frame, shown_as(log_start=20_000, regions=(REGION,))
    )
    assert batches == 3
    assert decoded(ApiKey.SHARE_FETCH, 1, frame).responses[0].partitions[1].error_code == ErrorCode.none


# --- offsets -----------------------------------------------------------------------------------------

OFFSET_FIELDS: dict[int, str] = {
    ApiKey.LIST_OFFSETS: "offset",
    ApiKey.OFFSET_FOR_LEADER_EPOCH: "end_offset",
    ApiKey.DELETE_RECORDS: "low_watermark",
}


def with_offsets(key: int, version: int, offset: int) -> bytearray:
    """A response in which every partition has that offset."""
    index = "partition" if key == ApiKey.OFFSET_FOR_LEADER_EPOCH else "partition_index"
    fields: dict[str, Any] = {"error_code": ErrorCode.none, OFFSET_FIELDS[key]: offset}
    if key == ApiKey.LIST_OFFSETS:
        fields["timestamp"] = 1_700_000_000_123
    if key == ApiKey.OFFSET_FOR_LEADER_EPOCH or (key == ApiKey.LIST_OFFSETS and version >= 4):
        fields["leader_epoch"] = 7
    name = "topic" if key == ApiKey.OFFSET_FOR_LEADER_EPOCH else "name"
    topics = [
        {name: topic, "partitions": [{index: number, **fields} for number in range(2)]}
        for topic in NAMES.values()
    ]
    top: dict[str, Any] = {"topics": topics}
    if key != ApiKey.LIST_OFFSETS or version >= 2:
        top["throttle_time"] = timedelta(milliseconds=5)
    return with_header(key, version, encode_response(fill(response_class(key, version), top)))


@each(OFFSETS)
@pytest.mark.parametrize(
    ("offset", "log_start", "expected"),
    [(0, 9, 9), (8, 9, 9), (9, 9, 9), (10, 9, 10), (-1, 9, -1), (0, 0, 0), (5, 1 << 40, 1 << 40)],
)
def test_no_offset_below_the_log_start(
    key: int, version: int, offset: int, log_start: int, expected: int
) -> None:
    frame = with_offsets(key, version, offset)
    before = decoded(key, version, bytearray(frame))
    after, batches = present_response(key, version, frame, shown_as(log_start=log_start, regions=(REGION,)))
    assert after is frame
    assert not batches
    (_, changed), others = (topic.partitions for topic in decoded(key, version, after).topics)
    assert getattr(changed, OFFSET_FIELDS[key]) == expected
    assert others == before.topics[1].partitions
    # Nothing but that offset.
    differ = [
        i for i, (a, b) in enumerate(zip(after, with_offsets(key, version, offset), strict=True)) if a != b
    ]
    assert not differ or differ[-1] - differ[0] < 8


# --- any response ------------------------------------------------------------------------------------


def everything_is_a_mirror(topic: str | UUID) -> ShownTopic:
    return lambda index: ShownPartition(regions=(REGION,))


@each(EVERY)
def test_any_response_of_a_broker(key: int, version: int) -> None:
    """With tagged fields, nulls and any number of anything: it is walked to its end, and stays."""
    dice = random.Random(f"{key} {version}")
    for seed in range(50):
        body, _ = build(response_class(key, version), seed, unknown_tags=seed % 2 == 1)
        frame = with_header(key, version, body)
        before = bytes(frame)
        after, batches = present_response(key, version, frame, everything_is_a_mirror)
        assert after == before
        assert not batches
        for length in sorted(dice.randrange(len(before)) for _ in range(5)):
            cut = bytearray(before[:length])
            try:
                present_response(key, version, cut, everything_is_a_mirror)
            except DecodeError:
                pass
            else:
                # What follows the topics may be cut: others look at it.
                assert cut == before[:length]


@each(EVERY)
def test_a_response_that_is_cut_within_its_topics(key: int, version: int) -> None:
    frame = (
        fetched(key, version, {MIRROR: [b"", fillers(10, 1)]})
        if (key, version) in FETCHES
        else with_offsets(key, version, 3)
    )
    for length in range(4, len(frame) - 8):
        with pytest.raises(DecodeError):
            present_response(key, version, frame[:length], shown_as(log_start=5, regions=(REGION,)))


@pytest.mark.parametrize("key", list(SHOWN_VERSIONS))
def test_versions_that_nobody_knows(key: int) -> None:
    for version in (SHOWN_VERSIONS[key].start - 1, SHOWN_VERSIONS[key].stop):
        with pytest.raises(UnsupportedVersion):
            present_response(key, version, bytearray(10), shown_as())


def test_only_known_payloads() -> None:
    region = Region(0, None, KnownFillers(KEY))
    frame = fetched(ApiKey.FETCH, 12, {MIRROR: [b"", STORED]})
    frame, batches = present_response(ApiKey.FETCH, 12, frame, shown_as(regions=(region,)))
    assert batches == 2
