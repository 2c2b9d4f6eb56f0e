"""The guard before kio: walks the bytes of a message by its schema and checks every length and count.

For each message class a plan is made once from kio's dataclasses: one step per field of variable size,
with the fixed fields before it as a number of bytes to skip. A walk allocates nothing, whatever the
bytes announce. Stricter than Kafka where Kafka is lax: only -1 is null, tagged fields ascend (KIP-482),
nothing may trail. What needs no bound (UTF-8, booleans, error codes, times) kio checks by itself. Of a
request the structures are counted too: decoded, one of three bytes takes 60 and more.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import Field, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeAlias, get_args, get_origin

from protocol.errors import DecodeError, TooLargeToDecode
from protocol.fields import encode_uvarint, read_uvarint


class Strict:
    """In place of a list of edits: no unknown tag, and in arrays no more elements than are left."""

    __slots__ = ("elements", "limit")

    def __init__(self, limit: int) -> None:
        self.elements = 0
        self.limit = limit

    def add(self, count: int) -> None:
        """Count elements. Raises TooLargeToDecode."""
        self.elements += count
        if self.elements > self.limit:
            raise TooLargeToDecode(f"more than {self.limit} structures")


# What to put in place of data[start:stop].
Edits: TypeAlias = list[tuple[int, int, bytes]] | Strict
# (data, position, end of the enclosing message or tagged field, edits) -> next position.
# A step may return a position past the end: reading there is an IndexError or struct.error, and who
# knows the end compares it with what came out. Fixed fields therefore need no check of their own.
Step: TypeAlias = Callable[[bytes, int, int, Edits], int]

_FIXED_BYTES = {
    "bool": 1,
    "int8": 1,
    "int16": 2,
    "uint16": 2,
    "error_code": 2,
    "int32": 4,
    "timedelta_i32": 4,
    "int64": 8,
    "float64": 8,
    "timedelta_i64": 8,
    "datetime_i64": 8,
    "uuid": 16,
}
_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")


@dataclass(frozen=True, slots=True)
class _Plan:
    """How to walk a value: its steps, the fixed bytes after the last one, then its tagged fields."""

    steps: tuple[Step, ...]
    tail_bytes: int
    tags: Step | None
    least_bytes: int


def check_message(message: type, data: bytes, max_elements: int = 2**31) -> None:
    """Check a body that may hold only known tagged fields. Raises DecodeError, TooLargeToDecode."""
    _walk_message(message, data, Strict(max_elements))


def drop_unknown_tags(message: type, data: bytes) -> bytes:
    """Check a body and return it without the tagged fields that the schema lacks. Raises DecodeError."""
    edits: list[tuple[int, int, bytes]] = []
    _walk_message(message, data, edits)
    if not edits:
        return data
    parts = []
    at = 0
    for start, stop, replacement in sorted(edits):
        parts += [data[at:start], replacement]
        at = stop
    return b"".join([*parts, data[at:]])


def _walk_message(message: type, data: bytes, edits: Edits) -> None:
    end = len(data)
    try:
        at = _walk_of(message)(data, 0, end, edits)
    except (IndexError, struct.error):
        raise DecodeError(f"{message.__name__}: ends early, after {end} bytes") from None
    if at > end:
        raise DecodeError(f"{message.__name__}: ends early, after {end} bytes")
    if at < end:
        raise DecodeError(f"{message.__name__}: {end - at} bytes trail")


@cache
def _walk_of(message: type) -> Step:
    return _entity(_entity_plan(message))


@cache
def _entity_plan(entity: Any) -> _Plan:
    steps: list[Step] = []
    skip = least = 0
    tagged: dict[int, tuple[str, Step]] = {}
    for field in fields(entity):
        where = f"{entity.__name__}.{field.name}"
        if "tag" in field.metadata:
            tagged[field.metadata["tag"]] = where, _entity(_field_plan(field, True, where, 0))
            continue
        plan = _field_plan(field, entity.__flexible__, where, skip)
        steps += plan.steps
        skip = plan.tail_bytes
        least += plan.least_bytes
    tags = None
    if entity.__flexible__:
        tags = _tagged_fields(entity.__name__, tagged)
        least += 1
    return _Plan(tuple(steps), skip, tags, least)


def _field_plan(field: Field[Any], flexible: bool, where: str, skip: int) -> _Plan:
    """Plan a field and the `skip` fixed bytes before it."""
    kind: Any = field.type
    nullable = get_origin(kind) is UnionType
    if nullable:
        (kind,) = (each for each in get_args(kind) if each is not NoneType)
    if get_origin(kind) is tuple:
        (kind, _) = get_args(kind)
        if _is_entity(kind):
            element = _entity_plan(kind)
        else:
            element = _primitive_plan(field, flexible, where, 0, False)
        return _array(where, skip, None if flexible else _INT32, nullable, element)
    if _is_entity(kind):
        plan = _entity_plan(kind)
        if nullable:
            return _Plan((_nullable_entity(where, skip, plan),), 0, None, 1)
        return _Plan((_entity(plan, skip),), 0, None, plan.least_bytes)
    # kio reads the absence of a tagged field as null, and in its value no null.
    return _primitive_plan(field, flexible, where, skip, nullable and "tag" not in field.metadata)


def _primitive_plan(field: Field[Any], flexible: bool, where: str, skip: int, nullable: bool) -> _Plan:
    kafka_type = field.metadata["kafka_type"]
    if kafka_type in _FIXED_BYTES:
        size = _FIXED_BYTES[kafka_type]
        return _Plan((), skip + size, None, size)
    length = None if flexible else _INT16 if kafka_type == "string" else _INT32
    return _run(where, skip, length, nullable, 1)


def _is_entity(kind: Any) -> bool:
    return is_dataclass(kind)


def _entity(plan: _Plan, skip: int = 0) -> Step:
    steps, tail, tags = plan.steps, plan.tail_bytes, plan.tags

    def step(data: bytes, at: int, end: int, edits: Edits) -> int:
        at += skip
        for each in steps:
            at = each(data, at, end, edits)
        at += tail
        if tags is not None:
            return tags(data, at, end, edits) if data[at] else at + 1
        return at

    return step


def _nullable_entity(where: str, skip: int, plan: _Plan) -> Step:
    # KIP-893: one byte, 1 or -1, and then the struct or nothing.
    walk = _entity(plan)

    def step(data: bytes, at: int, end: int, edits: Edits) -> int:
        at += skip
        marker = data[at]
        if marker == 1:
            return walk(data, at + 1, end, edits)
        if marker != 0xFF:
            raise DecodeError(f"{where}: {marker} marks neither null nor a value")
        return at + 1

    return step


def _run(where: str, skip: int, length: struct.Struct | None, nullable: bool, each_bytes: int) -> _Plan:
    """Plan a string, bytes, or an array of fixed size elements; `length` is None for a compact count."""

    def compact(data: bytes, at: int, end: int, _edits: Edits) -> int:
        at += skip
        count = data[at] - 1
        after = at + 1 + count * each_bytes
        if 0 <= count < 0x7F and after <= end:
            return after
        count, at = read_uvarint(data, at)
        return checked(count - 1, at, end)

    def checked(count: int, at: int, end: int) -> int:
        after = at + count * each_bytes
        if at <= after <= end:
            return after
        return _null(where, nullable, count, at, end)

    if length is None:
        return _Plan((compact,), 0, None, 1)

    read_count = length.unpack_from
    first = skip + length.size

    def legacy(data: bytes, at: int, end: int, _edits: Edits) -> int:
        (count,) = read_count(data, at + skip)
        return checked(count, at + first, end)

    return _Plan((legacy,), 0, None, length.size)


def _array(where: str, skip: int, length: struct.Struct | None, nullable: bool, element: _Plan) -> _Plan:
    steps, tail, tags, least = element.steps, element.tail_bytes, element.tags, element.least_bytes
    if not steps and tags is None:
        return _run(where, skip, length, nullable, tail)

    def elements(data: bytes, at: int, end: int, edits: Edits, count: int) -> int:
        if not 0 <= count * least <= end - at:
            return _null(where, nullable, count, at, end)
        if isinstance(edits, Strict):
            edits.add(count)
        for _ in range(count):
            for each in steps:
                at = each(data, at, end, edits)
            at += tail
            if tags is not None:
                # Nearly always empty: not worth a call.
                at = tags(data, at, end, edits) if data[at] else at + 1
        return at

    def compact(data: bytes, at: int, end: int, edits: Edits) -> int:
        count, at = read_uvarint(data, at + skip)
        return elements(data, at, end, edits, count - 1)

    if length is None:
        return _Plan((compact,), 0, None, 1)

    read_count = length.unpack_from
    first = skip + length.size

    def legacy(data: bytes, at: int, end: int, edits: Edits) -> int:
        (count,) = read_count(data, at + skip)
        return elements(data, at + first, end, edits, count)

    return _Plan((legacy,), 0, None, length.size)


def _null(where: str, nullable: bool, count: int, at: int, end: int) -> int:
    """Return `at` if a count that does not fit means null. Raises DecodeError."""
    if count >= 0:
        raise DecodeError(f"{where}: {count} elements in {end - at} bytes")
    if count != -1:
        raise DecodeError(f"{where}: count {count} is negative")
    if not nullable:
        raise DecodeError(f"{where}: null is not allowed")
    return at


def _tagged_fields(entity: str, known: dict[int, tuple[str, Step]]) -> Step:
    def step(data: bytes, count_at: int, end: int, edits: Edits) -> int:
        count, at = read_uvarint(data, count_at)
        tags_at = at
        dropped = 0
        last_tag = -1
        for _ in range(count):
            tag_at = at
            tag, size_at = read_uvarint(data, at)
            if tag <= last_tag:
                raise DecodeError(f"{entity}: tag {tag} follows tag {last_tag}")
            last_tag = tag
            size, at = read_uvarint(data, size_at)
            if size > end - at:
                raise DecodeError(f"{entity}: tag {tag} of {size} bytes in {end - at} bytes")
            if tag in known:
                _walk_tagged_field(*known[tag], data, size_at, at, at + size, edits)
            elif isinstance(edits, Strict):
                raise DecodeError(f"{entity}: unknown tag {tag}")
            else:
                dropped += 1
                # Adjacent cuts are one: a peer must not make us remember more than it sends.
                if edits and edits[-1][1] == tag_at:
                    tag_at = edits.pop()[0]
                edits.append((tag_at, at + size, b""))
            at += size
        if dropped and not isinstance(edits, Strict):
            edits.append((count_at, tags_at, encode_uvarint(count - dropped)))
        return at

    return step


def _walk_tagged_field(
    where: str, walk: Step, data: bytes, size_at: int, start: int, end: int, edits: Edits
) -> None:
    first_edit = 0 if isinstance(edits, Strict) else len(edits)
    at = walk(data, start, end, edits)
    if at != end:
        raise DecodeError(f"{where}: the tagged field has {end - start} bytes, its value {at - start}")
    if not isinstance(edits, Strict) and len(edits) > first_edit:
        shrunk = sum(stop - begin - len(replacement) for begin, stop, replacement in edits[first_edit:])
        edits.append((size_at, start, encode_uvarint(end - start - shrunk)))
