"""DescribeTransactions responses (v0, KIP-664), by hand: what is refused is added, topics are left out.

A transaction that has not begun has the start time -1, which the library of messages cannot read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from protocol.errors import DecodeError
from protocol.fields import (
    COMPACT,
    INT16,
    INT32,
    INT64,
    MALFORMED,
    STRING,
    TAGS,
    Buffer,
    Layout,
    expect_string,
    skip,
)

_THROTTLE: Final = INT32.size
# State, timeout, start, producer id and epoch.
_MIDDLE: Final[Layout] = (STRING, 4 + 8 + 8 + 2)
_TOPIC_END: Final[Layout] = ((4,), TAGS)


def show_transactions(
    body: Buffer, asked: Collection[str], refused: Collection[str], code: int, visible: Callable[[str], bool]
) -> bytes:
    """The response about `asked`, with `code` for those `refused`, and with `visible` topics; DecodeError."""
    try:
        theirs, end = _read(body, visible)
    except MALFORMED as error:
        raise DecodeError(f"DescribeTransactions response: {error}") from error
    states: list[Buffer] = []
    for name in dict.fromkeys(asked):
        states += (refused_transaction(name, code),) if name in refused else theirs.pop(name, ())
    for rest in theirs.values():
        states += rest
    return b"".join((body[:_THROTTLE], COMPACT.encode_count(len(states)), *states, body[end:]))


def refused_transactions(names: Collection[str], code: int) -> bytes:
    """A response that refuses all of them."""
    states = [refused_transaction(name, code) for name in names]
    return b"".join((INT32.pack(0), COMPACT.encode_count(len(states)), *states, COMPACT.no_tags))


def refused_transaction(name: str, code: int) -> bytes:
    """One transaction that is refused; all the rest is empty."""
    numbers = INT32.pack(0) + INT64.pack(0) + INT64.pack(0) + INT16.pack(0)
    head = INT16.pack(code) + COMPACT.encode_string(name) + COMPACT.encode_string("")
    return head + numbers + COMPACT.encode_count(0) + COMPACT.no_tags


def _read(body: Buffer, visible: Callable[[str], bool]) -> tuple[dict[str, list[bytes]], int]:
    found: dict[str, list[bytes]] = {}
    count, at = COMPACT.read_count(body, _THROTTLE)
    for _ in range(count):
        start = at
        name, at = COMPACT.read_string(body, at + INT16.size)
        topics_at = at = skip(body, at, _MIDDLE, COMPACT)
        topics, at = COMPACT.read_count(body, at)
        kept = []
        for _ in range(topics):
            topic_at = at
            topic, at = COMPACT.read_string(body, at)
            at = skip(body, at, _TOPIC_END, COMPACT)
            if visible(expect_string(topic)):
                kept.append(body[topic_at:at])
        tags_at = at
        at = skip(body, at, (TAGS,), COMPACT)
        parts = (body[start:topics_at], COMPACT.encode_count(len(kept)), *kept, body[tags_at:at])
        found.setdefault(expect_string(name), []).append(b"".join(parts))
    if at > len(body):
        raise DecodeError(f"a transaction ends at byte {at} of {len(body)}")
    return found, at
