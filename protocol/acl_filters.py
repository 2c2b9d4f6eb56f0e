"""Which ACLs a filter means: Kafka's AclBindingFilter, as DescribeAcls and DeleteAcls carry it (KIP-290)."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.acls import WILDCARD, Acl, Operation, PatternType, Permission, ResourceType


@dataclass(frozen=True, slots=True)
class AclFilter:
    """None and ANY mean all. Pattern type MATCH means whatever applies to the resource of that name.

    ValueError with UNKNOWN anywhere, which is also what codes become that nobody knows.
    """

    resource_type: ResourceType = ResourceType.ANY
    pattern_type: PatternType = PatternType.ANY
    name: str | None = None
    principal: str | None = None
    host: str | None = None
    operation: Operation = Operation.ANY
    permission: Permission = Permission.ANY

    def __post_init__(self) -> None:
        if 0 in (self.resource_type, self.pattern_type, self.operation, self.permission):
            raise ValueError("a filter of ACLs has an UNKNOWN element")

    def matches(self, acl: Acl) -> bool:
        """Whether the ACL is one of those that are meant."""
        return (
            self.resource_type in (ResourceType.ANY, acl.resource_type)
            and self._matches_pattern(acl)
            and self.principal in (None, acl.principal)
            and self.host in (None, acl.host)
            and self.operation in (Operation.ANY, acl.operation)
            and self.permission in (Permission.ANY, acl.permission)
        )

    def _matches_pattern(self, acl: Acl) -> bool:
        if self.pattern_type is PatternType.MATCH:
            if self.name is None:
                return True
            if acl.pattern_type is PatternType.PREFIXED:
                return self.name.startswith(acl.name)
            return acl.name in (self.name, WILDCARD)
        return self.pattern_type in (PatternType.ANY, acl.pattern_type) and self.name in (None, acl.name)
