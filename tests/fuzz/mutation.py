"""Changes to frames that a decoder may not have thought of; the same seed makes the same changes."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Final

_NUMBERS: Final = (
    [struct.pack(">h", n) for n in (-(2**15), -2, -1, 0, 1, 255, 2**15 - 1)]
    + [struct.pack(">i", n) for n in (-(2**31), -2, -1, 0, 1, 65_535, 1 << 20, 2**31 - 1)]
    + [struct.pack(">q", n) for n in (-(2**63), -2, -1, 0, 2**63 - 1)]
    # Varints: too long, too large, one less than nothing.
    + [b"\xff\xff\xff\xff\x7f", b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x08", b"\x80" * 12, b"\x00"]
    + [b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x80\x80\x40"]
)
# What somebody would like to reach, and what is no text.
_TEXTS: Final = (
    b"_causeway-state",
    b"_causeway-work",
    b"__consumer_offsets",
    b"\xff\xfe\x00",
    b"\xed\xa0\x80",
    b"A" * 300,
    b"",
)
_MOST_CHANGES: Final = 3


def mutate(rng: random.Random, data: bytes, other: bytes, keep: int) -> bytes:
    """Some changes to `data` behind its first `keep` bytes; `other` is a frame to take pieces from."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, _MOST_CHANGES)):
        rng.choice(_CHANGES)(rng, changed, other, min(keep, len(changed)))
    return bytes(changed)


def alter(rng: random.Random, data: bytes, keep: int) -> bytes:
    """One byte of `data` behind its first `keep` changed: mostly a value, so that the frame stays a frame."""
    changed = bytearray(data)
    _byte(rng, changed, b"", keep)
    return bytes(changed)


def _place(rng: random.Random, data: bytearray, keep: int) -> int:
    return rng.randint(keep, len(data))


def _flip(rng: random.Random, data: bytearray, other: bytes, keep: int) -> None:
    if len(data) > keep:
        data[rng.randrange(keep, len(data))] ^= 1 << rng.randrange(8)


def _byte(rng: random.Random, data: bytearray, other: bytes, keep: int) -> None:
    if len(data) > keep:
        data[rng.randrange(keep, len(data))] = rng.choice((0, 1, 2, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _number(rng: random.Random, data: bytearray, other: bytes, keep: int) -> None:
    number, at = rng.choice(_NUMBERS), _place(rng, data, keep)
    data[at : at + len(number)] = number


def _insert_number(rng: random.Random, data: bytearray, other: bytes, keep: int) -> None:
    at = _place(rng, data, keep)
    data[at:at] = rng.choice(_NUMBERS)


def _text(rng: random.Random, data: bytearray, other: bytes, keep: int) -> None:
    at, text = _place(rng, data, keep), rng.choice(_TEXTS)
    lengths = (b"", struct.pack(">h", len(text)), bytes([(len(text) + 1) & 0x7F]))
    data[at : at + rng.choice((0, len(text)))] = rng.choice(lengths) + text


def _truncate(rng: random.Random, data: bytearray, other: bytes, keep: int) -> None:
    del data[_place(rng, data, keep) :]


def _remove(rng: random.Random, data: bytearray, other: bytes, keep: int) -> None:
    at = _place(rng, data, keep)
    del data[at : at + rng.randint(1, 8)]


def _repeat(rng: random.Random, data: bytearray, other: bytes, keep: int) -> None:
    at = _place(rng, data, keep)
    piece = bytes(data[at : at + rng.randint(1, 64)])
    data[at:at] = piece * rng.choice((1, 1, 1, 2, 50))


def _extend(rng: random.Random, data: bytearray, other: bytes, keep: int) -> None:
    data += rng.randbytes(rng.choice((1, 2, 4, 100, 5_000)))


def _splice(rng: random.Random, data: bytearray, other: bytes, keep: int) -> None:
    data[_place(rng, data, keep) :] = other[rng.randint(0, len(other)) :]


def _noise(rng: random.Random, data: bytearray, other: bytes, keep: int) -> None:
    at = _place(rng, data, keep)
    size = rng.randint(1, 16)
    data[at : at + size] = rng.randbytes(size)


_CHANGES: Final[tuple[Callable[[random.Random, bytearray, bytes, int], None], ...]] = (
    _flip,
    _flip,
    _byte,
    _byte,
    _number,
    _number,
    _insert_number,
    _text,
    _truncate,
    _remove,
    _repeat,
    _extend,
    _splice,
    _noise,
)
