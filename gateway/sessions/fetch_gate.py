"""Judging the Fetch requests of one session (v4-18): by name or id, in fetch sessions (KIP-227) or without.

Every partition of a session is judged at every fetch, whether the request names it or not. What is refused is
answered here, the rest is fetched; when nothing is left the answer waits as long as a broker's would. If the
ACLs change while a fetch waits at the broker its answer is judged again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import UUID

from kio.schema.errors import ErrorCode

from gateway.security.acls import Acls
from gateway.sessions.fetch_sessions import (
    FetchSession,
    FetchSessions,
    begins_session,
    is_sessionless,
)
from gateway.sessions.judge import RequestJudge
from gateway.sessions.request_path import Finish, Forward, Parts, Reply
from protocol.acls import CLUSTER_NAME
from protocol.api_keys import ApiKey
from protocol.fetch_refusals import (
    SESSIONLESS,
    Topic,
    encode_fetch,
    fetch_refused,
    fetched_topics,
    refuse_fetched,
    session_id_of,
)
from protocol.headers import RequestHeader, response_body_offset
from protocol.judging import topic_refusal
from protocol.permissions import PERMISSIONS
from protocol.request_views import FETCH_SESSIONS, FetchView, read_fetch

Refused: TypeAlias = dict[Topic, ErrorCode]
NewJudge: TypeAlias = Callable[[], RequestJudge]

_READ, _FOLLOW = PERMISSIONS[ApiKey.FETCH]
_IDS: Final = range(1, 2**31)
_NO_INDEXES: Final[tuple[int, ...]] = ()


@dataclass(frozen=True, slots=True)
class Later:
    """An answer that is due when the fetch would have been over."""

    reply: Reply
    wait_s: float


class FetchGate:
    """Decides about one session's fetches; `new_judge` gives one that knows the ACLs of now."""

    def __init__(self, new_judge: NewJudge, current: Callable[[], Acls]) -> None:
        self._new_judge = new_judge
        self._current = current
        self._sessions = FetchSessions()

    @staticmethod
    def read(header: RequestHeader, frame: bytearray) -> FetchView:
        """The request; DecodeError."""
        return read_fetch(header.api_version, frame, header.body_offset)

    @staticmethod
    def ids(view: FetchView) -> list[UUID]:
        """The topic ids that a request names."""
        return [each.topic for each in view.topics if isinstance(each.topic, UUID)]

    def decide(
        self,
        header: RequestHeader,
        frame: bytearray,
        view: FetchView,
        judge: RequestJudge,
        plain: Finish | None,
    ) -> Forward | Reply | Later:
        """What becomes of a fetch whose topic ids have been looked up; it must be asked once only."""
        if view.replica_id >= 0:
            return self._follow(frame, view, judge, plain)
        if view.version < FETCH_SESSIONS or is_sessionless(view):
            return self._sessionless(header, frame, view, judge, plain)
        taken = self._sessions.take(view, frame)
        if isinstance(taken, ErrorCode):
            return Reply(fetch_refused(view.version, {}, error_code=taken))
        ended = 0
        if begins_session(view):
            # A session of ours that ends here is none that the broker knows.
            ended = 0 if self._sessions.end_named(view) else view.session_id
        refused = self._judge_session(taken, view, judge)
        if not refused and not taken.ours:
            if begins_session(view):
                if ended != view.session_id:
                    body = encode_fetch(view, frame, taken.topics, (0, view.session_epoch))
                    frame = frame[: header.body_offset] + body
                return Forward(frame, self._learning(view.version, taken, judge, plain))
            return Forward(frame, self._watching(view.version, taken, judge, plain))
        if not refused:
            # Allowed again as a whole: the next session is the broker's.
            self._sessions.end(taken)
            return Reply(fetch_refused(view.version, {}, error_code=ErrorCode.fetch_session_id_not_found))
        if not taken.ours and taken.session_id:
            ended = taken.session_id
        return self._partly(header, frame, view, taken, refused, judge, plain, ended=ended)

    def _follow(
        self, frame: bytearray, view: FetchView, judge: RequestJudge, plain: Finish | None
    ) -> Forward | Reply:
        if judge.may(_FOLLOW.operation, _FOLLOW.resource, CLUSTER_NAME):
            return Forward(frame, plain)
        code = ErrorCode.topic_authorization_failed
        refused = {topic: (code, indexes) for topic, indexes in _indexes(view).items()}
        return Reply(fetch_refused(view.version, refused))

    def _sessionless(
        self,
        header: RequestHeader,
        frame: bytearray,
        view: FetchView,
        judge: RequestJudge,
        plain: Finish | None,
    ) -> Forward | Reply | Later:
        ended = 0 if self._sessions.end_named(view) else view.session_id
        topics = [each.topic for each in view.topics]
        refused = _refused(topics, judge)
        if refused or ended != view.session_id:
            taken = FetchSession(view.version)
            taken.add(view, frame)
            return self._partly(header, frame, view, taken, refused, judge, plain, ended=ended)
        return Forward(frame, self._rejudging(view.version, judge, plain, lambda: _indexes(view)))

    def _partly(
        self,
        header: RequestHeader,
        frame: bytearray,
        view: FetchView,
        taken: FetchSession,
        refused: Refused,
        judge: RequestJudge,
        plain: Finish | None,
        *,
        ended: int,
    ) -> Forward | Later:
        """Fetches what is allowed outside of any session of the broker's, and ends its session `ended`."""
        session_id = taken.session_id
        if begins_session(view):
            session_id = random.choice(_IDS)  # noqa: S311 - no secret
            self._sessions.begin(taken, session_id)
        taken.ours = True
        refusals = {topic: (code, taken.indexes(topic)) for topic, code in refused.items()}
        kept = {topic: parts for topic, parts in taken.topics.items() if topic not in refused}
        version = view.version
        if not kept:
            # A session that the broker still has it forgets by itself.
            return Later(Reply(fetch_refused(version, refusals, session_id)), view.max_wait_ms / 1000)
        body = encode_fetch(view, frame, kept, (ended, SESSIONLESS[1]))
        indexes = {topic: tuple(partitions) for topic, partitions in kept.items()}
        rejudged = self._rejudging(version, judge, plain, lambda: indexes)

        def finish(response: bytearray) -> Parts:
            whole = joined(rejudged(response))
            at = response_body_offset(ApiKey.FETCH, version, whole)
            return whole[:at], refuse_fetched(version, memoryview(whole)[at:], refusals, session_id)

        return Forward(frame[: header.body_offset] + body, finish)

    def _judge_session(self, taken: FetchSession, view: FetchView, judge: RequestJudge) -> Refused:
        if taken.judged_by is judge.acls and not judge.notes_allowed:
            # By these ACLs all of the rest was allowed.
            judge.allowed += len(taken.topics)
            refused = _refused((each.topic for each in view.topics), judge)
        else:
            refused = _refused(taken.topics, judge)
        taken.judged_by = None if refused else judge.acls
        return {topic: code for topic, code in refused.items() if topic in taken.topics}

    # --- answers ---------------------------------------------------------------------------------------

    def _learning(
        self, version: int, session: FetchSession, judge: RequestJudge, plain: Finish | None
    ) -> Finish:
        watching = self._watching(version, session, judge, plain)

        def finish(response: bytearray) -> Parts:
            body = memoryview(response)[response_body_offset(ApiKey.FETCH, version, response) :]
            self._sessions.begin(session, session_id_of(version, body))
            body.release()
            return watching(response)

        return finish

    def _watching(
        self, version: int, session: FetchSession, judge: RequestJudge, plain: Finish | None
    ) -> Finish:
        return self._rejudging(
            version, judge, plain, lambda: {topic: session.indexes(topic) for topic in session.topics}
        )

    def _rejudging(
        self,
        version: int,
        judge: RequestJudge,
        plain: Finish | None,
        topics: Callable[[], Mapping[Topic, tuple[int, ...]]],
    ) -> Finish:
        """Judges again what was fetched if the ACLs are others than when it was asked for."""
        acls, current = judge.acls, self._current

        def finish(response: bytearray) -> Parts:
            parts = (response,) if plain is None else plain(response)
            if current() is acls:
                return parts
            whole = joined(parts)
            at = response_body_offset(ApiKey.FETCH, version, whole)
            body = memoryview(whole)[at:]
            # What there is, too: a request that was sent since may have taken it out of the session.
            fetched = {**dict.fromkeys(fetched_topics(version, body), _NO_INDEXES), **topics()}
            refused = _refused(fetched, self._new_judge())
            if not refused:
                return (whole,)
            refusals = {topic: (code, fetched[topic]) for topic, code in refused.items()}
            return whole[:at], refuse_fetched(version, body, refusals)

        return finish


def _refused(topics: Iterable[Topic], judge: RequestJudge) -> Refused:
    codes = ((topic, topic_refusal(judge, _READ, topic)) for topic in topics)
    return {topic: code for topic, code in codes if code is not None}


def _indexes(view: FetchView) -> dict[Topic, tuple[int, ...]]:
    found: dict[Topic, tuple[int, ...]] = {}
    for each in view.topics:
        found[each.topic] = found.get(each.topic, ()) + each.partitions
    return found


def joined(parts: Parts | bytearray) -> bytearray:
    """A response in one piece."""
    return parts if isinstance(parts, bytearray) else bytearray().join(parts)
