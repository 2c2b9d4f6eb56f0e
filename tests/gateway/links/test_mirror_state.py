"""The whole matrix: every status with every action."""

import itertools

import pytest

from gateway.links.mirror_state import TRANSITIONS, Action, IllegalTransition, is_read_only, next_status
from gateway.state.records import MirrorStatus

S = MirrorStatus
P = S.PENDING_STOPPED
LEGAL = {
    (S.ACTIVE, Action.PAUSE): S.PAUSED,
    (S.ACTIVE, Action.PROMOTE): P,
    (S.ACTIVE, Action.FAILOVER): P,
    (S.ACTIVE, Action.FORCED_FAILOVER): P,
    (S.ACTIVE, Action.FAIL): S.FAILED,
    (S.PAUSED, Action.RESUME): S.ACTIVE,
    (S.PAUSED, Action.PROMOTE): P,
    (S.PAUSED, Action.FAILOVER): P,
    (S.PAUSED, Action.FORCED_FAILOVER): P,
    (S.PAUSED, Action.FAIL): S.FAILED,
    (S.SOURCE_UNAVAILABLE, Action.PAUSE): S.PAUSED,
    (S.SOURCE_UNAVAILABLE, Action.FAILOVER): P,
    (S.SOURCE_UNAVAILABLE, Action.FORCED_FAILOVER): P,
    (S.SOURCE_UNAVAILABLE, Action.FAIL): S.FAILED,
    (S.LINK_PAUSED, Action.PAUSE): S.PAUSED,
    (S.LINK_PAUSED, Action.FAILOVER): P,
    (S.LINK_PAUSED, Action.FORCED_FAILOVER): P,
    (S.LINK_PAUSED, Action.FAIL): S.FAILED,
    (S.LINK_FAILED, Action.PAUSE): S.PAUSED,
    (S.LINK_FAILED, Action.FAIL): S.FAILED,
    (S.PENDING_STOPPED, Action.FAILOVER): P,
    (S.PENDING_STOPPED, Action.FORCED_FAILOVER): P,
    (S.PENDING_STOPPED, Action.FINISH): S.STOPPED,
    (S.PENDING_STOPPED, Action.FAIL): S.FAILED,
    (S.FAILED, Action.FORCED_FAILOVER): P,
}


@pytest.mark.parametrize(("status", "action"), list(itertools.product(MirrorStatus, Action)))
def test_every_transition(status: MirrorStatus, action: Action) -> None:
    if (status, action) in LEGAL:
        assert next_status(status, action) is LEGAL[status, action]
        return
    with pytest.raises(IllegalTransition, match=f"cannot {action.name.lower()} .* {status}"):
        next_status(status, action)


def test_every_status_has_a_row() -> None:
    assert set(TRANSITIONS) == set(MirrorStatus)


def test_only_a_stopped_mirror_is_writable() -> None:
    assert [status for status in MirrorStatus if not is_read_only(status)] == [MirrorStatus.STOPPED]
