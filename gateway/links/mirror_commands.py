"""What may be asked of mirror topics: promote, failover, pause, resume, and the answers, topic by topic.

`mirror_state` has the table of what is possible when; here are the texts, and what a command writes.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Protocol

from gateway.links import errors
from gateway.links.mirror_notes import Change
from gateway.links.mirror_state import Action, IllegalTransition, next_status
from gateway.links.requests import AlterResult, MirrorVerb, MirrorView
from gateway.links.runtime import LinkRuntime
from gateway.state.records import (
    Delete,
    LinkRecord,
    MirrorRecord,
    MirrorStatus,
    MirrorTopicError,
    Record,
    State,
)
from gateway.state.store import Store

# What a transaction of the state holds of them: their records have a list per partition.
AT_ONCE: Final = 100

_VERBS: Final[Mapping[MirrorVerb, Action]] = {
    "promote": Action.PROMOTE,
    "failover": Action.FAILOVER,
    "pause": Action.PAUSE,
    "resume": Action.RESUME,
}
_BAD_REQUEST: Final = 400
_S = MirrorStatus
# What helps, where something does.
_ADVICE: Final[Mapping[tuple[MirrorStatus, Action], str]] = {
    (_S.SOURCE_UNAVAILABLE, Action.PROMOTE): (
        "Its source must be reachable for a promote; failover does not need it."
    ),
    (_S.LINK_PAUSED, Action.PROMOTE): (
        "Set cluster.link.paused of its link to false first; failover does not need that."
    ),
    (_S.LINK_PAUSED, Action.RESUME): "Set cluster.link.paused of its link to false.",
    (_S.PENDING_STOPPED, Action.PROMOTE): "It is being stopped already.",
    (_S.PENDING_STOPPED, Action.PAUSE): "It is being stopped already.",
    (_S.PENDING_STOPPED, Action.RESUME): "It is being stopped already.",
    (_S.FAILED, Action.FAILOVER): (
        "With force it becomes an ordinary topic with what is there; see its error first."
    ),
    (_S.FAILED, Action.PROMOTE): "It cannot go on: see its error.",
    (_S.FAILED, Action.PAUSE): "It cannot go on: see its error.",
    (_S.FAILED, Action.RESUME): "It cannot go on: see its error.",
    (_S.LINK_FAILED, Action.PROMOTE): "Its link cannot work with its configs: see the link's error.",
    (_S.LINK_FAILED, Action.FAILOVER): "Its link cannot work with its configs: see the link's error.",
    (_S.LINK_FAILED, Action.RESUME): "Its link cannot work with its configs: see the link's error.",
}


class MirrorsToAlter(Protocol):
    """What the commands need of the mirror topics."""

    def view(self, record: MirrorRecord) -> MirrorView: ...

    async def write(self, change: Change) -> None: ...

    async def missed_deletions(self, mirror: MirrorRecord) -> str | None: ...


class MirrorCommands:
    """Carries them out. LinkError if the state cannot be written; then it is uncertain what was done."""

    def __init__(self, store: Store, runtimes: Mapping[str, LinkRuntime], mirrors: MirrorsToAlter) -> None:
        self._store = store
        self._runtimes = runtimes
        self._mirrors = mirrors

    async def alter(
        self,
        verb: MirrorVerb,
        link: LinkRecord,
        names: Sequence[str],
        *,
        validate_only: bool,
        force: bool = False,
    ) -> list[AlterResult]:
        """One result per mirror topic; `force` lets a failover take what has FAILED."""
        action = Action.FORCED_FAILOVER if force and verb == "failover" else _VERBS[verb]
        results: list[AlterResult] = []
        for some in _in_parts(list(dict.fromkeys(names)), AT_ONCE):
            results += await self._alter(action, link, some, validate_only=validate_only)
        return results

    async def _alter(
        self, action: Action, link: LinkRecord, names: Sequence[str], *, validate_only: bool
    ) -> list[AlterResult]:
        mirrors = self._store.state.mirrors
        refused = {name: self._refusal(mirrors.get(name), action, link, name) for name in names}
        possible = [name for name in names if refused[name] is None]
        if possible and not validate_only:
            missed: dict[str, str | None] = {}
            if action is Action.RESUME:
                missed = {name: await self._mirrors.missed_deletions(mirrors[name]) for name in possible}

            def change(state: State) -> list[Record | Delete]:
                changed: list[Record | Delete] = []
                for name in possible:
                    record = state.mirrors.get(name)
                    refused[name] = self._refusal(record, action, link, name)
                    if record is not None and refused[name] is None:
                        changed.append(_altered(record, action, missed.get(name)))
                return changed

            await self._mirrors.write(change)
        return [self._result(name, refused[name]) for name in names]

    def _result(self, name: str, refused: AlterResult | None) -> AlterResult:
        if refused is not None:
            return refused
        record = self._store.state.mirrors.get(name)
        return AlterResult(name, lags=self._mirrors.view(record).lags if record is not None else ())

    def _refusal(
        self, record: MirrorRecord | None, action: Action, link: LinkRecord, name: str
    ) -> AlterResult | None:
        if record is None or record.cluster_link_id != link.cluster_link_id:
            error = errors.mirror_not_found(link.link_name, name)
            return AlterResult(name, error.error_code, error.message)
        text = _impossible(self._mirrors.view(record).record, action)
        if text is None and action is Action.PROMOTE:
            text = self._left_behind(record)
        return None if text is None else AlterResult(name, _BAD_REQUEST, text)

    def _left_behind(self, record: MirrorRecord) -> str | None:
        runtime = self._runtimes.get(record.link_name)
        replicator = runtime.replicator if runtime is not None else None
        mirror = replicator.mirrors.get(record.mirror_topic_name) if replicator is not None else None
        at_source = (mirror.source_partitions if mirror is not None else None) or 0
        if at_source <= record.num_partitions:
            return None
        return (
            f"Topic '{record.mirror_topic_name}' has {record.num_partitions} partitions, its source "
            f"topic {at_source}: what is in the others would be left behind. Failover stops the mirror "
            "without them."
        )


def _impossible(record: MirrorRecord, action: Action) -> str | None:
    """Why the action cannot be, for a mirror as it is seen; None if it can."""
    name, status = record.mirror_topic_name, record.status
    if record.topic_id is None and status in (_S.ACTIVE, _S.LINK_PAUSED, _S.SOURCE_UNAVAILABLE):
        return f"Topic '{name}' is still being made: {_verb_of(action)} is not possible yet."
    if status is _S.STOPPED:
        return f"Topic '{name}' has already stopped its mirror from '{record.link_name}'"
    if status is _S.PENDING_STOPPED and record.failover and action in _FAILOVERS:
        return f"Topic '{name}' is {status}: it is being failed over already."
    try:
        next_status(status, action)
    except IllegalTransition:
        text = f"Topic '{name}' is {status}: {_verb_of(action)} is not possible."
        advice = _ADVICE.get((status, Action.FAILOVER if action in _FAILOVERS else action))
        return text if advice is None else f"{text} {advice}"
    return None


_FAILOVERS: Final = frozenset({Action.FAILOVER, Action.FORCED_FAILOVER})


def _verb_of(action: Action) -> str:
    return "failover" if action in _FAILOVERS else action.name.lower()


def _altered(record: MirrorRecord, action: Action, missed: str | None) -> MirrorRecord:
    update: dict[str, object] = {
        "status": next_status(record.status, action),
        "state_time_ms": time.time_ns() // 1_000_000,
    }
    if action in _FAILOVERS:
        update |= {"failover": True, "stop_offsets": None}
    if action is Action.FORCED_FAILOVER:
        update |= {"error": MirrorTopicError.NO_ERROR, "error_message": None}
    if missed is not None:
        update["error_message"] = missed
    return record.model_copy(update=update)


def as_seen(record: MirrorRecord, runtime: LinkRuntime | None) -> MirrorRecord:
    """The record with what is not stored: that nothing happens, because of its link or its source."""
    if runtime is None:
        failed = {"status": _S.LINK_FAILED} if record.status is _S.ACTIVE else {}
        return record.model_copy(update=failed)
    if record.status is _S.ACTIVE:
        if runtime.paused:
            return record.model_copy(update={"status": _S.LINK_PAUSED})
        trouble = runtime.source_trouble(record.mirror_topic_name)
        if trouble is not None:
            return record.model_copy(update={"status": _S.SOURCE_UNAVAILABLE, "error_message": trouble})
    elif record.status is _S.PENDING_STOPPED and not record.failover:
        reason = None
        if runtime.paused:
            reason = "its cluster link is paused (cluster.link.paused)"
        elif (trouble := runtime.source_trouble(record.mirror_topic_name)) is not None:
            reason = trouble
        if reason is not None:
            text = (
                f"The promote waits: {reason}. It goes on by itself when that is over; "
                "failover stops the mirror with what is there."
            )
            return record.model_copy(update={"error_message": text})
    return record


def _in_parts(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for at in range(0, len(names), size):
        yield names[at : at + size]
