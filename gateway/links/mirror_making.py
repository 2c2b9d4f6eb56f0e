"""How a mirror topic comes to be: what is asked of both clusters first, its record, then its topic.

A mirror's record is written before its topic is made, so that no gateway takes the topic for an ordinary one.
Whoever finds a record without a topic, as a gateway that died leaves it, makes the topic.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

import structlog

from gateway.links import errors
from gateway.links.board import TRANSPORT_ERRORS
from gateway.links.configs import START_OFFSET_SPEC, LinkConfig
from gateway.links.errors import LinkError
from gateway.links.link_tasks import config_of
from gateway.links.mirror_notes import Change, payloads_of
from gateway.links.mirror_topics import MAX_TOPIC_NAME
from gateway.links.requests import CreateMirror
from gateway.links.runtime import LinkRuntime
from gateway.links.start_offsets import check_runway, start_offsets
from gateway.links.topic_configs import (
    INCLUDE,
    by_value,
    include_list,
    mirror_configs,
    shown_values,
    source_values,
    synced_values,
)
from gateway.state.records import (
    Delete,
    LinkRecord,
    MirrorRecord,
    MirrorStatus,
    MirrorTopicError,
    Record,
    State,
)
from gateway.state.store import Store
from gateway.tasks import Tasks
from gateway.upstreams.admin import alter_topic_configs, create_topic, init_producer_id
from gateway.upstreams.cluster import Cluster
from gateway.upstreams.errors import KafkaError
from gateway.upstreams.topic_configs import describe_topic_configs

log = structlog.get_logger(__name__)

RESERVED_PREFIX: Final = "_causeway"
TOPIC_NAME: Final = re.compile(r"[a-zA-Z0-9._-]+")
TOPIC_SETTLE_S: Final = 10.0
UNKNOWN_TOPIC: Final = 3
TOPIC_ALREADY_EXISTS: Final = 36
# REQUEST_TIMED_OUT, NOT_CONTROLLER: the topic may be made all the same, or another time.
UNDECIDED: Final = frozenset({7, 41})


async def nobody_else() -> None:
    """For a gateway of one process."""


async def known_configs(cluster: Cluster) -> list[str]:
    """Names of the topic configs that the cluster has."""
    return list(await describe_topic_configs(cluster, f"{RESERVED_PREFIX}-state"))


class Records(Protocol):
    """How the records of mirror topics are changed."""

    async def write(self, change: Change) -> None: ...

    async def change(
        self, mirror: MirrorRecord, when: Callable[[MirrorRecord], bool], **update: object
    ) -> bool: ...

    async def failed(self, mirror: MirrorRecord, error: MirrorTopicError, message: str) -> None: ...


class MirrorMaker:
    """Makes mirror topics, and ends what others began."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        runtimes: Mapping[str, LinkRuntime],
        records: Records,
        all_have_read: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._runtimes = runtimes
        self._records = records
        self._all_have_read = all_have_read
        self._tasks = Tasks("mirror topics to be made")
        self._creating: set[str] = set()
        self._finishing: set[str] = set()
        self._closed = False

    async def close(self) -> None:
        """Stop what is under way. Idempotent."""
        self._closed = True
        await self._tasks.close()

    async def create(self, link: LinkRecord, config: LinkConfig, request: CreateMirror) -> None:
        """Make a mirror topic of a source topic. LinkError if that cannot be."""
        link_name = link.link_name
        runtime = self._runtimes.get(link_name)
        if runtime is None or runtime.replicator is None or runtime.source is None:
            raise errors.invalid_request(
                f"Cluster link '{link_name}' is the source half; mirror topics are made on the destination."
            )
        source_name = request.source_topic_name
        name = config.prefix + source_name
        if request.mirror_topic_name not in (None, name):
            raise errors.unsupported("Topic renaming for mirroring not yet supported")
        _check_topic_name(name)
        _check_topic_name(source_name)
        _check_name_is_free(self._store.state, name)
        if name in self._creating:
            raise errors.topic_exists(name)
        self._creating.add(name)
        try:
            await self._create(link, config, runtime.source, name, request)
        finally:
            self._creating.discard(name)
            # The record may stand without a topic, should this have been cancelled.
            left = self._store.state.mirrors.get(name)
            if left is not None:
                self.finish_creation(left)

    async def _create(
        self, link: LinkRecord, config: LinkConfig, source: Cluster, name: str, request: CreateMirror
    ) -> None:
        link_name = link.link_name
        try:
            record = await self._plan_mirror(link, config, source, name, request)
        except TRANSPORT_ERRORS as error:
            raise LinkError(
                503,
                50003,
                f"Cluster link '{link_name}': the source or the destination does not answer: {error}",
            ) from error

        replaced: MirrorRecord | None = None

        def add(state: State) -> list[Record | Delete]:
            nonlocal replaced
            current = state.links.get(link_name)
            if current is None or current.cluster_link_id != link.cluster_link_id:
                raise errors.link_not_found(link_name)
            _check_name_is_free(state, name)
            replaced = state.mirrors.get(name)
            return [record]

        await self._records.write(add)
        try:
            await self._create_topic(record, request)
        except LinkError:
            # The cluster said no, and will not change its mind.
            before = replaced or Delete("mirror", name)
            await self._records.write(lambda state: [before] if state.mirrors.get(name) == record else [])
            raise
        except TRANSPORT_ERRORS as error:
            raise LinkError(
                503,
                50003,
                f"Mirror topic '{name}' is not made yet, the source or the destination does not answer: "
                f"{error}. It is tried again until it is made; 'mirror describe' tells when.",
            ) from error

    async def _plan_mirror(
        self, link: LinkRecord, config: LinkConfig, source: Cluster, name: str, request: CreateMirror
    ) -> MirrorRecord:
        source_name = request.source_topic_name
        topic = (await source.metadata([source_name])).topics.get(source_name)
        if topic is None or topic.error_code == UNKNOWN_TOPIC:
            raise errors.invalid_request(f"Topic '{source_name}' does not exist at the source.")
        if topic.error_code:
            raise errors.invalid_request(
                f"The source does not show topic '{source_name}' (error {topic.error_code}); "
                "may the link's principal describe it?"
            )
        own = (await self._cluster.metadata([name])).topics.get(name)
        if own is None or own.error_code == 0:
            raise errors.topic_exists(name)
        if own.error_code != UNKNOWN_TOPIC:
            raise errors.invalid_request(
                f"The destination does not show whether topic '{name}' exists (error {own.error_code}); "
                "may the gateway's principal describe it?"
            )
        configs = by_value(await describe_topic_configs(source, source_name))
        included = include_list(config.text(INCLUDE))
        starts = await start_offsets(source, source_name, topic, config.text(START_OFFSET_SPEC) or "earliest")
        check_runway(source_name, starts, int(config.text("mirror.runway.max.records") or 0))
        return MirrorRecord(
            link_name=link.link_name,
            cluster_link_id=link.cluster_link_id,
            filler_key=link.filler_key,
            mirror_topic_name=name,
            source_topic_name=source_name,
            num_partitions=len(topic.partitions),
            replication_factor=request.replication_factor,
            configs=source_values(configs, included),
            shown_configs=shown_values(configs),
            synced_configs=synced_values(configs, included),
            source_topic_id=topic.topic_id,
            filler_payloads=payloads_of(link.filler_key),
            log_starts=starts,
            producer_id=await init_producer_id(self._cluster),
            state_time_ms=_now_ms(),
        )

    async def _configs(self, record: MirrorRecord, overrides: Mapping[str, str]) -> dict[str, str]:
        runtime = self._runtimes.get(record.link_name)
        if runtime is None or runtime.source is None:
            raise errors.link_not_found(record.link_name)
        configs = by_value(await describe_topic_configs(runtime.source, record.source_topic_name))
        included = include_list(config_of(runtime.record).text(INCLUDE))
        return mirror_configs(configs, await known_configs(self._cluster), overrides, included)

    async def _create_topic(self, record: MirrorRecord, request: CreateMirror | None) -> None:
        """Make the topic of a record that has none, and note its id. LinkError if the cluster refuses."""
        name = record.mirror_topic_name
        wanted = await self._configs(record, request.configs if request else {})
        # One that does not know the record yet may know the name, of an ordinary topic that is gone.
        await self._all_have_read()
        try:
            topic_id = await create_topic(
                self._cluster, name, record.num_partitions, record.replication_factor or -1, wanted
            )
        except KafkaError as error:
            if error.code == TOPIC_ALREADY_EXISTS:
                raise errors.topic_exists(name) from error
            if error.code in UNDECIDED:
                raise
            raise errors.invalid_request(f"Topic '{name}' cannot be created: {error}") from error
        deadline = time.monotonic() + TOPIC_SETTLE_S
        while topic_id is None and time.monotonic() < deadline:
            topic = (await self._cluster.metadata([name])).topics.get(name)
            topic_id = topic.topic_id if topic is not None else None
            await asyncio.sleep(0.1)
        if topic_id is None:
            raise errors.invalid_request("The destination gives no topic ids; it must be Kafka 2.8 or later.")
        if not await self._records.change(
            record, lambda current: current.topic_id is None, topic_id=topic_id
        ):
            raise errors.invalid_request(
                f"Mirror topic '{name}' was deleted, or its cluster link, while it was made. If there is a "
                f"topic '{name}' on the destination now, delete it."
            )

    def finish_creation(self, record: MirrorRecord) -> None:
        """See to it that the record gets its topic, if it has none and nobody is at it."""
        name = record.mirror_topic_name
        unmade = record.topic_id is None and record.status is MirrorStatus.ACTIVE
        if unmade and name not in self._finishing | self._creating and not self._closed:
            self._finishing.add(name)
            self._tasks.spawn(self._finish_creation(record), name=f"create {name}")

    async def _finish_creation(self, record: MirrorRecord) -> None:
        # Whoever wrote the record may have died before it made the topic; give it the time to do so itself.
        name = record.mirror_topic_name
        try:
            while True:
                await asyncio.sleep(TOPIC_SETTLE_S)
                if self._store.state.mirrors.get(name) != record:
                    return
                try:
                    await self._create_or_adopt(record)
                except TRANSPORT_ERRORS as error:
                    log.warning("mirror_topic_not_created", topic=name, error=str(error))
                except LinkError as error:
                    log.warning("mirror_topic_not_created", topic=name, error=error.message)
                    if error.status < 500:
                        await self._records.failed(record, MirrorTopicError.ILLEGAL_STATE, error.message)
        except LinkError as error:
            log.warning("mirror_topic_not_created", topic=name, error=error.message)
        finally:
            self._finishing.discard(name)

    async def _create_or_adopt(self, record: MirrorRecord) -> None:
        name = record.mirror_topic_name
        topic = (await self._cluster.metadata([name])).topics.get(name)
        if topic is None or topic.error_code == UNKNOWN_TOPIC:
            await self._create_topic(record, None)
        elif topic.topic_id is not None:
            # The name was free when the record was written, and clients cannot write to it since; but a
            # client's Metadata request may have made it, in the shape that the cluster gives to any topic.
            if len(topic.partitions) != record.num_partitions:
                raise errors.invalid_request(
                    f"Topic '{name}' was made by somebody else, with {len(topic.partitions)} partitions, "
                    f"not {record.num_partitions}: delete it, and create the mirror topic again."
                )
            await alter_topic_configs(self._cluster, name, dict(await self._configs(record, {})))
            await self._records.change(
                record, lambda current: current.topic_id is None, topic_id=topic.topic_id
            )


def _check_name_is_free(state: State, name: str) -> None:
    # A mirror that ended may have lost its topic; whether it has is found out by who looks for the topic.
    current = state.mirrors.get(name)
    if current is not None and current.status not in (MirrorStatus.STOPPED, MirrorStatus.FAILED):
        raise errors.topic_exists(name)


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
