"""The requests of the comparison of refusals: what each role asks of each API, about two of everything.

One of the two ("open…") is allowed to whoever is allowed only a part, the other ("shut…") is not. The same
script is sent to a broker with an authorizer and to a gateway; see `acl_comparison`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from protocol.acls import Acl, Operation, PatternType, Permission, ResourceType
from protocol.api_keys import ApiKey
from protocol.api_versions import FORWARDED
from tests.e2e.raw_client import batch, make, produce

ROLES: Final = ("admin", "allowed", "partly", "denied", "pattern")
_SHORT: Final = timedelta(milliseconds=20)
_SECOND: Final = timedelta(seconds=1)
_MEMBER: Final = "00000000-0000-4000-8000-00000000000{}"
_OF_CLUSTER: Final = "kafka-cluster"


def acls() -> list[Acl]:
    """What each role may do; "admin" is a super user and needs nothing."""
    kinds = (ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID)
    made = []

    def add(role: str, kind: ResourceType, pattern: PatternType, name: str, permission: Permission) -> None:
        made.append(Acl(kind, pattern, name, f"User:{role}", "*", Operation.ALL, permission))

    for role in ("allowed", "pattern"):
        for kind in kinds:
            add(role, kind, PatternType.LITERAL, "*", Permission.ALLOW)
        add(role, ResourceType.CLUSTER, PatternType.LITERAL, _OF_CLUSTER, Permission.ALLOW)
    for kind in kinds:
        add("partly", kind, PatternType.PREFIXED, "open", Permission.ALLOW)
        add("pattern", kind, PatternType.PREFIXED, "shut", Permission.DENY)
    # Somebody who is nobody's role, so that the resources are covered by an ACL.
    made.append(
        Acl(
            ResourceType.CLUSTER,
            PatternType.LITERAL,
            _OF_CLUSTER,
            "User:pattern",
            "*",
            Operation.CREATE,
            Permission.DENY,
        )
    )
    return made


@dataclass(frozen=True)
class Scene:
    """What a request is about: the role's names, a number for what it makes, the topics' ids on this side."""

    role: str
    version: int
    ids: Mapping[str, UUID]

    @property
    def names(self) -> tuple[str, str]:
        """The resources that are there."""
        return f"open-{self.role}", f"shut-{self.role}"

    def new(self, what: str) -> tuple[str, str]:
        """Names of resources that are not there, or were made for one request."""
        return tuple(f"{name}-{what}-{self.version}" for name in self.names)  # type: ignore[return-value]

    def named(self, first_by_id: int, name: str, field: str = "name") -> dict[str, Any]:
        """A topic by its name, or by its id from a version on."""
        return {"topic_id": self.ids[name]} if self.version >= first_by_id else {field: name}


Ask = Callable[[Scene], list[Any]]
_NEVER: Final = 99


def _one(api: int, scene: Scene, /, **fields: Any) -> list[Any]:
    """A request with the fields that its version has."""
    known = set(make(api, scene.version).__dataclass_fields__)
    return [make(api, scene.version, **{name: value for name, value in fields.items() if name in known})]


def _produce(scene: Scene) -> list[Any]:
    names: dict[Any, bytes] = {
        scene.ids[name] if scene.version >= 13 else name: batch(b"x") for name in scene.names
    }
    shut = dict(list(names.items())[1:])
    part = batch(b"x", producer_id=1, producer_epoch=0, base_sequence=0, transactional=True)
    transactional = dict.fromkeys(names, part)
    return [
        produce(scene.version, names),
        produce(scene.version, shut),
        produce(scene.version, transactional, transactional_id=f"shut-{scene.role}"),
        produce(scene.version, names, acks=1),
    ]


def _fetch(scene: Scene) -> list[Any]:
    def topics(*names: str) -> list[dict[str, Any]]:
        partition: dict[str, Any] = {"partition": 0, "partition_max_bytes": 100_000}
        if scene.version >= 9:
            partition["current_leader_epoch"] = -1
        return [{**scene.named(13, name, "topic"), "partitions": [partition]} for name in names]

    fields = {"max_wait": _SHORT, "max_bytes": 1 << 20, "min_bytes": 1}
    if scene.version < 15:
        fields["replica_id"] = -1
    found = _one(ApiKey.FETCH, scene, topics=topics(*scene.names), session_epoch=-1, **fields)
    found += _one(ApiKey.FETCH, scene, topics=topics(scene.names[1]), session_epoch=-1, **fields)
    return found


def _list_offsets(scene: Scene) -> list[Any]:
    partitions = [{"partition_index": index, "timestamp": -1} for index in (0, 7)]
    topics = [{"name": name, "partitions": partitions} for name in scene.names]
    return _one(ApiKey.LIST_OFFSETS, scene, replica_id=-1, topics=topics)


def _metadata(scene: Scene) -> list[Any]:
    def ask(names: list[str] | None, **fields: Any) -> list[Any]:
        topics = None if names is None else [{"name": name} for name in names]
        if scene.version == 0:
            topics = topics or []
        return _one(ApiKey.METADATA, scene, topics=topics, **fields)

    absent = list(scene.new("absent"))
    found = ask([*scene.names, *absent], allow_auto_topic_creation=False) if scene.version >= 4 else []
    found += ask(list(scene.names))
    found += ask([scene.names[1]])
    if scene.version >= 1:
        found += ask([])
    found += ask(
        None,
        include_topic_authorized_operations=True,
        include_cluster_authorized_operations=True,
    )
    found += ask(
        list(scene.names),
        include_topic_authorized_operations=True,
        include_cluster_authorized_operations=True,
    )
    found += ask(None)
    if scene.version >= 12:
        by_id = [{"name": None, "topic_id": scene.ids[name]} for name in scene.names]
        by_id.append({"name": None, "topic_id": UUID(int=77)})
        found += _one(ApiKey.METADATA, scene, topics=by_id)
    created = list(scene.new("auto"))
    found += ask([created[0]], allow_auto_topic_creation=True)
    found += ask([created[1]], allow_auto_topic_creation=True)
    return found


def _commit(key: int, scene: Scene, **fields: Any) -> list[Any]:
    offsets = {"partition_index": 0, "committed_offset": 5, "committed_metadata": ""}
    if scene.version >= (6 if key == ApiKey.OFFSET_COMMIT else 2):
        offsets["committed_leader_epoch"] = -1
    first_by_id = 10 if key == ApiKey.OFFSET_COMMIT else _NEVER
    topics = [{**scene.named(first_by_id, name), "partitions": [offsets]} for name in scene.names]
    shut = topics[1:]
    found = []
    for group, about in ((scene.names[0], topics), (scene.names[1], topics), (scene.names[0], shut)):
        found += _one(
            key,
            scene,
            group_id=group,
            topics=about,
            generation_id_or_member_epoch=-1,
            generation_id=-1,
            **fields,
        )
    return found


def _offset_fetch(scene: Scene) -> list[Any]:
    topics = [{**scene.named(10, name), "partition_indexes": (0, 1)} for name in scene.names]
    found = []
    if scene.version < 8:
        for group in scene.names:
            found += _one(ApiKey.OFFSET_FETCH, scene, group_id=group, topics=topics)
            if scene.version >= 2:
                found += _one(ApiKey.OFFSET_FETCH, scene, group_id=group, topics=None)
        return found
    member = {"member_id": None, "member_epoch": -1} if scene.version >= 9 else {}
    groups = [{"group_id": name, "topics": topics, **member} for name in scene.names]
    every = [{"group_id": name, "topics": None, **member} for name in scene.names]
    for asked in (groups, every, groups[1:]):
        found += _one(ApiKey.OFFSET_FETCH, scene, groups=asked)
    return found


def _find_coordinator(scene: Scene) -> list[Any]:
    found = []
    for kind in (0, 1, 2) if scene.version >= 6 else (0, 1) if scene.version >= 1 else (0,):
        if scene.version >= 4:
            keys: tuple[str, ...] = scene.names
            if kind == 2:
                keys = tuple(f"{name}:{UUID(int=7)}:0" for name in scene.names)
            found += _one(ApiKey.FIND_COORDINATOR, scene, key_type=kind, coordinator_keys=keys)
        else:
            for name in scene.names:
                found += _one(ApiKey.FIND_COORDINATOR, scene, key_type=kind, key=name)
    return found


def _per_group(key: int, **fields: Any) -> Ask:
    return lambda scene: [each for name in scene.names for each in _one(key, scene, group_id=name, **fields)]


def _join(scene: Scene) -> list[Any]:
    found = []
    for name in scene.new("join"):
        found += _one(
            ApiKey.JOIN_GROUP,
            scene,
            group_id=name,
            session_timeout=timedelta(seconds=1),
            rebalance_timeout=_SECOND,
            member_id="unknown-member",
            protocol_type="consumer",
            protocols=[{"name": "range", "metadata": b""}],
        )
    return found


def _sync(scene: Scene) -> list[Any]:
    found = []
    for protocol in ("consumer", None) if scene.version >= 5 else ("consumer",):
        for name in scene.names:
            found += _one(
                ApiKey.SYNC_GROUP,
                scene,
                group_id=name,
                generation_id=1,
                member_id="m",
                protocol_type=protocol,
                protocol_name="range",
            )
    return found


def _create_topics(scene: Scene) -> list[Any]:
    topics = [{"name": name, "num_partitions": 1, "replication_factor": 1} for name in scene.new("made")]
    twice = [{"name": name, "num_partitions": 1, "replication_factor": 1} for name in scene.new("twice") * 2]
    log = [{"name": "__cluster_metadata", "num_partitions": 1, "replication_factor": 1}]
    found = []
    for about, validate in ((topics, True), (topics, False), (twice, False), (log, False), (topics, False)):
        found += _one(ApiKey.CREATE_TOPICS, scene, topics=about, timeout=_SECOND * 5, validate_only=validate)
    return found


def _delete_topics(scene: Scene) -> list[Any]:
    names = scene.new("gone")
    asked: dict[str, Any] = {"topic_names": (*names, scene.names[1] + "-absent")}
    found = []
    if scene.version >= 6:
        by_id = [{"name": None, "topic_id": scene.ids[name]} for name in names]
        found += _one(ApiKey.DELETE_TOPICS, scene, topics=by_id, timeout=_SECOND * 5)
        found += _one(
            ApiKey.DELETE_TOPICS,
            scene,
            topics=[{"name": None, "topic_id": UUID(int=77)}],
            timeout=_SECOND * 5,
        )
        asked = {"topics": [{"name": name} for name in asked["topic_names"]]}
    return found + _one(ApiKey.DELETE_TOPICS, scene, timeout=_SECOND * 5, **asked)


def _topics(key: int, field: str = "partition_index", name: str = "name", **fields: Any) -> Ask:
    def ask(scene: Scene) -> list[Any]:
        topics = [{name: each, "partitions": [{field: 0, **fields}]} for each in scene.names]
        return _one(key, scene, topics=topics, timeout=_SECOND * 5, replica_id=-1)

    return ask


def _init_producer_id(scene: Scene) -> list[Any]:
    found = []
    for name in (None, *scene.names):
        found += _one(
            ApiKey.INIT_PRODUCER_ID,
            scene,
            transactional_id=name,
            transaction_timeout=_SECOND * 30,
            producer_id=-1,
            producer_epoch=-1,
        )
    return found


def _add_partitions(scene: Scene) -> list[Any]:
    found = []
    for name in scene.names:
        for topics in (scene.names, scene.names[:1], scene.names[1:], ("__consumer_offsets",)):
            found += _one(
                ApiKey.ADD_PARTITIONS_TO_TXN,
                scene,
                v3_and_below_transactional_id=name,
                v3_and_below_producer_id=987654,
                v3_and_below_topics=[{"name": each, "partitions": (0,)} for each in topics],
            )
    return found


def _transaction(key: int, **fields: Any) -> Ask:
    def ask(scene: Scene) -> list[Any]:
        found = []
        for name in scene.names:
            for group in scene.names:
                found += _one(key, scene, transactional_id=name, group_id=group, producer_id=987654, **fields)
        return found

    return ask


def _configs(key: int) -> Ask:
    def ask(scene: Scene) -> list[Any]:
        kinds = [(2, name) for name in scene.names]
        kinds += [(32, name) for name in scene.names] if key != ApiKey.ALTER_CONFIGS else []
        kinds += [(4, "1"), (16, "metrics-" + scene.role)]
        if key == ApiKey.ALTER_CONFIGS:
            # What is not named is reset: nothing of a broker's is touched.
            kinds = kinds[:2]
        configs: list[dict[str, Any]] = []
        found = []
        for kind, name in kinds:
            if key == ApiKey.INCREMENTAL_ALTER_CONFIGS and kind == 2:
                configs = [{"name": "retention.ms", "config_operation": 0, "value": "86400000"}]
            elif key == ApiKey.ALTER_CONFIGS:
                configs = [{"name": "retention.ms", "value": "76400000"}]
            else:
                configs = []
            resource: dict[str, Any] = {"resource_type": kind, "resource_name": name}
            if key == ApiKey.DESCRIBE_CONFIGS:
                resource["configuration_keys"] = (
                    "retention.ms",
                    "log.retention.hours",
                    "consumer.session.timeout.ms",
                )
            else:
                resource["configs"] = configs
            found.append(resource)
        if key == ApiKey.INCREMENTAL_ALTER_CONFIGS:
            found = [each for each in found if each["resource_type"] in {2, 32}]
        return _one(key, scene, resources=found)

    return ask


def _plain(key: int, **fields: Any) -> Ask:
    return lambda scene: _one(key, scene, **fields)


def _elections(scene: Scene) -> list[Any]:
    topics = [{"topic": name, "partitions": (0,)} for name in scene.names]
    return _one(ApiKey.ELECT_LEADERS, scene, topic_partitions=topics, timeout=_SECOND * 5)


def _reassign(scene: Scene) -> list[Any]:
    topics = [
        {"name": name, "partitions": [{"partition_index": 0, "replicas": (1,)}]} for name in scene.names
    ]
    return _one(ApiKey.ALTER_PARTITION_REASSIGNMENTS, scene, topics=topics, timeout=_SECOND * 5)


def _quotas(scene: Scene) -> list[Any]:
    entity = [{"entity_type": "client-id", "entity_name": scene.role}]
    entry = {"entity": entity, "ops": [{"key": "producer_byte_rate", "value": 1e9, "remove": False}]}
    return _one(ApiKey.ALTER_CLIENT_QUOTAS, scene, entries=[entry])


def _heartbeat(key: int) -> Ask:
    def ask(scene: Scene) -> list[Any]:
        found = []
        groups = scene.new(f"h{int(key)}")
        for number, (group, topics) in enumerate(
            ((groups[0], scene.names[:1]), (groups[0], scene.names), (groups[1], scene.names[:1]))
        ):
            fields: dict[str, Any] = {}
            if key == ApiKey.CONSUMER_GROUP_HEARTBEAT:
                fields = {"topic_partitions": [], "rebalance_timeout": _SECOND * 30}
            found += _one(
                key,
                scene,
                group_id=group,
                member_id=_MEMBER.format(number),
                member_epoch=0,
                subscribed_topic_names=tuple(topics),
                **fields,
            )
        return found

    return ask


def _streams_heartbeat(scene: Scene) -> list[Any]:
    found = []
    groups = scene.new("streams")
    tasks: dict[str, Any] = dict.fromkeys(("active_tasks", "standby_tasks", "warmup_tasks"), ())
    for number, (group, topics) in enumerate(
        ((groups[0], scene.names[:1]), (groups[0], scene.names), (groups[1], scene.names[:1]))
    ):
        subtopology = {"subtopology_id": "0", "source_topics": tuple(topics)}
        found += _one(
            ApiKey.STREAMS_GROUP_HEARTBEAT,
            scene,
            group_id=group,
            member_id=_MEMBER.format(number),
            rebalance_timeout=_SECOND * 30,
            process_id="p",
            client_tags=(),
            topology={"epoch": 1, "subtopologies": [subtopology]},
            **tasks,
        )
    return found


def _groups(key: int, field: str = "group_ids", absent: str = "", **fields: Any) -> Ask:
    def ask(scene: Scene) -> list[Any]:
        names = scene.new(absent) if absent else scene.names
        found = _one(key, scene, **{field: names})
        if "include_authorized_operations" in make(key, scene.version).__dataclass_fields__:
            found += _one(key, scene, **{field: names}, include_authorized_operations=True)
        return found

    return ask


def _share_fetch(scene: Scene) -> list[Any]:
    found = []
    for group in scene.names:
        for names in (scene.names, scene.names[1:]):
            topics = [{"topic_id": scene.ids[name], "partitions": [{"partition_index": 0}]} for name in names]
            found += _one(
                ApiKey.SHARE_FETCH,
                scene,
                group_id=group,
                member_id=_MEMBER.format(5),
                share_session_epoch=0,
                max_wait=_SHORT,
                max_bytes=1 << 20,
                max_records=10,
                batch_size=10,
                topics=topics,
            )
    return found


def _share_acknowledge(scene: Scene) -> list[Any]:
    batch_ = {"first_offset": 0, "last_offset": 0, "acknowledge_types": (1,)}
    found = []
    for group in scene.names:
        topics = [
            {
                "topic_id": scene.ids[name],
                "partitions": [{"partition_index": 0, "acknowledgement_batches": [batch_]}],
            }
            for name in scene.names
        ]
        found += _one(
            ApiKey.SHARE_ACKNOWLEDGE,
            scene,
            group_id=group,
            member_id=_MEMBER.format(6),
            share_session_epoch=1,
            topics=topics,
        )
    return found


def _share_offsets(scene: Scene) -> list[Any]:
    topics = [{"topic_name": name, "partitions": (0,)} for name in scene.names]
    groups = [{"group_id": name, "topics": topics} for name in scene.names]
    every = [{"group_id": name, "topics": None} for name in scene.names]
    return _one(ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS, scene, groups=groups) + _one(
        ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS, scene, groups=every
    )


def _alter_share_offsets(key: int) -> Ask:
    def ask(scene: Scene) -> list[Any]:
        found = []
        for group in scene.new("share-offsets"):
            topics: list[dict[str, Any]] = [{"topic_name": name} for name in scene.names]
            if key == ApiKey.ALTER_SHARE_GROUP_OFFSETS:
                for each in topics:
                    each["partitions"] = [{"partition_index": 0, "start_offset": 0}]
            found += _one(key, scene, group_id=group, topics=topics)
        return found

    return ask


def _partition_names(key: int, field: str = "partition_indexes") -> Ask:
    return lambda scene: _one(
        key, scene, topics=[{"name": name, field: (0, 9)} for name in scene.names], timeout=_SECOND
    )


def _topic_partitions(scene: Scene) -> list[Any]:
    found = []
    for names in (scene.names, scene.names[1:], ()):
        topics = [{"name": name} for name in names]
        found += _one(
            ApiKey.DESCRIBE_TOPIC_PARTITIONS,
            scene,
            topics=topics,
            response_partition_limit=2000,
            cursor=None,
        )
    return found


def _log_dirs(scene: Scene) -> list[Any]:
    topics = [{"topic": name, "partitions": (0,)} for name in scene.names]
    return _one(ApiKey.DESCRIBE_LOG_DIRS, scene, topics=topics)


def _create_partitions(scene: Scene) -> list[Any]:
    topics = [{"name": name, "count": 2, "assignments": None} for name in scene.new("grown")]
    return _one(ApiKey.CREATE_PARTITIONS, scene, topics=topics, timeout=_SECOND * 5)


def _quorum(scene: Scene) -> list[Any]:
    topics = [{"topic_name": "__cluster_metadata", "partitions": [{"partition_index": 0}]}]
    return _one(ApiKey.DESCRIBE_QUORUM, scene, topics=topics)


def _members(scene: Scene) -> list[Any]:
    found = []
    for name in scene.names:
        members = [{"member_id": "m", "group_instance_id": None}]
        found += _one(ApiKey.LEAVE_GROUP, scene, group_id=name, member_id="m", members=members)
    return found


SCRIPT: Final[dict[int, Ask]] = {
    ApiKey.PRODUCE: _produce,
    ApiKey.FETCH: _fetch,
    ApiKey.LIST_OFFSETS: _list_offsets,
    ApiKey.METADATA: _metadata,
    ApiKey.OFFSET_COMMIT: lambda scene: _commit(ApiKey.OFFSET_COMMIT, scene),
    ApiKey.OFFSET_FETCH: _offset_fetch,
    ApiKey.FIND_COORDINATOR: _find_coordinator,
    ApiKey.JOIN_GROUP: _join,
    ApiKey.HEARTBEAT: _per_group(ApiKey.HEARTBEAT, generation_id=1, member_id="m"),
    ApiKey.LEAVE_GROUP: _members,
    ApiKey.SYNC_GROUP: _sync,
    ApiKey.DESCRIBE_GROUPS: _groups(ApiKey.DESCRIBE_GROUPS, "groups"),
    ApiKey.LIST_GROUPS: _plain(ApiKey.LIST_GROUPS),
    ApiKey.CREATE_TOPICS: _create_topics,
    ApiKey.DELETE_TOPICS: _delete_topics,
    ApiKey.DELETE_RECORDS: _topics(ApiKey.DELETE_RECORDS, offset=0),
    ApiKey.INIT_PRODUCER_ID: _init_producer_id,
    ApiKey.OFFSET_FOR_LEADER_EPOCH: _topics(
        ApiKey.OFFSET_FOR_LEADER_EPOCH, "partition", "topic", current_leader_epoch=-1, leader_epoch=0
    ),
    ApiKey.ADD_PARTITIONS_TO_TXN: _add_partitions,
    ApiKey.ADD_OFFSETS_TO_TXN: _transaction(ApiKey.ADD_OFFSETS_TO_TXN),
    ApiKey.END_TXN: _transaction(ApiKey.END_TXN, committed=True),
    ApiKey.TXN_OFFSET_COMMIT: lambda scene: [
        each
        for name in scene.names
        for each in _commit(ApiKey.TXN_OFFSET_COMMIT, scene, transactional_id=name, producer_id=987654)
    ],
    ApiKey.DESCRIBE_CONFIGS: _configs(ApiKey.DESCRIBE_CONFIGS),
    ApiKey.ALTER_CONFIGS: _configs(ApiKey.ALTER_CONFIGS),
    ApiKey.DESCRIBE_LOG_DIRS: _log_dirs,
    ApiKey.CREATE_PARTITIONS: _create_partitions,
    ApiKey.DELETE_GROUPS: _groups(ApiKey.DELETE_GROUPS, "groups_names", "absent"),
    ApiKey.ELECT_LEADERS: _elections,
    ApiKey.INCREMENTAL_ALTER_CONFIGS: _configs(ApiKey.INCREMENTAL_ALTER_CONFIGS),
    ApiKey.ALTER_PARTITION_REASSIGNMENTS: _reassign,
    ApiKey.LIST_PARTITION_REASSIGNMENTS: _partition_names(ApiKey.LIST_PARTITION_REASSIGNMENTS),
    ApiKey.OFFSET_DELETE: lambda scene: [
        each
        for name in scene.names
        for each in _one(
            ApiKey.OFFSET_DELETE,
            scene,
            group_id=name,
            topics=[{"name": topic, "partitions": [{"partition_index": 1}]} for topic in scene.names],
        )
    ],
    ApiKey.DESCRIBE_CLIENT_QUOTAS: _plain(ApiKey.DESCRIBE_CLIENT_QUOTAS, strict=False),
    ApiKey.ALTER_CLIENT_QUOTAS: _quotas,
    ApiKey.DESCRIBE_QUORUM: _quorum,
    ApiKey.DESCRIBE_CLUSTER: lambda scene: [
        *_one(ApiKey.DESCRIBE_CLUSTER, scene, endpoint_type=1, include_cluster_authorized_operations=True),
        *_one(ApiKey.DESCRIBE_CLUSTER, scene, endpoint_type=1),
    ],
    ApiKey.DESCRIBE_PRODUCERS: _partition_names(ApiKey.DESCRIBE_PRODUCERS),
    ApiKey.DESCRIBE_TRANSACTIONS: lambda scene: _one(
        ApiKey.DESCRIBE_TRANSACTIONS, scene, transactional_ids=scene.names
    ),
    ApiKey.LIST_TRANSACTIONS: _plain(ApiKey.LIST_TRANSACTIONS, duration_filter=-1),
    ApiKey.CONSUMER_GROUP_HEARTBEAT: _heartbeat(ApiKey.CONSUMER_GROUP_HEARTBEAT),
    ApiKey.CONSUMER_GROUP_DESCRIBE: _groups(ApiKey.CONSUMER_GROUP_DESCRIBE, absent="h68"),
    ApiKey.LIST_CONFIG_RESOURCES: _plain(ApiKey.LIST_CONFIG_RESOURCES),
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: _topic_partitions,
    ApiKey.SHARE_GROUP_HEARTBEAT: _heartbeat(ApiKey.SHARE_GROUP_HEARTBEAT),
    ApiKey.SHARE_GROUP_DESCRIBE: _groups(ApiKey.SHARE_GROUP_DESCRIBE, absent="h76"),
    ApiKey.SHARE_FETCH: _share_fetch,
    ApiKey.SHARE_ACKNOWLEDGE: _share_acknowledge,
    ApiKey.STREAMS_GROUP_HEARTBEAT: _streams_heartbeat,
    ApiKey.STREAMS_GROUP_DESCRIBE: _groups(ApiKey.STREAMS_GROUP_DESCRIBE, absent="streams"),
    ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS: _share_offsets,
    ApiKey.ALTER_SHARE_GROUP_OFFSETS: _alter_share_offsets(ApiKey.ALTER_SHARE_GROUP_OFFSETS),
    ApiKey.DELETE_SHARE_GROUP_OFFSETS: _alter_share_offsets(ApiKey.DELETE_SHARE_GROUP_OFFSETS),
}


def versions(key: int) -> range:
    """The versions of an API that a gateway advertises."""
    lowest, highest = FORWARDED[key]
    return range(lowest, highest + 1)


def topics(role: str) -> list[str]:
    """The topics that a role's requests are about."""
    scenes = [Scene(role, version, {}) for version in range(7)]
    made = [*scenes[0].names]
    for scene in scenes:
        made += [*scene.new("gone"), *scene.new("grown")]
    return made
