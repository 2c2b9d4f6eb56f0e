"""Judging requests of the APIs whose refusals or whose answers are like no other's.

Groups and what they hold (DescribeGroups, the descriptions of the newer groups, ListGroups, OffsetFetch,
FindCoordinator), transactions (InitProducerId, AddPartitionsToTxn, DescribeTransactions, ListTransactions),
configs, SyncGroup, DescribeCluster, and offsets of share groups. Topics are in `authorize_topics`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Final

from kio.schema.errors import ErrorCode

from protocol.acls import CLUSTER_NAME, Operation, ResourceType
from protocol.blank_messages import build, element_class, has_field
from protocol.cutting import Lists, changed, cut, merged
from protocol.errors import DecodeError
from protocol.fields import Buffer
from protocol.judging import (
    MESSAGES,
    Judge,
    Outcome,
    allowed,
    allowed_all,
    answer,
    by_topic_id,
    judge_each,
    judge_whole,
    only,
    refuse,
    refused_topic,
    topic_refusal,
    whole_needs,
)
from protocol.messages import encode_request, response_class
from protocol.permissions import PERMISSIONS, REFUSED, Need
from protocol.refusal_table import Topics
from protocol.refusals import Answer, Cut, Refusal, split_request
from protocol.transaction_refusals import refused_transactions, show_transactions

_NOT_ASKED: Final = -(2**31)


# --- groups ---------------------------------------------------------------------------------------------


def join_group(request: Any, judge: Judge) -> Outcome:
    """Without the name of a protocol where there is one: null from v7 on."""
    code = whole_needs(request, judge, PERMISSIONS[request.__api_key__])
    if code is None:
        return None
    name = None if request.__version__ >= 7 else ""
    return answer(request, {"error_code": code, "generation_id": -1, "protocol_name": name})


def sync_group(request: Any, judge: Judge) -> Outcome:
    """From v5 on a request without the names of its protocol is refused before anything else."""
    if request.__version__ >= 5 and (request.protocol_type is None or request.protocol_name is None):
        return refuse(request, ErrorCode.inconsistent_group_protocol)
    return judge_whole(request, judge)


def describe_groups(request: Any, judge: Judge) -> Outcome:
    """With the operations that the sender may do."""
    if not getattr(request, "include_authorized_operations", False):
        return judge_each(request, judge)
    return judge_each(request, judge, partial(_with_group_operations, judge))


def describe_assignments(request: Any, judge: Judge) -> Outcome:
    """A group that has a topic in it that the sender may not describe is not described at all."""
    need = PERMISSIONS[request.__api_key__][1]
    operations = request.include_authorized_operations

    def change(response: Any) -> Any:
        groups = tuple(_without_hidden(group, judge, need) for group in response.groups)
        response = dataclasses.replace(response, groups=groups)
        return _with_group_operations(judge, response) if operations else response

    return judge_each(request, judge, change)


_HIDDEN_TOPICS: Final = "The group has described topic(s) that the client is not authorized to describe."


def _without_hidden(group: Any, judge: Judge, need: Need) -> Any:
    topics = _assigned(group)
    if allowed_all(judge, need, sorted(topics)):
        return group
    return dataclasses.replace(
        group,
        error_code=REFUSED[ResourceType.TOPIC],
        error_message=_HIDDEN_TOPICS,
        members=(),
        **({"topology": None} if has_field(type(group), "topology") else {}),
    )


def _assigned(group: Any) -> set[str]:
    """The topics of a group that are assigned to its members, or part of its topology."""
    names: set[str] = set()
    for member in group.members:
        for each in (member.assignment, getattr(member, "target_assignment", None)):
            names.update(topic.topic_name for topic in getattr(each, "topic_partitions", ()))
    topology = getattr(group, "topology", None)
    return names if topology is None else names | set(topology_topics(topology.subtopologies or ()))


def internal_topics(subtopologies: Sequence[Any]) -> list[str]:
    """The topics of a topology that brokers make by themselves."""
    return [
        topic.name
        for part in subtopologies
        for topic in (*part.repartition_source_topics, *part.state_changelog_topics)
    ]


def topology_topics(subtopologies: Sequence[Any]) -> list[str]:
    """All topics of a streams group's topology (KIP-1071)."""
    return [
        name
        for part in subtopologies
        for name in (
            *part.source_topics,
            *part.repartition_sink_topics,
            *(topic.name for topic in part.repartition_source_topics),
            *(topic.name for topic in part.state_changelog_topics),
        )
    ]


def _with_group_operations(judge: Judge, response: Any) -> Any:
    groups = tuple(
        group
        if group.error_code == ErrorCode.group_authorization_failed
        else dataclasses.replace(
            group, authorized_operations=judge.operations(ResourceType.GROUP, group.group_id)
        )
        for group in response.groups
    )
    return dataclasses.replace(response, groups=groups)


def list_groups(request: Any, judge: Judge) -> Outcome:
    """Those that the sender may describe; all with DESCRIBE on the cluster."""
    need = PERMISSIONS[request.__api_key__][0]
    if judge.may(Operation.DESCRIBE, ResourceType.CLUSTER, CLUSTER_NAME, quiet=True):
        return None

    def change(response: Any) -> Any:
        groups = tuple(group for group in response.groups if allowed(judge, need, group.group_id))
        return dataclasses.replace(response, groups=groups)

    return changed(request, change)


def find_coordinator(request: Any, judge: Judge) -> Outcome:
    """One key up to v3, a list of them from v4 on; what the key is says its type."""
    key_type = getattr(request, "key_type", 0)
    needs = PERMISSIONS[request.__api_key__]
    single = request.__version__ < 4
    if key_type >= len(needs) or key_type < 0:
        # What a broker of the future may mean by it is not ours to judge.
        return answer(
            request,
            {
                "error_code": ErrorCode.invalid_request,
                "error_message": f"Unknown coordinator type {key_type}",
                **_NO_NODE,
                "coordinators": [
                    {"key": key, "error_code": ErrorCode.invalid_request, **_NO_NODE}
                    for key in getattr(request, "coordinator_keys", ())
                ],
            },
        )
    need = needs[key_type]
    code = REFUSED[need.resource]

    def refused(key: str) -> ErrorCode | None:
        name = CLUSTER_NAME if need.resource is ResourceType.CLUSTER else key
        return None if allowed(judge, need, name) else code

    if single:
        if refused(request.key) is None:
            return None
        return answer(request, {"error_code": code, "error_message": MESSAGES[code], **_NO_NODE})
    made = response_class(request.__api_key__, request.__version__)
    # Of the cluster alone, as it is thrown, not found.
    text = MESSAGES[code] if need.resource is ResourceType.CLUSTER else ""
    coordinator = element_class(made, "coordinators")
    answers = [
        None
        if refused(key) is None
        else build(coordinator, {"key": key, "error_code": code, "error_message": text, **_NO_NODE})
        for key in request.coordinator_keys
    ]
    lists = Lists("coordinator_keys", "coordinators", lambda key: key, lambda found: found.key)
    return cut(request, lists, answers, partial(only, made, "coordinators"))


_NO_NODE: Final = {"node_id": -1, "host": "", "port": -1}


# --- committed offsets ----------------------------------------------------------------------------------

_NO_OFFSET: Final = {"committed_offset": -1, "committed_leader_epoch": -1, "metadata": ""}
_FETCHED: Final = Topics(partitions="partition_indexes", indexes=None, values=_NO_OFFSET)
_GROUPS: Final = 8


def offset_fetch(request: Any, judge: Judge) -> Outcome:
    """One group up to v7, several from v8 on; of all its topics (null) those that the sender may describe."""
    group_need, topic_need = PERMISSIONS[request.__api_key__]
    made = response_class(request.__api_key__, request.__version__)
    if request.__version__ >= _GROUPS:
        return _offsets_of_groups(request, judge, _FETCHED)
    code = None if allowed(judge, group_need, request.group_id) else REFUSED[ResourceType.GROUP]
    if code is None:
        kept, finish = _offsets(judge, topic_need, request, made, _FETCHED)
        return None if finish is None else changed(request, finish, kept)
    if request.__version__ >= 2:
        return answer(request, {"error_code": code})
    return answer(
        request, {"topics": [refused_topic(made, _FETCHED, topic, code) for topic in request.topics]}
    )


def _offsets_of_groups(request: Any, judge: Judge, shape: Topics) -> Outcome:
    group_need, topic_need = PERMISSIONS[request.__api_key__]
    made = element_class(response_class(request.__api_key__, request.__version__), "groups")
    refused: list[Any | None] = []
    kept, finishes = [], []
    for group in request.groups:
        if allowed(judge, group_need, group.group_id):
            forward, finish = _offsets(judge, topic_need, group, made, shape)
            refused.append(None)
            kept.append(forward)
            finishes.append(finish)
        else:
            code = REFUSED[ResourceType.GROUP]
            refused.append(build(made, {"group_id": group.group_id, "error_code": code}))
    if len(kept) == len(request.groups) and not any(finishes):
        return None
    if not kept:
        return answer(request, {"groups": tuple(refused)})

    def merge(response: Any) -> Any:
        # A group may be there twice, asked for different topics: each answer is finished as it was asked.
        due: dict[str, list[Any]] = {}
        for group, finish in zip(kept, finishes, strict=True):
            due.setdefault(group.group_id, []).append(finish)
        groups = []
        for group in response.groups:
            if not due.get(group.group_id):
                raise DecodeError(f"an answer about group {group.group_id} that was not asked for")
            finish = due[group.group_id].pop(0)
            groups.append(group if finish is None else finish(group))
        response = dataclasses.replace(response, groups=tuple(groups))
        return merged(response, _GROUP_LISTS, request.groups, refused)

    return changed(request, merge, dataclasses.replace(request, groups=tuple(kept)))


_GROUP_LISTS: Final = Lists("groups", "groups", attrgetter("group_id"), attrgetter("group_id"))


def _offsets(
    judge: Judge, need: Need, asked: Any, made: Any, shape: Topics
) -> tuple[Any, Callable[[Any], Any] | None]:
    """What is left to ask about one group, and what makes the answer of the broker's (None: nothing)."""
    if shape is _FETCHED and not has_field(element_class(type(asked), "topics"), "name"):
        shape = by_topic_id(shape)
    name = attrgetter(shape.name)
    if asked.topics is None:

        def visible(answered: Any) -> Any:
            topics = tuple(
                topic
                for topic in answered.topics
                if topic_refusal(judge, need._replace(quiet=True), name(topic)) is None
            )
            return dataclasses.replace(answered, topics=topics)

        return asked, visible
    codes = [topic_refusal(judge, need, name(topic)) for topic in asked.topics]
    if not any(codes):
        return asked, None
    refused = [
        None if code is None else refused_topic(made, shape, topic, code)
        for topic, code in zip(asked.topics, codes, strict=True)
    ]
    kept = tuple(topic for topic, code in zip(asked.topics, codes, strict=True) if code is None)
    lists = Lists("topics", "topics", name, name)

    def merge(answered: Any) -> Any:
        return merged(answered, lists, asked.topics, refused)

    return dataclasses.replace(asked, topics=kept), merge


# --- transactions ---------------------------------------------------------------------------------------


def init_producer_id(request: Any, judge: Judge) -> Outcome:
    """WRITE on the transactional id; without one IDEMPOTENT_WRITE, or WRITE on any topic at all."""
    transaction, cluster, topic = PERMISSIONS[request.__api_key__]
    if request.transactional_id is not None:
        fits = allowed(judge, transaction, request.transactional_id)
        need = transaction
    else:
        fits = judge.may_any(topic.operation, topic.resource) or allowed(judge, cluster, CLUSTER_NAME)
        need = cluster
    if fits:
        return None
    return answer(request, {"error_code": REFUSED[need.resource], "producer_id": -1, "producer_epoch": -1})


# Never part of anybody's transaction but the brokers'.
_INTERNAL: Final = frozenset({"__consumer_offsets", "__transaction_state", "__share_group_state"})


def add_partitions_to_txn(request: Any, judge: Judge) -> Outcome:
    """Up to v3. With one topic refused nothing is added: the others are answered that it was not tried."""
    transaction, topic = PERMISSIONS[request.__api_key__]
    if allowed(judge, transaction, request.v3_and_below_transactional_id):
        topics = request.v3_and_below_topics
        refused = {
            each.name: Refusal(REFUSED[topic.resource])
            for each in topics
            # All of them are judged, so that the audit has all.
            if not allowed(judge, topic, each.name) or each.name in _INTERNAL
        }
        return split_request(request, refused.get) if refused else None
    every = Refusal(REFUSED[transaction.resource])
    return split_request(request, lambda _: every) or answer(request, {})


def describe_transactions(request: Any, judge: Judge) -> Outcome:
    """By transactional id; of their topics those that the sender may describe."""
    transaction, topic = PERMISSIONS[request.__api_key__]
    names = request.transactional_ids
    code = REFUSED[transaction.resource]
    refused = frozenset(name for name in names if not allowed(judge, transaction, name))
    kept = tuple(name for name in names if name not in refused)
    if names and not kept:
        return Answer(refused_transactions(names, code))

    def merge(body: Buffer) -> bytes:
        return show_transactions(body, names, refused, code, lambda name: allowed(judge, topic, name))

    return Cut(encode_request(dataclasses.replace(request, transactional_ids=kept)), merge)


def list_transactions(request: Any, judge: Judge) -> Outcome:
    """Those that the sender may describe."""
    (need,) = PERMISSIONS[request.__api_key__]

    def change(response: Any) -> Any:
        states = tuple(
            state for state in response.transaction_states if allowed(judge, need, state.transactional_id)
        )
        return dataclasses.replace(response, transaction_states=states)

    return changed(request, change)


# --- configs --------------------------------------------------------------------------------------------

_TOPIC: Final = 2
_GROUP: Final = 32
# Brokers, their loggers, and the metrics of clients (KIP-714) belong to the cluster.
_OF_CLUSTER: Final = frozenset({4, 8, 16})


def configs(request: Any, judge: Judge) -> Outcome:
    """DescribeConfigs, AlterConfigs, IncrementalAlterConfigs: what is needed says the type of a resource."""
    topic, group, cluster = PERMISSIONS[request.__api_key__]
    made = response_class(request.__api_key__, request.__version__)
    answered = "results" if has_field(made, "results") else "responses"
    element = element_class(made, answered)

    def refusal(resource: Any) -> ErrorCode | None:
        kind, name = resource.resource_type, resource.resource_name
        need = {_TOPIC: topic, _GROUP: group}.get(kind, cluster)
        if need is cluster and kind not in _OF_CLUSTER:
            return ErrorCode.invalid_request
        fits = allowed(judge, need, CLUSTER_NAME if need is cluster else name)
        return None if fits else REFUSED[need.resource]

    refused = []
    for resource in request.resources:
        code = refusal(resource)
        values = {
            "error_code": code,
            "error_message": _CONFIG_MESSAGES.get(code or ErrorCode.none),
            "resource_type": resource.resource_type,
            "resource_name": resource.resource_name,
        }
        refused.append(None if code is None else build(element, values))
    key = attrgetter("resource_type", "resource_name")
    lists = Lists("resources", answered, key, key)
    return cut(request, lists, refused, partial(only, made, answered))


_CONFIG_MESSAGES: Final = {
    **MESSAGES,
    ErrorCode.invalid_request: "The gateway does not know resources of this type.",
}


# --- the cluster ----------------------------------------------------------------------------------------


def describe_cluster(request: Any, judge: Judge) -> Outcome:
    """Everybody may; the operations on the cluster only with DESCRIBE."""
    if not request.include_cluster_authorized_operations:
        return None
    operations = cluster_operations(judge, PERMISSIONS[request.__api_key__][0])
    return changed(
        request, lambda response: dataclasses.replace(response, cluster_authorized_operations=operations)
    )


def cluster_operations(judge: Judge, need: Need) -> int:
    """The bits of what the sender may do to the cluster; 0 for whoever may not describe it."""
    if not judge.may(need.operation, need.resource, CLUSTER_NAME, quiet=True):
        return 0
    return judge.operations(ResourceType.CLUSTER, CLUSTER_NAME)


# --- share and streams groups ---------------------------------------------------------------------------


def streams_group_heartbeat(request: Any, judge: Judge) -> Outcome:
    """DESCRIBE on all topics of the topology (KIP-1071); CREATE is judged where it is known what exists."""
    group, topic, _ = PERMISSIONS[request.__api_key__]
    code = whole_needs(request, judge, (group,))
    if code is None and request.topology is not None:
        names = topology_topics(request.topology.subtopologies or ())
        if not allowed_all(judge, topic, names):
            code = REFUSED[topic.resource]
    return None if code is None else refuse(request, code)


def describe_share_group_offsets(request: Any, judge: Judge) -> Outcome:
    """Group by group, and in each topic by topic; of all topics (null) those that may be described."""
    return _offsets_of_groups(request, judge, _SHARED)


_SHARED: Final = Topics(
    name="topic_name", indexes=None, answered_name="topic_name", values={"start_offset": -1}
)


def delete_share_group_offsets(request: Any, judge: Judge) -> Outcome:
    """DELETE on the group, READ on each topic; a topic has one code here, and no partitions."""
    group, topic = PERMISSIONS[request.__api_key__]
    code = whole_needs(request, judge, (group,))
    if code is not None:
        return answer(request, {"error_code": code, "error_message": MESSAGES[code]})
    made = response_class(request.__api_key__, request.__version__)
    element = element_class(made, "responses")
    denied = REFUSED[topic.resource]
    refused = [
        None
        if allowed(judge, topic, each.topic_name)
        else build(
            element,
            {"topic_name": each.topic_name, "error_code": denied, "error_message": MESSAGES[denied]},
        )
        for each in request.topics
    ]
    name = attrgetter("topic_name")
    lists = Lists("topics", "responses", name, name)
    return cut(request, lists, refused, partial(only, made, "responses"))
