"""The configs of topics as a cluster tells them: DescribeConfigs 1 to 4.

Each may raise KafkaError and what `Cluster` raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from kio.schema.errors import ErrorCode

from gateway.upstreams.cluster import Cluster
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import KafkaError
from gateway.upstreams.metadata import nested_class
from protocol.api_keys import ApiKey
from protocol.messages import request_class

_TOPIC: Final = 2  # ConfigResource.Type
_TOPIC_CONFIG, _DEFAULT_CONFIG = 1, 5  # DescribeConfigsResponse.ConfigSource


class TopicConfig(NamedTuple):
    """One config of a topic; `source` is DescribeConfigsResponse.ConfigSource, `value` None if sensitive."""

    value: str | None
    source: int
    is_default: bool
    sensitive: bool
    read_only: bool

    @property
    def own(self) -> bool:
        """Whether it was set on the topic itself."""
        return self.source == _TOPIC_CONFIG


async def describe_topic_configs(
    cluster: Cluster, topic: str, *, timeout_s: float = 30
) -> dict[str, TopicConfig]:
    """All configs of a topic by name, defaults included."""
    found = (await describe_configs_of_topics(cluster, [topic], timeout_s=timeout_s))[topic]
    if isinstance(found, KafkaError):
        raise found
    return found


async def describe_configs_of_topics(
    cluster: Cluster, topics: Sequence[str], *, timeout_s: float = 30
) -> Mapping[str, dict[str, TopicConfig] | KafkaError]:
    """All configs of each topic, or why they are not told, of every topic that was asked for."""

    def message(connection: BrokerConnection) -> Any:
        request = request_class(
            ApiKey.DESCRIBE_CONFIGS, connection.pick_version(ApiKey.DESCRIBE_CONFIGS, 1, 4)
        )
        resource = nested_class(request, "DescribeConfigsResource")
        # Null stands for all of them, an empty list for none.
        return request(
            resources=tuple(
                resource(resource_type=_TOPIC, resource_name=topic, configuration_keys=None)
                for topic in topics
            )
        )

    response = await cluster.request(message, timeout_s=timeout_s, idempotent=True)
    results = {result.resource_name: result for result in response.results}
    return {topic: _configs_of(topic, results.get(topic)) for topic in topics}


def _configs_of(topic: str, result: Any | None) -> dict[str, TopicConfig] | KafkaError:
    what = f"DescribeConfigs of topic {topic}"
    if result is None:
        return KafkaError(ErrorCode.unknown_server_error, f"{what}: left out")
    if result.error_code != ErrorCode.none:
        text = f"{what}: {result.error_message}" if result.error_message else what
        return KafkaError(result.error_code, text)
    return {
        config.name: TopicConfig(
            value=config.value,
            source=int(config.config_source),
            is_default=config.config_source == _DEFAULT_CONFIG,
            sensitive=config.is_sensitive,
            read_only=config.read_only,
        )
        for config in result.configs
    }
