"""Which topics a ShareFetch response (v1-2, KIP-932) has, found without decoding it and its records."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from protocol.errors import DecodeError
from protocol.fields import BYTES, COMPACT, MALFORMED, STRING, TAGS, Buffer, Layout, skip

# Throttle time and error, its message, for how long records are acquired.
_HEAD: Final[Layout] = (6, STRING, 4)
_ID_BYTES: Final = 16
# Errors, the leader, records, which of them are acquired.
_PARTITIONS: Final[Layout] = ((6, STRING, 2, STRING, 8, TAGS, BYTES, (18, TAGS), TAGS), TAGS)


def share_fetched_topics(body: Buffer) -> list[UUID]:
    """The ids of the topics in a response, in its order; DecodeError."""
    found = []
    try:
        count, at = COMPACT.read_count(body, skip(body, 0, _HEAD, COMPACT))
        for _ in range(count):
            found.append(UUID(bytes=bytes(body[at : at + _ID_BYTES])))
            at = skip(body, at + _ID_BYTES, _PARTITIONS, COMPACT)
    except (*MALFORMED, ValueError) as error:
        raise DecodeError(f"ShareFetch response: {error}") from error
    if at > len(body):
        raise DecodeError(f"ShareFetch response: a topic ends at byte {at} of {len(body)}")
    return found
