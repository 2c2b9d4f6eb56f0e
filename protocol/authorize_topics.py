"""Judging requests about topics as such: Metadata, DescribeTopicPartitions, CreateTopics, DeleteTopics."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, Final
from uuid import UUID

from kio.schema.errors import ErrorCode

from protocol.acls import CLUSTER_NAME, Operation, ResourceType
from protocol.authorize_more import cluster_operations
from protocol.blank_messages import build, element_class, has_field
from protocol.cutting import Lists, changed, cut, merged
from protocol.judging import (
    Hide,
    Judge,
    Outcome,
    allowed,
    only,
    topic_refusal,
)
from protocol.messages import response_class
from protocol.permissions import PERMISSIONS, REFUSED, Need

_NO_ID: Final = UUID(int=0)
_NOT_ASKED: Final = -(2**31)
_REFUSED: Final = REFUSED[ResourceType.TOPIC]
_UNKNOWN: Final = ErrorCode.unknown_topic_or_partition
# From here on a request says whether missing topics are to be created.
MAY_FORBID_CREATION: Final = 4


# --- Metadata -------------------------------------------------------------------------------------------


def is_about_all(request: Any) -> bool:
    """Whether a Metadata request is about all topics: null, and in v0 none."""
    return request.topics is None or (request.__version__ == 0 and not request.topics)


def metadata(request: Any, judge: Judge) -> Outcome:
    """By name or id, or about all topics; what may not be described is refused, or left out of all.

    Whether topics are created is the caller's to have looked at: see `not_creatable`.
    """
    describe, _, cluster = PERMISSIONS[request.__api_key__]
    operations = getattr(request, "include_topic_authorized_operations", False)
    of_cluster = getattr(request, "include_cluster_authorized_operations", False)
    if is_about_all(request):
        visible = describe._replace(quiet=True)

        def hidden(name: str) -> bool:
            return not allowed(judge, visible, name)

        if not operations and not of_cluster:
            return Hide(hidden)

        def change_all(response: Any) -> Any:
            kept = tuple(topic for topic in response.topics if not hidden(topic.name))
            response = dataclasses.replace(response, topics=kept)
            return _with_operations(judge, cluster, response, operations, of_cluster)

        return changed(request, change_all)
    codes = [_refusal(judge, describe, topic) for topic in request.topics]
    refused = [
        None if code is None else _refused_metadata(request, _asked_topic(topic), code)
        for topic, code in zip(request.topics, codes, strict=True)
    ]
    if not any(codes) and not operations and not of_cluster:
        return None
    kept = tuple(topic for topic, code in zip(request.topics, codes, strict=True) if code is None)

    def change(response: Any) -> Any:
        # No topics left means none, but in v0, where that is all of them.
        if not kept:
            response = dataclasses.replace(response, topics=())
        response = _with_operations(judge, cluster, response, operations, of_cluster)
        lists = Lists("topics", "topics", _asked_topic, _by_name_or_id(kept))
        return merged(response, lists, request.topics, refused)

    return changed(request, change, dataclasses.replace(request, topics=kept))


def _asked_topic(topic: Any) -> str | UUID:
    topic_id: UUID | None = getattr(topic, "topic_id", None)
    asked: str | UUID = topic.name if topic_id is None else topic_id
    return asked


def _refusal(judge: Judge, need: Need, topic: Any) -> ErrorCode | None:
    # Which of both a broker goes by, if both are given, is its own affair.
    code = topic_refusal(judge, need, _asked_topic(topic))
    if code is None and topic.name is not None and getattr(topic, "topic_id", None) is not None:
        code = topic_refusal(judge, need, topic.name)
    return code


def _by_name_or_id(kept: Sequence[Any]) -> Any:
    ids = {getattr(topic, "topic_id", None) for topic in kept} - {None}
    return lambda topic: topic.topic_id if getattr(topic, "topic_id", None) in ids else topic.name


def _refused_metadata(request: Any, topic: str | UUID, code: ErrorCode) -> Any:
    made = element_class(response_class(request.__api_key__, request.__version__), "topics")
    by_id = isinstance(topic, UUID)
    return build(
        made,
        {
            "error_code": code,
            "name": None if by_id else topic,
            "topic_id": topic if by_id else None,
            "topic_authorized_operations": _NOT_ASKED,
        },
    )


def _with_operations(judge: Judge, cluster: Need, response: Any, of_topics: bool, of_cluster: bool) -> Any:
    if of_topics:
        response = dataclasses.replace(
            response,
            topics=tuple(
                topic
                if topic.name is None
                else dataclasses.replace(
                    topic, topic_authorized_operations=judge.operations(ResourceType.TOPIC, topic.name)
                )
                for topic in response.topics
            ),
        )
    if of_cluster:
        bits = cluster_operations(judge, cluster)
        response = dataclasses.replace(response, cluster_authorized_operations=bits)
    return response


def not_creatable(request: Any, judge: Judge) -> frozenset[str]:
    """The names in a Metadata request that the sender may see, and not create if they are not there."""
    if is_about_all(request) or not getattr(request, "allow_auto_topic_creation", True):
        return frozenset()
    describe, create, _ = PERMISSIONS[request.__api_key__]
    if judge.may(Operation.CREATE, ResourceType.CLUSTER, CLUSTER_NAME, quiet=True):
        return frozenset()
    create = create._replace(instead=None, quiet=True)
    quiet = describe._replace(quiet=True)
    names = {topic.name for topic in request.topics if topic.name is not None}
    return frozenset(
        name for name in names if allowed(judge, quiet, name) and not allowed(judge, create, name)
    )


def creation_refused(response: Any, names: Collection[str]) -> Any:
    """A Metadata response in which what is missing of those topics is refused: it was not created."""
    topics = tuple(
        dataclasses.replace(topic, error_code=_REFUSED)
        if topic.error_code == _UNKNOWN and topic.name in names
        else topic
        for topic in response.topics
    )
    return dataclasses.replace(response, topics=topics)


# --- DescribeTopicPartitions ----------------------------------------------------------------------------


def describe_topic_partitions(request: Any, judge: Judge) -> Outcome:
    """By name; the caller has put the names of all topics that may be described in the place of none."""
    (need,) = PERMISSIONS[request.__api_key__]
    made = response_class(request.__api_key__, request.__version__)
    element = element_class(made, "topics")
    refused = [
        None
        if allowed(judge, need, topic.name)
        else build(
            element,
            {
                "error_code": _REFUSED,
                "name": topic.name,
                "topic_id": None,
                "topic_authorized_operations": _NOT_ASKED,
            },
        )
        for topic in request.topics
    ]

    def change(response: Any) -> Any:
        topics = tuple(
            dataclasses.replace(
                topic, topic_authorized_operations=judge.operations(ResourceType.TOPIC, topic.name)
            )
            for topic in response.topics
        )
        return dataclasses.replace(response, topics=topics)

    lists = Lists("topics", "topics", lambda topic: topic.name, lambda topic: topic.name)
    return cut(request, lists, refused, partial(only, made, "topics"), change)


# --- CreateTopics, DeleteTopics -------------------------------------------------------------------------

_METADATA_LOG: Final = "__cluster_metadata"
_NO_METADATA_LOG: Final = "Creation of internal topic __cluster_metadata is prohibited."
_MAY_NOT_CREATE: Final = "Authorization failed."
_DUPLICATE: Final = "Duplicate topic name."


def create_topics(request: Any, judge: Judge) -> Outcome:
    """By name; the configs of what was created only with DESCRIBE_CONFIGS."""
    create, configs = PERMISSIONS[request.__api_key__]
    made = response_class(request.__api_key__, request.__version__)
    element = element_class(made, "topics")
    counts = Counter(topic.name for topic in request.topics)
    hides = has_field(element, "topic_config_error_code")

    def refusal(name: str) -> Any:
        if name == _METADATA_LOG:
            code, text = ErrorCode.invalid_request, _NO_METADATA_LOG
        elif counts[name] > 1:
            code, text = ErrorCode.invalid_request, _DUPLICATE
        elif not allowed(judge, create, name):
            code, text = _REFUSED, _MAY_NOT_CREATE
        else:
            return None
        values = {"name": name, "error_code": code, "error_message": text}
        return build(element, values | _NOT_SHOWN)

    def change(response: Any) -> Any:
        topics = tuple(
            topic if topic.error_code or allowed(judge, configs, topic.name) else _without_configs(topic)
            for topic in response.topics
        )
        return dataclasses.replace(response, topics=topics)

    lists = Lists("topics", "topics", lambda topic: topic.name, lambda topic: topic.name)
    # What is there twice is refused once.
    once = tuple({topic.name: topic for topic in request.topics}.values())
    request = dataclasses.replace(request, topics=once)
    refused = [refusal(topic.name) for topic in once]
    return cut(request, lists, refused, partial(only, made, "topics"), change if hides else None)


_NOT_SHOWN: Final = {"num_partitions": -1, "replication_factor": -1, "configs": ()}


def _without_configs(topic: Any) -> Any:
    return dataclasses.replace(
        topic,
        topic_config_error_code=_REFUSED,
        num_partitions=-1,
        replication_factor=-1,
        configs=(),
    )


def delete_topics(request: Any, judge: Judge) -> Outcome:
    """By name, or from v6 on by id; the name behind a refused id is told to whoever may describe it."""
    delete, describe = PERMISSIONS[request.__api_key__]
    made = response_class(request.__api_key__, request.__version__)
    element = element_class(made, "responses")

    def refusal(topic: str | UUID, code: ErrorCode | None) -> Any:
        if code is None:
            return None
        values: dict[str, Any] = {"name": topic, "error_code": code, "topic_id": None}
        if isinstance(topic, UUID):
            name = judge.name_of(topic)
            shown = name if name is not None and allowed(judge, describe, name) else None
            values |= {"name": shown, "topic_id": topic}
        return build(element, values | {"error_message": _DELETE_MESSAGES[code]})

    if request.__version__ < 6:
        names = Lists("topic_names", "responses", lambda name: name, lambda topic: topic.name)
        refused = [refusal(name, topic_refusal(judge, delete, name)) for name in request.topic_names]
        return cut(request, names, refused, partial(only, made, "responses"))
    asked = {topic.topic_id for topic in request.topics} - {None}
    lists = Lists(
        "topics",
        "responses",
        _asked_topic,
        lambda topic: topic.topic_id if topic.topic_id in asked else topic.name,
    )
    refused = [refusal(_asked_topic(topic), _refusal(judge, delete, topic)) for topic in request.topics]
    return cut(request, lists, refused, partial(only, made, "responses"))


_DELETE_MESSAGES: Final = {
    _REFUSED: "Topic authorization failed.",
    ErrorCode.unknown_topic_id: "This server does not host this topic ID.",
}
