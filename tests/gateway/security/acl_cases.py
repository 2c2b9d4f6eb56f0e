"""ACLs as text, an oracle that goes through Kafka's rules one ACL at a time, and random cases for it.

The oracle knows nothing of indexes or bits, so that it can be compared with the rules by eye.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gateway.security.acls import (
    SUPPORTED_OPERATIONS,
    Acl,
    Operation,
    PatternType,
    Permission,
    ResourceType,
)

OPERATIONS = [operation for operation in Operation if operation > Operation.ANY]
_TYPES = list(SUPPORTED_OPERATIONS)


def acl(text: str) -> Acl:
    """`allow|deny operation type literal|prefixed name principal host`."""
    permission, operation, kind, pattern, name, principal, host = text.split()
    return Acl(
        ResourceType[kind.upper()],
        PatternType[pattern.upper()],
        name,
        principal,
        host,
        Operation[operation.upper()],
        Permission[permission.upper()],
    )


@dataclass(frozen=True)
class Case:
    """A set of ACLs, and what is asked of it; `name` None asks for any resource of the type."""

    acls: tuple[Acl, ...]
    principal: str
    host: str
    operation: Operation
    resource_type: ResourceType
    name: str | None
    super_users: frozenset[str] = frozenset()
    allow_everyone: bool = False


def oracle(case: Case) -> bool:
    """The rules of StandardAuthorizer, and of Authorizer.authorizeByResourceType."""
    return _oracle_any(case) if case.name is None else _oracle_one(case, case.name)


def _oracle_one(case: Case, name: str) -> bool:
    if case.principal in case.super_users:
        return True
    about = [each for each in case.acls if _is_about(each, case.resource_type, name)]
    if not about:
        return case.allow_everyone
    mine = [each for each in about if _is_for(each, case)]
    if any(each.permission is Permission.DENY and _denies(each, case.operation) for each in mine):
        return False
    return any(each.permission is Permission.ALLOW and _allows(each, case.operation) for each in mine)


def _oracle_any(case: Case) -> bool:
    if _oracle_one(case, "hardcode"):
        return True
    mine = [
        each
        for each in case.acls
        if each.resource_type is case.resource_type
        and _is_for(each, case)
        and each.operation in (case.operation, Operation.ALL)
    ]
    denials = [each for each in mine if each.permission is Permission.DENY]
    grants = [each for each in mine if each.permission is Permission.ALLOW]
    if any(_is_wildcard(each) for each in denials):
        return False
    return any(
        _is_wildcard(grant) or not any(_dominates(deny, grant) for deny in denials) for grant in grants
    )


def _is_wildcard(each: Acl) -> bool:
    return each.pattern_type is PatternType.LITERAL and each.name == "*"


def _dominates(deny: Acl, grant: Acl) -> bool:
    if deny.pattern_type is PatternType.PREFIXED:
        return grant.name.startswith(deny.name)
    return grant.pattern_type is PatternType.LITERAL and grant.name == deny.name


def _is_about(each: Acl, resource_type: ResourceType, name: str) -> bool:
    if each.resource_type is not resource_type:
        return False
    if each.pattern_type is PatternType.PREFIXED:
        return name.startswith(each.name)
    # The second half is Kafka's way, whether it was meant or not: see `Acls`.
    return each.name == name or (each.name == "*" and not name.startswith("*"))


def _is_for(each: Acl, case: Case) -> bool:
    return each.principal in (case.principal, "User:*") and each.host in (case.host, "*")


def _denies(each: Acl, operation: Operation) -> bool:
    return each.operation in (operation, Operation.ALL)


def _allows(each: Acl, operation: Operation) -> bool:
    if each.operation in (operation, Operation.ALL):
        return True
    if operation is Operation.DESCRIBE:
        implying = (Operation.READ, Operation.WRITE, Operation.DELETE, Operation.ALTER)
        return each.operation in implying
    return operation is Operation.DESCRIBE_CONFIGS and each.operation is Operation.ALTER_CONFIGS


@dataclass
class RandomCases:
    """`each_set` questions to each of many small sets of ACLs, from few words, so that they meet often.

    Nobody is called `User:*` in them: StandardAuthorizer fails for such a client with an exception.
    """

    seed: int
    each_set: int = 10
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def take(self, count: int) -> Iterator[Case]:
        """The first `count` cases."""
        for at in range(count):
            if at % self.each_set == 0:
                acls = tuple(self._acl() for _ in range(self._random.choice((0, 1, 2, 3, 5, 8, 30))))
                # Half of the sets speak about one type only: else few of their ACLs meet the question.
                if acls and self._random.random() < 0.5:
                    kind = self._random.choice(_TYPES)
                    acls = tuple(_about(each, kind) for each in acls)
                # A broker has each ACL once.
                acls = tuple(dict.fromkeys(acls))
                supers = frozenset(self._sample(("User:root", "User:alice", "Group:alice"), 0.15))
                everyone = self._random.random() < 0.4
            kinds = {each.resource_type for each in acls}
            yield Case(
                acls,
                self._random.choice(("User:alice", "User:bob", "User:root", "Group:alice", "User:")),
                self._random.choice(("10.0.0.1", "10.0.0.2", "0:0:0:0:0:0:0:1")),
                self._random.choice(OPERATIONS),
                self._random.choice(sorted(kinds) if kinds and self._random.random() < 0.8 else _TYPES),
                None if self._random.random() < 0.25 else self._name(),
                supers,
                everyone,
            )

    def _acl(self) -> Acl:
        return Acl(
            self._random.choice(_TYPES),
            self._random.choice((PatternType.LITERAL, PatternType.LITERAL, PatternType.PREFIXED)),
            self._name(),
            self._random.choice(("User:alice", "User:alice", "User:bob", "Group:alice", "User:*", "Group:*")),
            self._random.choice(("*", "*", "10.0.0.1", "10.0.0.2", "0:0:0:0:0:0:0:1", "::1")),
            self._random.choice((Operation.ALL, *OPERATIONS, Operation.READ, Operation.WRITE)),
            self._random.choice((Permission.ALLOW, Permission.ALLOW, Permission.DENY)),
        )

    def _name(self) -> str:
        if self._random.random() < 0.2:
            return self._random.choice(("*", "**", "*a", "hardcode", "hard", "kafka-cluster", "é", "𝄞b"))
        return "".join(self._random.choice("ab") for _ in range(self._random.randint(1, 4)))

    def _sample(self, values: Iterable[str], chance: float) -> list[str]:
        return [value for value in values if self._random.random() < chance]


def _about(each: Acl, kind: ResourceType) -> Acl:
    return Acl(kind, each.pattern_type, each.name, each.principal, each.host, each.operation, each.permission)


def case_line(case: Case, *, new_set: bool) -> str:
    """A case as the line of JSON that `Authorize.java` reads; the ACLs only where they change."""
    line: dict[str, object] = {
        "principal": case.principal,
        "host": case.host,
        "operation": int(case.operation),
        "type": int(case.resource_type),
        "name": case.name,
    }
    if new_set:
        line["super_users"] = sorted(case.super_users)
        line["allow_everyone"] = case.allow_everyone
        line["acls"] = [
            [
                int(each.resource_type),
                int(each.pattern_type),
                each.name,
                each.principal,
                each.host,
                int(each.operation),
                int(each.permission),
            ]
            for each in case.acls
        ]
    return json.dumps(line)
