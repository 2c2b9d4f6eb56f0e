"""Names that do not exist for clients: topics, groups and transactional ids that begin with `_causeway`.

A request that names one goes to the broker with an impossible name of the same length, or an unknown topic
id, instead, so that the broker itself says that there is no such thing; its answer gets the name back. What
lists everything is cut. Messages are decoded for this only if their bytes hold such a name at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any, Final
from uuid import UUID, uuid4

from protocol.api_keys import ApiKey

RESERVED: Final = "_causeway"
RESERVED_BYTES: Final = RESERVED.encode()
# "!" is in no topic name that Kafka accepts.
_IMPOSSIBLE: Final = "!causeway"
_FETCH_SESSIONS: Final = 7

# Responses that name what the request did not: the answers to "all", and what a group or transaction holds.
LISTING_APIS: Final[frozenset[int]] = frozenset(
    {
        ApiKey.OFFSET_FETCH,
        ApiKey.LIST_GROUPS,
        ApiKey.DESCRIBE_ACLS,
        ApiKey.DESCRIBE_LOG_DIRS,
        ApiKey.ELECT_LEADERS,
        ApiKey.LIST_PARTITION_REASSIGNMENTS,
        ApiKey.DESCRIBE_TRANSACTIONS,
        ApiKey.LIST_TRANSACTIONS,
        ApiKey.LIST_CONFIG_RESOURCES,
        ApiKey.DESCRIBE_TOPIC_PARTITIONS,
    }
)


def is_reserved(name: str) -> bool:
    """Whether a topic, group or transactional id is the gateway's own."""
    return name.startswith(RESERVED)


class Substitution:
    """The names and topic ids that one request carried, replaced, and the way back."""

    def __init__(self, reserved_ids: Collection[UUID]) -> None:
        self._reserved_ids = reserved_ids
        self._originals: dict[UUID, UUID] = {}
        self.changed = False

    def request(self, message: Any) -> Any:
        """`message` as it may go to the broker; `changed` says whether it differs."""
        changed = _map_values(message, self._hide)
        if message.__api_key__ == ApiKey.DESCRIBE_TOPIC_PARTITIONS:
            # The cursor only says where to go on, by name order: an impossible name would start over.
            changed = dataclasses.replace(changed, cursor=message.cursor)
        elif message.__api_key__ == ApiKey.FETCH and message.__version__ >= _FETCH_SESSIONS:
            # In a fetch session (KIP-227) the stand-ins would come back in answers to later requests.
            changed = dataclasses.replace(changed, session_id=0, session_epoch=-1, forgotten_topics_data=())
        return changed

    def response(self, message: Any) -> Any:
        """`message` with the client's own names and ids back."""
        return _map_values(message, self._show)

    def _hide(self, value: Any) -> Any:
        if isinstance(value, str) and is_reserved(value):
            self.changed = True
            return _IMPOSSIBLE + value[len(RESERVED) :]
        if isinstance(value, UUID) and value in self._reserved_ids:
            self.changed = True
            stand_in = uuid4()
            self._originals[stand_in] = value
            return stand_in
        return value

    def _show(self, value: Any) -> Any:
        if isinstance(value, str):
            return value.replace(_IMPOSSIBLE, RESERVED)
        if isinstance(value, UUID):
            return self._originals.get(value, value)
        return value


def without_reserved(message: Any) -> Any:
    """`message` without the entries of its lists that belong to a reserved name."""
    return drop_entries(message, is_reserved)


def drop_entries(message: Any, hidden: Callable[[str], bool]) -> Any:
    """`message` without the list entries that are, or have a field that is, a hidden name."""
    changes = {}
    for field in dataclasses.fields(message):
        value = getattr(message, field.name)
        if isinstance(value, tuple):
            kept = tuple(_drop_within(entry, hidden) for entry in value if not _names_hidden(entry, hidden))
            if kept != value:
                changes[field.name] = kept
    return dataclasses.replace(message, **changes) if changes else message


def _drop_within(entry: Any, hidden: Callable[[str], bool]) -> Any:
    return drop_entries(entry, hidden) if dataclasses.is_dataclass(entry) else entry


def _names_hidden(entry: Any, hidden: Callable[[str], bool]) -> bool:
    if isinstance(entry, str):
        return hidden(entry)
    if not dataclasses.is_dataclass(entry):
        return False
    values = (getattr(entry, field.name) for field in dataclasses.fields(entry))
    return any(isinstance(value, str) and hidden(value) for value in values)


def _map_values(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, tuple):
        return tuple(_map_values(entry, change) for entry in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value))
        return dataclasses.replace(
            value, **{name: _map_values(getattr(value, name), change) for name in names}
        )
    return change(value)
