"""`acl.filters`: which ACLs of the source a link brings; the JSON of Confluent's documentation.

Entries include, and any one will do. The words may be written in any case, with `_` and `-` or without, the
resource type of transactional ids in Confluent's way (`transactionId`) and in Kafka's. A missing `name`,
`principal` or `host`, or `*`, means all; so do a missing `patternType`, `operation` and `permissionType`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

from protocol.acl_filters import AclFilter
from protocol.acls import Operation, PatternType, Permission, ResourceType

_ALL: Final = "*"
_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "resourceFilter": frozenset({"resourceType", "patternType", "name"}),
    "accessFilter": frozenset({"principal", "operation", "permissionType", "host"}),
}
# The article's properties as they stand, where no reader of properties has taken the backslashes away.
_ESCAPED: Final = re.compile(r"\\([{}\[\]:,])")


def _words(kind: type[IntEnum]) -> dict[str, Any]:
    return {_plain(each.name): each for each in kind if each != 0}


def _plain(text: str) -> str:
    return text.lower().replace("_", "").replace("-", "")


_TYPES: Final = {**_words(ResourceType), "transactionid": ResourceType.TRANSACTIONAL_ID}
_PATTERNS: Final = _words(PatternType)
_OPERATIONS: Final = _words(Operation)
_PERMISSIONS: Final = _words(Permission)


def parse_acl_filters(text: str) -> tuple[AclFilter, ...]:
    """The filters, none for an empty text. ValueError says what is wrong, and quotes no value."""
    if not text.strip():
        return ()
    try:
        parsed = json.loads(_ESCAPED.sub(r"\1", text) if "\\{" in text else text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None
    entries = parsed.get("aclFilters") if isinstance(parsed, dict) else None
    if not isinstance(entries, list) or set(parsed) != {"aclFilters"}:
        raise ValueError('must be a JSON object with the list "aclFilters" and nothing else')
    found = []
    for number, entry in enumerate(entries, 1):
        try:
            found.append(_entry(entry))
        except ValueError as error:
            raise ValueError(f"entry {number} of aclFilters {error}") from None
    return tuple(dict.fromkeys(found))


def _entry(entry: Any) -> AclFilter:
    if not isinstance(entry, dict):
        raise ValueError("is not an object")  # noqa: TRY004 - whatever is wrong is told in one way
    if unknown := set(entry) - set(_FIELDS):
        raise ValueError(f"has the unknown field {min(unknown)}")
    for part, fields in _FIELDS.items():
        if not isinstance(entry.get(part), dict):
            raise ValueError("needs resourceFilter and accessFilter")  # noqa: TRY004 - as above
        if unknown := set(entry[part]) - fields:
            raise ValueError(f"has the unknown field {part}.{min(unknown)}")
        if any(not isinstance(value, str) for value in entry[part].values()):
            raise ValueError("has a value that is not a text")
    resource, access = entry["resourceFilter"], entry["accessFilter"]
    if "resourceType" not in resource:
        raise ValueError(f"needs a resourceType out of {', '.join(sorted(_TYPES))}")
    return AclFilter(
        _word(resource, "resourceType", _TYPES),
        _word(resource, "patternType", _PATTERNS),
        _name(resource, "name"),
        _name(access, "principal"),
        _name(access, "host"),
        _word(access, "operation", _OPERATIONS),
        _word(access, "permissionType", _PERMISSIONS),
    )


def _word(fields: Mapping[str, str], name: str, words: Mapping[str, Any]) -> Any:
    value = words.get(_plain(fields.get(name, "any")))
    if value is None:
        raise ValueError(f"needs a {name} out of {', '.join(sorted(words))}")
    return value


def _name(fields: Mapping[str, str], name: str) -> str | None:
    value = fields.get(name, _ALL)
    if not value:
        raise ValueError(f"has an empty {name}")
    return None if value == _ALL else value
