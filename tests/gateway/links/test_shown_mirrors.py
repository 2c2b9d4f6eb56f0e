"""What is known of mirrors when they are shown to clients, as the state changes."""

from uuid import uuid4

import pytest

from gateway.links.shown_mirrors import ShownMirrors
from gateway.state.records import Delete, FillerPayload, MirrorRecord, MirrorStatus, State
from protocol.fillers import FillerFormat, encode_filler_batch
from protocol.presentation import present
from protocol.shown_responses import ShownPartition
from tests.gateway.links.lab import KEY, record


class Lab:
    """A state, and what is shown of it."""

    def __init__(self) -> None:
        self.state = State()
        self.mirrors = ShownMirrors(lambda: self.state)

    def change(self, *changes: MirrorRecord | Delete) -> None:
        """Apply changes to the state."""
        self.state = self.state.with_changes(changes)

    def partition(self, topic: object, index: int = 0) -> ShownPartition:
        """What is known of a partition of a topic that is known."""
        current = self.mirrors.current()
        assert current is not None
        shown = current(topic)  # type: ignore[arg-type]  # a name or an id
        assert shown is not None
        return shown(index)


def test_no_mirrors() -> None:
    lab = Lab()
    assert lab.mirrors.current() is None
    lab.change(record("a"))
    assert lab.mirrors.current() is not None
    lab.change(Delete("mirror", "a"))
    assert lab.mirrors.current() is None


def test_topics_by_name_and_id() -> None:
    lab, topic_id = Lab(), uuid4()
    lab.change(record("a", topic_id=topic_id), record("b", topic_id=None))
    current = lab.mirrors.current()
    assert current is not None
    assert current("a") is current(topic_id) is not None
    assert current("b") is not None
    assert current("c") is current(uuid4()) is None


@pytest.mark.parametrize(
    ("status", "stop_offsets", "stop"),
    [
        (MirrorStatus.ACTIVE, None, None),
        (MirrorStatus.FAILED, None, None),
        (MirrorStatus.PENDING_STOPPED, {0: 7}, None),
        (MirrorStatus.STOPPED, {0: 7}, 8),
        # Partitions that were added to an ordinary topic.
        (MirrorStatus.STOPPED, {1: 7}, 0),
        (MirrorStatus.STOPPED, None, None),
    ],
)
def test_where_the_region_ends(
    status: MirrorStatus, stop_offsets: dict[int, int] | None, stop: int | None
) -> None:
    lab = Lab()
    lab.change(record("a", status=status, stop_offsets=stop_offsets))
    (region,) = lab.partition("a").regions
    assert (region.start, region.stop, region.log_append_time) == (0, stop, False)


def test_log_starts() -> None:
    lab = Lab()
    lab.change(record("a", log_starts={1: 50}))
    assert [lab.partition("a", index).log_start for index in range(3)] == [0, 50, 0]


@pytest.mark.parametrize(
    ("configs", "stamped"),
    [
        ({"message.timestamp.type": "LogAppendTime"}, True),
        ({"message.timestamp.type": "CreateTime"}, False),
        ({"retention.ms": "5"}, False),
    ],
)
def test_the_type_of_timestamps(configs: dict[str, str], stamped: bool) -> None:
    lab = Lab()
    lab.change(record("a", configs=configs))
    assert lab.partition("a").regions[0].log_append_time is stamped


def test_fillers_of_every_form_are_found() -> None:
    lab, fillers = Lab(), FillerFormat(KEY)
    kinds = [
        bytearray(encode_filler_batch(KEY, 3, 5, 1, 0, 0)),
        fillers.encode(1000, timestamp_ms=5, producer_id=1, producer_epoch=0, base_sequence=0),
    ]

    def found() -> list[bool]:
        regions = lab.partition("a").regions
        return [bool(present(kind, 0, len(kind), regions)) for kind in kinds]

    lab.change(record("a"))
    assert found() == [True, False]
    payloads = tuple(
        FillerPayload(count=each.count, size_bytes=each.size_bytes, sha256=each.sha256)
        for each in fillers.payloads()
    )
    lab.change(record("a", filler_payloads=payloads))
    assert found() == [True, True]
    lab.change(record("a", filler_payloads=payloads, filler_key=bytes(16)))
    assert found() == [False, True]


def test_what_does_not_change_is_kept() -> None:
    lab, kept = Lab(), record("a")
    lab.change(kept)
    first = lab.partition("a")
    assert lab.partition("a") is first
    lab.change(record("b"), record("c", filler_key=bytes(16)))
    assert lab.partition("a") is first
    # Large, so that the mirrors of a link share it.
    fillers = [lab.partition(name).regions[0].fillers for name in "abc"]
    assert fillers[0] is fillers[1] is not fillers[2]
    lab.change(record("a", log_starts={0: 5}))
    assert lab.partition("a").log_start == 5
    assert lab.partition("a").regions[0].fillers is fillers[0]
