"""The audit: what was decided about whom, one line per decision, and counters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from gateway.security.acls import AclDecision
from protocol.acls import Operation, ResourceType
from protocol.headers import RequestHeader

log = structlog.get_logger("audit")

_ALLOWED: Final = "allowed"
_DENIED: Final = "denied"


class Decided(Protocol):
    """A decision and what it was about."""

    @property
    def operation(self) -> Operation: ...
    @property
    def resource(self) -> ResourceType: ...
    @property
    def name(self) -> str: ...
    @property
    def decision(self) -> AclDecision: ...


class Audit:
    """Tells what was decided. With `tells_allowed` what was allowed is noted too."""

    def __init__(self, *, tells_allowed: bool = False) -> None:
        self.tells_allowed = tells_allowed

    def decided(
        self,
        header: RequestHeader,
        listener: str,
        principal: str,
        host: str,
        allowed: int,
        noted: Sequence[Decided],
    ) -> None:
        """Takes the decisions about one request."""
