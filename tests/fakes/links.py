"""A link service that remembers what it was asked, for the REST API and the command line."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.links import errors
from gateway.links.config_changes import check_changes
from gateway.links.partition import OpenTransaction
from gateway.links.requests import (
    AlterResult,
    ConfigChange,
    CreateLink,
    CreateMirror,
    LinkErrorKind,
    LinkState,
    LinkView,
    MirrorVerb,
    MirrorView,
    PartitionLag,
    TaskError,
    TaskState,
    TaskView,
)
from gateway.state.records import (
    ConnectionMode,
    LinkMode,
    LinkRecord,
    MirrorRecord,
    MirrorStatus,
    MirrorTopicError,
)

LINK_ID = "eEBkTffYSESld6EO898x3w"
LINK_UUID = "7840644d-f7d8-4844-a577-a10ef3df31df"
FILLER_KEY = b"0123456789abcdef"


def link_record(name: str = "hybrid", mode: LinkMode = LinkMode.DESTINATION) -> LinkRecord:
    """A half of a link with a secret among its configs."""
    return LinkRecord(
        link_name=name,
        cluster_link_id=LINK_ID,
        link_mode=mode,
        connection_mode=ConnectionMode.OUTBOUND,
        source_cluster_id="source-id",
        destination_cluster_id="destination-id",
        configs={"sasl.jaas.config": "aes256gcm:cipher", "acl.sync.ms": "2000"},
        filler_key=FILLER_KEY,
        created_ms=1,
    )


def mirror_record(
    topic: str, status: MirrorStatus = MirrorStatus.ACTIVE, *, link: str = "hybrid", error: str | None = None
) -> MirrorRecord:
    """A mirror topic of two partitions."""
    return MirrorRecord(
        link_name=link,
        cluster_link_id=LINK_ID,
        filler_key=FILLER_KEY,
        mirror_topic_name=topic,
        source_topic_name=f"source-{topic}",
        num_partitions=2,
        producer_id=1,
        status=status,
        error=MirrorTopicError.NO_ERROR if error is None else MirrorTopicError.UNEXPECTED_TRUNCATION,
        error_message=error,
        state_time_ms=1_662_878_304_410,
    )


OPEN = (
    OpenTransaction(1, 7, 4711, 1_662_878_304_000, 83.0),
    OpenTransaction(0, 9, None, None, 12.0),
)
LAGS = (PartitionLag(0, 7, 100), PartitionLag(1, 0))


@dataclass
class FakeLinks:
    """Implements LinksService over plain dicts."""

    records: dict[str, LinkRecord] = field(default_factory=dict)
    topics: dict[str, MirrorRecord] = field(default_factory=dict)
    created: list[tuple[CreateLink, bool, bool]] = field(default_factory=list)
    mirrored: list[tuple[str, CreateMirror]] = field(default_factory=list)
    deleted: list[tuple[str, bool, bool]] = field(default_factory=list)
    altered: list[tuple[str, str, list[str] | None, str | None, bool]] = field(default_factory=list)
    reconfigured: list[tuple[str, list[tuple[str, str | None]], bool]] = field(default_factory=list)
    failure: Exception | None = None
    forced: list[bool] = field(default_factory=list)
    dropped_acls: list[bool] = field(default_factory=list)
    # Statuses that a topic passes through while somebody waits for it.
    coming: list[MirrorStatus] = field(default_factory=list)

    def add(self, *records: LinkRecord | MirrorRecord) -> None:
        """Puts links and mirror topics there."""
        for record in records:
            if isinstance(record, LinkRecord):
                self.records[record.link_name] = record
            else:
                self.topics[record.mirror_topic_name] = record

    async def create_link(self, request: CreateLink, *, validate_only: bool, validate_link: bool) -> None:
        if self.failure is not None:
            raise self.failure
        if request.link_name in self.records:
            raise errors.link_exists(request.link_name)
        self.created.append((request, validate_only, validate_link))

    def links(self) -> list[LinkView]:
        return [self.link(name) for name in sorted(self.records)]

    def link(self, link_name: str) -> LinkView:
        record = self.records.get(link_name)
        if record is None:
            raise errors.link_not_found(link_name)
        task = TaskView("AclSync", TaskState.IN_ERROR, [TaskError("MISCONFIGURATION_ERROR", "no filter")])
        return LinkView(
            record,
            LinkState.UNAVAILABLE,
            LinkErrorKind.AUTHENTICATION_ERROR,
            "wrong password",
            sorted(name for name, topic in self.topics.items() if topic.link_name == link_name),
            [task, TaskView("TopicConfigsSync", TaskState.ACTIVE)],
        )

    async def delete_link(
        self, link_name: str, *, force: bool, validate_only: bool, drop_acls: bool = False
    ) -> None:
        self.link(link_name)
        self.dropped_acls.append(drop_acls)
        if not force and self.topics:
            raise errors.link_in_use(link_name, list(self.topics))
        self.deleted.append((link_name, force, validate_only))

    async def alter_configs(
        self, link_name: str, changes: Sequence[ConfigChange], *, validate_only: bool
    ) -> None:
        self.link(link_name)
        check_changes(changes)
        pairs = [(change.name, change.value) for change in changes]
        self.reconfigured.append((link_name, pairs, validate_only))

    async def create_mirror(self, link_name: str, request: CreateMirror) -> None:
        self.link(link_name)
        self.mirrored.append((link_name, request))

    def mirrors(self, link_name: str | None, status: MirrorStatus | None) -> list[MirrorView]:
        return [
            MirrorView(topic, LAGS)
            for topic in self.topics.values()
            if link_name in {None, topic.link_name} and status in {None, topic.status}
        ]

    def mirror(self, link_name: str, mirror_topic_name: str) -> MirrorView:
        topic = self.topics.get(mirror_topic_name)
        if topic is None or topic.link_name != link_name:
            raise errors.mirror_not_found(link_name, mirror_topic_name)
        if self.coming:
            topic = topic.model_copy(update={"status": self.coming.pop(0)})
        return MirrorView(topic, LAGS, OPEN)

    async def alter_mirrors(
        self,
        verb: MirrorVerb,
        link_name: str,
        names: Sequence[str] | None,
        pattern: str | None,
        validate_only: bool,
        *,
        force: bool = False,
    ) -> list[AlterResult]:
        self.link(link_name)
        self.forced.append(force)
        self.altered.append((verb, link_name, None if names is None else list(names), pattern, validate_only))
        return [
            AlterResult(name, lags=LAGS)
            if name in self.topics
            else AlterResult(name, 400, f"Topic '{name}' is no mirror topic.")
            for name in (self.topics if names is None else names)
        ]
