"""Valid and hostile bodies of any message, written from kio's schema by other code than the one under test.

`build` writes a body with random values; asked for a `Hostile`, it writes other bytes in place of one length,
count or tag, and everything around it (the sizes of enclosing tagged fields) as if that were right.
"""

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from kio.index import load_request_schema, load_response_schema
from kio.schema.errors import ErrorCode
from kio.schema.index import api_key_map, schema_name_map

Classes = list[tuple[Any, bool]]


@cache
def all_messages() -> Classes:
    """Every message class of kio, and whether it is a request."""
    found: Classes = []
    for key, name in api_key_map.items():
        for version in sorted(schema_name_map[name]):
            found += [(load_request_schema(key, version), True), (load_response_schema(key, version), False)]
    return found


def uvarint(value: int) -> bytes:
    encoded = b""
    while value > 0x7F:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


HUGE_UVARINTS = [
    uvarint(2**31 - 1),
    uvarint(2**31),
    uvarint(2**32 - 1),
    uvarint(2**35 - 1),
    b"\xff\xff\xff\xff\xff\x01",
    uvarint(1 << 20),
]
HOSTILE_BYTES = {
    "int16": [struct.pack(">h", value) for value in (-2, -(2**15), 2**15 - 1)],
    "int32": [struct.pack(">i", value) for value in (-2, -(2**31), 2**31 - 1, 1 << 20)],
    "uvarint": HUGE_UVARINTS,
    "tag count": HUGE_UVARINTS,
    "tag": [uvarint(2**31), b"\xff\xff\xff\xff\xff\x01"],
    "tag size": HUGE_UVARINTS,
    "marker": [b"\x00", b"\x02", b"\x7f", b"\x80"],
}
NULLS = {"int16": b"\xff\xff", "int32": b"\xff\xff\xff\xff", "uvarint": b"\x00"}


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a body that says how much follows: a count, a length, a tag."""

    kind: str
    nullable: bool


@dataclass(frozen=True, slots=True)
class Hostile:
    """Write `data` at the mark with this number."""

    mark: int
    data: bytes


def hostile_variants(marks: list[Mark]) -> Iterator[Hostile]:
    """Everything that must be refused, at every mark."""
    for number, mark in enumerate(marks):
        for data in HOSTILE_BYTES[mark.kind]:
            yield Hostile(number, data)
        if mark.kind in NULLS and not mark.nullable:
            yield Hostile(number, NULLS[mark.kind])


# Tags 70, 71 and 300, as a newer peer might write them after those that we know.
UNKNOWN_TAGS = b"\x46\x03new" + b"\x47\x00" + b"\xac\x02\x01\xff"


def build(
    message: Any, seed: int, hostile: Hostile | None = None, *, unknown_tags: bool = False
) -> tuple[bytes, list[Mark]]:
    """Write a body with at least one element in every array, and its marks in order.

    With `unknown_tags` every struct in it, also those in tagged fields, has UNKNOWN_TAGS.
    """
    builder = _Builder(random.Random(seed), hostile, unknown_tags)
    return builder.entity(message), builder.marks


class _Builder:
    def __init__(self, rng: random.Random, hostile: Hostile | None, unknown_tags: bool) -> None:
        self.rng = rng
        self.hostile = hostile
        self.unknown_tags = unknown_tags
        self.marks: list[Mark] = []

    def mark(self, kind: str, data: bytes, *, nullable: bool = False) -> bytes:
        number = len(self.marks)
        self.marks.append(Mark(kind, nullable))
        if self.hostile is not None and self.hostile.mark == number:
            return self.hostile.data
        return data

    def entity(self, entity: Any) -> bytes:
        flexible = entity.__flexible__
        plain = [field for field in fields(entity) if "tag" not in field.metadata]
        tagged = sorted(
            (field for field in fields(entity) if "tag" in field.metadata),
            key=lambda f: int(f.metadata["tag"]),
        )
        body = b"".join(self.field(field, flexible) for field in plain)
        return body + self.tagged_fields(tagged) if flexible else body

    def tagged_fields(self, tagged: list[Any]) -> bytes:
        body = self.mark("tag count", uvarint(len(tagged) + (3 if self.unknown_tags else 0)))
        for field in tagged:
            body += self.mark("tag", uvarint(field.metadata["tag"]))
            # The size comes before its value, but depends on it: it takes the mark, then the value is made.
            number = len(self.marks)
            self.marks.append(Mark("tag size", nullable=False))
            value = self.field(field, flexible=True, in_tag=True)
            size = uvarint(len(value))
            if self.hostile is not None and self.hostile.mark == number:
                size = self.hostile.data
            body += size + value
        return body + UNKNOWN_TAGS if self.unknown_tags else body

    def field(self, field: Any, flexible: bool, in_tag: bool = False) -> bytes:
        kind: Any = field.type
        nullable = get_origin(kind) is UnionType
        if nullable:
            (kind,) = (each for each in get_args(kind) if each is not NoneType)
        if get_origin(kind) is tuple:
            count = self.rng.randint(1, 2)
            head = (
                self.mark("uvarint", uvarint(count + 1), nullable=nullable)
                if flexible
                else self.mark("int32", struct.pack(">i", count), nullable=nullable)
            )
            element = get_args(kind)[0]
            return head + b"".join(
                self.value(field, element, flexible, nullable=False, in_tag=in_tag) for _ in range(count)
            )
        return self.value(field, kind, flexible, nullable=nullable and not in_tag, in_tag=in_tag)

    def value(self, field: Any, kind: Any, flexible: bool, *, nullable: bool, in_tag: bool) -> bytes:
        if is_dataclass(kind):
            return (self.mark("marker", b"\x01", nullable=True) if nullable else b"") + self.entity(kind)
        kafka_type = field.metadata["kafka_type"]
        if kafka_type in ("string", "bytes", "records"):
            return self.text_or_bytes(kafka_type, flexible, nullable)
        return FIXED[kafka_type](self.rng, in_tag)

    def text_or_bytes(self, kafka_type: str, flexible: bool, nullable: bool) -> bytes:
        if kafka_type == "string":
            value = "".join(self.rng.choices("abcé€😀-", k=self.rng.randint(1, 5))).encode()
        else:
            value = self.rng.randbytes(self.rng.randint(1, 6))
        if flexible:
            return self.mark("uvarint", uvarint(len(value) + 1), nullable=nullable) + value
        if kafka_type == "string":
            return self.mark("int16", struct.pack(">h", len(value)), nullable=nullable) + value
        return self.mark("int32", struct.pack(">i", len(value)), nullable=nullable) + value


def _integer(size: int, signed: bool) -> Callable[[random.Random, bool], bytes]:
    def write(rng: random.Random, in_tag: bool) -> bytes:
        # A tagged field with its default value would not be written again.
        low = 1 if in_tag else -(1 << (8 * size - 1)) if signed else 0
        return rng.randint(low, (1 << (8 * size - 1)) - 1).to_bytes(size, "big", signed=signed)

    return write


FIXED: dict[str, Callable[[random.Random, bool], bytes]] = {
    "bool": lambda rng, in_tag: b"\x01" if in_tag else rng.choice([b"\x00", b"\x01"]),
    "int8": _integer(1, signed=True),
    "int16": _integer(2, signed=True),
    "uint16": _integer(2, signed=False),
    "int32": _integer(4, signed=True),
    "int64": _integer(8, signed=True),
    "float64": lambda rng, _: struct.pack(">d", rng.uniform(-1e9, 1e9)),
    "error_code": lambda rng, _: struct.pack(
        ">h", rng.choice([code.value for code in ErrorCode if code > 0])
    ),
    "timedelta_i32": _integer(4, signed=True),
    "timedelta_i64": lambda rng, _: struct.pack(">q", rng.randint(-(10**12), 10**12)),
    "datetime_i64": lambda rng, _: struct.pack(">q", rng.randint(0, 10**10) * 1000),
    "uuid": lambda rng, _: rng.randbytes(15) + b"\x01",
}
