"""Messages made of what is known of them; the rest is empty, what a version has no place for is left out."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any, Final, get_args

from kio.static.primitive import i32Timedelta

_EMPTY: Final[tuple[tuple[type, Any], ...]] = (
    (bool, False),
    (int, 0),
    (str, ""),
    (bytes, b""),
    (datetime.timedelta, i32Timedelta.parse(datetime.timedelta(0))),
)


def build(made: Any, values: Mapping[str, Any]) -> Any:
    """A message of class `made`; nested ones are given as mappings, lists of them as sequences."""
    blanks = _blanks(made)
    known = _fields(made)
    chosen = {name: _built(made, name, value) for name, value in values.items() if name in known}
    return made(**{**blanks, **chosen})


def element_class(made: Any, name: str) -> Any:
    """The class of the structures in a field of a message; TypeError if it has none."""
    return _element_class(made, name)


@cache
def _element_class(made: Any, name: str) -> Any:
    for kind in _parts(_fields(made)[name].type):
        if dataclasses.is_dataclass(kind):
            return kind
    raise TypeError(f"{made.__name__}.{name} has no structures")


def has_field(made: Any, name: str) -> bool:
    """Whether messages of a class have a field."""
    return name in _fields(made)


def _built(made: Any, name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return build(element_class(made, name), value)
    if isinstance(value, list | tuple):
        return tuple(
            build(element_class(made, name), each) if isinstance(each, Mapping) else each for each in value
        )
    return value


@cache
def _fields(made: Any) -> Mapping[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(made)}


@cache
def _blanks(made: Any) -> Mapping[str, Any]:
    return {
        name: _blank(field.type)
        for name, field in _fields(made).items()
        if field.default is dataclasses.MISSING
    }


def _blank(declared: Any) -> Any:
    kinds = _parts(declared)
    if type(None) in kinds:
        return None
    if kinds[0] is tuple:
        return ()
    kind = kinds[0]
    if issubclass(kind, Enum):
        return kind(0)
    if dataclasses.is_dataclass(kind):
        return build(kind, {})
    return next((empty for base, empty in _EMPTY if issubclass(kind, base)), None)


def _parts(declared: Any) -> tuple[Any, ...]:
    """A type and what it is made of: of `tuple[X, ...] | None` all of tuple, X and None."""
    arguments = tuple(each for each in get_args(declared) if each is not Ellipsis)
    if not arguments:
        return (declared,)
    inner = tuple(part for each in arguments for part in _parts(each))
    return inner if type(None) in arguments else (tuple, *inner)
