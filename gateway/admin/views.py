"""What the REST API answers, made of what the links show."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote
from uuid import UUID

from gateway.admin.bodies import (
    AlterMirrorData,
    AlterMirrorDataList,
    CategoryData,
    ClusterData,
    ClusterDataList,
    CollectionMetadata,
    LagData,
    LinkConfigData,
    LinkData,
    MirrorData,
    OpenTransactionData,
    ResourceMetadata,
    TaskData,
    TaskErrorData,
    UserData,
    UserDataList,
)
from gateway.links.configs import ConfigView
from gateway.links.requests import AlterResult, LinkView, MirrorView, PartitionLag, TaskView
from gateway.state.records import LinkMode, MirrorStatus, MirrorTopicError, UserRecord

API: Final = "/kafka/v3/clusters"

_CATEGORIES: Final[Mapping[MirrorStatus, str]] = {
    MirrorStatus.ACTIVE: "ACTIVE",
    MirrorStatus.PAUSED: "PAUSED",
    MirrorStatus.LINK_PAUSED: "PAUSED",
    MirrorStatus.FAILED: "IN_ERROR",
    MirrorStatus.LINK_FAILED: "IN_ERROR",
    MirrorStatus.SOURCE_UNAVAILABLE: "IN_ERROR",
    MirrorStatus.PENDING_STOPPED: "PENDING",
    MirrorStatus.PENDING_MIRROR: "PENDING",
    MirrorStatus.STOPPED: "NOT_APPLICABLE",
}


class Urls:
    """Absolute URLs of what one cluster has."""

    def __init__(self, base_url: str, cluster_id: str) -> None:
        self.base = base_url.rstrip("/")
        self.cluster_id = cluster_id

    def clusters(self) -> str:
        """The list of clusters."""
        return f"{self.base}{API}"

    def of(self, *parts: str) -> str:
        """Something of the cluster, by the parts of its path."""
        return "/".join([self.clusters(), *(quote(part, safe="-:") for part in (self.cluster_id, *parts))])


def cluster_list(urls: Urls) -> ClusterDataList:
    """The one cluster as a list."""
    return ClusterDataList(metadata=CollectionMetadata(self=urls.clusters()), data=[cluster(urls)])


def cluster(urls: Urls) -> ClusterData:
    """The fronted cluster."""
    name = f"crn:///kafka={urls.cluster_id}"
    return ClusterData(
        metadata=ResourceMetadata(self=urls.of(), resource_name=name), cluster_id=urls.cluster_id
    )


def link(urls: Urls, view: LinkView, mirrors: Sequence[MirrorView], *, include_tasks: bool) -> LinkData:
    """A link; the cluster at its other end is what is named, as Confluent's servers do since 7.1."""
    record = view.record
    is_source = record.link_mode is LinkMode.SOURCE
    counts = Counter(_CATEGORIES[mirror.record.status] for mirror in mirrors)
    return LinkData(
        metadata=ResourceMetadata(self=urls.of("links", record.link_name)),
        source_cluster_id=None if is_source else record.source_cluster_id,
        destination_cluster_id=record.destination_cluster_id if is_source else None,
        remote_cluster_id=None,
        link_name=record.link_name,
        link_id=_uuid_text(record.cluster_link_id),
        cluster_link_id=record.cluster_link_id,
        topic_names=list(view.topic_names),
        link_error=view.link_error,
        link_error_message=view.link_error_message,
        link_state=view.link_state,
        tasks=[_task(task) for task in view.tasks] if include_tasks else None,
        category_counts=[CategoryData(state_category=name, count=counts[name]) for name in sorted(counts)],
    )


def link_config(urls: Urls, link_name: str, view: ConfigView) -> LinkConfigData:
    """One config of a link."""
    return LinkConfigData(
        metadata=ResourceMetadata(self=urls.of("links", link_name, "configs", view.name)),
        cluster_id=urls.cluster_id,
        name=view.name,
        value=view.value,
        is_default=view.is_default,
        is_read_only=view.is_read_only,
        is_sensitive=view.is_sensitive,
        source="DEFAULT_CONFIG" if view.is_default else "DYNAMIC_CLUSTER_LINK_CONFIG",
        synonyms=[],
        link_name=link_name,
        no_effect=view.no_effect,
    )


def mirror(urls: Urls, view: MirrorView, *, include_errors: bool) -> MirrorData:
    """A mirror topic; its error message is shown as a state transition error."""
    record = view.record
    errors = []
    if include_errors and record.error_message is not None:
        code = MirrorTopicError.UNKNOWN if record.error is MirrorTopicError.NO_ERROR else record.error
        errors.append(TaskErrorData(error_code=code, error_message=record.error_message))
    return MirrorData(
        metadata=ResourceMetadata(
            self=urls.of("links", record.link_name, "mirrors", record.mirror_topic_name)
        ),
        link_name=record.link_name,
        mirror_topic_name=record.mirror_topic_name,
        source_topic_name=record.source_topic_name,
        num_partitions=record.num_partitions,
        mirror_lags=_lags(view.lags),
        mirror_status=record.status,
        mirror_topic_error=record.error,
        state_time_ms=record.state_time_ms,
        mirror_state_transition_errors=errors,
        open_transactions=[
            OpenTransactionData(
                partition=each.partition,
                start_offset=each.start_offset,
                producer_id=each.producer_id,
                last_write_ms=each.last_write_ms,
                waiting_ms=round(each.waiting_s * 1000),
            )
            for each in view.open_transactions
        ],
    )


def alter_results(urls: Urls, link_name: str, results: Sequence[AlterResult]) -> AlterMirrorDataList:
    """What became of a verb, topic by topic."""
    path = ("links", link_name, "mirrors")
    return AlterMirrorDataList(
        metadata=CollectionMetadata(self=urls.of(*path)),
        data=[
            AlterMirrorData(
                metadata=ResourceMetadata(self=urls.of(*path, result.mirror_topic_name)),
                mirror_topic_name=result.mirror_topic_name,
                error_code=result.error_code,
                error_message=result.error_message,
                mirror_lags=_lags(result.lags),
            )
            for result in results
        ],
    )


def user(base_url: str, record: UserRecord) -> UserData:
    """A user."""
    url = f"{base_url.rstrip('/')}/causeway/v1/users/{quote(record.name, safe='')}"
    return UserData(metadata=ResourceMetadata(self=url), name=record.name, mechanisms=sorted(record.scram))


def user_list(base_url: str, records: Sequence[UserRecord]) -> UserDataList:
    """Users."""
    url = f"{base_url.rstrip('/')}/causeway/v1/users"
    return UserDataList(
        metadata=CollectionMetadata(self=url), data=[user(base_url, record) for record in records]
    )


def _task(view: TaskView) -> TaskData:
    errors = [TaskErrorData(error_code=e.error_code, error_message=e.error_message) for e in view.errors]
    return TaskData(task_name=view.task_name, state=view.state, errors=errors)


def _lags(lags: Sequence[PartitionLag]) -> list[LagData]:
    return [
        LagData(
            partition=each.partition, lag=each.lag, last_source_fetch_offset=each.last_source_fetch_offset
        )
        for each in lags
    ]


def _uuid_text(kafka_uuid: str) -> str:
    try:
        return str(UUID(bytes=base64.urlsafe_b64decode(kafka_uuid + "==")))
    except ValueError:
        return ""
