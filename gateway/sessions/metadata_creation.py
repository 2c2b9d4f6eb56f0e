"""Metadata requests of clients that may not create all the topics that they ask about (KIP-204, KIP-361).

A broker would create what is missing with the gateway's rights. So such a request goes on without leave to
create anything, and what the client may create is created beforehand, by a request of the gateway's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from gateway.sessions.reserved_names import is_reserved
from gateway.sessions.topic_questions import TopicQuestions
from protocol.api_keys import ApiKey
from protocol.authorize_topics import MAY_FORBID_CREATION, creation_refused
from protocol.blank_messages import build
from protocol.fields import Buffer
from protocol.judging import Judge, allowed
from protocol.messages import decode_response, encode_response, request_class, response_class
from protocol.permissions import PERMISSIONS

Merge: TypeAlias = Callable[[Buffer], bytes]

_DESCRIBE, _CREATE, _ = PERMISSIONS[ApiKey.METADATA]


async def without_creation(
    request: Any, names: frozenset[str], judge: Judge, questions: TopicQuestions, node_id: int | None
) -> tuple[Any, Merge]:
    """The request without leave to create `names`, and what makes the response; UNREACHABLE, KafkaError."""
    creates = await questions.creates_topics(node_id)
    others = {
        topic.name
        for topic in request.topics
        if topic.name is not None
        and topic.name not in names
        and not is_reserved(topic.name)
        and allowed(judge, _QUIET, topic.name)
    }
    if creates and others:
        await questions.create_missing(others)
    version = request.__version__
    raised = max(version, MAY_FORBID_CREATION)
    sent = build(
        request_class(ApiKey.METADATA, raised),
        {**dataclasses.asdict(request), "allow_auto_topic_creation": False},
    )

    def fix(body: Buffer) -> bytes:
        response = decode_response(ApiKey.METADATA, raised, body)
        if creates:
            response = creation_refused(response, names)
        if raised != version:
            response = build(response_class(ApiKey.METADATA, version), dataclasses.asdict(response))
        return encode_response(response)

    return sent, fix


_QUIET: Final = _DESCRIBE._replace(quiet=True)
