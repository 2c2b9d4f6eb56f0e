"""What mutation starts from: frames that real clients and brokers exchanged, and made ones of every message.

The made ones come from kio's schemas; some have a hostile length, count or tag in a place that their grammar
knows (`schema_bytes`), the others are valid.
"""

from __future__ import annotations

import random
import struct
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from kio.index import load_request_schema, load_response_schema

from protocol.api_keys import ApiKey
from protocol.api_versions import ANSWERED_HERE, FORWARDED, NOT_FORWARDED
from protocol.headers import encode_request_header, encode_response_header, peek_request_header
from protocol.reverse import LinkAttachRequest
from tests.protocol.real_frames import REQUESTS, RESPONSES
from tests.protocol.schema_bytes import build, hostile_variants

CLIENT_ID: Final = "fuzz"
_VARIANTS: Final = 12
_VALID: Final = 8
# Whatever is in them.
_END_CONNECTIONS: Final = {
    *NOT_FORWARDED,
    ApiKey.SASL_HANDSHAKE,
    ApiKey.GET_TELEMETRY_SUBSCRIPTIONS,
    ApiKey.PUSH_TELEMETRY,
}


@dataclass(frozen=True, slots=True)
class Template:
    """A whole frame without its size; its body begins at `body_at`."""

    api_key: int
    version: int
    data: bytes
    body_at: int
    valid: bool = True


class Corpus:
    """Requests to choose from, and the responses to each kind of them; made ones of `keys` only, if given."""

    def __init__(self, seed: int, keys: Collection[int] | None = None) -> None:
        rng = random.Random(seed)
        self.requests: list[Template] = []
        self.responses: dict[tuple[int, int], list[Template]] = defaultdict(list)
        for frame in REQUESTS:
            header = peek_request_header(frame.data)
            body = frame.data[header.body_offset :]
            self.requests.append(_request(frame.api_key, frame.version, body))
        for frame in RESPONSES:
            self.responses[frame.api_key, frame.version].append(
                Template(frame.api_key, frame.version, frame.data, 4)
            )
        for key, (lowest, highest) in {**FORWARDED, **ANSWERED_HERE}.items():
            if keys is not None and key not in keys:
                continue
            for version in range(lowest, highest + 1):
                self._add_made(key, version, rng)
        attach = LinkAttachRequest("hybrid", None, "source", UUID(int=1), 1)
        self.requests.append(_request(ApiKey.LINK_ATTACH, 0, attach.encode()))
        self._all = _by_key(self.requests)
        self._valid = _by_key(
            each for each in self.requests if each.valid and each.api_key not in _END_CONNECTIONS
        )

    def pick(self, rng: random.Random, *, valid: bool = False) -> Template:
        """A request; every API is as likely as any other, whatever number of versions it has."""
        return rng.choice(rng.choice(self._valid if valid else self._all))

    def _add_made(self, key: int, version: int, rng: random.Random) -> None:
        request, response = load_request_schema(key, version), load_response_schema(key, version)
        for body, valid in _bodies(request, rng):
            self.requests.append(_request(key, version, body, valid))
        head = encode_response_header(key, version, 0)
        for body, valid in _bodies(response, rng):
            self.responses[key, version].append(Template(key, version, head + body, len(head), valid))


def _bodies(message: Any, rng: random.Random) -> list[tuple[bytes, bool]]:
    seed = rng.randrange(1 << 30)
    body, marks = build(message, seed)
    variants = list(hostile_variants(marks))
    chosen = rng.sample(variants, min(_VARIANTS, len(variants)))
    valid = [body, *(build(message, seed + more)[0] for more in range(1, _VALID))]
    tagged = [build(message, seed, unknown_tags=True)[0]] if message.__flexible__ else []
    invalid = [build(message, seed, hostile)[0] for hostile in chosen]
    return [(each, True) for each in valid] + [(each, False) for each in tagged + invalid]


def _request(key: int, version: int, body: bytes, valid: bool = True) -> Template:
    head = encode_request_header(key, version, 0, CLIENT_ID)
    return Template(key, version, head + body, len(head), valid)


def _by_key(templates: Iterable[Template]) -> list[list[Template]]:
    found: dict[int, list[Template]] = defaultdict(list)
    for template in templates:
        found[template.api_key].append(template)
    return list(found.values())


def sized(frame: bytes) -> bytes:
    """The frame with its size before it."""
    return struct.pack(">i", len(frame)) + frame
