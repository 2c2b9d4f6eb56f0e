"""What must be asked of the cluster before some requests can be judged.

Which topics there are, and whether its brokers create missing ones by themselves.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection
from typing import Any, Final

from gateway.sessions.topic_ids import TopicSource
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import KafkaError
from gateway.upstreams.metadata import metadata_request, nested_class
from protocol.api_keys import ApiKey
from protocol.messages import request_class

_TIMEOUT_S: Final = 5.0
# The config is a broker's own, and it must be restarted to have another.
_CONFIG_FRESH_S: Final = 60.0
_BROKER: Final = 4
_CREATES: Final = "auto.create.topics.enable"


class TopicQuestions:
    """Asks the cluster with the gateway's own rights. Every question raises `UNREACHABLE` or KafkaError."""

    def __init__(self, cluster: TopicSource) -> None:
        self._cluster = cluster
        self._creates: dict[int | None, tuple[float, bool]] = {}

    async def existing(self, names: Collection[str]) -> frozenset[str]:
        """Those of the topics that are there."""
        response = await self._ask(lambda connection: metadata_request(connection, sorted(names)))
        return frozenset(topic.name for topic in response.topics if not topic.error_code)

    async def all_names(self) -> frozenset[str]:
        """All topics."""
        response = await self._ask(lambda connection: metadata_request(connection, None))
        return frozenset(topic.name for topic in response.topics if topic.name is not None)

    async def create_missing(self, names: Collection[str]) -> None:
        """Has the brokers create what is not there, as they do for clients."""

        def message(connection: BrokerConnection) -> Any:
            request = metadata_request(connection, sorted(names))
            return dataclasses.replace(request, allow_auto_topic_creation=True)

        await self._ask(message)

    async def creates_topics(self, node_id: int | None) -> bool:
        """Whether a broker creates topics that a client asks about and that are not there."""
        known = self._creates.get(node_id)
        now = time.monotonic()
        if known is not None and now - known[0] < _CONFIG_FRESH_S:
            return known[1]
        asked = node_id
        if asked is None:
            response = await self._ask(lambda connection: metadata_request(connection, []))
            asked = min(broker.node_id for broker in response.brokers)

        def message(connection: BrokerConnection) -> Any:
            request = request_class(
                ApiKey.DESCRIBE_CONFIGS, connection.pick_version(ApiKey.DESCRIBE_CONFIGS, 1, 4)
            )
            resource = nested_class(request, "DescribeConfigsResource")(
                resource_type=_BROKER, resource_name=str(asked), configuration_keys=(_CREATES,)
            )
            return request(resources=(resource,), include_synonyms=False)

        response = await self._ask(message, asked)
        (result,) = response.results
        if result.error_code:
            raise KafkaError(result.error_code, "DescribeConfigs")
        enabled = any(config.name == _CREATES and config.value == "true" for config in result.configs)
        self._creates[node_id] = now, enabled
        return enabled

    async def _ask(self, message: Callable[[BrokerConnection], Any], node_id: int | None = None) -> Any:
        return await self._cluster.request(message, node_id=node_id, timeout_s=_TIMEOUT_S, idempotent=True)
