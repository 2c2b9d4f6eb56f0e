"""The life of a mirror topic: what may be asked of it in which status, and what becomes of it.

Statuses are the contract's `MirrorTopicStatus`. Three are not stored, but what an ACTIVE mirror shows:
SOURCE_UNAVAILABLE while its source cannot be reached, LINK_PAUSED while its link is paused, LINK_FAILED while
its link cannot work with its configs.
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
    FORCED_FAILOVER = auto()
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
        Action.FORCED_FAILOVER: MirrorStatus.PENDING_STOPPED,
        Action.FAIL: MirrorStatus.FAILED,
    },
    MirrorStatus.PAUSED: {
        Action.RESUME: MirrorStatus.ACTIVE,
        Action.PROMOTE: MirrorStatus.PENDING_STOPPED,
        Action.FAILOVER: MirrorStatus.PENDING_STOPPED,
        Action.FORCED_FAILOVER: MirrorStatus.PENDING_STOPPED,
        Action.FAIL: MirrorStatus.FAILED,
    },
    MirrorStatus.SOURCE_UNAVAILABLE: {
        Action.PAUSE: MirrorStatus.PAUSED,
        Action.FAILOVER: MirrorStatus.PENDING_STOPPED,
        Action.FORCED_FAILOVER: MirrorStatus.PENDING_STOPPED,
        Action.FAIL: MirrorStatus.FAILED,
    },
    MirrorStatus.PENDING_STOPPED: {
        # A promote whose source went away is finished without it.
        Action.FAILOVER: MirrorStatus.PENDING_STOPPED,
        Action.FORCED_FAILOVER: MirrorStatus.PENDING_STOPPED,
        Action.FINISH: MirrorStatus.STOPPED,
        Action.FAIL: MirrorStatus.FAILED,
    },
    # What is there is all that can be had. After a foreign writer it fails again: its end is not known.
    MirrorStatus.FAILED: {Action.FORCED_FAILOVER: MirrorStatus.PENDING_STOPPED},
    MirrorStatus.STOPPED: {},
    MirrorStatus.LINK_FAILED: {Action.PAUSE: MirrorStatus.PAUSED, Action.FAIL: MirrorStatus.FAILED},
    MirrorStatus.LINK_PAUSED: {
        Action.PAUSE: MirrorStatus.PAUSED,
        Action.FAILOVER: MirrorStatus.PENDING_STOPPED,
        Action.FORCED_FAILOVER: MirrorStatus.PENDING_STOPPED,
        Action.FAIL: MirrorStatus.FAILED,
    },
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
