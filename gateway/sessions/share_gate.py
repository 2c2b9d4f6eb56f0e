"""Judging ShareFetch (v1-2) in share sessions (KIP-932): every topic of a session at every fetch.

What a session holds and is refused now is taken out of the broker's, and put back when it is allowed again;
the client is told of the refusal at every fetch, as by a broker.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from kio.schema.errors import ErrorCode

from protocol.acls import ResourceType
from protocol.api_keys import ApiKey
from protocol.blank_messages import build, element_class
from protocol.cutting import changed
from protocol.judging import Judge, allowed, answer, topic_refusal
from protocol.messages import response_class
from protocol.permissions import PERMISSIONS, REFUSED
from protocol.refusals import Answer, Cut

# A connection serves one consumer, whatever else its client claims to be.
_MAX_SESSIONS: Final = 4
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

    def fetch(self, request: Any, judge: Judge) -> tuple[Answer | Cut | None, float]:
        """What becomes of a request whose ids are known as far as they can be, and after how many seconds."""
        if not allowed(judge, _GROUP, request.group_id):
            code = REFUSED[ResourceType.GROUP]
            return answer(request, {"error_code": code}), 0
        session = self._session(request)
        if session is None:
            return answer(request, {"error_code": ErrorCode.share_session_not_found}), 0
        for topic in request.topics:
            indexes = {each.partition_index for each in topic.partitions}
            session.topics.setdefault(topic.topic_id, set()).update(indexes)
        codes = {topic_id: topic_refusal(judge, _TOPIC, topic_id) for topic_id in session.topics}
        refused = {topic_id: code for topic_id, code in codes.items() if code is not None}
        asked = {topic.topic_id for topic in request.topics}
        returning = session.withheld - refused.keys() - asked
        leaving = refused.keys() - session.withheld - asked
        session.withheld = set(refused)
        forget = self._forgetting(request, session)
        if not refused and not returning:
            return (changed(request, forget) if request.forgotten_topics_data else None), 0
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

        def change(response: Any) -> Any:
            return _with_refusals(forget(response), session, refused)

        # Nothing to wait for at the broker: it would answer at once, and its client ask again.
        wait_s = request.max_wait.total_seconds() if len(refused) == len(session.topics) else 0
        return changed(request, change, forward), wait_s

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
    def _forgetting(request: Any, session: _Session) -> Callable[[Any], Any]:
        """Forgets what a request wants to be forgotten when the broker has: else it would go on unjudged."""

        def change(response: Any) -> Any:
            if not response.error_code:
                for each in request.forgotten_topics_data:
                    left = session.topics.get(each.topic_id, set()) - set(each.partitions)
                    if left:
                        session.topics[each.topic_id] = left
                    else:
                        session.topics.pop(each.topic_id, None)
                        session.withheld.discard(each.topic_id)
            return response

        return change


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
