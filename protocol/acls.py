"""Kafka's words for access control, with its codes: KIP-11, KIP-290 (prefixed), KIP-373 (users), KIP-939.

An `Acl` is one binding, as CreateAcls carries it. The codes of operations are also the bits of
`authorizedOperations` (KIP-430).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

CLUSTER_NAME: Final = "kafka-cluster"
WILDCARD: Final = "*"
ANYBODY: Final = "User:*"


class ResourceType(IntEnum):
    """What an ACL is about; ANY only in filters."""

    UNKNOWN = 0
    ANY = 1
    TOPIC = 2
    GROUP = 3
    CLUSTER = 4
    TRANSACTIONAL_ID = 5
    DELEGATION_TOKEN = 6
    USER = 7


class PatternType(IntEnum):
    """How an ACL's name is compared; ANY and MATCH only in filters."""

    UNKNOWN = 0
    ANY = 1
    MATCH = 2
    LITERAL = 3
    PREFIXED = 4


class Operation(IntEnum):
    """What somebody wants to do, or an ACL speaks about; ANY only in filters."""

    UNKNOWN = 0
    ANY = 1
    ALL = 2
    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    ALTER = 7
    DESCRIBE = 8
    CLUSTER_ACTION = 9
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11
    IDEMPOTENT_WRITE = 12
    CREATE_TOKENS = 13
    DESCRIBE_TOKENS = 14
    TWO_PHASE_COMMIT = 15


class Permission(IntEnum):
    """What an ACL says; ANY only in filters."""

    UNKNOWN = 0
    ANY = 1
    DENY = 2
    ALLOW = 3


# Kafka's AclEntry.supportedOperations: what `authorizedOperations` may name for a resource of the type.
SUPPORTED_OPERATIONS: Final[dict[ResourceType, tuple[Operation, ...]]] = {
    ResourceType.TOPIC: (
        Operation.READ,
        Operation.WRITE,
        Operation.CREATE,
        Operation.DESCRIBE,
        Operation.DELETE,
        Operation.ALTER,
        Operation.DESCRIBE_CONFIGS,
        Operation.ALTER_CONFIGS,
    ),
    ResourceType.GROUP: (
        Operation.READ,
        Operation.DESCRIBE,
        Operation.DELETE,
        Operation.DESCRIBE_CONFIGS,
        Operation.ALTER_CONFIGS,
    ),
    ResourceType.CLUSTER: (
        Operation.CREATE,
        Operation.CLUSTER_ACTION,
        Operation.DESCRIBE_CONFIGS,
        Operation.ALTER_CONFIGS,
        Operation.IDEMPOTENT_WRITE,
        Operation.ALTER,
        Operation.DESCRIBE,
    ),
    ResourceType.TRANSACTIONAL_ID: (Operation.DESCRIBE, Operation.WRITE, Operation.TWO_PHASE_COMMIT),
    ResourceType.DELEGATION_TOKEN: (Operation.DESCRIBE,),
    ResourceType.USER: (Operation.CREATE_TOKENS, Operation.DESCRIBE_TOKENS),
}


@dataclass(frozen=True, slots=True, order=True)
class Acl:
    """One rule. `principal` is `Type:name`, `User:*` for everybody; `host` is `*` or as Java writes it.

    ValueError for what only a filter may say, an empty name, or a principal without a type.
    """

    resource_type: ResourceType
    pattern_type: PatternType
    name: str
    principal: str
    host: str
    operation: Operation
    permission: Permission

    def __post_init__(self) -> None:
        if self.resource_type <= ResourceType.ANY:
            raise ValueError(f"an ACL cannot be about resource type {self.resource_type.name}")
        if self.pattern_type not in (PatternType.LITERAL, PatternType.PREFIXED):
            raise ValueError(f"an ACL cannot have pattern type {self.pattern_type.name}")
        if self.operation <= Operation.ANY:
            raise ValueError(f"an ACL cannot have operation {self.operation.name}")
        if self.permission <= Permission.ANY:
            raise ValueError(f"an ACL cannot have permission {self.permission.name}")
        if not self.name:
            raise ValueError("an ACL needs the name of a resource")
        if ":" not in self.principal:
            raise ValueError(f"{self.principal!r} is no principal: it must be Type:name")
