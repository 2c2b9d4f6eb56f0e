"""What becomes of a request by what its sender may do: all of it goes on, a part, or none.

A decoded request and a `Judge` in; out comes None (forward as it is), an Answer, a Cut whose `merge` makes
the client's response, or `Hide`. Produce and Fetch, which are not decoded, and ShareFetch, whose sessions are
to be followed, have ways of their own.
"""

from __future__ import annotations

from typing import Any, Final

from protocol import authorize_more as more
from protocol import authorize_topics as topics
from protocol.api_keys import ApiKey
from protocol.judging import Judge, Outcome, Rule, judge_each, judge_topics, judge_whole
from protocol.permissions import PERMISSIONS
from protocol.refusal_table import REFUSALS, Each, Topics, Whole

# What is judged elsewhere: without decoding, or by the session's memory.
APART: Final = frozenset({ApiKey.PRODUCE, ApiKey.FETCH, ApiKey.SHARE_FETCH})

_SHAPES: Final[dict[type, Rule]] = {Whole: judge_whole, Each: judge_each, Topics: judge_topics}

_RULES: Final[dict[int, Rule]] = {
    **{key: _SHAPES[type(shape)] for key, shape in REFUSALS.items()},
    ApiKey.METADATA: topics.metadata,
    ApiKey.OFFSET_FETCH: more.offset_fetch,
    ApiKey.FIND_COORDINATOR: more.find_coordinator,
    ApiKey.JOIN_GROUP: more.join_group,
    ApiKey.SYNC_GROUP: more.sync_group,
    ApiKey.DESCRIBE_GROUPS: more.describe_groups,
    ApiKey.LIST_GROUPS: more.list_groups,
    ApiKey.CREATE_TOPICS: topics.create_topics,
    ApiKey.DELETE_TOPICS: topics.delete_topics,
    ApiKey.INIT_PRODUCER_ID: more.init_producer_id,
    ApiKey.ADD_PARTITIONS_TO_TXN: more.add_partitions_to_txn,
    ApiKey.DESCRIBE_CONFIGS: more.configs,
    ApiKey.ALTER_CONFIGS: more.configs,
    ApiKey.INCREMENTAL_ALTER_CONFIGS: more.configs,
    ApiKey.DESCRIBE_CLUSTER: more.describe_cluster,
    ApiKey.DESCRIBE_TRANSACTIONS: more.describe_transactions,
    ApiKey.LIST_TRANSACTIONS: more.list_transactions,
    ApiKey.CONSUMER_GROUP_DESCRIBE: more.describe_assignments,
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: topics.describe_topic_partitions,
    ApiKey.SHARE_GROUP_DESCRIBE: more.describe_assignments,
    ApiKey.STREAMS_GROUP_HEARTBEAT: more.streams_group_heartbeat,
    ApiKey.STREAMS_GROUP_DESCRIBE: more.describe_assignments,
    ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS: more.describe_share_group_offsets,
    ApiKey.DELETE_SHARE_GROUP_OFFSETS: more.delete_share_group_offsets,
}


def is_judged(api_key: int) -> bool:
    """Whether it is known what a request of this API needs, and how it is refused."""
    needs = PERMISSIONS.get(api_key)
    return needs is not None and (not needs or api_key in APART or api_key in _RULES)


def authorize(request: Any, judge: Judge) -> Outcome:
    """Judge a decoded request; KeyError for an API without a row."""
    if not PERMISSIONS[request.__api_key__]:
        return None
    return _RULES[request.__api_key__](request, judge)
