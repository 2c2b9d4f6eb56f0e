"""Broker configs that hold addresses of brokers or controllers, which DescribeConfigs (v1-4) would show.

Their values are withheld as those of passwords are: null, and marked as sensitive. What belongs to the
topics, groups and client metrics of the same answer stays.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

BROKER: Final = 4
# In the names of configs whose values are addresses: listeners, advertised.listeners, host.name and
# advertised.port (before 3.0), zookeeper.connect, controller.quorum.voters and …bootstrap.servers, and the
# last of these in the settings of plug-ins. `listener.` is in many names that hold no address.
_ADDRESS_WORDS: Final = (
    "listeners",
    "host.name",
    "advertised.port",
    "zookeeper.connect",
    "quorum.voters",
    "bootstrap.servers",
)
_NEEDLES: Final = tuple(word.encode() for word in _ADDRESS_WORDS)


def may_hold_addresses(frame: bytearray) -> bool:
    """Whether a DescribeConfigs response has to be looked into at all."""
    return any(needle in frame for needle in _NEEDLES)


def without_addresses(response: Any) -> Any:
    """The decoded response with every address of a broker's configs withheld."""
    return dataclasses.replace(response, results=tuple(map(_mask_resource, response.results)))


def _mask_resource(result: Any) -> Any:
    if result.resource_type != BROKER:
        return result
    return dataclasses.replace(result, configs=tuple(map(_mask_config, result.configs)))


def _mask_config(config: Any) -> Any:
    masked = config
    if config.synonyms and any(_holds_address(each.name) for each in config.synonyms):
        synonyms = tuple(dataclasses.replace(each, value=None) for each in config.synonyms)
        masked = dataclasses.replace(masked, synonyms=synonyms)
    if _holds_address(config.name):
        masked = dataclasses.replace(masked, value=None, is_sensitive=True)
    return masked


def _holds_address(name: str) -> bool:
    return any(word in name for word in _ADDRESS_WORDS)
