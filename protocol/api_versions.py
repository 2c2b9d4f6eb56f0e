"""Which APIs a client may use, in which versions, and why the others are not forwarded; ApiVersions v0-4.

What is advertised is what the broker has, what we can decode and what we can enforce (KIP-35); whatever is
not advertised is refused, so a newer broker or client never opens a way around the gateway. The table names
versions one by one and is not derived from kio: a newer kio opens nothing either. `table_markdown` prints it
for docs/. An ApiVersions request that is too new gets the v0 answer with our range (KIP-511). Features are
the broker's (KIP-584); up to v3 without those whose lowest version is 0, which older clients cannot read
(KAFKA-17011).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeAlias

from protocol.api_keys import ApiKey
from protocol.authorize import is_judged
from protocol.fields import COMPACT, INT16, INT32, INT64, encode_uvarint
from protocol.headers import encode_response_header

Versions: TypeAlias = Mapping[int, tuple[int, int]]

UNSUPPORTED_VERSION: Final = 35

# What may be forwarded: lowest and highest version.
FORWARDED: Final[dict[int, tuple[int, int]]] = {
    ApiKey.PRODUCE: (3, 13),
    ApiKey.FETCH: (4, 18),
    ApiKey.LIST_OFFSETS: (1, 11),
    ApiKey.METADATA: (0, 13),
    ApiKey.OFFSET_COMMIT: (2, 10),
    ApiKey.OFFSET_FETCH: (1, 10),
    ApiKey.FIND_COORDINATOR: (0, 6),
    ApiKey.JOIN_GROUP: (0, 9),
    ApiKey.HEARTBEAT: (0, 4),
    ApiKey.LEAVE_GROUP: (0, 5),
    ApiKey.SYNC_GROUP: (0, 5),
    ApiKey.DESCRIBE_GROUPS: (0, 6),
    ApiKey.LIST_GROUPS: (0, 5),
    ApiKey.CREATE_TOPICS: (2, 7),
    ApiKey.DELETE_TOPICS: (1, 6),
    ApiKey.DELETE_RECORDS: (0, 2),
    ApiKey.INIT_PRODUCER_ID: (0, 5),
    ApiKey.OFFSET_FOR_LEADER_EPOCH: (2, 4),
    ApiKey.ADD_PARTITIONS_TO_TXN: (0, 3),
    ApiKey.ADD_OFFSETS_TO_TXN: (0, 4),
    ApiKey.END_TXN: (0, 5),
    ApiKey.TXN_OFFSET_COMMIT: (0, 5),
    ApiKey.DESCRIBE_ACLS: (1, 3),
    ApiKey.CREATE_ACLS: (1, 3),
    ApiKey.DELETE_ACLS: (1, 3),
    ApiKey.DESCRIBE_CONFIGS: (1, 4),
    ApiKey.ALTER_CONFIGS: (0, 2),
    ApiKey.DESCRIBE_LOG_DIRS: (1, 5),
    ApiKey.CREATE_PARTITIONS: (0, 3),
    ApiKey.DELETE_GROUPS: (0, 2),
    ApiKey.ELECT_LEADERS: (0, 2),
    ApiKey.INCREMENTAL_ALTER_CONFIGS: (0, 1),
    ApiKey.ALTER_PARTITION_REASSIGNMENTS: (0, 1),
    ApiKey.LIST_PARTITION_REASSIGNMENTS: (0, 0),
    ApiKey.OFFSET_DELETE: (0, 0),
    ApiKey.DESCRIBE_CLIENT_QUOTAS: (0, 1),
    ApiKey.ALTER_CLIENT_QUOTAS: (0, 1),
    ApiKey.DESCRIBE_QUORUM: (0, 2),
    ApiKey.DESCRIBE_CLUSTER: (0, 2),
    ApiKey.DESCRIBE_PRODUCERS: (0, 0),
    ApiKey.DESCRIBE_TRANSACTIONS: (0, 0),
    ApiKey.LIST_TRANSACTIONS: (0, 2),
    ApiKey.CONSUMER_GROUP_HEARTBEAT: (0, 1),
    ApiKey.CONSUMER_GROUP_DESCRIBE: (0, 1),
    ApiKey.GET_TELEMETRY_SUBSCRIPTIONS: (0, 0),
    ApiKey.PUSH_TELEMETRY: (0, 0),
    ApiKey.LIST_CONFIG_RESOURCES: (0, 1),
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: (0, 0),
    ApiKey.SHARE_GROUP_HEARTBEAT: (1, 1),
    ApiKey.SHARE_GROUP_DESCRIBE: (1, 1),
    ApiKey.SHARE_FETCH: (1, 2),
    ApiKey.SHARE_ACKNOWLEDGE: (1, 2),
    ApiKey.STREAMS_GROUP_HEARTBEAT: (0, 0),
    ApiKey.STREAMS_GROUP_DESCRIBE: (0, 0),
    ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS: (0, 1),
    ApiKey.ALTER_SHARE_GROUP_OFFSETS: (0, 0),
    ApiKey.DELETE_SHARE_GROUP_OFFSETS: (0, 0),
}

_USERS: Final = "users are the gateway's, not the broker's; for super users"

# Why the highest version is below what kio decodes, or the range odd.
REMARKS: Final[dict[int, str]] = {
    ApiKey.PRODUCE: "shown from v0 on, because librdkafka turns compression off otherwise (KAFKA-18659); "
    "below v3 refused",
    ApiKey.INIT_PRODUCER_ID: "v6 is two-phase commit (KIP-939), which needs a permission of its own",
    ApiKey.ADD_PARTITIONS_TO_TXN: "from v4 on between brokers (KIP-890)",
    ApiKey.CONSUMER_GROUP_HEARTBEAT: "v1 with a regular expression is refused: the broker would resolve it "
    "past our ACLs",
    ApiKey.STREAMS_GROUP_HEARTBEAT: "with a regular expression refused, for the same reason",
    ApiKey.DESCRIBE_QUORUM: "the addresses of the controllers are left out",
    ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS: _USERS,
    ApiKey.ALTER_USER_SCRAM_CREDENTIALS: _USERS,
    ApiKey.SASL_HANDSHAKE: "v0 is shown, because librdkafka looks for it, and refused: raw tokens follow it",
}

# What the gateway answers itself, whatever the broker has.
ANSWERED_HERE: Final[dict[int, tuple[int, int]]] = {
    ApiKey.SASL_HANDSHAKE: (0, 1),
    ApiKey.API_VERSIONS: (0, 4),
    ApiKey.SASL_AUTHENTICATE: (0, 2),
    ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS: (0, 0),
    ApiKey.ALTER_USER_SCRAM_CREDENTIALS: (0, 0),
}

_BETWEEN_BROKERS: Final = "between brokers"
_CONTROLLER: Final = "between brokers and controllers"
_TOKENS: Final = "delegation tokens are the broker's, and users log in here"
_OPERATION: Final = "changes the brokers themselves, not what is in them"

NOT_FORWARDED: Final[dict[int, str]] = {
    ApiKey.LEADER_AND_ISR: _BETWEEN_BROKERS,
    ApiKey.STOP_REPLICA: _BETWEEN_BROKERS,
    ApiKey.UPDATE_METADATA: _BETWEEN_BROKERS,
    ApiKey.CONTROLLED_SHUTDOWN: _BETWEEN_BROKERS,
    ApiKey.WRITE_TXN_MARKERS: "writes markers into any partition, mirrors too",
    ApiKey.ALTER_REPLICA_LOG_DIRS: _OPERATION,
    ApiKey.CREATE_DELEGATION_TOKEN: _TOKENS,
    ApiKey.RENEW_DELEGATION_TOKEN: _TOKENS,
    ApiKey.EXPIRE_DELEGATION_TOKEN: _TOKENS,
    ApiKey.DESCRIBE_DELEGATION_TOKEN: _TOKENS,
    ApiKey.VOTE: _CONTROLLER,
    ApiKey.BEGIN_QUORUM_EPOCH: _CONTROLLER,
    ApiKey.END_QUORUM_EPOCH: _CONTROLLER,
    ApiKey.ALTER_PARTITION: _CONTROLLER,
    ApiKey.UPDATE_FEATURES: _OPERATION,
    ApiKey.ENVELOPE: _CONTROLLER,
    ApiKey.FETCH_SNAPSHOT: _CONTROLLER,
    ApiKey.BROKER_REGISTRATION: _CONTROLLER,
    ApiKey.BROKER_HEARTBEAT: _CONTROLLER,
    ApiKey.UNREGISTER_BROKER: _OPERATION,
    ApiKey.ALLOCATE_PRODUCER_IDS: _CONTROLLER,
    ApiKey.CONTROLLER_REGISTRATION: _CONTROLLER,
    ApiKey.ASSIGN_REPLICAS_TO_DIRS: _CONTROLLER,
    ApiKey.ADD_RAFT_VOTER: _OPERATION,
    ApiKey.REMOVE_RAFT_VOTER: _OPERATION,
    ApiKey.UPDATE_RAFT_VOTER: _CONTROLLER,
    ApiKey.INITIALIZE_SHARE_GROUP_STATE: _BETWEEN_BROKERS,
    ApiKey.READ_SHARE_GROUP_STATE: _BETWEEN_BROKERS,
    ApiKey.WRITE_SHARE_GROUP_STATE: _BETWEEN_BROKERS,
    ApiKey.DELETE_SHARE_GROUP_STATE: _BETWEEN_BROKERS,
    ApiKey.READ_SHARE_GROUP_STATE_SUMMARY: _BETWEEN_BROKERS,
    ApiKey.LINK_ATTACH: "private to gateways, never advertised",
    ApiKey.LINK_BIND: "private to gateways, never advertised",
}

# What the other side of a source-initiated link may ask of a source broker; all of it only reads.
LINK_APIS: Final[frozenset[int]] = frozenset(
    {
        ApiKey.FETCH,
        ApiKey.LIST_OFFSETS,
        ApiKey.METADATA,
        ApiKey.OFFSET_FETCH,
        ApiKey.FIND_COORDINATOR,
        ApiKey.DESCRIBE_GROUPS,
        ApiKey.LIST_GROUPS,
        ApiKey.OFFSET_FOR_LEADER_EPOCH,
        ApiKey.DESCRIBE_ACLS,
        ApiKey.DESCRIBE_CONFIGS,
        ApiKey.DESCRIBE_CLUSTER,
        ApiKey.DESCRIBE_PRODUCERS,
        ApiKey.DESCRIBE_TRANSACTIONS,
        ApiKey.LIST_TRANSACTIONS,
    }
)


@dataclass(frozen=True, slots=True)
class Features:
    """What a broker says of its features (KIP-584): name to lowest and highest version or level."""

    supported: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    finalized: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    finalized_epoch: int = -1
    zk_migration_ready: bool = False

    @classmethod
    def of(cls, response: Any) -> Self:
        """Take the features of a decoded ApiVersions response, which has them from v3 on."""
        if response.__version__ < 3:
            return cls()
        return cls(
            {row.name: (row.min_version, row.max_version) for row in response.supported_features},
            {row.name: (row.min_version_level, row.max_version_level) for row in response.finalized_features},
            response.finalized_features_epoch,
            response.zk_migration_ready,
        )


def advertised(broker: Versions) -> dict[int, tuple[int, int]]:
    """Return what clients are shown of a broker with those versions, in the order of the keys.

    An API of which it is not known what permissions it needs is not among it.
    """
    judged = {key: versions for key, versions in FORWARDED.items() if is_judged(key)}
    shown: dict[int, tuple[int, int]] = {**_overlap(judged, broker), **ANSWERED_HERE}
    if ApiKey.PRODUCE in shown:
        shown[ApiKey.PRODUCE] = (0, shown[ApiKey.PRODUCE][1])
    return dict(sorted(shown.items()))


def is_forwardable(shown: Versions, api_key: int, version: int) -> bool:
    """Tell whether a request may go to the broker of which `shown` was advertised; else it is refused."""
    forwarded = FORWARDED.get(api_key) if api_key in shown else None
    if forwarded is None:
        return False
    lowest, highest = shown[api_key]
    return max(lowest, forwarded[0]) <= version <= highest


def link_versions(broker: Versions | None = None) -> dict[int, tuple[int, int]]:
    """Return what a bound session of a link offers of a source broker, or a parked connection of any."""
    ours = {key: FORWARDED[key] for key in LINK_APIS}
    shown = ours if broker is None else _overlap(ours, broker)
    shown[ApiKey.API_VERSIONS] = ANSWERED_HERE[ApiKey.API_VERSIONS]
    return dict(sorted(shown.items()))


def _overlap(ours: Versions, theirs: Versions) -> dict[int, tuple[int, int]]:
    both: dict[int, tuple[int, int]] = {}
    for key, (lowest, highest) in ours.items():
        if key in theirs:
            lowest, highest = max(lowest, theirs[key][0]), min(highest, theirs[key][1])
            if lowest <= highest:
                both[key] = lowest, highest
    return both


def encode_api_versions(
    version: int, correlation_id: int, shown: Versions, features: Features | None = None
) -> tuple[bytes, bytes]:
    """Return header and body of the answer to an ApiVersions request of any version."""
    header = encode_response_header(ApiKey.API_VERSIONS, 0, correlation_id)
    return header, encode_api_versions_body(version, shown, features)


def encode_api_versions_body(version: int, shown: Versions, features: Features | None = None) -> bytes:
    """Return the body of the answer to an ApiVersions request of any version."""
    highest = ANSWERED_HERE[ApiKey.API_VERSIONS][1]
    if not 0 <= version <= highest:
        ours: Versions = {ApiKey.API_VERSIONS: ANSWERED_HERE[ApiKey.API_VERSIONS]}
        return INT16.pack(UNSUPPORTED_VERSION) + INT32.pack(1) + _encode_rows(ours, b"")
    no_error, no_throttle_time = INT16.pack(0), INT32.pack(0)
    if version < 3:
        rows = INT32.pack(len(shown)) + _encode_rows(shown, b"")
        return no_error + rows + no_throttle_time * (version > 0)
    rows = COMPACT.encode_count(len(shown)) + _encode_rows(shown, COMPACT.no_tags)
    return no_error + rows + no_throttle_time + _encode_features(version, features or Features())


def _encode_rows(shown: Versions, tags: bytes) -> bytes:
    return b"".join(
        INT16.pack(key) + INT16.pack(lowest) + INT16.pack(highest) + tags
        for key, (lowest, highest) in shown.items()
    )


def _encode_features(version: int, features: Features) -> bytes:
    supported = {
        name: (lowest, highest)
        for name, (lowest, highest) in features.supported.items()
        if lowest > 0 or version >= 4
    }
    tags = {}
    if supported:
        tags[0] = _encode_feature_rows(supported)
    if features.finalized_epoch >= 0:
        tags[1] = INT64.pack(features.finalized_epoch)
    if features.finalized:
        # Here, and only here, Kafka has the highest first.
        levels = {name: (highest, lowest) for name, (lowest, highest) in features.finalized.items()}
        tags[2] = _encode_feature_rows(levels)
    if features.zk_migration_ready:
        tags[3] = b"\x01"
    encoded = (encode_uvarint(tag) + encode_uvarint(len(value)) + value for tag, value in tags.items())
    return encode_uvarint(len(tags)) + b"".join(encoded)


def _encode_feature_rows(rows: Mapping[str, tuple[int, int]]) -> bytes:
    return COMPACT.encode_count(len(rows)) + b"".join(
        COMPACT.encode_string(name) + INT16.pack(first) + INT16.pack(second) + COMPACT.no_tags
        for name, (first, second) in rows.items()
    )


def table_markdown() -> str:
    """Return the table of all APIs for the documentation."""
    lines = ["| Key | API | Versions | Link | Remark |", "|---|---|---|---|---|"]
    for key in ApiKey:
        remark = REMARKS.get(key, "")
        if key in NOT_FORWARDED:
            versions, remark = "–", f"not forwarded: {NOT_FORWARDED[key]}"
        elif key in ANSWERED_HERE:
            versions = "{}–{}".format(*ANSWERED_HERE[key])
            remark = f"answered by the gateway; {remark}".rstrip("; ")
        else:
            versions = "{}–{}".format(*FORWARDED[key])
        link = "yes" if key in LINK_APIS else ""
        lines.append(f"| {key.value} | {key.name} | {versions} | {link} | {remark} |")
    return "\n".join(lines) + "\n"
