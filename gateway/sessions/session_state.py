"""The states of a client session, what moves it from one to the next, and what a client may send in each.

    HANDSHAKE ──MECHANISM_CHOSEN──► AUTHENTICATING ──AUTHENTICATED──► READY ──DRAIN──► DRAINING
        └───────AUTHENTICATED (mTLS, or no authentication)──────────────┘ └─ATTACHED─► HANDED_OVER

    READY ──MECHANISM_CHOSEN──► REAUTHENTICATING ──AUTHENTICATED──► READY                   (KIP-368)
      └─EXPIRE─► EXPIRED ─MECHANISM_CHOSEN─┘

The connection of HANDED_OVER belongs to a link now, that of CLOSED is gone.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from protocol.api_keys import ApiKey


class SessionState(StrEnum):
    """Where a session is."""

    HANDSHAKE = "handshake"
    AUTHENTICATING = "authenticating"
    READY = "ready"
    REAUTHENTICATING = "reauthenticating"
    EXPIRED = "expired"
    DRAINING = "draining"
    HANDED_OVER = "handed_over"
    CLOSED = "closed"


class SessionEvent(StrEnum):
    """What happens to a session."""

    MECHANISM_CHOSEN = "mechanism_chosen"
    AUTHENTICATED = "authenticated"
    EXPIRE = "expire"
    ATTACHED = "attached"
    DRAIN = "drain"
    CLOSE = "close"


class IllegalSessionChange(Exception):
    """An event that the state does not know; the session stays as it was."""


_S, _E = SessionState, SessionEvent
TRANSITIONS: Final[dict[tuple[SessionState, SessionEvent], SessionState]] = {
    (_S.HANDSHAKE, _E.MECHANISM_CHOSEN): _S.AUTHENTICATING,
    (_S.HANDSHAKE, _E.AUTHENTICATED): _S.READY,
    (_S.HANDSHAKE, _E.DRAIN): _S.CLOSED,
    (_S.HANDSHAKE, _E.CLOSE): _S.CLOSED,
    (_S.AUTHENTICATING, _E.AUTHENTICATED): _S.READY,
    (_S.AUTHENTICATING, _E.DRAIN): _S.CLOSED,
    (_S.AUTHENTICATING, _E.CLOSE): _S.CLOSED,
    (_S.READY, _E.MECHANISM_CHOSEN): _S.REAUTHENTICATING,
    (_S.READY, _E.EXPIRE): _S.EXPIRED,
    (_S.READY, _E.ATTACHED): _S.HANDED_OVER,
    (_S.READY, _E.DRAIN): _S.DRAINING,
    (_S.READY, _E.CLOSE): _S.CLOSED,
    (_S.REAUTHENTICATING, _E.AUTHENTICATED): _S.READY,
    # As with Kafka, a session may end while its client is about to renew it.
    (_S.REAUTHENTICATING, _E.EXPIRE): _S.REAUTHENTICATING,
    (_S.REAUTHENTICATING, _E.DRAIN): _S.DRAINING,
    (_S.REAUTHENTICATING, _E.CLOSE): _S.CLOSED,
    (_S.EXPIRED, _E.MECHANISM_CHOSEN): _S.REAUTHENTICATING,
    (_S.EXPIRED, _E.DRAIN): _S.DRAINING,
    (_S.EXPIRED, _E.CLOSE): _S.CLOSED,
    (_S.DRAINING, _E.EXPIRE): _S.DRAINING,
    (_S.DRAINING, _E.DRAIN): _S.DRAINING,
    (_S.DRAINING, _E.CLOSE): _S.CLOSED,
    (_S.HANDED_OVER, _E.EXPIRE): _S.HANDED_OVER,
    (_S.HANDED_OVER, _E.DRAIN): _S.HANDED_OVER,
    (_S.HANDED_OVER, _E.CLOSE): _S.HANDED_OVER,
    (_S.CLOSED, _E.EXPIRE): _S.CLOSED,
    (_S.CLOSED, _E.DRAIN): _S.CLOSED,
    (_S.CLOSED, _E.CLOSE): _S.CLOSED,
}

# What may be decoded while it is not known who the client is, or not any more (Kafka's
# SaslServerAuthenticator, KIP-43, KIP-152, KIP-368).
# LinkAttach is listed to be answered with a refusal instead of a silent close; its body is not decoded.
ALLOWED_BEFORE_READY: Final[dict[SessionState, frozenset[int]]] = {
    _S.HANDSHAKE: frozenset({ApiKey.API_VERSIONS, ApiKey.SASL_HANDSHAKE, ApiKey.LINK_ATTACH}),
    _S.AUTHENTICATING: frozenset({ApiKey.SASL_AUTHENTICATE}),
    _S.REAUTHENTICATING: frozenset({ApiKey.SASL_AUTHENTICATE}),
    _S.EXPIRED: frozenset({ApiKey.SASL_HANDSHAKE}),
}


def next_state(state: SessionState, event: SessionEvent) -> SessionState:
    """The state that `event` leads to; IllegalSessionChange if there is none."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalSessionChange(f"a session cannot take {event} while {state}") from None
