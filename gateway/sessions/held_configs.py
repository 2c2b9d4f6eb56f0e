"""The held configs of mirror topics in DescribeConfigs (v1-4): clients are shown the source's values.

What a link sets on a mirror topic so that its brokers leave everything as it was copied is nobody's wish. Who
reads a topic's configs, or copies them, means those of the source.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

_TOPIC: Final = 2  # ConfigResource.Type
_TOPIC_CONFIG, _DEFAULT_CONFIG = 1, 5  # DescribeConfigsResponse.ConfigSource

# Of a mirror topic, by config, the value and whether the source topic itself sets it; None for other topics.
ShownConfigs: TypeAlias = Callable[[str], Mapping[str, tuple[str, bool]] | None]


# Of the names of held configs, every one.
_NEEDLES: Final = (b"retention.", b"cleanup.policy", b"compression.type", b"message.timestamp.")


def may_be_held(frame: bytearray) -> bool:
    """Whether a DescribeConfigs response has to be looked into at all."""
    return any(needle in frame for needle in _NEEDLES)


def with_source_values(response: Any, shown: ShownConfigs) -> Any:
    """The decoded response with the values that the held configs have at the source."""
    return dataclasses.replace(response, results=tuple(_show(result, shown) for result in response.results))


def _show(result: Any, shown: ShownConfigs) -> Any:
    values = shown(result.resource_name) if result.resource_type == _TOPIC else None
    if values is None:
        return result
    configs = (
        _with(config, *values[config.name]) if config.name in values else config for config in result.configs
    )
    return dataclasses.replace(result, configs=tuple(configs))


def _with(config: Any, value: str, own: bool) -> Any:
    source = _TOPIC_CONFIG if own else _DEFAULT_CONFIG
    # The others are this cluster's, which says nothing of the source.
    synonyms = tuple(
        dataclasses.replace(each, value=value, source=source) for each in (config.synonyms or ())[:1]
    )
    return dataclasses.replace(config, value=value, config_source=source, synonyms=synonyms)
