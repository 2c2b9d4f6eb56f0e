"""What a mirror topic is on its destination: read-only for clients, with configs of its own while it is one.

While mirrored a topic keeps everything (`retention.*` -1, no compaction) and takes batches as they are
(`compression.type=producer`, CreateTime without bounds); promote writes the source's values.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Final
from uuid import UUID

from gateway.links.mirror_state import is_read_only
from gateway.state.records import MirrorRecord
from gateway.state.store import StateUnavailable, Store
from gateway.upstreams.cluster import Cluster

HELD: Final[Mapping[str, str]] = {
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "cleanup.policy": "delete",
    "compression.type": "producer",
    "message.timestamp.type": "CreateTime",
    # Up to 3.5, and from 3.6 on (KIP-937).
    "message.timestamp.difference.max.ms": "9223372036854775807",
    "message.timestamp.before.max.ms": "9223372036854775807",
    "message.timestamp.after.max.ms": "9223372036854775807",
}
ALWAYS_SYNCED: Final = frozenset({"max.message.bytes"})
# Taken over where the source topic sets them itself. `min.insync.replicas` is not among them: it goes with
# the replication factor, which is the destination's.
SYNCED: Final = frozenset(
    {
        "delete.retention.ms",
        "file.delete.delay.ms",
        "flush.messages",
        "flush.ms",
        "index.interval.bytes",
        "max.compaction.lag.ms",
        "min.cleanable.dirty.ratio",
        "min.compaction.lag.ms",
        "preallocate",
        "segment.bytes",
        "segment.index.bytes",
        "segment.jitter.ms",
        "segment.ms",
        "unclean.leader.election.enable",
    }
)
HELD_NAMES: Final = frozenset(HELD) | ALWAYS_SYNCED
MAX_TOPIC_NAME: Final = 249


def mirror_configs(
    source: Mapping[str, tuple[str | None, bool]], known: Iterable[str], overrides: Mapping[str, str]
) -> dict[str, str]:
    """Configs to create a mirror topic with, of those that the destination knows.

    `source` has the value of each config and whether the topic itself sets it.
    """
    wanted = dict(overrides)
    for name, (value, own) in source.items():
        if value is not None and (name in ALWAYS_SYNCED or (own and name in SYNCED)):
            wanted[name] = value
    wanted.update(HELD)
    names = frozenset(known)
    return {name: value for name, value in wanted.items() if name in names}


def source_values(source: Mapping[str, tuple[str | None, bool]]) -> dict[str, str]:
    """The source's values of the held configs that the topic itself sets, for the promote.

    LogAppendTime also where it is the cluster's default: clients are shown it.
    """
    return {
        name: value
        for name, (value, own) in source.items()
        if name in HELD and value is not None and (own or value == "LogAppendTime")
    }


def promoted_configs(record: MirrorRecord, known: Iterable[str]) -> dict[str, str | None]:
    """What a promote writes: the source's values, None (the broker's default) where the source had none."""
    return {name: record.configs.get(name) for name in HELD if name in frozenset(known)}


class MirrorTopics:
    """Tells sessions which topics are mirrors; certain because a mirror's record precedes its topic."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        *,
        names_of: Callable[[Collection[UUID]], Awaitable[Mapping[UUID, str]]],
        max_staleness_s: float,
        on_deleted: Callable[[str], None],
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._names_of = names_of
        self._max_staleness_s = max_staleness_s
        self._on_deleted = on_deleted
        self._known: set[str | UUID] = set()
        self._names: dict[UUID, str] = {}

    async def before_produce(self, topics: Iterable[str | UUID]) -> None:
        """Return when it is certain whether these topics are mirrors. StateUnavailable if that is unknown."""
        unknown = [topic for topic in topics if topic not in self._known]
        if not unknown:
            if self._store.staleness_s > self._max_staleness_s:
                age_s = self._store.staleness_s
                raise StateUnavailable(f"the state could not be read for {age_s:.0f} s: no Produce")
            return
        await self._store.read_to_end()
        ids = [topic for topic in unknown if isinstance(topic, UUID)]
        names = [topic for topic in unknown if isinstance(topic, str)]
        topics = (await self._cluster.metadata(names)).topics if names else {}
        if ids:
            named = await self._names_of(ids)
            nameless = [topic_id for topic_id in ids if topic_id not in named]
            if nameless:
                # A mirror's record precedes its topic, but has its id only later: it is found by its name.
                raise StateUnavailable(f"the cluster does not know topic id {nameless[0]}, or not yet")
            # Again, now that the names are known: a topic that is newer than what was read is not in it.
            await self._store.read_to_end()
            self._names.update({topic_id: named[topic_id] for topic_id in ids})
            self._known.update(ids)
        # What does not exist may become a mirror before it is written to, and clients can think of any name.
        self._known.update(name for name in names if name in topics and topics[name].error_code == 0)

    def are_known(self, topics: Iterable[str | UUID]) -> bool:
        """Whether `before_produce` has nothing to wait for, and the state is fresh enough."""
        known = self._known
        return self._store.staleness_s <= self._max_staleness_s and all(topic in known for topic in topics)

    def read_only_mirror(self, topic: str | UUID) -> str | None:
        """Name of the mirror topic, if clients may not write to this topic."""
        record = self._record(topic)
        return record.mirror_topic_name if record is not None and is_read_only(record.status) else None

    def held_configs(self, topic: str) -> frozenset[str]:
        """Configs of this topic that clients may not alter; none if it is not a mirror topic."""
        return HELD_NAMES if self.read_only_mirror(topic) is not None else frozenset()

    def topic_deleted(self, topic: str | UUID) -> None:
        """A client deleted this topic: what was known of it holds no longer."""
        name = self._names.get(topic) if isinstance(topic, UUID) else topic
        if name is None:
            return
        self._known.discard(name)
        for topic_id in [i for i, known in self._names.items() if known == name]:
            self._known.discard(topic_id)
            del self._names[topic_id]
        if name in self._store.state.mirrors:
            self._on_deleted(name)

    def _record(self, topic: str | UUID) -> MirrorRecord | None:
        mirrors = self._store.state.mirrors
        if isinstance(topic, str):
            return mirrors.get(topic)
        name = self._names.get(topic)
        if name is not None:
            return mirrors.get(name)
        return next((record for record in mirrors.values() if record.topic_id == topic), None)
