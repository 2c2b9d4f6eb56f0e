"""The messages of SASL OAUTHBEARER (RFC 7628) as Kafka speaks it (KIP-255, KIP-342), without I/O."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Final

from protocol.sasl import SaslError
from protocol.scram import unescape_name

# What a client answers to the server's error, after which the server fails the exchange (RFC 7628 §3.2.3).
ACKNOWLEDGED: Final = b"\x01"

_PREFIX: Final = "Invalid OAUTHBEARER client first message"
# Kafka's OAuthBearerClientInitialResponse, with the characters of a token as RFC 6750 §2.1 has them.
_MESSAGE: Final = re.compile(
    "n,(?:a=(?P<authzid>(?:[^=,\0\1]|=2C|=3D)+))?,\1(?P<pairs>(?:[A-Za-z]+=[\x21-\x7e \t\r\n]+\1)*)\1"
)
_AUTH: Final = re.compile(r"(?P<scheme>\w+) +(?P<token>[-_.~+/A-Za-z0-9]+=*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class BearerMessage:
    """A client's first message; `authorization_id` is empty where it has none."""

    token: str = field(repr=False)
    authorization_id: str


def parse_bearer_message(message: bytes) -> BearerMessage:
    """The token that a client shows; SaslError, whose text may be shown to the client."""
    try:
        matched = _MESSAGE.fullmatch(message.decode())
    except UnicodeDecodeError:
        matched = None
    if matched is None:
        raise SaslError(_PREFIX)
    pairs = dict(pair.split("=", 1) for pair in matched["pairs"].split("\1") if pair)
    authorization = pairs.get("auth")
    if authorization is None:
        raise SaslError(f"{_PREFIX}: 'auth' not specified")
    auth = _AUTH.fullmatch(authorization)
    if auth is None:
        raise SaslError(f"{_PREFIX}: invalid 'auth' format")
    if auth["scheme"].lower() != "bearer":
        raise SaslError("Invalid scheme in OAUTHBEARER client first message")
    return BearerMessage(auth["token"], unescape_name(matched["authzid"] or ""))


def error_challenge(status: str, scope: str | None = None) -> bytes:
    """The server's error, which the client acknowledges before the exchange fails."""
    return json.dumps({"status": status} | ({} if scope is None else {"scope": scope})).encode()
