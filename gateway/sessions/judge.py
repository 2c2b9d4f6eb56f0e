"""Decisions about one request of a client, and what of them is for the audit."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias
from uuid import UUID

from gateway.security.acls import AclDecision, Acls
from gateway.wire import ConnectionClosed
from protocol.acls import Operation, ResourceType

NameOf: TypeAlias = Callable[[UUID], str | None]


class AclsUnknown(ConnectionClosed):
    """Nothing can be decided now; the text says why. The connection ends, and its client tries again."""


class Judged(NamedTuple):
    """One decision, for the audit."""

    operation: Operation
    resource: ResourceType
    name: str
    decision: AclDecision


class RequestJudge:
    """Decides about one request (`protocol.judging.Judge`) and notes what the audit is to be told."""

    __slots__ = ("_host", "_principal", "acls", "allowed", "name_of", "noted", "notes_allowed")

    def __init__(
        self, acls: Acls, principal: str, host: str, name_of: NameOf, *, notes_allowed: bool
    ) -> None:
        self.acls = acls
        self._principal = principal
        self._host = host
        self.notes_allowed = notes_allowed
        self.name_of = name_of
        self.allowed = 0
        self.noted: list[Judged] = []

    def forget(self) -> None:
        """Forgets what was noted, which the audit has been told."""
        self.allowed = 0
        self.noted = []

    def may(self, operation: Operation, resource: ResourceType, name: str, *, quiet: bool = False) -> bool:
        """Whether the client may do that."""
        decision = self.acls.decide(self._principal, self._host, operation, resource, name)
        if decision.allowed:
            self.allowed += 1
            if self.notes_allowed:
                self.noted.append(Judged(operation, resource, name, decision))
            return True
        if not quiet:
            self.noted.append(Judged(operation, resource, name, decision))
        return False

    def may_any(self, operation: Operation, resource: ResourceType) -> bool:
        """Whether the client may do that to any such resource."""
        return self.acls.allows_any(self._principal, self._host, operation, resource)

    def operations(self, resource: ResourceType, name: str) -> int:
        """The bits of what the client may do to a resource."""
        return self.acls.operations(self._principal, self._host, resource, name)
