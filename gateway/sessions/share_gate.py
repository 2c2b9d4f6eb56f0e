"""Judging ShareFetch (v1-2) in share sessions (KIP-932): every topic of a session at every fetch.

What a session holds and is refused now is taken out of the broker's, and put back when it is allowed again;
the client is told of the refusal at every fetch, as by a broker. The broker's sessions are by group and
member, which others may name, too: so every answer is looked through for what this client may not read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Final
from uuid import UUID

from kio.schema.errors import ErrorCode

from protocol.acls import ResourceType
from protocol.api_keys import ApiKey
from protocol.blank_messages import build, element_class
from protocol.fields import Buffer
from protocol.judging import Judge, allowed, answer, topic_refusal
from protocol.messages import decode_response, encode_request, encode_response, response_class
from protocol.permissions import PERMISSIONS, REFUSED
from protocol.refusals import Answer, Cut
from protocol.share_fetched import share_fetched_topics

# A connection serves one consumer, whatever else its client claims to be.
_MAX_SESSIONS: Final = 4
# Of a session; each topic counts for one more.
_MAX_PARTITIONS: Final = 50_000
_FINAL: Final = -1
_FIRST: Final = 0
_GROUP, _TOPIC = PERMISSIONS[ApiKey.SHARE_FETCH]


@dataclasses.dataclass(slots=True)
class _Session:
    """The partitions of a session by topic; `withheld` are not in the broker's."""

    topics: dict[UUID, set[int]] = dataclasses.field(default_factory=dict)
    withheld: set[UUID] = dataclasses.field(default_factory=set)


class ShareGate:
    """Decides about the share fetches of one connection."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, str], _Session] = {}

    def fetch(self, request: Any, judge: Judge) -> tuple[Answer | Cut, float]:
        """What becomes of a request whose ids are known as far as they can be, and after how many seconds."""
        if request.group_id is None or not allowed(judge, _GROUP, request.group_id):
            code = REFUSED[ResourceType.GROUP]
            return answer(request, {"error_code": code}), 0
        session = self._session(request)
        if session is None:
            return answer(request, {"error_code": ErrorCode.share_session_not_found}), 0
        known = frozenset(session.topics)
        for topic in request.topics:
            indexes = {each.partition_index for each in topic.partitions}
            session.topics.setdefault(topic.topic_id, set()).update(indexes)
        if sum(map(len, session.topics.values())) + len(session.topics) > _MAX_PARTITIONS:
            self._sessions.pop((request.group_id, request.member_id), None)
            return answer(request, {"error_code": ErrorCode.share_session_not_found}), 0
        codes = {topic_id: topic_refusal(judge, _TOPIC, topic_id) for topic_id in session.topics}
        refused = {topic_id: code for topic_id, code in codes.items() if code is not None}
        asked = {topic.topic_id for topic in request.topics}
        returning = session.withheld - refused.keys() - asked
        # Also if it is named: a client acknowledges what it got of it.
        leaving = (refused.keys() & known) - session.withheld
        session.withheld = set(refused)
        forward = request
        if refused or returning:
            forward = dataclasses.replace(
                request,
                topics=(
                    *(topic for topic in request.topics if topic.topic_id not in refused),
                    *self._of(request, "topics", session, returning),
                ),
                forgotten_topics_data=(
                    *(each for each in request.forgotten_topics_data if each.topic_id not in refused),
                    *self._of(request, "forgotten_topics_data", session, leaving),
                ),
            )
        cut = Cut(encode_request(forward), self._telling(request, session, refused, judge))
        # Nothing to wait for at the broker: it would answer at once, and its client ask again.
        waits = refused and len(refused) == len(session.topics)
        return cut, request.max_wait.total_seconds() if waits else 0

    def _session(self, request: Any) -> _Session | None:
        key = (request.group_id, request.member_id)
        if request.share_session_epoch == _FINAL:
            # It may still acknowledge.
            return self._sessions.pop(key, None) or _Session()
        if request.share_session_epoch == _FIRST:
            self._sessions.pop(key, None)
            self._sessions[key] = _Session()
            if len(self._sessions) > _MAX_SESSIONS:
                del self._sessions[next(iter(self._sessions))]
        return self._sessions.get(key)

    @staticmethod
    def _of(request: Any, field: str, session: _Session, topics: set[UUID]) -> list[Any]:
        made = element_class(type(request), field)
        plain = field != "topics"
        return [
            build(
                made,
                {
                    "topic_id": topic_id,
                    "partitions": [
                        index if plain else {"partition_index": index}
                        for index in sorted(session.topics[topic_id])
                    ],
                },
            )
            for topic_id in topics
        ]

    @staticmethod
    def _telling(
        request: Any, session: _Session, refused: dict[UUID, ErrorCode], judge: Judge
    ) -> Callable[[Buffer], bytes]:
        """Makes the client's response; forgets what is to be forgotten, if the broker has, or it goes on."""
        # A broker forgets nothing for a request that begins a session.
        begins = request.share_session_epoch == _FIRST
        forgotten = () if begins else request.forgotten_topics_data
        judged = frozenset(session.topics)

        def merge(body: Buffer) -> bytes:
            hidden = dict(refused)
            for topic_id in share_fetched_topics(body):
                code = topic_refusal(judge, _TOPIC._replace(quiet=topic_id in judged), topic_id)
                if code is not None:
                    hidden.setdefault(topic_id, code)
            if not hidden and not forgotten:
                return bytes(body)
            response = decode_response(ApiKey.SHARE_FETCH, request.__version__, body)
            if not response.error_code:
                _forget(session, forgotten)
            return encode_response(_with_refusals(response, session, hidden))

        return merge


def _forget(session: _Session, forgotten: Iterable[Any]) -> None:
    for each in forgotten:
        left = session.topics.get(each.topic_id, set()) - set(each.partitions)
        if left:
            session.topics[each.topic_id] = left
        else:
            session.topics.pop(each.topic_id, None)
            session.withheld.discard(each.topic_id)


def _with_refusals(response: Any, session: _Session, refused: dict[UUID, ErrorCode]) -> Any:
    if response.error_code:
        return response
    made = element_class(response_class(ApiKey.SHARE_FETCH, response.__version__), "responses")
    kept = tuple(each for each in response.responses if each.topic_id not in refused)
    ours = tuple(
        build(
            made,
            {
                "topic_id": topic_id,
                "partitions": [
                    {"partition_index": index, "error_code": code}
                    for index in sorted(session.topics.get(topic_id, ()))
                ],
            },
        )
        for topic_id, code in refused.items()
        # It may just have been forgotten.
        if topic_id in session.topics
    )
    return dataclasses.replace(response, responses=kept + ours)
