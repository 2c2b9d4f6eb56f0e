"""How the clients of one listener show who they are, and for how long that holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.config import Authentication
from gateway.security.sasl import Mechanisms
from protocol.principal_rules import PrincipalMapper


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticationPolicy:
    """`max_session_s` is Kafka's `connections.max.reauth.ms`."""

    method: Authentication
    mechanisms: Mechanisms = field(default_factory=dict)
    mapper: PrincipalMapper = field(default_factory=PrincipalMapper)
    max_session_s: float | None = None
