"""Refusals compared: a broker with StandardAuthorizer, and a gateway with its ACLs before an open broker.

Both get the requests of `acl_script`, one connection per role. What must differ (ids, addresses, times) is
masked, lists have no order; then every answer must be the same, and so must what the requests have done.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from kio.schema.errors import ErrorCode

from compose.gateway_process import GatewayProcess
from compose.kafka import KafkaCluster
from compose.ports import lease_ports
from protocol.acls import Acl
from protocol.api_keys import ApiKey
from protocol.errors import DecodeError
from tests.e2e.acl_script import ROLES, SCRIPT, Scene, acls, topics, versions
from tests.e2e.raw_client import Address, Closed, RawClient, make

PASSWORD: Final = "secret"
USERS: Final = dict.fromkeys(ROLES, PASSWORD)
BROKER: Final = {
    "auto.create.topics.enable": "true",
    "group.coordinator.rebalance.protocols": "classic,consumer,streams,share",
    "unstable.api.versions.enable": "true",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
}
# The coordinator is not there yet, or a topic has just been made.
_LATER: Final = frozenset(
    {
        ErrorCode.coordinator_load_in_progress,
        ErrorCode.coordinator_not_available,
        ErrorCode.not_coordinator,
        ErrorCode.leader_not_available,
        ErrorCode.not_leader_or_follower,
        ErrorCode.concurrent_transactions,
        # What a broker says of a transaction whose coordinator it cannot ask yet.
        ErrorCode.not_enough_replicas,
    }
)
_PATIENCE_S: Final = 10.0
# Whatever is known by these names differs from one broker to the next.
_MASKED: Final = frozenset(
    {
        "broker_id",
        "client_host",
        "client_id",
        "cluster_id",
        "controller_id",
        "host",
        "leader_epoch",
        "log_append_time",
        "log_dir",
        "log_end_offset",
        "high_watermark",
        "member_id",
        "port",
        "total_bytes",
        "usable_bytes",
        "last_caught_up_timestamp",
        "last_fetch_timestamp",
        "partition_size",
        "session_id",
        "records",
        "replica_directory_id",
        "timestamp",
        "voters",
    }
)


# What the gateway does differently, as docs/security.md and docs/protocol.md explain.
_OF_ITS_OWN: Final[dict[int, frozenset[str]]] = {
    # Nobody reaches a controller through a gateway.
    ApiKey.DESCRIBE_QUORUM: frozenset({"listeners"}),
    # A broker tells the id of the topic that it refuses.
    ApiKey.ALTER_SHARE_GROUP_OFFSETS: frozenset({"topic_id"}),
}


@dataclasses.dataclass(frozen=True)
class Difference:
    """Where the two do not agree."""

    api: str
    version: int
    role: str
    request: int
    broker: Any
    gateway: Any

    def __str__(self) -> str:
        place = f"{self.api} v{self.version} {self.role} request {self.request}"
        return f"{place}:\n  broker  {self.broker}\n  gateway {self.gateway}"


@dataclasses.dataclass(frozen=True)
class Found:
    """How many answers were compared, of how many APIs, and those that differ."""

    cases: int
    apis: int
    differences: Sequence[Difference]


class Side:
    """A broker or a gateway; what is made beforehand is made at `open_address`, where nobody is asked."""

    def __init__(self, address: Address, open_address: Address) -> None:
        self._address = address
        self._open = open_address
        self._ids: dict[str, UUID] = {}
        self._clients: dict[str, RawClient] = {}

    def prepare(self, roles: Iterable[str]) -> None:
        """Makes the topics."""
        names = [name for role in roles for name in topics(role)]
        with RawClient(self._open) as client:
            made = [{"name": name, "num_partitions": 1, "replication_factor": 1} for name in names]
            answer = client.call(make(ApiKey.CREATE_TOPICS, 7, topics=made, timeout=timedelta(seconds=20)))
            assert not [each for each in answer.topics if each.error_code], answer
            self._ids = {each.name: each.topic_id for each in answer.topics}
            self._warm_up(client)

    def _warm_up(self, client: RawClient) -> None:
        for kind in (0, 1):
            deadline = time.monotonic() + 30
            while True:
                asked = make(ApiKey.FIND_COORDINATOR, 4, key_type=kind, coordinator_keys=("warm",))
                if not client.call(asked).coordinators[0].error_code:
                    break
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def ask(self, role: str, key: int, version: int) -> list[Any]:
        """The masked answers to what a role asks of an API."""
        return [self._call(role, request) for request in SCRIPT[key](Scene(role, version, self._ids))]

    def _call(self, role: str, request: Any) -> Any:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                answer = self._client(role).call(request)
            except Closed:
                self._clients.pop(role).close()
                return "closed"
            except DecodeError:
                # Start times of -1, which the library cannot read.
                return "undecodable"
            if not (_codes(answer) & _LATER or _is_being_created(answer)) or time.monotonic() > deadline:
                if request.__api_key__ == ApiKey.SHARE_FETCH:
                    answer = _without_failures(answer)
                return _without(masked(answer), _OF_ITS_OWN.get(int(request.__api_key__), frozenset()))
            time.sleep(0.05)

    def _client(self, role: str) -> RawClient:
        if role not in self._clients:
            self._clients[role] = RawClient(self._address, user=role, password=PASSWORD)
        return self._clients[role]

    def done(self) -> Any:
        """What all requests together have done, masked."""
        with RawClient(self._open) as client:
            found = client.call(make(ApiKey.METADATA, 12, topics=None))
            names = sorted(topic.name for topic in found.topics if not topic.name.startswith("_"))
            partitions = {topic.name: len(topic.partitions) for topic in found.topics if topic.name in names}
            asked = [
                {"name": name, "partitions": [{"partition_index": 0, "timestamp": -1}]} for name in names
            ]
            ends = client.call(make(ApiKey.LIST_OFFSETS, 7, replica_id=-1, topics=asked))
            offsets = {topic.name: topic.partitions[0].offset for topic in ends.topics}
            groups = client.call(make(ApiKey.LIST_GROUPS, 5))
            kinds = {each.group_id: each.group_type for each in groups.groups if each.group_id[0] != "_"}
            committed = {}
            for group in sorted(kinds):
                wanted = [{"group_id": group, "topics": None, "member_id": None, "member_epoch": -1}]
                answer = client.call(make(ApiKey.OFFSET_FETCH, 9, groups=wanted))
                committed[group] = masked(answer.groups)
        return partitions, offsets, sorted(kinds.items()), committed

    def close(self) -> None:
        """Ends its connections."""
        for client in self._clients.values():
            client.close()


def compare(
    broker: Side, gateway: Side, keys: Iterable[int], roles: Sequence[str] = ROLES, step: int = 1
) -> Found:
    """Runs the script against both at once; with `step` only the first, the last and every n-th version."""
    wanted = [
        (key, version, role)
        for key in keys
        for version in dict.fromkeys((*versions(key)[::step], versions(key)[-1]))
        for role in roles
    ]

    def run(side: Side) -> tuple[list[list[Any]], Any]:
        try:
            side.prepare(roles)
            return [side.ask(role, key, version) for key, version, role in wanted], side.done()
        finally:
            side.close()

    with ThreadPoolExecutor(2) as pool:
        (theirs, did), (ours, we_did) = pool.map(run, (broker, gateway))
    found = [
        Difference(ApiKey(key).name, version, role, index, their, our)
        for (key, version, role), them, us in zip(wanted, theirs, ours, strict=True)
        for index, (their, our) in enumerate(zip(them, us, strict=True))
        if their != our
    ]
    for what, (their, our) in enumerate(zip(did, we_did, strict=True)):
        if their != our:
            found.append(Difference("side effects", 0, "all", what, their, our))
    return Found(sum(map(len, theirs)), len({key for key, _, _ in wanted}), found)


def create_acls(client: RawClient, wanted: Iterable[Acl]) -> None:
    """Makes ACLs, and ends the connection."""
    creations = [
        {
            "resource_type": int(acl.resource_type),
            "resource_name": acl.name,
            "resource_pattern_type": int(acl.pattern_type),
            "principal": acl.principal,
            "host": acl.host,
            "operation": int(acl.operation),
            "permission_type": int(acl.permission),
        }
        for acl in wanted
    ]
    with client:
        answer = client.call(make(ApiKey.CREATE_ACLS, 3, creations=creations))
    assert not [each for each in answer.results if each.error_code], answer


def broker_side(cluster: KafkaCluster) -> Side:
    """A broker with an authorizer, which gets the ACLs of the script."""
    node = cluster.nodes[0]
    create_acls(RawClient((node.host, node.internal_port)), acls())
    return Side((node.host, node.port), (node.host, node.internal_port))


def masked(value: Any, name: str = "") -> Any:
    """What of an answer must be the same on both sides, with lists in an order of their own."""
    if isinstance(value, tuple):
        return sorted((masked(each, name) for each in value), key=repr)
    if isinstance(value, UUID):
        return "id"
    if isinstance(value, timedelta | datetime):
        return "time"
    if name == "producer_id":
        return value if value == -1 else "…"
    if name in _MASKED and value not in {-1, 0, None, ""}:
        return "…"
    if name == "error_message" and str(value).startswith("Request Request("):
        # A controller tells the inside of the broker that asked.
        return "Cluster authorization failed."
    if dataclasses.is_dataclass(value):
        return {
            field.name: masked(getattr(value, field.name), field.name) for field in dataclasses.fields(value)
        }
    return value


def _is_being_created(answer: Any) -> bool:
    unknown = ErrorCode.unknown_topic_or_partition
    return answer.__api_key__ == ApiKey.METADATA and any(
        topic.error_code == unknown and "-auto-" in (topic.name or "") for topic in answer.topics
    )


def _without_failures(answer: Any) -> Any:
    """Of a group without members a broker has no state: it finds that out sooner or later, and says -1."""
    kept = tuple(
        each for each in answer.responses if each.partitions[0].error_code != ErrorCode.unknown_server_error
    )
    return dataclasses.replace(answer, responses=kept)


def _without(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, list):
        return [_without(each, names) for each in value]
    if isinstance(value, dict):
        return {name: _without(each, names) for name, each in value.items() if name not in names}
    return value


def _codes(value: Any) -> set[ErrorCode]:
    if isinstance(value, ErrorCode):
        return {value}
    if isinstance(value, tuple):
        return set().union(*map(_codes, value))
    if dataclasses.is_dataclass(value):
        return set().union(*(_codes(getattr(value, field.name)) for field in dataclasses.fields(value)))
    return set()


class ComparedGateway:
    """A gateway that enforces the ACLs of the script, before a broker that has none."""

    def __init__(self, cluster: KafkaCluster, name: str = "acls") -> None:
        self._cluster = cluster
        self._lease = lease_ports(2)
        self._directory = tempfile.TemporaryDirectory()
        self.audit_file = Path(self._directory.name) / "audit.log"
        host, port = "127.0.0.1", self._lease.ports[0]
        listener = {
            "name": "users",
            "bind": host,
            "port": port,
            "advertised_host": "localhost",
            "node_ids": "1",
            "insecure": True,
            "authentication": "sasl_plain",
        }
        config = {
            "cluster": cluster.gateway_config(),
            "authorization": "acls",
            "super_users": ["User:admin"],
            "users": [{"name": user, "password": password} for user, password in USERS.items()],
            "listeners": [listener],
            "audit": {"file": str(self.audit_file)},
            # One address is all that these clients have.
            "limits": {"max_connections_per_ip": 1000},
        }
        self.address = (host, self._lease.ports[1])
        try:
            self.process = GatewayProcess(config, name=name)
        except BaseException:
            self._lease.release()
            raise

    def connect(self, user: str) -> RawClient:
        """A connection of that user to the broker's port."""
        return RawClient(self.address, user=user, password=PASSWORD)

    def side(self) -> Side:
        """The gateway with the ACLs of the script."""
        create_acls(self.connect("admin"), acls())
        node = self._cluster.nodes[0]
        return Side(self.address, (node.host, node.internal_port))

    def close(self) -> None:
        """Ends it; idempotent."""
        self.process.close()
        self._lease.release()
        self._directory.cleanup()


def full() -> Mapping[str, int]:
    """The comparison in full: every version of every API that a gateway forwards."""
    with (
        KafkaCluster.start(
            security="SASL_PLAINTEXT", authorizer=True, users=USERS, config=dict(BROKER)
        ) as real,
        KafkaCluster.start(config=dict(BROKER)) as opened,
    ):
        gateway = ComparedGateway(opened)
        try:
            found = compare(broker_side(real), gateway.side(), SCRIPT)
        finally:
            gateway.close()
    for difference in found.differences[:_SHOWN]:
        print(difference)
    return {
        "response_cases": found.cases,
        "apis": found.apis,
        "response_differences": len(found.differences),
    }


_SHOWN: Final = 20
