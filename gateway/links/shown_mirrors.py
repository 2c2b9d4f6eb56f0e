"""What is known of mirror topics when responses about them are presented to clients, from the state.

It outlives the mirror: after a promote, and when the link is gone, what the link has written is still there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final
from uuid import UUID

from gateway.state.records import MirrorRecord, MirrorStatus, State
from protocol.fillers import FixedPayload
from protocol.presentation import KnownFillers, Region
from protocol.shown_responses import Shown, ShownPartition

_TIMESTAMP_TYPE: Final = "message.timestamp.type"
_LOG_APPEND_TIME: Final = "LogAppendTime"


class ShownMirrors:
    """The mirrors of the state, by topic name and by topic id."""

    def __init__(self, state: Callable[[], State]) -> None:
        self._state = state
        self._seen: Mapping[str, MirrorRecord] | None = None
        self._topics: dict[str | UUID, ShownMirror] = {}

    def current(self) -> Shown | None:
        """How topics are shown now; None if there are no mirrors."""
        mirrors = self._state().mirrors
        # Asked for with every response; the state is a new object after every change.
        if mirrors is not self._seen:
            self._follow(mirrors)
            self._seen = mirrors
        return self._topics.get if self._topics else None

    def _follow(self, mirrors: Mapping[str, MirrorRecord]) -> None:
        before, topics = self._topics, dict[str | UUID, ShownMirror]()
        # One per link and generation: they are large.
        known = {shown.known_by: shown.fillers for shown in before.values()}
        for name, record in mirrors.items():
            shown = before.get(name)
            if shown is None or shown.record is not record:
                shown = ShownMirror(record, known)
                known[shown.known_by] = shown.fillers
            topics[name] = shown
            if record.topic_id is not None:
                topics[record.topic_id] = shown
        self._topics = topics


_KnownBy = tuple[bytes, tuple[FixedPayload, ...]]


class ShownMirror:
    """One mirror topic; a call gives a partition of it."""

    def __init__(self, record: MirrorRecord, known: Mapping[_KnownBy, KnownFillers]) -> None:
        self.record = record
        payloads = tuple(
            FixedPayload(each.count, each.size_bytes, each.sha256) for each in record.filler_payloads
        )
        self.known_by: _KnownBy = record.filler_key, payloads
        self.fillers = known.get(self.known_by) or KnownFillers(record.filler_key, payloads)
        self._partitions: dict[int, ShownPartition] = {}

    def __call__(self, index: int) -> ShownPartition:
        """What is known of a partition."""
        shown = self._partitions.get(index)
        if shown is None:
            shown = self._partitions[index] = self._partition(index)
        return shown

    def _partition(self, index: int) -> ShownPartition:
        record = self.record
        stop = None
        if record.status is MirrorStatus.STOPPED and record.stop_offsets is not None:
            end = record.stop_offsets.get(index)
            # Behind it is the barrier. A partition that was added later is none of the link's.
            stop = 0 if end is None else end + 1
        stamped = record.configs.get(_TIMESTAMP_TYPE) == _LOG_APPEND_TIME
        region = Region(0, stop, self.fillers, log_append_time=stamped)
        return ShownPartition(record.log_starts.get(index, 0), (region,))
