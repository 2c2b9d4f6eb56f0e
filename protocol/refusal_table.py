"""Where the refusals of an API stand in its response: one row per API whose refusals have a common shape.

Shapes that an API has for itself alone are in `authorize_more`; Produce and Fetch, which are cut by hand, in
`produce_refusals` and `fetch_refusals`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from kio.schema.errors import ErrorCode

from protocol.api_keys import ApiKey

Values: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Whole:
    """The request is refused as a whole: the code at the top, `values` beside it.

    `parts` makes of request, code and text what else repeats the refusal. With `text` it is at the top too.
    """

    values: Values = field(default_factory=dict)
    parts: Callable[[Any, ErrorCode, str], Values] | None = None
    text: bool = True


@dataclass(frozen=True, slots=True)
class Each:
    """A list of resources, each of which is answered by itself.

    `asked` has the names, or structures with a field `asked_name`; the answers are in `answered`, known by
    `name`, and a refused one has `values` beside name and code, and with `text` a text.
    """

    asked: str
    answered: str
    name: str
    asked_name: str | None = None
    values: Values = field(default_factory=dict)
    text: bool = False


@dataclass(frozen=True, slots=True)
class Topics:
    """Topics with partitions, which have the code: `code`, and `values` beside it.

    `indexes` is the field of a partition asked for that has its number, None where numbers stand there.
    What is refused to the request as a whole stands at its top, or with `spread` in every partition.
    """

    asked: str = "topics"
    name: str = "name"
    partitions: str = "partitions"
    indexes: str | None = "partition_index"
    answered: str = "topics"
    answered_name: str = "name"
    answered_partitions: str = "partitions"
    answered_index: str = "partition_index"
    code: str = "error_code"
    values: Values = field(default_factory=dict)
    spread: bool = False
    text: bool = True


Shape: TypeAlias = Whole | Each | Topics


def _elections(request: Any, code: ErrorCode, text: str) -> Values:
    return {
        "replica_election_results": [
            {
                "topic": each.topic,
                "partition_result": [
                    {"partition_id": index, "error_code": code, "error_message": text}
                    for index in each.partitions
                ],
            }
            for each in request.topic_partitions or ()
        ]
    }


def _reassignments(request: Any, code: ErrorCode, text: str) -> Values:
    return {
        "responses": [
            {
                "name": topic.name,
                "partitions": [
                    {"partition_index": each.partition_index, "error_code": code, "error_message": text}
                    for each in topic.partitions
                ],
            }
            for topic in request.topics
        ]
    }


def _listed_reassignments(request: Any, _code: ErrorCode, _text: str) -> Values:
    return {
        "topics": [
            {
                "name": each.name,
                "partitions": [{"partition_index": index} for index in each.partition_indexes],
            }
            for each in request.topics or ()
        ]
    }


def _quotas(request: Any, code: ErrorCode, text: str) -> Values:
    return {
        "entries": [
            {
                "error_code": code,
                "error_message": text,
                "entity": [
                    {"entity_type": part.entity_type, "entity_name": part.entity_name}
                    for part in entry.entity
                ],
            }
            for entry in request.entries
        ]
    }


def _acl_results(name: str, asked: str) -> Callable[[Any, ErrorCode, str], Values]:
    def parts(request: Any, code: ErrorCode, text: str) -> Values:
        result = {"error_code": code, "error_message": text}
        return {name: [result for _ in getattr(request, asked)]}

    return parts


def _scram_results(request: Any, code: ErrorCode, text: str) -> Values:
    """Describing names users, or asks about all; altering has two lists of them."""
    users = (*(getattr(request, "deletions", ())), *(getattr(request, "upsertions", ())))
    names = dict.fromkeys(each.name for each in (*users, *(getattr(request, "users", None) or ())))
    return {"results": [{"user": name, "error_code": code, "error_message": text} for name in names]}


_NO_PRODUCER: Final[Values] = {"producer_id": -1, "producer_epoch": -1}
_GROUP_DESCRIPTION: Final[Values] = {"group_state": "", "authorized_operations": -(2**31)}

REFUSALS: Final[dict[int, Shape]] = {
    ApiKey.LIST_OFFSETS: Topics(values={"timestamp": -1, "offset": -1, "leader_epoch": -1}),
    ApiKey.OFFSET_COMMIT: Topics(spread=True),
    ApiKey.JOIN_GROUP: Whole({"generation_id": -1}),
    ApiKey.HEARTBEAT: Whole(),
    ApiKey.LEAVE_GROUP: Whole(),
    ApiKey.SYNC_GROUP: Whole(),
    ApiKey.DESCRIBE_GROUPS: Each("groups", "groups", "group_id", values={"authorized_operations": -(2**31)}),
    ApiKey.DELETE_RECORDS: Topics(values={"low_watermark": -1}),
    ApiKey.OFFSET_FOR_LEADER_EPOCH: Topics(
        name="topic",
        indexes="partition",
        answered_name="topic",
        answered_index="partition",
        values={"leader_epoch": -1, "end_offset": -1},
    ),
    ApiKey.ADD_OFFSETS_TO_TXN: Whole(),
    ApiKey.END_TXN: Whole(_NO_PRODUCER),
    ApiKey.TXN_OFFSET_COMMIT: Topics(spread=True),
    ApiKey.DESCRIBE_ACLS: Whole(),
    ApiKey.CREATE_ACLS: Whole(parts=_acl_results("results", "creations")),
    ApiKey.DELETE_ACLS: Whole(parts=_acl_results("filter_results", "filters")),
    ApiKey.DESCRIBE_LOG_DIRS: Whole(),
    ApiKey.CREATE_PARTITIONS: Each("topics", "results", "name", "name"),
    ApiKey.DELETE_GROUPS: Each("groups_names", "results", "group_id"),
    ApiKey.ELECT_LEADERS: Whole(parts=_elections),
    ApiKey.ALTER_PARTITION_REASSIGNMENTS: Whole(parts=_reassignments),
    ApiKey.LIST_PARTITION_REASSIGNMENTS: Whole(parts=_listed_reassignments),
    ApiKey.OFFSET_DELETE: Topics(),
    ApiKey.DESCRIBE_CLIENT_QUOTAS: Whole({"entries": None}, text=False),
    ApiKey.ALTER_CLIENT_QUOTAS: Whole(parts=_quotas),
    ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS: Whole(parts=_scram_results),
    ApiKey.ALTER_USER_SCRAM_CREDENTIALS: Whole(parts=_scram_results),
    ApiKey.DESCRIBE_QUORUM: Whole(),
    ApiKey.DESCRIBE_PRODUCERS: Topics(partitions="partition_indexes", indexes=None),
    ApiKey.CONSUMER_GROUP_HEARTBEAT: Whole(text=False),
    ApiKey.CONSUMER_GROUP_DESCRIBE: Each("group_ids", "groups", "group_id", values=_GROUP_DESCRIPTION),
    ApiKey.LIST_CONFIG_RESOURCES: Whole(),
    ApiKey.SHARE_GROUP_HEARTBEAT: Whole(text=False),
    ApiKey.SHARE_GROUP_DESCRIBE: Each("group_ids", "groups", "group_id", values=_GROUP_DESCRIPTION),
    ApiKey.SHARE_ACKNOWLEDGE: Topics(
        name="topic_id", answered="responses", answered_name="topic_id", text=False
    ),
    ApiKey.STREAMS_GROUP_HEARTBEAT: Whole({"status": ()}, text=False),
    ApiKey.STREAMS_GROUP_DESCRIBE: Each("group_ids", "groups", "group_id", values=_GROUP_DESCRIPTION),
    ApiKey.ALTER_SHARE_GROUP_OFFSETS: Topics(
        name="topic_name", answered="responses", answered_name="topic_name"
    ),
}
