"""The life of a mirror topic: what may be asked of it in which status, and what becomes of it.

Statuses are the contract's `MirrorTopicStatus`. SOURCE_UNAVAILABLE is not stored: it is what an ACTIVE
mirror shows while its source cannot be reached.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

from gateway.state.records import MirrorStatus


class Action(Enum):
    """What happens to a mirror topic."""

    PAUSE = auto()
    RESUME = auto()
    PROMOTE = auto()
    FAILOVER = auto()
    FINISH = auto()
    FAIL = auto()


class IllegalTransition(Exception):
    """The action is not possible in this status; nothing was changed."""

    def __init__(self, status: MirrorStatus, action: Action) -> None:
        super().__init__(f"cannot {action.name.lower()} a mirror topic that is {status}")
        self.status = status
        self.action = action


TRANSITIONS: Final[Mapping[MirrorStatus, Mapping[Action, MirrorStatus]]] = {
    MirrorStatus.ACTIVE: {
        Action.PAUSE: MirrorStatus.PAUSED,
        Action.PROMOTE: MirrorStatus.PENDING_STOPPED,
        Action.FAILOVER: MirrorStatus.PENDING_STOPPED,
        Action.FAIL: MirrorStatus.FAILED,
    },
    MirrorStatus.PAUSED: {
        Action.RESUME: MirrorStatus.ACTIVE,
        Action.PROMOTE: MirrorStatus.PENDING_STOPPED,
        Action.FAILOVER: MirrorStatus.PENDING_STOPPED,
        Action.FAIL: MirrorStatus.FAILED,
    },
    MirrorStatus.SOURCE_UNAVAILABLE: {
        Action.PAUSE: MirrorStatus.PAUSED,
        Action.FAILOVER: MirrorStatus.PENDING_STOPPED,
        Action.FAIL: MirrorStatus.FAILED,
    },
    MirrorStatus.PENDING_STOPPED: {
        # A promote whose source went away is finished without it.
        Action.FAILOVER: MirrorStatus.PENDING_STOPPED,
        Action.FINISH: MirrorStatus.STOPPED,
        Action.FAIL: MirrorStatus.FAILED,
    },
    MirrorStatus.FAILED: {},
    MirrorStatus.STOPPED: {},
    MirrorStatus.LINK_FAILED: {},
    MirrorStatus.LINK_PAUSED: {},
    MirrorStatus.PENDING_MIRROR: {},
}


def next_status(status: MirrorStatus, action: Action) -> MirrorStatus:
    """The status after the action. IllegalTransition if the table has none."""
    try:
        return TRANSITIONS[status][action]
    except KeyError:
        raise IllegalTransition(status, action) from None


def is_read_only(status: MirrorStatus) -> bool:
    """Whether clients' writes are refused: always, until the barrier is written."""
    return status is not MirrorStatus.STOPPED
