"""Fetch sessions (KIP-227) of one connection: which partitions a fetch is about, so that all can be judged.

In a session a request names only what has changed; a broker that has no ACLs goes on sending the rest. As
long as everything in a session is allowed it is the broker's, and is only watched. Once something is refused
the session is ours: the client goes on with its id, the broker gets whole fetches of what is allowed, outside
of any session. When everything is allowed again the client is told to begin a new one, with the broker.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from kio.schema.errors import ErrorCode

from protocol.fetch_refusals import Partitions, Topic, fetch_partitions
from protocol.fields import Buffer
from protocol.request_views import FetchView, TopicView

# A client has one session with each broker, so one on a connection; it may begin another before this ends.
_MAX_SESSIONS: Final = 4
# Kafka's own bound is on sessions (max.incremental.fetch.session.cache.slots), each of any size.
_MAX_PARTITIONS: Final = 50_000
_FINAL: Final = -1
_FIRST: Final = 0
_LAST_EPOCH: Final = 2**31 - 1


@dataclass(slots=True)
class FetchSession:
    """The partitions of a session, as a request of `version` would have them; `ours`: the broker has none."""

    version: int
    topics: dict[Topic, Partitions] = field(default_factory=dict)
    session_id: int = 0
    epoch: int = 1
    ours: bool = False
    # The ACLs that allowed all of it.
    judged_by: object = None

    def add(self, view: FetchView, frame: Buffer) -> None:
        """Takes what a request adds and changes; a broker forgets nothing for one that is whole by itself."""
        for topic in view.topics:
            self.topics.setdefault(topic.topic, {}).update(fetch_partitions(view.version, frame, topic))

    def update(self, view: FetchView, frame: Buffer) -> None:
        """Takes what a request in the session adds, changes and forgets, in the broker's order."""
        self.add(view, frame)
        for topic in view.forgotten:
            self._forget(topic)

    def _forget(self, topic: TopicView) -> None:
        partitions = self.topics.get(topic.topic, {})
        for index in topic.partitions:
            partitions.pop(index, None)
        if not partitions:
            self.topics.pop(topic.topic, None)

    def indexes(self, topic: Topic) -> tuple[int, ...]:
        """The partitions of a topic."""
        return tuple(self.topics[topic])


class FetchSessions:
    """The sessions that the client of one connection has."""

    def __init__(self) -> None:
        self._known: dict[int, FetchSession] = {}

    def take(self, view: FetchView, frame: Buffer) -> FetchSession | ErrorCode:
        """What a consumer's fetch is about; an error for a session that is not known here.

        A session that is none, or that begins, is not among those that are known: see `begin`.
        """
        if view.session_epoch in {_FINAL, _FIRST}:
            made = FetchSession(view.version)
            made.add(view, frame)
            return made
        session = self._known.get(view.session_id)
        if session is None or session.version != view.version:
            return ErrorCode.fetch_session_id_not_found
        if view.session_epoch != session.epoch:
            return ErrorCode.invalid_fetch_session_epoch
        session.update(view, frame)
        session.epoch = 1 if session.epoch == _LAST_EPOCH else session.epoch + 1
        if sum(map(len, session.topics.values())) > _MAX_PARTITIONS:
            self.end(session)
            return ErrorCode.fetch_session_id_not_found
        return session

    def begin(self, session: FetchSession, session_id: int) -> None:
        """Remembers a session under the id that the client was given; 0 is none."""
        if session_id == 0:
            return
        session.session_id = session_id
        self._known[session_id] = session
        while len(self._known) > _MAX_SESSIONS:
            del self._known[next(iter(self._known))]

    def end(self, session: FetchSession) -> None:
        """Forgets a session."""
        self._known.pop(session.session_id, None)

    def end_named(self, view: FetchView) -> bool:
        """Forgets the session that a request outside of it ends; whether that was one of ours."""
        ended = self._known.pop(view.session_id, None)
        return ended is not None and ended.ours


def begins_session(view: FetchView) -> bool:
    """Whether a fetch begins a session."""
    return view.session_epoch == _FIRST


def is_sessionless(view: FetchView) -> bool:
    """Whether a fetch is outside of any session."""
    return view.session_epoch == _FINAL
