from __future__ import annotations

import pytest

from gateway.sessions.session_state import (
    ALLOWED_BEFORE_READY,
    TRANSITIONS,
    IllegalSessionChange,
    next_state,
)
from gateway.sessions.session_state import SessionEvent as E
from gateway.sessions.session_state import SessionState as S
from protocol.api_keys import ApiKey

# Rows: states; columns: what each event leads to, None where it is illegal.
MATRIX: dict[S, dict[E, S | None]] = {
    S.HANDSHAKE: {
        E.MECHANISM_CHOSEN: S.AUTHENTICATING,
        E.AUTHENTICATED: S.READY,
        E.EXPIRE: None,
        E.ATTACHED: None,
        E.DRAIN: S.CLOSED,
        E.CLOSE: S.CLOSED,
    },
    S.AUTHENTICATING: {
        E.MECHANISM_CHOSEN: None,
        E.AUTHENTICATED: S.READY,
        E.EXPIRE: None,
        E.ATTACHED: None,
        E.DRAIN: S.CLOSED,
        E.CLOSE: S.CLOSED,
    },
    S.READY: {
        E.MECHANISM_CHOSEN: S.REAUTHENTICATING,
        E.AUTHENTICATED: None,
        E.EXPIRE: S.EXPIRED,
        E.ATTACHED: S.HANDED_OVER,
        E.DRAIN: S.DRAINING,
        E.CLOSE: S.CLOSED,
    },
    S.REAUTHENTICATING: {
        E.MECHANISM_CHOSEN: None,
        E.AUTHENTICATED: S.READY,
        E.EXPIRE: S.REAUTHENTICATING,
        E.ATTACHED: None,
        E.DRAIN: S.DRAINING,
        E.CLOSE: S.CLOSED,
    },
    S.EXPIRED: {
        E.MECHANISM_CHOSEN: S.REAUTHENTICATING,
        E.AUTHENTICATED: None,
        E.EXPIRE: None,
        E.ATTACHED: None,
        E.DRAIN: S.DRAINING,
        E.CLOSE: S.CLOSED,
    },
    S.DRAINING: {
        E.MECHANISM_CHOSEN: None,
        E.AUTHENTICATED: None,
        E.EXPIRE: S.DRAINING,
        E.ATTACHED: None,
        E.DRAIN: S.DRAINING,
        E.CLOSE: S.CLOSED,
    },
    S.HANDED_OVER: {
        E.MECHANISM_CHOSEN: None,
        E.AUTHENTICATED: None,
        E.EXPIRE: S.HANDED_OVER,
        E.ATTACHED: None,
        E.DRAIN: S.HANDED_OVER,
        E.CLOSE: S.HANDED_OVER,
    },
    S.CLOSED: {
        E.MECHANISM_CHOSEN: None,
        E.AUTHENTICATED: None,
        E.EXPIRE: S.CLOSED,
        E.ATTACHED: None,
        E.DRAIN: S.CLOSED,
        E.CLOSE: S.CLOSED,
    },
}


@pytest.mark.parametrize("state", S)
@pytest.mark.parametrize("event", E)
def test_the_full_matrix(state: S, event: E) -> None:
    expected = MATRIX[state][event]
    if expected is None:
        with pytest.raises(IllegalSessionChange, match=f"{event} while {state}"):
            next_state(state, event)
    else:
        assert next_state(state, event) is expected


def test_the_table_has_nothing_beyond_the_matrix() -> None:
    assert len(TRANSITIONS) == sum(to is not None for row in MATRIX.values() for to in row.values())


def test_before_ready_a_client_may_only_negotiate_and_authenticate() -> None:
    allowed = set().union(*ALLOWED_BEFORE_READY.values())
    assert allowed == {
        ApiKey.API_VERSIONS,
        ApiKey.SASL_HANDSHAKE,
        ApiKey.SASL_AUTHENTICATE,
        ApiKey.LINK_ATTACH,
    }
    assert ALLOWED_BEFORE_READY[S.AUTHENTICATING] == {ApiKey.SASL_AUTHENTICATE}
    assert ALLOWED_BEFORE_READY[S.REAUTHENTICATING] == {ApiKey.SASL_AUTHENTICATE}


def test_an_expired_session_can_only_be_renewed() -> None:
    assert ALLOWED_BEFORE_READY[S.EXPIRED] == {ApiKey.SASL_HANDSHAKE}
