"""What a mirror topic is for the clients of its destination: read-only, with configs that are not theirs."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Final
from uuid import UUID

from gateway.links.mirror_state import is_read_only
from gateway.links.topic_configs import FIXED
from gateway.state.records import MirrorRecord
from gateway.state.store import StateUnavailable, Store
from gateway.upstreams.cluster import Cluster

MAX_TOPIC_NAME: Final = 249


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
        return FIXED if self.read_only_mirror(topic) is not None else frozenset()

    def shown_configs(self, topic: str) -> Mapping[str, tuple[str, bool]] | None:
        """The source's values of held configs, and whether its topic sets them; None if it is no mirror."""
        record = self._store.state.mirrors.get(topic)
        if record is None or not is_read_only(record.status) or not record.shown_configs:
            return None
        return {name: (value, name in record.configs) for name, value in record.shown_configs.items()}

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
