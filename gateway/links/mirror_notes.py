"""What replicators have kept in the state, or changed of a mirror topic, while they copy.

Records of the state are written before what they announce is done.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from gateway.state.records import Delete, FillerPayload, MirrorRecord, MirrorStatus, Record, State
from gateway.upstreams.admin import alter_topic_configs, create_partitions
from gateway.upstreams.cluster import Cluster
from gateway.upstreams.errors import DialError, KafkaError
from gateway.upstreams.topic_configs import describe_topic_configs
from gateway.wire import ConnectionClosed
from protocol.errors import ProtocolError
from protocol.fillers import FillerFormat

POLICY: Final = "cleanup.policy"
# With `delete` its log can still be made to begin where the source's does. Nothing is deleted by itself,
# since `retention.*` is held at -1.
COMPACTED: Final = "compact,delete"
KEPT: Final = "delete"
_INVALID_PARTITIONS: Final = 37
_TOMBSTONES_KEPT: Final = "delete.retention.ms"
_ONE_DAY_MS: Final = 86_400_000
NETWORK_ERRORS: Final = (ConnectionClosed, DialError, ProtocolError, TimeoutError, OSError)

Change = Callable[[State], Sequence[Record | Delete]]
Write = Callable[[Change], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Note:
    """What is to be kept of a mirror's partitions before the work goes on."""

    mirror: MirrorRecord
    # Where logs begin, by partition.
    log_starts: Mapping[int, int] = field(default_factory=dict)
    # The source's leader epochs with their first offsets, by partition.
    epochs: Mapping[int, Sequence[tuple[int, int]]] = field(default_factory=dict)
    # How fillers are compressed from now on.
    payloads: Sequence[FillerPayload] = ()

    def applied_to(self, current: MirrorRecord) -> MirrorRecord:
        """The record with it."""
        starts = dict(current.log_starts)
        for index, start in self.log_starts.items():
            # Of two gateways one may be behind.
            starts[index] = max(start, starts.get(index, 0))
        epochs = dict(current.source_epochs)
        for index, noted in self.epochs.items():
            epochs[index] = _merged(epochs.get(index, []), noted)
        new = [each for each in self.payloads if each not in current.filler_payloads]
        return current.model_copy(
            update={
                "log_starts": starts,
                "source_epochs": epochs,
                "filler_payloads": (*current.filler_payloads, *new),
            }
        )


def _merged(known: Sequence[tuple[int, int]], noted: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """All of these epochs but those before the first that is noted: a gateway that is behind loses none."""
    first = noted[0][0] if noted else 0
    starts: dict[int, int] = {}
    for epoch, start in (*known, *noted):
        if epoch >= first:
            starts[epoch] = min(start, starts.get(epoch, start))
    return sorted(starts.items())


@lru_cache(maxsize=64)
def payloads_of(filler_key: bytes) -> tuple[FillerPayload, ...]:
    """How this gateway compresses the fillers of that key. Takes some 40 ms of CPU."""
    return tuple(
        FillerPayload(count=each.count, size_bytes=each.size_bytes, sha256=each.sha256)
        for each in FillerFormat(filler_key).payloads()
    )


class MirrorNotes:
    """Writes them. LinkError if the state cannot be written, else what `Cluster` raises."""

    def __init__(self, cluster: Cluster, write: Write) -> None:
        self._cluster = cluster
        self._write = write

    async def noted(self, notes: Sequence[Note]) -> None:
        """Keep what must not be forgotten, of many mirrors at once."""

        def change(state: State) -> list[Record | Delete]:
            found = [(note, _same(state, note.mirror)) for note in notes]
            return [note.applied_to(current) for note, current in found if current is not None]

        await self._write(change)

    async def grown(self, mirror: MirrorRecord, count: int) -> None:
        """The source topic has more partitions: so has the mirror topic."""
        name = mirror.mirror_topic_name
        try:
            await create_partitions(self._cluster, name, count)
        except KafkaError as error:
            # Somebody has done so, or the topic has even more.
            topic = (await self._cluster.metadata([name])).topics.get(name)
            if error.code != _INVALID_PARTITIONS or topic is None or len(topic.partitions) < count:
                raise
        await self._update(mirror, num_partitions=count)

    async def compact(self, mirror: MirrorRecord, source: Cluster) -> None:
        """The mirror is where its compacted source is: from now on the destination compacts it too."""
        configs = await describe_topic_configs(source, mirror.source_topic_name)
        policy = configs[POLICY].value if POLICY in configs else None
        # Otherwise there may be records without a key to come, which a compacted topic does not take.
        if policy is not None and "compact" in policy:
            await self._update(mirror, compacted=True)
            await alter_topic_configs(self._cluster, mirror.mirror_topic_name, {POLICY: COMPACTED})

    async def keep(self, mirror: MirrorRecord) -> None:
        """There is a record without a key after all: the destination must not compact."""
        await alter_topic_configs(self._cluster, mirror.mirror_topic_name, {POLICY: KEPT})
        await self._update(mirror, compacted=False)

    async def missed_deletions(self, mirror: MirrorRecord) -> str | None:
        """What is to be said of a mirror that was paused for longer than its source keeps tombstones."""
        if mirror.status is not MirrorStatus.PAUSED or "compact" not in mirror.configs.get(POLICY, ""):
            return None
        try:
            # As at the source: it is taken over, or both have the default.
            configs = await describe_topic_configs(self._cluster, mirror.mirror_topic_name)
            kept_ms = int(configs[_TOMBSTONES_KEPT].value or _ONE_DAY_MS)
        except (KafkaError, KeyError, *NETWORK_ERRORS):
            kept_ms = _ONE_DAY_MS
        paused_ms = time.time_ns() // 1_000_000 - mirror.state_time_ms
        if paused_ms <= kept_ms:
            return None
        return (
            f"The mirror topic was paused for {paused_ms / 3_600_000:.1f} hours, longer than "
            f"{_TOMBSTONES_KEPT} ({kept_ms / 3_600_000:.1f} hours): of keys that were deleted at the source "
            "meanwhile the last values may stay here. Recreate the mirror topic where that matters."
        )

    async def _update(self, mirror: MirrorRecord, **update: object) -> None:
        def change(state: State) -> list[Record | Delete]:
            current = _same(state, mirror)
            return [] if current is None else [current.model_copy(update=update)]

        await self._write(change)


def _same(state: State, mirror: MirrorRecord) -> MirrorRecord | None:
    """The record of that mirror as it now is; None if it is another mirror's, or gone."""
    current = state.mirrors.get(mirror.mirror_topic_name)
    return current if current is not None and current.producer_id == mirror.producer_id else None
