"""Which permissions each API needs, in the order in which Kafka looks for them: one row per API.

Source: apache/kafka's KafkaApis and ControllerApis of 4.x and their tests; where Kafka's documentation says
something else (Produce and IDEMPOTENT_WRITE, ElectLeaders), the code counts. An API without a row is not
advertised. What the refusals look like is in `refusal_table`, what else there is to an API in `authorize`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kio.schema.errors import ErrorCode

from protocol.acls import Operation, ResourceType
from protocol.api_keys import ApiKey

_TOPIC: Final = ResourceType.TOPIC
_GROUP: Final = ResourceType.GROUP
_CLUSTER: Final = ResourceType.CLUSTER
_TRANSACTION: Final = ResourceType.TRANSACTIONAL_ID


class Need(NamedTuple):
    """One permission. `of` is the field of the request that names the resources, empty for the cluster.

    With `instead` the cluster's is asked first, and the resource's own only without it. `quiet`: a refusal
    leaves something out of an answer, and is no error.
    """

    operation: Operation
    resource: ResourceType
    of: str = ""
    instead: Operation | None = None
    quiet: bool = False


def _topic(operation: Operation, of: str, instead: Operation | None = None, *, quiet: bool = False) -> Need:
    return Need(operation, _TOPIC, of, instead, quiet)


def _group(operation: Operation, of: str = "group_id") -> Need:
    return Need(operation, _GROUP, of)


def _cluster(operation: Operation) -> Need:
    return Need(operation, _CLUSTER)


def _transaction(operation: Operation, of: str = "transactional_id", *, quiet: bool = False) -> Need:
    return Need(operation, _TRANSACTION, of, quiet=quiet)


_READ: Final = Operation.READ
_WRITE: Final = Operation.WRITE
_DESCRIBE: Final = Operation.DESCRIBE
_ALTER: Final = Operation.ALTER

PERMISSIONS: Final[dict[int, tuple[Need, ...]]] = {
    # The transactional id only with transactional records.
    ApiKey.PRODUCE: (_transaction(_WRITE), _topic(_WRITE, "topic_data")),
    # CLUSTER_ACTION alone from a replica.
    ApiKey.FETCH: (_topic(_READ, "topics"), _cluster(Operation.CLUSTER_ACTION)),
    ApiKey.LIST_OFFSETS: (_topic(_DESCRIBE, "topics"),),
    # CREATE for what is not there and would be created.
    ApiKey.METADATA: (
        _topic(_DESCRIBE, "topics"),
        _topic(Operation.CREATE, "topics", Operation.CREATE),
        _cluster(_DESCRIBE),
    ),
    ApiKey.OFFSET_COMMIT: (_group(_READ), _topic(_READ, "topics")),
    ApiKey.OFFSET_FETCH: (_group(_DESCRIBE), _topic(_DESCRIBE, "topics")),
    # By the type of the key.
    ApiKey.FIND_COORDINATOR: (
        _group(_DESCRIBE, "coordinator_keys"),
        _transaction(_DESCRIBE, "coordinator_keys"),
        _cluster(Operation.CLUSTER_ACTION),
    ),
    ApiKey.JOIN_GROUP: (_group(_READ),),
    ApiKey.HEARTBEAT: (_group(_READ),),
    ApiKey.LEAVE_GROUP: (_group(_READ),),
    ApiKey.SYNC_GROUP: (_group(_READ),),
    ApiKey.DESCRIBE_GROUPS: (_group(_DESCRIBE, "groups"),),
    ApiKey.LIST_GROUPS: (Need(_DESCRIBE, _GROUP, "groups", _DESCRIBE, quiet=True),),
    ApiKey.CREATE_TOPICS: (
        _topic(Operation.CREATE, "topics", Operation.CREATE),
        _topic(Operation.DESCRIBE_CONFIGS, "topics", quiet=True),
    ),
    ApiKey.DELETE_TOPICS: (
        _topic(Operation.DELETE, "topics", Operation.DELETE),
        _topic(_DESCRIBE, "topics", Operation.DELETE, quiet=True),
    ),
    ApiKey.DELETE_RECORDS: (_topic(Operation.DELETE, "topics"),),
    # Without a transactional id: IDEMPOTENT_WRITE, or WRITE on any topic.
    ApiKey.INIT_PRODUCER_ID: (_transaction(_WRITE), _cluster(Operation.IDEMPOTENT_WRITE), _topic(_WRITE, "")),
    ApiKey.OFFSET_FOR_LEADER_EPOCH: (_topic(_DESCRIBE, "topics", Operation.CLUSTER_ACTION),),
    ApiKey.ADD_PARTITIONS_TO_TXN: (
        _transaction(_WRITE, "v3_and_below_transactional_id"),
        _topic(_WRITE, "v3_and_below_topics"),
    ),
    ApiKey.ADD_OFFSETS_TO_TXN: (_transaction(_WRITE), _group(_READ)),
    ApiKey.END_TXN: (_transaction(_WRITE),),
    ApiKey.TXN_OFFSET_COMMIT: (_transaction(_WRITE), _group(_READ), _topic(_READ, "topics")),
    ApiKey.DESCRIBE_ACLS: (_cluster(_DESCRIBE),),
    ApiKey.CREATE_ACLS: (_cluster(_ALTER),),
    ApiKey.DELETE_ACLS: (_cluster(_ALTER),),
    # By the type of the resource.
    ApiKey.DESCRIBE_CONFIGS: (
        _topic(Operation.DESCRIBE_CONFIGS, "resources"),
        _group(Operation.DESCRIBE_CONFIGS, "resources"),
        _cluster(Operation.DESCRIBE_CONFIGS),
    ),
    ApiKey.ALTER_CONFIGS: (
        _topic(Operation.ALTER_CONFIGS, "resources"),
        _group(Operation.ALTER_CONFIGS, "resources"),
        _cluster(Operation.ALTER_CONFIGS),
    ),
    ApiKey.INCREMENTAL_ALTER_CONFIGS: (
        _topic(Operation.ALTER_CONFIGS, "resources"),
        _group(Operation.ALTER_CONFIGS, "resources"),
        _cluster(Operation.ALTER_CONFIGS),
    ),
    ApiKey.DESCRIBE_LOG_DIRS: (_cluster(_DESCRIBE),),
    ApiKey.CREATE_PARTITIONS: (_topic(_ALTER, "topics"),),
    ApiKey.DELETE_GROUPS: (_group(Operation.DELETE, "groups_names"),),
    ApiKey.ELECT_LEADERS: (_cluster(_ALTER),),
    ApiKey.ALTER_PARTITION_REASSIGNMENTS: (_cluster(_ALTER),),
    ApiKey.LIST_PARTITION_REASSIGNMENTS: (_cluster(_DESCRIBE),),
    ApiKey.OFFSET_DELETE: (_group(Operation.DELETE), _topic(_READ, "topics")),
    ApiKey.DESCRIBE_CLIENT_QUOTAS: (_cluster(Operation.DESCRIBE_CONFIGS),),
    ApiKey.ALTER_CLIENT_QUOTAS: (_cluster(Operation.ALTER_CONFIGS),),
    ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS: (_cluster(_DESCRIBE),),
    ApiKey.ALTER_USER_SCRAM_CREDENTIALS: (_cluster(_ALTER),),
    ApiKey.DESCRIBE_QUORUM: (_cluster(_DESCRIBE),),
    # Only for the operations that it tells.
    ApiKey.DESCRIBE_CLUSTER: (_cluster(_DESCRIBE),),
    ApiKey.DESCRIBE_PRODUCERS: (_topic(_READ, "topics"),),
    ApiKey.DESCRIBE_TRANSACTIONS: (
        _transaction(_DESCRIBE, "transactional_ids"),
        _topic(_DESCRIBE, "", quiet=True),
    ),
    ApiKey.LIST_TRANSACTIONS: (_transaction(_DESCRIBE, "", quiet=True),),
    ApiKey.CONSUMER_GROUP_HEARTBEAT: (_group(_READ), _topic(_DESCRIBE, "subscribed_topic_names")),
    ApiKey.CONSUMER_GROUP_DESCRIBE: (_group(_DESCRIBE, "group_ids"), _topic(_DESCRIBE, "")),
    ApiKey.GET_TELEMETRY_SUBSCRIPTIONS: (),
    ApiKey.PUSH_TELEMETRY: (),
    ApiKey.LIST_CONFIG_RESOURCES: (_cluster(Operation.DESCRIBE_CONFIGS),),
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: (_topic(_DESCRIBE, "topics"),),
    ApiKey.SHARE_GROUP_HEARTBEAT: (_group(_READ), _topic(_DESCRIBE, "subscribed_topic_names")),
    ApiKey.SHARE_GROUP_DESCRIBE: (_group(_DESCRIBE, "group_ids"), _topic(_DESCRIBE, "")),
    ApiKey.SHARE_FETCH: (_group(_READ), _topic(_READ, "topics")),
    ApiKey.SHARE_ACKNOWLEDGE: (_group(_READ), _topic(_READ, "topics")),
    # CREATE for the internal topics that are not there: a broker would make them with the gateway's rights.
    ApiKey.STREAMS_GROUP_HEARTBEAT: (
        _group(_READ),
        _topic(_DESCRIBE, "topology"),
        _topic(Operation.CREATE, "topology", Operation.CREATE),
    ),
    ApiKey.STREAMS_GROUP_DESCRIBE: (_group(_DESCRIBE, "group_ids"), _topic(_DESCRIBE, "")),
    ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS: (_group(_DESCRIBE, "groups"), _topic(_DESCRIBE, "topics")),
    ApiKey.ALTER_SHARE_GROUP_OFFSETS: (_group(_READ), _topic(_READ, "topics")),
    ApiKey.DELETE_SHARE_GROUP_OFFSETS: (_group(Operation.DELETE), _topic(_READ, "topics")),
}

REFUSED: Final[dict[ResourceType, ErrorCode]] = {
    _TOPIC: ErrorCode.topic_authorization_failed,
    _GROUP: ErrorCode.group_authorization_failed,
    _CLUSTER: ErrorCode.cluster_authorization_failed,
    _TRANSACTION: ErrorCode.transactional_id_authorization_failed,
}
