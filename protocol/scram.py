"""The server side of SCRAM (RFC 5802, RFC 7677) as Kafka speaks it (KIP-84), without I/O.

No channel binding; names are taken as UTF-8 without SASLprep. Delegation tokens (KIP-48) are refused, other
extensions ignored, as Kafka's ScramSaslServer does. For a user that does not exist the exchange can be played
with keys that no password has: it then ends as one with a wrong password does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from typing import Final

from protocol.sasl import HASHES, SaslError

# Kafka's ScramMessages, except that names may be any UTF-8 and that `m=`, which must be refused, is.
_NAME: Final = r"(?:[^=,\0]|=2C|=3D)+"
_NONCE: Final = r"[\x21-\x2b\x2d-\x7e]+"
_EXTENSIONS: Final = r"(?:,[A-Za-z]+=[^,\0]+)*"
_BASE64: Final = r"[A-Za-z0-9+/]*={0,2}"
_CLIENT_FIRST: Final = re.compile(
    rf"(?P<gs2>[ny],(?:a=(?P<authzid>{_NAME}))?,)"
    rf"(?P<bare>n=(?P<name>{_NAME}),r=(?P<nonce>{_NONCE})(?P<extensions>{_EXTENSIONS}))"
)
_CLIENT_FINAL: Final = re.compile(
    rf"(?P<signed>c=(?P<channel>{_BASE64}),r=(?P<nonce>{_NONCE}){_EXTENSIONS}),p=(?P<proof>{_BASE64})"
)
_TOKEN: Final = "tokenauth=true"  # noqa: S105 - an extension's name
_NONCE_BYTES: Final = 24


class ScramServer:
    """One exchange: `read_first`, `challenge`, `finish`; SaslError ends it."""

    def __init__(self, mechanism: str, *, nonce: str | None = None) -> None:
        self._hash = HASHES[mechanism]
        self._own_nonce = nonce or secrets.token_urlsafe(_NONCE_BYTES)
        self._gs2 = self._bare = self._nonce = self._server_first = ""
        self._stored_key = self._server_key = b""

    def read_first(self, message: bytes) -> str:
        """The name of the user who wants in."""
        first = _match(_CLIENT_FIRST, message, "first")
        if _TOKEN in first["extensions"].split(",")[1:]:
            raise SaslError("delegation tokens are not known here")
        name = unescape_name(first["name"])
        if first["authzid"] is not None and unescape_name(first["authzid"]) != name:
            raise SaslError("the authorization id is another name than the user's")
        self._gs2, self._bare = first["gs2"], first["bare"]
        self._nonce = first["nonce"] + self._own_nonce
        return name

    def challenge(self, *, salt: bytes, iterations: int, stored_key: bytes, server_key: bytes) -> bytes:
        """The server's first message; the keys are what `finish` holds the client's proof against."""
        self._stored_key, self._server_key = stored_key, server_key
        self._server_first = f"r={self._nonce},s={base64.b64encode(salt).decode()},i={iterations}"
        return self._server_first.encode()

    def finish(self, message: bytes) -> bytes:
        """The server's last message, with its own proof; SaslError if the password is wrong."""
        final = _match(_CLIENT_FINAL, message, "final")
        if final["nonce"] != self._nonce or not self._server_first:
            raise SaslError("the nonce of the client's final SCRAM message is not the server's")
        if _decode(final["channel"]) != self._gs2.encode():
            raise SaslError("the channel binding of the client's final SCRAM message is wrong")
        signed = f"{self._bare},{self._server_first},{final['signed']}".encode()
        signature = hmac.digest(self._stored_key, signed, self._hash)
        proof = _decode(final["proof"])
        if len(proof) != len(signature):
            raise SaslError("the client's SCRAM proof has a wrong length")
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        if not hmac.compare_digest(hashlib.new(self._hash, client_key).digest(), self._stored_key):
            raise SaslError("the client's SCRAM proof is wrong")
        verifier = hmac.digest(self._server_key, signed, self._hash)
        return b"v=" + base64.b64encode(verifier)


def unescape_name(name: str) -> str:
    """A SASL name (RFC 5802 §5.1) as its user writes it."""
    return name.replace("=2C", ",").replace("=3D", "=")


def _match(form: re.Pattern[str], message: bytes, which: str) -> re.Match[str]:
    try:
        matched = form.fullmatch(message.decode())
    except UnicodeDecodeError:
        matched = None
    if matched is None:
        raise SaslError(f"the client's {which} SCRAM message is malformed")
    return matched


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise SaslError("the client's final SCRAM message is not base64") from error
