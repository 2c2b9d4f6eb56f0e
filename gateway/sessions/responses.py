"""What becomes of responses on their way to a client, if anything has to be done about them.

Broker addresses become the gateway's (`broker_addresses`), mirror topics look as at their source
(`presentation`), what lists everything loses the names that do not exist for clients, a broker's configs
their addresses. Metadata and CreateTopics tell which topic ids there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from gateway.sessions.config_masks import may_hold_addresses, without_addresses
from gateway.sessions.held_configs import may_be_held, with_source_values
from gateway.sessions.presentation import presentation
from gateway.sessions.request_path import Finish, Parts
from gateway.sessions.reserved_names import LISTING_APIS, RESERVED_BYTES, is_reserved, without_reserved
from gateway.sessions.services import SessionServices
from protocol.api_keys import ApiKey
from protocol.broker_addresses import ADDRESS_VERSIONS, rewrite_addresses
from protocol.headers import response_body_offset
from protocol.messages import decode_response, encode_response

# CreateTopics answers with topic ids from here on.
_CREATED_IDS: Final = 7


class Responses:
    """The rewriting of one session's responses."""

    def __init__(self, services: SessionServices) -> None:
        self._services = services
        self._finishes: dict[tuple[int, int], Finish | None] = {}

    def finish(self, key: int, version: int) -> Finish | None:
        """What makes the client's response to such a request; None if it stays as it is."""
        try:
            return self._finishes[key, version]
        except KeyError:
            finish = self._finishes[key, version] = self._make(key, version)
            return finish

    def _make(self, key: int, version: int) -> Finish | None:
        if key in ADDRESS_VERSIONS:
            return self._addresses(key, version)
        if key in LISTING_APIS:
            return _changed(key, version, lambda frame: RESERVED_BYTES in frame, without_reserved)
        if key == ApiKey.DESCRIBE_CONFIGS:
            return _changed(key, version, self._configs_change, self._shown_configs)
        if key == ApiKey.CREATE_TOPICS and version >= _CREATED_IDS:
            return self._created
        present = presentation(self._services.shown, key, version)
        return None if present is None else lambda frame: (present(frame),)

    def _configs_change(self, frame: bytearray) -> bool:
        return may_hold_addresses(frame) or (self._services.shown() is not None and may_be_held(frame))

    def _shown_configs(self, response: Any) -> Any:
        return with_source_values(without_addresses(response), self._services.mirrors.shown_configs)

    def _addresses(self, key: int, version: int) -> Finish | None:
        present = presentation(self._services.shown, key, version)
        if present is None and version < ADDRESS_VERSIONS[key].start:
            return None
        advertised = self._services.advertised
        hidden, seen = None, None
        if key == ApiKey.METADATA:
            hidden, seen = is_reserved, self._services.topic_ids.learn

        def finish(frame: bytearray) -> Parts:
            if present is not None:
                frame = present(frame)
            rewritten = rewrite_addresses(key, version, frame, advertised, hidden, seen)
            return rewritten if isinstance(rewritten, list) else (rewritten,)

        return finish

    def _created(self, frame: bytearray) -> Parts:
        body = memoryview(frame)[response_body_offset(ApiKey.CREATE_TOPICS, _CREATED_IDS, frame) :]
        for topic in decode_response(ApiKey.CREATE_TOPICS, _CREATED_IDS, body).topics:
            if topic.topic_id is not None:
                self._services.topic_ids.learn(topic.name, topic.topic_id.bytes)
        return (frame,)


def _changed(
    key: int, version: int, needed: Callable[[bytearray], bool], change: Callable[[Any], Any]
) -> Finish:
    """Decodes, changes and encodes a response if its bytes say that it may be needed."""

    def finish(frame: bytearray) -> Parts:
        if not needed(frame):
            return (frame,)
        body_at = response_body_offset(key, version, frame)
        body = change(decode_response(key, version, memoryview(frame)[body_at:]))
        return (frame[:body_at], encode_response(body))

    return finish
