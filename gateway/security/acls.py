"""Who may do what: decided as Kafka's StandardAuthorizer decides (KIP-11, KIP-290, KIP-801).

In this order: super users may do everything; an ACL that denies wins over any that allows, however exact;
an ACL that allows; where no ACL at all is about the resource, the default; else no. Allowing READ, WRITE,
DELETE or ALTER allows DESCRIBE, ALTER_CONFIGS allows DESCRIBE_CONFIGS; denying implies nothing. As in Kafka,
an ACL about the wildcard `*` is not about a resource whose own name begins with `*` (no topic's can).

`Acls` never changes: a new set of ACLs is a new object, which takes the place of the old one at once.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocol.acls import (
    ANYBODY,
    CLUSTER_NAME,
    SUPPORTED_OPERATIONS,
    WILDCARD,
    Acl,
    Operation,
    PatternType,
    Permission,
    ResourceType,
)

__all__ = [
    "ANYBODY",
    "CLUSTER_NAME",
    "SUPPORTED_OPERATIONS",
    "WILDCARD",
    "Acl",
    "AclDecision",
    "Acls",
    "Operation",
    "PatternType",
    "Permission",
    "Reason",
    "ResourceType",
]

_CACHED_DECISIONS: Final = 20_000
# Names are the clients' to choose and may be 32 KiB long; longer than any topic's they are not kept.
_CACHED_NAME: Final = 249

_EVERY_OPERATION: Final = sum(1 << operation for operation in Operation if operation > Operation.ANY)
_DESCRIBE: Final = 1 << Operation.DESCRIBE
_IMPLIED: Final = {
    Operation.READ: _DESCRIBE,
    Operation.WRITE: _DESCRIBE,
    Operation.DELETE: _DESCRIBE,
    Operation.ALTER: _DESCRIBE,
    Operation.ALTER_CONFIGS: 1 << Operation.DESCRIBE_CONFIGS,
}
# Kafka's authorizeByResourceType asks about this name first, to find super users and wildcards.
_ANY_NAME: Final = "hardcode"


class Reason(StrEnum):
    """What a decision rests on."""

    SUPER_USER = "super-user"
    ACL = "acl"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class AclDecision:
    """`acl` is the one that decided, None where none did."""

    allowed: bool
    reason: Reason
    acl: Acl | None = None


_SUPER_USER: Final = AclDecision(True, Reason.SUPER_USER)
_NONE_ALLOWS: Final = AclDecision(False, Reason.DEFAULT)


class _Rules:
    """What the ACLs of one pattern say to one principal from one host, as bits of operations."""

    __slots__ = ("acls", "allowed", "denied")

    def __init__(self) -> None:
        self.allowed = 0
        self.denied = 0
        self.acls: list[Acl] = []

    def add(self, acl: Acl) -> None:
        self.acls.append(acl)
        if acl.permission is Permission.DENY:
            self.denied |= _said(acl)
        else:
            self.allowed |= _said(acl) | _IMPLIED.get(acl.operation, 0)

    def first(self, permission: Permission, operation: Operation) -> Acl:
        """The least ACL that says so about the operation, in every process the same; there must be one."""
        bit = 1 << operation
        implied = _IMPLIED if permission is Permission.ALLOW else {}
        return min(
            acl
            for acl in self.acls
            if acl.permission is permission and (_said(acl) | implied.get(acl.operation, 0)) & bit
        )


class _Patterns:
    """Names and prefixes of resources of one type, with what stands under each."""

    __slots__ = ("lengths", "literals", "prefixes")

    def __init__(self) -> None:
        self.literals: dict[str, _Rules] = {}
        self.prefixes: dict[str, _Rules] = {}
        # Of the prefixes, rising.
        self.lengths: list[int] = []

    def add(self, acl: Acl) -> None:
        rules = self.literals if acl.pattern_type is PatternType.LITERAL else self.prefixes
        if acl.name not in rules:
            rules[acl.name] = _Rules()
            if rules is self.prefixes and len(acl.name) not in self.lengths:
                insort(self.lengths, len(acl.name))
        rules[acl.name].add(acl)

    def about(self, name: str) -> list[_Rules]:
        """What stands under a resource's name, under `*`, and under each prefix of its name."""
        found = []
        exact = self.literals.get(name)
        if exact is not None:
            found.append(exact)
        # Kafka's search passes over the wildcard where it is the beginning of the name, in 4.3 at least.
        if not name.startswith(WILDCARD):
            wildcard = self.literals.get(WILDCARD)
            if wildcard is not None:
                found.append(wildcard)
        size = len(name)
        for length in self.lengths:
            if length > size:
                break
            prefixed = self.prefixes.get(name[:length])
            if prefixed is not None:
                found.append(prefixed)
        return found


class _TypeIndex:
    """The ACLs of one resource type: all of them, and by the principal and host that they speak of."""

    __slots__ = ("all", "by_whom")

    def __init__(self) -> None:
        self.all = _Patterns()
        self.by_whom: dict[tuple[str, str], _Patterns] = {}

    def add(self, acl: Acl) -> None:
        self.all.add(acl)
        whom = (acl.principal, acl.host)
        if whom not in self.by_whom:
            self.by_whom[whom] = _Patterns()
        self.by_whom[whom].add(acl)

    def of(self, principal: str, host: str) -> Iterator[_Patterns]:
        """What speaks of a principal at a host, by name or as everybody and everywhere."""
        for whom in ((principal, host), (principal, WILDCARD), (ANYBODY, host), (ANYBODY, WILDCARD)):
            patterns = self.by_whom.get(whom)
            if patterns is not None:
                yield patterns


class Acls:
    """A set of ACLs with the super users and the default beside it."""

    def __init__(
        self,
        acls: Iterable[Acl] = (),
        super_users: frozenset[str] = frozenset(),
        allow_everyone: bool = False,
    ) -> None:
        self._super_users = super_users
        self._default = AclDecision(allow_everyone, Reason.DEFAULT)
        self._types = {kind: _TypeIndex() for kind in SUPPORTED_OPERATIONS}
        self._size = 0
        for acl in set(acls):
            self._types[acl.resource_type].add(acl)
            self._size += 1
        self._decided: dict[tuple[str, str, int, int, str], AclDecision] = {}
        self._decided_any: dict[tuple[str, str, int, int], bool] = {}

    def __len__(self) -> int:
        return self._size

    def decide(
        self, principal: str, host: str, operation: Operation, resource_type: ResourceType, name: str
    ) -> AclDecision:
        """Whether `principal` (`Type:name`) may, from `host` as Java writes it, do that to that resource.

        ValueError for an operation or a resource type that only filters have.
        """
        if principal in self._super_users:
            return _SUPER_USER
        asked = (principal, host, operation, resource_type, name)
        decision = self._decided.get(asked)
        if decision is None:
            decision = self._decide(principal, host, operation, resource_type, name)
            if len(name) <= _CACHED_NAME:
                if len(self._decided) >= _CACHED_DECISIONS:
                    self._decided.clear()
                self._decided[asked] = decision
        return decision

    def allows(
        self, principal: str, host: str, operation: Operation, resource_type: ResourceType, name: str
    ) -> bool:
        """`decide` where only the answer counts."""
        return self.decide(principal, host, operation, resource_type, name).allowed

    def allows_any(
        self, principal: str, host: str, operation: Operation, resource_type: ResourceType
    ) -> bool:
        """Whether there is any resource of the type, existing or not, to which the principal may do that.

        Kafka's authorizeByResourceType: no operation implies another here. ValueError as `decide`.
        """
        if self.decide(principal, host, operation, resource_type, _ANY_NAME).allowed:
            return True
        asked = (principal, host, operation, resource_type)
        allowed = self._decided_any.get(asked)
        if allowed is None:
            allowed = self._decide_any(principal, host, operation, resource_type)
            if len(self._decided_any) >= _CACHED_DECISIONS:
                self._decided_any.clear()
            self._decided_any[asked] = allowed
        return allowed

    def operations(self, principal: str, host: str, resource_type: ResourceType, name: str) -> int:
        """The bits of `authorizedOperations`: what the principal may do to a resource. ValueError."""
        return sum(
            1 << operation
            for operation in SUPPORTED_OPERATIONS[_checked_type(resource_type)]
            if self.decide(principal, host, operation, resource_type, name).allowed
        )

    def _decide(
        self, principal: str, host: str, operation: Operation, resource_type: ResourceType, name: str
    ) -> AclDecision:
        _check_operation(operation)
        index = self._types[_checked_type(resource_type)]
        bit = 1 << operation
        allowing: _Rules | None = None
        for patterns in index.of(principal, host):
            for rules in patterns.about(name):
                if rules.denied & bit:
                    return AclDecision(False, Reason.ACL, rules.first(Permission.DENY, operation))
                if rules.allowed & bit and allowing is None:
                    allowing = rules
        if allowing is not None:
            return AclDecision(True, Reason.ACL, allowing.first(Permission.ALLOW, operation))
        if self._default.allowed and index.all.about(name):
            return _NONE_ALLOWS
        return self._default

    def _decide_any(
        self, principal: str, host: str, operation: Operation, resource_type: ResourceType
    ) -> bool:
        bit = 1 << operation
        mine = [
            acl
            for patterns in self._types[resource_type].of(principal, host)
            for rules in (*patterns.literals.values(), *patterns.prefixes.values())
            for acl in rules.acls
            if _said(acl) & bit
        ]
        denied = {(acl.pattern_type, acl.name) for acl in mine if acl.permission is Permission.DENY}
        if (PatternType.LITERAL, WILDCARD) in denied:
            return False
        denied_prefixes = {name for kind, name in denied if kind is PatternType.PREFIXED}
        lengths = sorted({len(prefix) for prefix in denied_prefixes})
        for acl in mine:
            if acl.permission is Permission.DENY:
                continue
            if acl.pattern_type is PatternType.LITERAL:
                if acl.name == WILDCARD:
                    return True
                if (PatternType.LITERAL, acl.name) in denied:
                    continue
            if not any(acl.name[:length] in denied_prefixes for length in lengths):
                return True
        return False


def _said(acl: Acl) -> int:
    """The operations that an ACL names, as bits, without what they imply."""
    return _EVERY_OPERATION if acl.operation is Operation.ALL else 1 << acl.operation


def _check_operation(operation: Operation) -> None:
    if operation <= Operation.ANY:
        raise ValueError(f"{operation!r} is no operation that can be decided about")


def _checked_type(resource_type: ResourceType) -> ResourceType:
    if resource_type not in SUPPORTED_OPERATIONS:
        raise ValueError(f"{resource_type!r} is no resource type that can be decided about")
    return resource_type
