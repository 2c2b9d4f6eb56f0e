"""Topic ids and the names that they stand for (KIP-516), shared by all sessions of a gateway.

Learned from the Metadata and CreateTopics responses that pass, and asked of the cluster when a client uses an
id that has not been seen. An id never changes its name; a name that got a new id (deleted and made again)
forgets the old one. The gateway fronts one cluster and checks its id on every connection, so nothing that is
kept here can be of another. Bounded: what was learned first is forgotten first, and asked for again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import Any, Final, Protocol
from uuid import UUID

from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import DialError
from gateway.upstreams.metadata import metadata_request, nested_class
from gateway.wire import ConnectionClosed
from protocol.api_keys import ApiKey
from protocol.errors import ProtocolError
from protocol.messages import request_class

_MAX_TOPICS: Final = 100_000
_MAX_ASKED: Final = 1000
# A topic that was just made is known to its clients first and to every broker a little later.
_UNKNOWN_FRESH_S: Final = 0.5
_TIMEOUT_S: Final = 5.0
_FIRST_BY_ID: Final = 12
_NO_ID: Final = bytes(16)
# What a cluster that is away is noticed by.
UNREACHABLE: Final = (DialError, ConnectionClosed, ProtocolError, TimeoutError, OSError)


class TopicSource(Protocol):
    """The cluster; a message may be made for the connection that it is sent on."""

    async def request(
        self,
        message: Callable[[BrokerConnection], Any],
        *,
        node_id: int | None,
        timeout_s: float,
        idempotent: bool,
    ) -> Any: ...


class TopicIds:
    """Which topic an id stands for; `reserved` tells the names whose ids are to be known at any time."""

    def __init__(
        self, cluster: TopicSource, reserved: Callable[[str], bool], *, max_topics: int = _MAX_TOPICS
    ) -> None:
        self._cluster = cluster
        self._is_reserved = reserved
        self._max_topics = max_topics
        self._names: dict[bytes, str] = {}
        self._ids: dict[str, bytes] = {}
        self._reserved_ids: frozenset[UUID] = frozenset()
        self._wanted: set[bytes] = set()
        self._unknown: dict[bytes, float] = {}
        self._asking = asyncio.Lock()
        self._failure: tuple[float, Exception] | None = None

    @property
    def reserved(self) -> frozenset[UUID]:
        """The ids of reserved names, as far as they were seen."""
        return self._reserved_ids

    def learn(self, name: str, topic_id: bytes) -> None:
        """Takes note of a topic and its 16 bytes, which are zero where there is no id."""
        if self._names.get(topic_id) == name or topic_id == _NO_ID:
            return
        self.forget(name)
        self._names[topic_id] = name
        self._ids[name] = topic_id
        self._unknown.pop(topic_id, None)
        if self._is_reserved(name):
            self._reserved_ids |= {UUID(bytes=topic_id)}
        elif len(self._names) > self._max_topics:
            self.forget(next(each for each in self._ids if not self._is_reserved(each)))

    def forget(self, name: str) -> None:
        """Takes back what was learned of a name, whose topic was deleted."""
        topic_id = self._ids.pop(name, None)
        if topic_id is not None:
            del self._names[topic_id]
            self._reserved_ids -= {UUID(bytes=topic_id)}

    def name_of(self, topic_id: UUID) -> str | None:
        """The name, if the id was seen before."""
        return self._names.get(topic_id.bytes)

    async def names_of(self, topic_ids: Collection[UUID]) -> Mapping[UUID, str]:
        """The names of those ids that the cluster has; one of UNREACHABLE if it cannot be asked."""
        missing = [each.bytes for each in topic_ids if each.bytes not in self._names]
        if missing:
            await self._look_up(missing)
        names = ((each, self._names.get(each.bytes)) for each in topic_ids)
        return {topic_id: name for topic_id, name in names if name is not None}

    async def _look_up(self, topic_ids: list[bytes]) -> None:
        """Returns when each was found or is unknown; one question is about all that are wanted by then."""
        self._wanted.update(each for each in topic_ids if not self._is_known(each))
        for first in range(0, len(topic_ids), _MAX_ASKED):
            asked = topic_ids[first : first + _MAX_ASKED]
            async with self._asking:
                left = [each for each in asked if not self._is_known(each)]
                if left:
                    self._raise_failure()
                    self._wanted.difference_update(left)
                    others = islice(self._wanted, _MAX_ASKED - len(left))
                    await self._ask([*left, *others])

    def _is_known(self, topic_id: bytes) -> bool:
        if topic_id in self._names:
            return True
        asked_at = self._unknown.get(topic_id)
        return asked_at is not None and time.monotonic() - asked_at < _UNKNOWN_FRESH_S

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failed_at, error = self._failure
            if time.monotonic() - failed_at < _UNKNOWN_FRESH_S:
                raise error

    async def _ask(self, topic_ids: list[bytes]) -> None:
        def message(connection: BrokerConnection) -> Any:
            return _metadata_by_id(connection, topic_ids)

        try:
            response = await self._cluster.request(
                message, node_id=None, timeout_s=_TIMEOUT_S, idempotent=True
            )
        except UNREACHABLE as error:
            self._failure = time.monotonic(), error
            raise
        self._wanted.difference_update(topic_ids)
        for topic in response.topics:
            topic_id = getattr(topic, "topic_id", None)
            if topic.name is not None and topic_id is not None:
                self.learn(topic.name, topic_id.bytes)
        now = time.monotonic()
        self._unknown = {each: at for each, at in self._unknown.items() if now - at < _UNKNOWN_FRESH_S} | {
            each: now for each in topic_ids if each not in self._names
        }


def _metadata_by_id(connection: BrokerConnection, topic_ids: list[bytes]) -> Any:
    """About those topics; about all of them to a broker of before 3.1, which cannot be asked by id."""
    version = connection.pick_version(ApiKey.METADATA, 5, 13)
    if version < _FIRST_BY_ID:
        return metadata_request(connection, None)
    request = request_class(ApiKey.METADATA, version)
    topic = nested_class(request, "MetadataRequestTopic")
    return request(
        topics=tuple(topic(topic_id=UUID(bytes=each), name=None) for each in topic_ids),
        allow_auto_topic_creation=False,
        include_topic_authorized_operations=False,
    )
