"""What is forwarded and what is answered, for every API and version, by what a client may do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from protocol import authorize as authorize_module
from protocol.acls import CLUSTER_NAME, Operation, ResourceType
from protocol.api_keys import ApiKey
from protocol.api_versions import ANSWERED_HERE, FORWARDED, advertised
from protocol.authorize import APART, authorize, is_judged
from protocol.authorize_more import internal_topics
from protocol.authorize_topics import creation_refused, is_about_all, not_creatable
from protocol.blank_messages import build, element_class
from protocol.cutting import Lists, cut
from protocol.errors import DecodeError
from protocol.judging import Hide, Outcome, judge_each
from protocol.messages import decode_request, decode_response, encode_response, response_class
from protocol.permissions import PERMISSIONS
from protocol.refusals import Answer, Cut
from protocol.transaction_refusals import refused_transactions
from tests.e2e.acl_script import SCRIPT, Scene, topics, versions
from tests.e2e.raw_client import make
from tests.protocol.judges import FakeJudge, May, blank, everything, no_topics, nothing, open_only

ROLE = "role"
IDS = {name: UUID(int=1000 + index) for index, name in enumerate(topics(ROLE))}
NAMES = {topic_id: name for name, topic_id in IDS.items()}
GROUP, TOPIC, CLUSTER = ResourceType.GROUP, ResourceType.TOPIC, ResourceType.CLUSTER
JUDGED = [key for key in SCRIPT if key not in APART]


def scripted(key: int) -> Iterator[Any]:
    for version in versions(key):
        yield from SCRIPT[key](Scene(ROLE, version, IDS))


def judge(may: May) -> FakeJudge:
    return FakeJudge(may, NAMES)


def answered(request: Any, outcome: Outcome) -> Any:
    assert isinstance(outcome, Answer)
    return decode_response(request.__api_key__, request.__version__, outcome.body)


def merged(request: Any, outcome: Outcome, response: Any) -> Any:
    assert isinstance(outcome, Cut)
    return decode_response(request.__api_key__, request.__version__, outcome.merge(encode_response(response)))


def forwarded(request: Any, outcome: Outcome) -> Any:
    assert isinstance(outcome, Cut)
    return decode_request(request.__api_key__, request.__version__, outcome.body)


def texts(message: Any) -> list[str]:
    """All names in a message, in order."""
    if isinstance(message, str):
        return [message]
    if isinstance(message, UUID):
        return [NAMES.get(message, "")]
    if isinstance(message, tuple):
        return [text for each in message for text in texts(each)]
    if dataclasses.is_dataclass(message):
        return [text for field in dataclasses.fields(message) for text in texts(getattr(message, field.name))]
    return []


def named(message: Any, prefix: str) -> list[str]:
    return [text for text in texts(message) if text.startswith(prefix)]


def test_every_api_that_is_forwarded_has_a_row() -> None:
    for key in (*FORWARDED, *ANSWERED_HERE):
        anybody = key in {ApiKey.API_VERSIONS, ApiKey.SASL_HANDSHAKE, ApiKey.SASL_AUTHENTICATE}
        assert is_judged(key) is not anybody, key
    assert set(PERMISSIONS) <= set(FORWARDED) | set(ANSWERED_HERE)
    assert not is_judged(ApiKey.WRITE_TXN_MARKERS)


def test_an_api_without_a_row_is_not_advertised(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = dict.fromkeys(FORWARDED, (0, 99))
    assert ApiKey.DELETE_TOPICS in advertised(broker)
    assert ApiKey.HEARTBEAT in advertised(broker)
    monkeypatch.delitem(PERMISSIONS, ApiKey.DELETE_TOPICS)
    monkeypatch.delitem(authorize_module._RULES, ApiKey.HEARTBEAT)
    shown = advertised(broker)
    assert ApiKey.DELETE_TOPICS not in shown
    assert ApiKey.HEARTBEAT not in shown
    with pytest.raises(KeyError):
        authorize(make(ApiKey.DELETE_TOPICS, 1), judge(everything))


# What is filtered or has operations added needs the response, though all is allowed.
CHANGED = {
    ApiKey.METADATA,
    ApiKey.OFFSET_FETCH,
    ApiKey.DESCRIBE_GROUPS,
    ApiKey.CREATE_TOPICS,
    ApiKey.DESCRIBE_CLUSTER,
    ApiKey.DESCRIBE_TRANSACTIONS,
    ApiKey.LIST_TRANSACTIONS,
    ApiKey.CONSUMER_GROUP_DESCRIBE,
    ApiKey.SHARE_GROUP_DESCRIBE,
    ApiKey.STREAMS_GROUP_DESCRIBE,
    ApiKey.DESCRIBE_TOPIC_PARTITIONS,
    ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS,
}
# Answered before the ACLs are asked.
BEFORE = {
    ApiKey.CREATE_TOPICS,
    ApiKey.SYNC_GROUP,
    ApiKey.ADD_PARTITIONS_TO_TXN,
    ApiKey.METADATA,
    ApiKey.DELETE_TOPICS,
}


@pytest.mark.parametrize("key", JUDGED, ids=lambda key: ApiKey(key).name)
def test_what_is_allowed_goes_on_as_it_is(key: int) -> None:
    for request in scripted(key):
        outcome = authorize(request, judge(everything))
        if outcome is None or key in BEFORE:
            continue
        assert key in CHANGED
        if isinstance(outcome, Cut):
            assert texts(forwarded(request, outcome)) == texts(request)


@pytest.mark.parametrize("key", JUDGED, ids=lambda key: ApiKey(key).name)
def test_nothing_goes_on_that_is_refused(key: int) -> None:
    for may, kept in ((nothing, "none"), (open_only, "open")):
        for request in scripted(key):
            outcome = authorize(request, judge(may))
            if outcome is None:
                assert not named(request, "shut"), (request, may)
            elif isinstance(outcome, Cut):
                left = forwarded(request, outcome)
                assert not named(left, "shut"), (request, left)
                assert not [text for text in named(left, "open") if not text.startswith(kept)]
            elif isinstance(outcome, Answer):
                answered(request, outcome)


PER_ELEMENT = {
    ApiKey.LIST_OFFSETS,
    ApiKey.OFFSET_COMMIT,
    ApiKey.DELETE_RECORDS,
    ApiKey.OFFSET_FOR_LEADER_EPOCH,
    ApiKey.TXN_OFFSET_COMMIT,
    ApiKey.CREATE_PARTITIONS,
    ApiKey.DELETE_GROUPS,
    ApiKey.OFFSET_DELETE,
    ApiKey.DESCRIBE_PRODUCERS,
    ApiKey.DESCRIBE_GROUPS,
    ApiKey.ALTER_SHARE_GROUP_OFFSETS,
    ApiKey.DELETE_SHARE_GROUP_OFFSETS,
    ApiKey.DESCRIBE_CONFIGS,
    ApiKey.ALTER_CONFIGS,
    ApiKey.INCREMENTAL_ALTER_CONFIGS,
    ApiKey.DELETE_TOPICS,
}


@pytest.mark.parametrize("key", sorted(PER_ELEMENT), ids=lambda key: ApiKey(key).name)
def test_refusals_are_merged_into_their_places(key: int) -> None:
    """The broker's part is what a judge who refuses every topic says of what is left."""

    def part(operation: Operation, resource: ResourceType, name: str) -> bool:
        if resource is CLUSTER:
            return False
        return not name.startswith("shut") or (resource is GROUP and key not in OF_GROUPS)

    merges = 0
    for request in scripted(key):
        outcome = authorize(request, judge(part))
        if not isinstance(outcome, Cut):
            continue
        left = forwarded(request, outcome)
        none = nothing if key in OF_GROUPS else no_topics
        said = authorize(left, judge(none))
        response = blank(left) if said is None or isinstance(said, Cut) else answered(left, said)
        whole = merged(request, outcome, response)
        asked = [text for text in texts(request) if text.startswith(("open", "shut"))]
        told = [text for text in texts(whole) if text.startswith(("open", "shut"))]
        lists = [name for name in asked if name != getattr(request, "group_id", None)]
        assert set(lists) <= set(told)
        # In the order of the request.
        assert told.index(lists[0]) <= told.index(lists[-1])
        assert named(whole, "shut")
        merges += 1
    assert merges


OF_GROUPS = {
    ApiKey.DELETE_GROUPS,
    ApiKey.DESCRIBE_GROUPS,
    ApiKey.DESCRIBE_CONFIGS,
    ApiKey.INCREMENTAL_ALTER_CONFIGS,
}


def test_an_error_as_a_whole_stays_the_brokers() -> None:
    request = make(
        ApiKey.OFFSET_DELETE,
        0,
        group_id="open",
        topics=[{"name": name, "partitions": [{"partition_index": 0}]} for name in ("open", "shut")],
    )

    def may(_operation: Operation, resource: ResourceType, name: str) -> bool:
        return resource is GROUP or name == "open"

    outcome = authorize(request, judge(may))
    error = blank(request, error_code=ErrorCode.group_id_not_found)
    assert merged(request, outcome, error) == error
    # What nobody asked for comes last.
    other = blank(request, topics=[{"name": "other"}])
    assert [topic.name for topic in merged(request, outcome, other).topics] == ["shut", "other"]


def test_whole_refusals() -> None:
    moved = [{"name": "t", "partitions": [{"partition_index": 3, "replicas": None}]}]
    reassign = make(ApiKey.ALTER_PARTITION_REASSIGNMENTS, 0, topics=moved)
    told = answered(reassign, authorize(reassign, judge(nothing)))
    assert told.error_code == told.responses[0].partitions[0].error_code == 31
    elect = make(ApiKey.ELECT_LEADERS, 0, topic_partitions=[{"topic": "t", "partitions": (1,)}])
    told = answered(elect, authorize(elect, judge(nothing)))
    assert told.replica_election_results[0].partition_result[0].error_code == 31
    listed = make(ApiKey.LIST_PARTITION_REASSIGNMENTS, 0, topics=None)
    assert answered(listed, authorize(listed, judge(nothing))).error_code == 31
    for key, name, values in (
        (ApiKey.CREATE_ACLS, "results", {"creations": [{}, {}]}),
        (ApiKey.DELETE_ACLS, "filter_results", {"filters": [{}, {}]}),
        (
            ApiKey.ALTER_USER_SCRAM_CREDENTIALS,
            "results",
            {"deletions": [{"name": "a"}], "upsertions": [{"name": "b"}, {"name": "a"}]},
        ),
        (ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS, "results", {"users": [{"name": "a"}, {"name": "b"}]}),
    ):
        request = build_request(key, values)
        told = answered(request, authorize(request, judge(nothing)))
        assert [each.error_code for each in getattr(told, name)] == [31, 31]
        assert authorize(request, judge(everything)) is None
    acls = make(ApiKey.DESCRIBE_ACLS, 1)
    assert answered(acls, authorize(acls, judge(nothing))).error_code == 31


def build_request(key: int, values: dict[str, Any]) -> Any:
    lowest = {**FORWARDED, **ANSWERED_HERE}[key][0]
    made = type(make(key, lowest))
    return build(made, values)


def test_telemetry_needs_nothing() -> None:
    assert authorize(make(ApiKey.PUSH_TELEMETRY, 0, client_instance_id=UUID(int=1)), judge(nothing)) is None


def test_unknown_topic_ids_are_never_forwarded() -> None:
    unknown = UUID(int=5)
    commit = make(
        ApiKey.OFFSET_COMMIT, 10, topics=[{"topic_id": unknown, "partitions": [{"partition_index": 1}]}]
    )
    told = answered(commit, authorize(commit, judge(everything)))
    assert told.topics[0].partitions[0].error_code == ErrorCode.unknown_topic_id
    delete = make(ApiKey.DELETE_TOPICS, 6, topics=[{"name": None, "topic_id": unknown}])
    told = answered(delete, authorize(delete, judge(everything)))
    assert (told.responses[0].name, told.responses[0].error_code) == (None, ErrorCode.unknown_topic_id)
    nameless = make(ApiKey.METADATA, 12, topics=[{"name": None, "topic_id": None}])
    assert authorize(nameless, judge(everything)) is not None


def test_a_name_hides_no_id() -> None:
    """Which of both a broker goes by is its own affair."""
    shut, opened = IDS[f"shut-{ROLE}"], IDS[f"open-{ROLE}"]
    for name, topic_id in ((f"open-{ROLE}", shut), (f"shut-{ROLE}", opened)):
        metadata = make(ApiKey.METADATA, 12, topics=[{"name": name, "topic_id": topic_id}])
        outcome = authorize(metadata, judge(open_only))
        assert not forwarded(metadata, outcome).topics
        delete = make(ApiKey.DELETE_TOPICS, 6, topics=[{"name": name, "topic_id": topic_id}])
        assert isinstance(authorize(delete, judge(open_only)), Answer)


# --- Metadata -------------------------------------------------------------------------------------------


def test_metadata_about_all_topics() -> None:
    for version in (0, 1, 13):
        request = make(ApiKey.METADATA, version, topics=() if version == 0 else None)
        assert is_about_all(request)
        outcome = authorize(request, judge(open_only))
        assert isinstance(outcome, Hide)
        assert outcome.hidden("shut")
        assert not outcome.hidden("open")
    assert not is_about_all(make(ApiKey.METADATA, 1, topics=()))


@pytest.mark.parametrize("about", [None, ["open", "shut"]])
def test_metadata_with_operations(about: list[str] | None) -> None:
    names = None if about is None else [{"name": name} for name in about]
    request = make(
        ApiKey.METADATA,
        9,
        topics=names,
        include_topic_authorized_operations=True,
        include_cluster_authorized_operations=True,
    )
    seen = [{"name": "open"}] if about else [{"name": "open"}, {"name": "shut"}]
    response = blank(request, topics=seen, cluster_authorized_operations=-1)
    told = merged(request, authorize(request, judge(open_only)), response)
    shown = {topic.name: topic for topic in told.topics}
    assert shown["open"].topic_authorized_operations == 0b110111111000 & ~(1 << 9)
    assert told.cluster_authorized_operations == 0
    if about is None:
        assert "shut" not in shown
    else:
        assert shown["shut"].error_code == ErrorCode.topic_authorization_failed
    may_all = merged(request, authorize(request, judge(everything)), response)
    assert may_all.cluster_authorized_operations > 0


def test_metadata_by_id() -> None:
    shut, opened = IDS[f"shut-{ROLE}"], IDS[f"open-{ROLE}"]
    request = make(
        ApiKey.METADATA,
        12,
        topics=[{"name": None, "topic_id": topic_id} for topic_id in (shut, opened)],
        include_topic_authorized_operations=True,
    )
    outcome = authorize(request, judge(open_only))
    seen = [{"name": f"open-{ROLE}", "topic_id": opened}]
    told = merged(request, outcome, blank(request, topics=seen))
    assert [(topic.name, topic.topic_id, topic.error_code) for topic in told.topics] == [
        (None, shut, ErrorCode.topic_authorization_failed),
        (f"open-{ROLE}", opened, ErrorCode.none),
    ]
    gone = [{"name": None, "topic_id": opened, "error_code": ErrorCode.unknown_topic_id}]
    told = merged(request, outcome, blank(request, topics=gone))
    assert told.topics[1].error_code == ErrorCode.unknown_topic_id


def test_metadata_in_version_0_of_nothing_left() -> None:
    """No topics are all of them there: what comes is not shown."""
    request = make(ApiKey.METADATA, 0, topics=[{"name": "shut"}])
    told = merged(request, authorize(request, judge(open_only)), blank(request, topics=[{"name": "open"}]))
    assert [topic.name for topic in told.topics] == ["shut"]


def test_what_may_not_be_created() -> None:
    def may(operation: Operation, resource: ResourceType, name: str) -> bool:
        return resource is TOPIC and (operation is Operation.DESCRIBE or name == "mine")

    request = make(
        ApiKey.METADATA, 4, topics=[{"name": "mine"}, {"name": "other"}], allow_auto_topic_creation=True
    )
    assert not_creatable(request, judge(may)) == {"other"}
    assert not_creatable(request, judge(everything)) == frozenset()
    plain = make(ApiKey.METADATA, 4, topics=[{"name": "other"}], allow_auto_topic_creation=False)
    assert not_creatable(plain, judge(may)) == frozenset()
    assert not_creatable(make(ApiKey.METADATA, 1, topics=None), judge(may)) == frozenset()
    assert not_creatable(make(ApiKey.METADATA, 1, topics=[{"name": "other"}]), judge(may)) == {"other"}
    unknown = ErrorCode.unknown_topic_or_partition
    response = blank(request, topics=[{"name": name, "error_code": unknown} for name in ("mine", "other")])
    told = {topic.name: topic.error_code for topic in creation_refused(response, {"other"}).topics}
    assert told == {"mine": unknown, "other": ErrorCode.topic_authorization_failed}


def test_describe_topic_partitions() -> None:
    request = make(ApiKey.DESCRIBE_TOPIC_PARTITIONS, 0, topics=[{"name": "shut"}, {"name": "open"}])
    outcome = authorize(request, judge(open_only))
    told = merged(request, outcome, blank(request, topics=[{"name": "open"}]))
    assert [topic.error_code for topic in told.topics] == [29, 0]
    assert told.topics[1].topic_authorized_operations > 0


def test_create_topics() -> None:
    topics_ = [{"name": name} for name in ("open", "shut", "open-2", "open-2", "__cluster_metadata", "plain")]
    request = make(ApiKey.CREATE_TOPICS, 7, topics=topics_)

    def may(operation: Operation, _resource: ResourceType, name: str) -> bool:
        return name.startswith("open") or (name == "plain" and operation is Operation.CREATE)

    outcome = authorize(request, judge(may))
    assert [topic.name for topic in forwarded(request, outcome).topics] == ["open", "plain"]
    seen = [{"name": name, "num_partitions": 3, "configs": [{"name": "c"}]} for name in ("open", "plain")]
    told = {topic.name: topic for topic in merged(request, outcome, blank(request, topics=seen)).topics}
    assert {name: int(topic.error_code) for name, topic in told.items()} == {
        "open": 0,
        "shut": 29,
        "open-2": 42,
        "__cluster_metadata": 42,
        "plain": 0,
    }
    assert (told["open"].topic_config_error_code, told["open"].num_partitions) == (0, 3)
    assert (told["plain"].topic_config_error_code, told["plain"].num_partitions, told["plain"].configs) == (
        29,
        -1,
        (),
    )
    # Where the configs are not told there is nothing to hide.
    assert authorize(make(ApiKey.CREATE_TOPICS, 2, topics=[{"name": "open"}]), judge(may)) is None


def test_delete_topics_by_id() -> None:
    def may(operation: Operation, _resource: ResourceType, name: str) -> bool:
        return name.startswith("open") or (name.endswith("-0") and operation is Operation.DESCRIBE)

    names = [f"open-{ROLE}", f"shut-{ROLE}", f"shut-{ROLE}-gone-0"]
    request = make(ApiKey.DELETE_TOPICS, 6, topics=[{"name": None, "topic_id": IDS[name]} for name in names])
    outcome = authorize(request, judge(may))
    seen = [{"name": names[0], "topic_id": IDS[names[0]]}]
    told = merged(request, outcome, blank(request, responses=seen)).responses
    assert [(each.name, int(each.error_code)) for each in told] == [(names[0], 0), (None, 29), (names[2], 29)]


# --- groups, transactions, configs ----------------------------------------------------------------------


def test_join_and_sync() -> None:
    for version, name in ((6, ""), (7, None)):
        request = make(ApiKey.JOIN_GROUP, version, group_id="shut")
        told = answered(request, authorize(request, judge(nothing)))
        assert (told.protocol_name, told.generation_id) == (name, -1)
        assert authorize(request, judge(everything)) is None
    request = make(ApiKey.SYNC_GROUP, 5, protocol_type=None, protocol_name="range")
    told = answered(request, authorize(request, judge(nothing)))
    assert told.error_code == ErrorCode.inconsistent_group_protocol


def test_descriptions_of_groups_with_hidden_topics() -> None:
    topic = {"topic_id": UUID(int=1), "topic_name": "shut", "partitions": (0,)}
    assigned = {"assignment": {"topic_partitions": [topic]}}
    for key in (ApiKey.CONSUMER_GROUP_DESCRIBE, ApiKey.SHARE_GROUP_DESCRIBE):
        version = FORWARDED[key][1]
        request = make(key, version, group_ids=("open",), include_authorized_operations=True)
        made = response_class(key, version)
        member = build(element_class(element_class(made, "groups"), "members"), assigned)
        response = blank(request, groups=[{"group_id": "open", "members": (member,)}])
        outcome = authorize(request, judge(open_only))
        assert isinstance(outcome, Cut)
        told = merged(request, outcome, response).groups[0]
        assert (told.error_code, told.members) == (29, ())
        told = merged(request, authorize(request, judge(everything)), response).groups[0]
        assert (told.error_code, told.members) == (0, (member,))
        assert told.authorized_operations > 0
    key = ApiKey.STREAMS_GROUP_DESCRIBE
    request = make(key, 0, group_ids=("open",))
    subtopology = {
        "subtopology_id": "0",
        "source_topics": ("shut",),
        "repartition_sink_topics": (),
        "state_changelog_topics": (),
        "repartition_source_topics": (),
    }
    response = blank(request, groups=[{"group_id": "open", "topology": {"subtopologies": [subtopology]}}])
    told = merged(request, authorize(request, judge(open_only)), response).groups[0]
    assert (told.error_code, told.topology) == (29, None)
    told = merged(request, authorize(request, judge(everything)), response).groups[0]
    assert told.topology is not None


def test_group_operations_are_not_told_of_refused_groups() -> None:
    request = make(ApiKey.DESCRIBE_GROUPS, 5, groups=("shut", "open"), include_authorized_operations=True)
    refused = ErrorCode.group_authorization_failed
    seen = [{"group_id": "open"}, {"group_id": "x", "error_code": refused, "authorized_operations": 7}]
    told = merged(request, authorize(request, judge(open_only)), blank(request, groups=seen)).groups
    assert [(each.group_id, int(each.error_code)) for each in told] == [("shut", 30), ("open", 0), ("x", 30)]
    assert told[2].authorized_operations == 7
    assert told[1].authorized_operations > 0


def test_lists_are_filtered() -> None:
    request = make(ApiKey.LIST_GROUPS, 4)
    response = blank(request, groups=[{"group_id": "open"}, {"group_id": "shut"}])
    told = merged(request, authorize(request, judge(open_only)), response)
    assert [group.group_id for group in told.groups] == ["open"]
    assert authorize(request, judge(lambda *what: what[2] == CLUSTER_NAME)) is None
    request = make(ApiKey.LIST_TRANSACTIONS, 0)
    response = blank(request, transaction_states=[{"transactional_id": "open"}, {"transactional_id": "shut"}])
    told = merged(request, authorize(request, judge(open_only)), response)
    assert [each.transactional_id for each in told.transaction_states] == ["open"]


def test_unknown_types_of_coordinators_and_resources_are_refused() -> None:
    for version in (3, 4):
        fields: dict[str, Any] = {"key": "a"} if version == 3 else {"coordinator_keys": ("a",)}
        for kind in (9, -1):
            request = make(ApiKey.FIND_COORDINATOR, version, key_type=kind, **fields)
            told = answered(request, authorize(request, judge(everything)))
            code = told.error_code if version == 3 else told.coordinators[0].error_code
            assert code == ErrorCode.invalid_request
    request = make(
        ApiKey.DESCRIBE_CONFIGS,
        4,
        resources=[{"resource_type": 3, "resource_name": "a", "configuration_keys": None}],
    )
    assert answered(request, authorize(request, judge(everything))).results[0].error_code == 42


def test_coordinators() -> None:
    request = make(ApiKey.FIND_COORDINATOR, 4, coordinator_keys=("shut", "open"))
    seen = [{"key": "open", "node_id": 1}]
    told = merged(request, authorize(request, judge(open_only)), blank(request, coordinators=seen))
    assert [(each.key, each.node_id, int(each.error_code)) for each in told.coordinators] == [
        ("shut", -1, 30),
        ("open", 1, 0),
    ]
    share = make(ApiKey.FIND_COORDINATOR, 6, key_type=2, coordinator_keys=("open",))
    told = answered(share, authorize(share, judge(open_only)))
    assert told.coordinators[0].error_code == ErrorCode.cluster_authorization_failed


def test_committed_offsets_of_several_groups() -> None:
    asked = [{"name": "shut", "partition_indexes": (0,)}, {"name": "open", "partition_indexes": (0,)}]
    groups = [
        {"group_id": "shut", "topics": asked},
        {"group_id": "open", "topics": asked},
        {"group_id": "open-all", "topics": None},
        {"group_id": "open-some", "topics": asked[1:]},
    ]
    request = make(ApiKey.OFFSET_FETCH, 8, groups=groups)
    outcome = authorize(request, judge(open_only))
    seen = [
        {"group_id": "open", "topics": [{"name": "open"}]},
        {"group_id": "open-all", "topics": [{"name": "open"}, {"name": "shut"}]},
        {"group_id": "open-some", "topics": [{"name": "open"}]},
    ]
    told = merged(request, outcome, blank(request, groups=seen)).groups
    assert [(each.group_id, int(each.error_code)) for each in told] == [
        ("shut", 30),
        ("open", 0),
        ("open-all", 0),
        ("open-some", 0),
    ]
    assert [[topic.name for topic in each.topics] for each in told] == [
        [],
        ["shut", "open"],
        ["open"],
        ["open"],
    ]
    assert told[1].topics[0].partitions[0].error_code == ErrorCode.topic_authorization_failed
    one = make(ApiKey.OFFSET_FETCH, 1, group_id="shut", topics=asked)
    told = answered(one, authorize(one, judge(nothing)))
    assert told.topics[0].partitions[0].error_code == 30
    every = make(ApiKey.OFFSET_FETCH, 2, group_id="open", topics=None)
    told = merged(
        every, authorize(every, judge(open_only)), blank(every, topics=[{"name": "open"}, {"name": "shut"}])
    )
    assert [topic.name for topic in told.topics] == ["open"]
    none = make(ApiKey.OFFSET_FETCH, 8, groups=groups[:1])
    assert answered(none, authorize(none, judge(nothing))).groups[0].error_code == 30


@pytest.mark.parametrize("order", [1, -1])
def test_committed_offsets_of_a_group_that_is_there_twice(order: int) -> None:
    every = {"group_id": "open", "topics": None}
    some = {"group_id": "open", "topics": [{"name": "open", "partition_indexes": (0,)}]}
    request = make(ApiKey.OFFSET_FETCH, 8, groups=[every, some][::order])
    seen = [
        {"group_id": "open", "topics": [{"name": "open"}, {"name": "shut"}]},
        {"group_id": "open", "topics": [{"name": "open"}]},
    ][::order]
    outcome = authorize(request, judge(open_only))
    told = merged(request, outcome, blank(request, groups=seen)).groups
    assert [[topic.name for topic in each.topics] for each in told] == [["open"], ["open"]]
    with pytest.raises(DecodeError, match="not asked for"):
        merged(request, outcome, blank(request, groups=[*seen, {"group_id": "open", "topics": []}]))


def test_a_group_without_a_name_is_refused() -> None:
    request = make(ApiKey.SHARE_ACKNOWLEDGE, 1, group_id=None, topics=[])
    told = answered(request, authorize(request, judge(everything)))
    assert told.error_code == ErrorCode.group_authorization_failed


def test_producer_ids() -> None:
    plain = make(ApiKey.INIT_PRODUCER_ID, 4, transactional_id=None)
    told = answered(plain, authorize(plain, judge(nothing)))
    assert (told.error_code, told.producer_id, told.producer_epoch) == (31, -1, -1)
    for fits in ((Operation.WRITE, TOPIC), (Operation.IDEMPOTENT_WRITE, CLUSTER)):
        assert authorize(plain, judge(lambda *what, fits=fits: what[:2] == fits)) is None
    named_ = make(ApiKey.INIT_PRODUCER_ID, 4, transactional_id="shut")
    assert answered(named_, authorize(named_, judge(open_only))).error_code == 53


def test_partitions_of_a_transaction() -> None:
    def request(*names: str) -> Any:
        return make(
            ApiKey.ADD_PARTITIONS_TO_TXN,
            3,
            v3_and_below_transactional_id="open",
            v3_and_below_topics=[{"name": name, "partitions": (0,)} for name in names],
        )

    def codes(*names: str) -> list[int]:
        asked = request(*names)
        told = answered(asked, authorize(asked, judge(open_only)))
        return [
            int(each.results_by_partition[0].partition_error_code)
            for each in told.results_by_topic_v3_and_below
        ]

    assert codes("open", "shut", "open-2") == [55, 29, 55]
    internal = request("__transaction_state")
    told = answered(internal, authorize(internal, judge(everything)))
    assert told.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code == 29
    assert authorize(request("open"), judge(open_only)) is None
    for asked in (request("open"), request()):
        told = answered(asked, authorize(asked, judge(nothing)))
        assert [
            int(each.results_by_partition[0].partition_error_code)
            for each in told.results_by_topic_v3_and_below
        ] == [53] * len(asked.v3_and_below_topics)


def test_transactions_with_hidden_topics() -> None:
    request = make(ApiKey.DESCRIBE_TRANSACTIONS, 0, transactional_ids=("shut", "open"))
    outcome = authorize(request, judge(open_only))
    assert isinstance(outcome, Cut)
    assert forwarded(request, outcome).transactional_ids == ("open",)
    broker = blank(
        request,
        transaction_states=[
            {
                "transactional_id": name,
                "transaction_start_time": datetime(2026, 1, 1, tzinfo=UTC),
                "topics": [{"topic": "open", "partitions": (1,)}, {"topic": "shut", "partitions": (1,)}],
            }
            for name in ("open", "extra")
        ],
    )
    body = encode_response(broker)
    told = decode_response(request.__api_key__, 0, outcome.merge(body))
    assert [(each.transactional_id, int(each.error_code)) for each in told.transaction_states] == [
        ("shut", 53),
        ("open", 0),
        ("extra", 0),
    ]
    assert [topic.topic for topic in told.transaction_states[1].topics] == ["open"]
    for broken in (b"", body[:20], body[:-3] + b"\xff", body[:-2] + b"\x01\x00\x7f"):
        with pytest.raises(DecodeError):
            outcome.merge(broken)
    told = decode_response(request.__api_key__, 0, refused_transactions(["a"], 53))
    assert told.transaction_states[0].error_code == 53
    none = make(ApiKey.DESCRIBE_TRANSACTIONS, 0, transactional_ids=("shut",))
    assert isinstance(authorize(none, judge(nothing)), Answer)


def test_clusters() -> None:
    request = make(ApiKey.DESCRIBE_CLUSTER, 0, include_cluster_authorized_operations=True)
    response = blank(request, cluster_authorized_operations=99)
    told = merged(request, authorize(request, judge(nothing)), response)
    assert told.cluster_authorized_operations == 0
    assert authorize(make(ApiKey.DESCRIBE_CLUSTER, 0), judge(nothing)) is None


def test_topologies() -> None:
    part = {
        "subtopology_id": "0",
        "source_topics": ("open",),
        "repartition_sink_topics": ("open-2",),
        "repartition_source_topics": [{"name": "shut"}],
        "state_changelog_topics": [{"name": "open-3"}],
    }
    fields = dict.fromkeys(("active_tasks", "standby_tasks", "warmup_tasks"), None)
    request = make(
        ApiKey.STREAMS_GROUP_HEARTBEAT,
        0,
        group_id="open",
        rebalance_timeout=timedelta(seconds=1),
        topology={"epoch": 1, "subtopologies": [part]},
        **fields,
    )
    assert internal_topics(request.topology.subtopologies) == ["shut", "open-3"]
    told = answered(request, authorize(request, judge(open_only)))
    assert told.error_code == ErrorCode.topic_authorization_failed
    assert authorize(request, judge(everything)) is None


# --- parts ----------------------------------------------------------------------------------------------


def test_blank_messages() -> None:
    made = build(response_class(ApiKey.METADATA, 12), {"topics": [{"name": "a"}], "unknown": 1})
    assert made.topics[0].name == "a"
    with pytest.raises(TypeError, match="no structures"):
        element_class(response_class(ApiKey.METADATA, 12), "cluster_id")
    nested = build(type(make(ApiKey.FETCH, 15)), {"replica_state": {"replica_id": 7}})
    assert nested.replica_state.replica_id == 7


def test_shapes_are_checked() -> None:
    with pytest.raises(TypeError):
        judge_each(make(ApiKey.HEARTBEAT, 0), judge(everything))
    from protocol.judging import cut_topics

    with pytest.raises(TypeError):
        cut_topics(make(ApiKey.HEARTBEAT, 0), judge(everything))


def test_nothing_to_cut() -> None:
    request = make(ApiKey.DELETE_GROUPS, 0, groups_names=("a",))
    lists = Lists("groups_names", "results", lambda name: name, lambda result: result.group_id)
    assert cut(request, lists, [None], lambda _: None) is None
