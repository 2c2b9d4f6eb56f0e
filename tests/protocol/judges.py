"""Judges for tests: who may do what is said in a line. And responses with hardly anything in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from protocol.acls import SUPPORTED_OPERATIONS, Operation, ResourceType
from protocol.blank_messages import build
from protocol.messages import response_class

May = Callable[[Operation, ResourceType, str], bool]


class FakeJudge:
    """Decides by `may`; `ids` are the topics that are known by id."""

    def __init__(self, may: May, ids: Mapping[UUID, str] | None = None) -> None:
        self._may = may
        self._ids = ids or {}
        self.asked: list[tuple[Operation, ResourceType, str]] = []

    def may(self, operation: Operation, resource: ResourceType, name: str, *, quiet: bool = False) -> bool:
        self.asked.append((operation, resource, name))
        return self._may(operation, resource, name)

    def may_any(self, operation: Operation, resource: ResourceType) -> bool:
        return self._may(operation, resource, "any")

    def operations(self, resource: ResourceType, name: str) -> int:
        return sum(1 << each for each in SUPPORTED_OPERATIONS[resource] if self._may(each, resource, name))

    def name_of(self, topic_id: UUID) -> str | None:
        return self._ids.get(topic_id)


def everything(_operation: Operation, _resource: ResourceType, _name: str) -> bool:
    return True


def nothing(_operation: Operation, _resource: ResourceType, _name: str) -> bool:
    return False


def open_only(_operation: Operation, _resource: ResourceType, name: str) -> bool:
    return name.startswith("open")


def no_topics(_operation: Operation, resource: ResourceType, _name: str) -> bool:
    return resource not in {ResourceType.TOPIC, ResourceType.CLUSTER}


def blank(request: Any, **values: Any) -> Any:
    """A response to a request, made of these values."""
    return build(response_class(request.__api_key__, request.__version__), values)
