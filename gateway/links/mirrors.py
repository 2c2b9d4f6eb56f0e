"""The mirror topics of this gateway's links: made, shown, altered, and what their replicators report of them.

A mirror's record is written before its topic is made, so that no gateway takes the topic for an ordinary one.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog

from gateway.links import errors
from gateway.links.board import TRANSPORT_ERRORS
from gateway.links.errors import LinkError
from gateway.links.mirror_state import Action, IllegalTransition, is_read_only, next_status
from gateway.links.mirror_topics import MAX_TOPIC_NAME, mirror_configs, promoted_configs, source_values
from gateway.links.requests import AlterResult, CreateMirror, MirrorVerb, MirrorView, PartitionLag
from gateway.links.runtime import LinkRuntime
from gateway.state.records import (
    Delete,
    LinkRecord,
    MirrorRecord,
    MirrorStatus,
    MirrorTopicError,
    Record,
    State,
)
from gateway.state.store import StateUnavailable, Store
from gateway.tasks import Tasks
from gateway.upstreams.admin import (
    TopicConfig,
    alter_topic_configs,
    create_topic,
    describe_topic_configs,
    init_producer_id,
)
from gateway.upstreams.cluster import Cluster
from gateway.upstreams.errors import KafkaError

log = structlog.get_logger(__name__)

RESERVED_PREFIX: Final = "_causeway"
TOPIC_NAME: Final = re.compile(r"[a-zA-Z0-9._-]+")
TOPIC_SETTLE_S: Final = 10.0

VERBS: Final[Mapping[MirrorVerb, Action]] = {
    "promote": Action.PROMOTE,
    "failover": Action.FAILOVER,
    "pause": Action.PAUSE,
    "resume": Action.RESUME,
}

Change = Callable[[State], Sequence[Record | Delete]]


class Mirrors:
    """All mirror topics of the fronted cluster. `follow` makes what runs follow a changed state."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        runtimes: Mapping[str, LinkRuntime],
        follow: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._runtimes = runtimes
        self._follow = follow
        self._tasks = Tasks("mirror topics")
        self._finishing: set[str] = set()

    async def close(self) -> None:
        """Stop what is under way. Idempotent."""
        await self._tasks.close()

    def of(self, link: LinkRecord) -> list[MirrorRecord]:
        """The mirror topics of a link, by name."""
        mirrors = self._store.state.mirrors
        found = (mirrors[name] for name in sorted(mirrors))
        return [mirror for mirror in found if mirror.cluster_link_id == link.cluster_link_id]

    async def write(self, change: Change) -> None:
        """Write to the state, and have everything follow. LinkError if it cannot be written."""
        try:
            await self._store.update(change)
        except StateUnavailable as error:
            raise errors.state_unavailable(str(error)) from error
        await self._follow()

    async def create(self, link: LinkRecord, prefix: str, request: CreateMirror) -> None:
        """Make a mirror topic of a source topic. LinkError if that cannot be."""
        link_name = link.link_name
        runtime = self._runtimes.get(link_name)
        if runtime is None or runtime.replicator is None or runtime.source is None:
            raise errors.invalid_request(
                f"Cluster link '{link_name}' is the source half; mirror topics are made on the destination."
            )
        source_name = request.source_topic_name
        name = prefix + source_name
        if request.mirror_topic_name not in (None, name):
            raise errors.unsupported("Topic renaming for mirroring not yet supported")
        _check_topic_name(name)
        _check_topic_name(source_name)
        if name in self._store.state.mirrors:
            raise errors.topic_exists(name)
        try:
            record = await self._plan_mirror(link, runtime.source, name, request)
        except TRANSPORT_ERRORS as error:
            raise LinkError(
                503,
                50003,
                f"Cluster link '{link_name}': the source or the destination does not answer: {error}",
            ) from error

        def add(state: State) -> list[Record | Delete]:
            if link_name not in state.links:
                raise errors.link_not_found(link_name)
            if name in state.mirrors:
                raise errors.topic_exists(name)
            return [record]

        await self.write(add)
        try:
            await self._create_topic(record, request)
        except (LinkError, *TRANSPORT_ERRORS) as error:
            await self.write(lambda _: [Delete("mirror", name)])
            if isinstance(error, LinkError):
                raise
            raise LinkError(500, 50002, f"Topic '{name}' could not be created: {error}") from error

    async def _plan_mirror(
        self, link: LinkRecord, source: Cluster, name: str, request: CreateMirror
    ) -> MirrorRecord:
        source_name = request.source_topic_name
        topic = (await source.metadata([source_name])).topics.get(source_name)
        if topic is None or topic.error_code == 3:
            raise errors.invalid_request(f"Topic '{source_name}' does not exist at the source.")
        if topic.error_code:
            raise errors.invalid_request(
                f"The source does not show topic '{source_name}' (error {topic.error_code}); "
                "may the link's principal describe it?"
            )
        own = (await self._cluster.metadata([name])).topics.get(name)
        if own is not None and own.error_code == 0:
            raise errors.topic_exists(name)
        configs = _by_value(await describe_topic_configs(source, source_name))
        return MirrorRecord(
            link_name=link.link_name,
            cluster_link_id=link.cluster_link_id,
            filler_key=link.filler_key,
            mirror_topic_name=name,
            source_topic_name=source_name,
            num_partitions=len(topic.partitions),
            replication_factor=request.replication_factor,
            configs=source_values(configs),
            source_topic_id=topic.topic_id,
            producer_id=await init_producer_id(self._cluster),
            state_time_ms=_now_ms(),
        )

    async def _create_topic(self, record: MirrorRecord, request: CreateMirror | None) -> None:
        """Make the topic of a record that has none, and note its id."""
        name = record.mirror_topic_name
        runtime = self._runtimes.get(record.link_name)
        if runtime is None or runtime.source is None:
            raise errors.link_not_found(record.link_name)
        source = runtime.source
        configs = _by_value(await describe_topic_configs(source, record.source_topic_name))
        known = await self._known_configs()
        wanted = mirror_configs(configs, known, request.configs if request else {})
        try:
            topic_id = await create_topic(
                self._cluster, name, record.num_partitions, record.replication_factor or -1, wanted
            )
        except KafkaError as error:
            if error.code == 36:
                raise errors.topic_exists(name) from error
            raise errors.invalid_request(f"Topic '{name}' cannot be created: {error}") from error
        deadline = time.monotonic() + TOPIC_SETTLE_S
        while topic_id is None and time.monotonic() < deadline:
            topic = (await self._cluster.metadata([name])).topics.get(name)
            topic_id = topic.topic_id if topic is not None else None
            await asyncio.sleep(0.1)
        if topic_id is None:
            raise errors.invalid_request("The destination gives no topic ids; it must be Kafka 2.8 or later.")
        await self._change(name, topic_id=topic_id)

    async def _known_configs(self) -> list[str]:
        return list(await describe_topic_configs(self._cluster, f"{RESERVED_PREFIX}-state"))

    def finish_creation(self, record: MirrorRecord) -> None:
        """A record has no topic yet: see to it that it gets one."""
        name = record.mirror_topic_name
        if name not in self._finishing:
            self._finishing.add(name)
            self._tasks.spawn(self._finish_creation(record), name=f"create {name}")

    async def _finish_creation(self, record: MirrorRecord) -> None:
        # Whoever wrote the record may have died before it made the topic; give it the time to do so itself.
        name = record.mirror_topic_name
        await asyncio.sleep(TOPIC_SETTLE_S)
        self._finishing.discard(name)
        current = self._store.state.mirrors.get(name)
        if current != record:
            return
        try:
            topic = (await self._cluster.metadata([name])).topics.get(name)
            if topic is None or topic.error_code == 3:
                await self._create_topic(record, None)
            elif topic.topic_id is not None:
                # The name was free when the record was written, and clients cannot write to it since: the
                # replicator's look at the log tells whether somebody else did.
                await self._change(name, topic_id=topic.topic_id)
        except (LinkError, *TRANSPORT_ERRORS) as error:
            log.warning("mirror_topic_not_created", topic=name, error=str(error))
            self.finish_creation(record)

    def view(self, record: MirrorRecord) -> MirrorView:
        """A mirror topic as it stands."""
        runtime = self._runtimes.get(record.link_name)
        lags: list[PartitionLag] = []
        if runtime is not None and runtime.replicator is not None:
            mirror = runtime.replicator.mirrors.get(record.mirror_topic_name)
            for p in mirror.partitions if mirror is not None else ():
                fetched = -1 if p.source_end is None else p.fetch_offset
                lags.append(PartitionLag(p.index, p.lag, fetched))
            if record.status is MirrorStatus.ACTIVE and runtime.source_unavailable:
                record = record.model_copy(update={"status": MirrorStatus.SOURCE_UNAVAILABLE})
        return MirrorView(record, lags)

    async def alter(
        self, verb: MirrorVerb, link: LinkRecord, names: Sequence[str], *, validate_only: bool
    ) -> list[AlterResult]:
        """Promote, fail over, pause or resume; one result per mirror topic."""
        return [await self._alter(VERBS[verb], link, name, validate_only) for name in names]

    async def _alter(self, action: Action, link: LinkRecord, name: str, validate_only: bool) -> AlterResult:
        def refusal(record: MirrorRecord | None) -> AlterResult | None:
            if record is None or record.cluster_link_id != link.cluster_link_id:
                error = errors.mirror_not_found(link.link_name, name)
                return AlterResult(name, error.error_code, error.message)
            shown = self.view(record).record.status
            if shown is MirrorStatus.STOPPED:
                text = f"Topic '{name}' has already stopped its mirror from '{link.link_name}'"
                return AlterResult(name, 400, text)
            try:
                next_status(shown, action)
            except IllegalTransition:
                text = f"Topic '{name}' is {shown}: {action.name.lower()} is not possible."
                if shown is MirrorStatus.SOURCE_UNAVAILABLE and action is Action.PROMOTE:
                    text += " Its source must be reachable for a promote; failover does not need it."
                return AlterResult(name, 400, text)
            return None

        refused = refusal(self._store.state.mirrors.get(name))
        if refused is None and not validate_only:

            def change(state: State) -> list[Record | Delete]:
                nonlocal refused
                refused = refusal(state.mirrors.get(name))
                if refused is not None:
                    return []
                record = state.mirrors[name]
                update: dict[str, object] = {
                    "status": next_status(record.status, action),
                    "state_time_ms": _now_ms(),
                }
                if action is Action.FAILOVER:
                    update |= {"failover": True, "stop_offsets": None}
                return [record.model_copy(update=update)]

            await self.write(change)
        if refused is not None:
            return refused
        return AlterResult(name, lags=self.view(self._store.state.mirrors[name]).lags)

    def forget(self, name: str) -> None:
        """A client deleted the topic: its record goes too, once the topic is gone."""
        self._tasks.spawn(self._forget(name), name=f"forget {name}")

    async def _forget(self, name: str) -> None:
        record = self._store.state.mirrors.get(name)
        deadline = time.monotonic() + TOPIC_SETTLE_S
        while record is not None and time.monotonic() < deadline:
            try:
                topic = (await self._cluster.metadata([name])).topics.get(name)
                if topic is None or topic.error_code == 3 or topic.topic_id != record.topic_id:
                    await self.write(
                        lambda state: [Delete("mirror", name)] if state.mirrors.get(name) == record else []
                    )
                    return
            except (LinkError, *TRANSPORT_ERRORS) as error:
                log.warning("mirror_topic_not_forgotten", topic=name, error=str(error))
            await asyncio.sleep(0.2)

    # What the replicators report.

    async def failed(self, mirror_topic: str, error: MirrorTopicError, message: str) -> None:
        """A mirror cannot go on."""
        await self._change(
            mirror_topic, status=MirrorStatus.FAILED, error=error, error_message=message, only_live=True
        )

    async def stopping_at(self, mirror_topic: str, stop_offsets: Mapping[int, int]) -> None:
        """The end of a mirror is decided."""
        await self._change(mirror_topic, stop_offsets=dict(stop_offsets), only_live=True, keep_time=True)

    async def stopped(self, mirror_topic: str) -> None:
        """The barrier is written: give the topic its own configs, and let clients write."""
        record = self._store.state.mirrors[mirror_topic]
        configs = promoted_configs(record, await self._known_configs())
        await alter_topic_configs(self._cluster, mirror_topic, configs)
        await self._change(mirror_topic, status=MirrorStatus.STOPPED, only_live=True)

    async def _change(
        self, name: str, *, only_live: bool = False, keep_time: bool = False, **update: object
    ) -> None:
        if not keep_time:
            update["state_time_ms"] = _now_ms()

        def change(state: State) -> list[Record | Delete]:
            record = state.mirrors.get(name)
            if record is None or (only_live and not is_read_only(record.status)):
                return []
            return [record.model_copy(update=update)]

        await self.write(change)


def _by_value(configs: Mapping[str, TopicConfig]) -> dict[str, tuple[str | None, bool]]:
    return {name: (config.value, config.own) for name, config in configs.items()}


def _check_topic_name(name: str) -> None:
    if len(name) > MAX_TOPIC_NAME:
        raise errors.invalid_request(
            f"Topic name '{name[:40]}…' is longer than the max allowed length {MAX_TOPIC_NAME}"
        )
    if not TOPIC_NAME.fullmatch(name) or name in (".", ".."):
        raise errors.invalid_request(f"Topic name '{name}' is not valid.")
    if name.startswith((RESERVED_PREFIX, "__")):
        raise errors.invalid_request(f"Topic '{name}' is internal and cannot be mirrored.")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
