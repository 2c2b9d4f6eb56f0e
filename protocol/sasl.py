"""The client side of SASL PLAIN (RFC 4616) and SCRAM (RFC 5802, RFC 7677) as in Kafka (KIP-84), without I/O.

Kafka does not prepare names and passwords (no SASLprep, no channel binding): they are taken as UTF-8.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import Final, Protocol

from protocol.errors import ProtocolError

# Kafka's ScramMechanism.minIterations; the upper bound keeps a hostile server from keeping us busy.
_MIN_ITERATIONS: Final = 4096
_MAX_ITERATIONS: Final = 1_000_000
HASHES: Final = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}
MECHANISMS: Final = ("PLAIN", *HASHES)


class SaslError(ProtocolError):
    """The server broke the mechanism's rules, refused us, or could not prove that it knows the password."""


class SaslClient(Protocol):
    """One exchange: `respond` to each challenge, the first being empty, until `done` is True."""

    done: bool

    def respond(self, challenge: bytes) -> bytes | None:
        """The answer to the server's challenge, None when there is nothing left to say; SaslError."""
        ...


def sasl_client(mechanism: str, username: str, password: str) -> SaslClient:
    """A new exchange by the named mechanism; SaslError if we do not know it."""
    if mechanism == "PLAIN":
        return PlainClient(username, password)
    if mechanism in HASHES:
        return ScramClient(mechanism, username, password)
    raise SaslError(f"unknown SASL mechanism {mechanism!r}; known are {', '.join(MECHANISMS)}")


class PlainClient:
    """RFC 4616 with an empty authorization id."""

    def __init__(self, username: str, password: str) -> None:
        if "\0" in username or "\0" in password:
            raise SaslError("a name or password for PLAIN may not contain NUL")
        self.done = False
        self._message: bytes | None = f"\0{username}\0{password}".encode()

    def respond(self, challenge: bytes) -> bytes | None:
        """The one message, then None; SaslError if the server answers with anything."""
        if challenge:
            raise SaslError("unexpected data from the server in PLAIN")
        message, self._message = self._message, None
        self.done = message is None
        return message


class ScramClient:
    """RFC 5802 §3 without channel binding; the server's signature is verified before `done`."""

    def __init__(self, mechanism: str, username: str, password: str, *, nonce: str | None = None) -> None:
        self.done = False
        self._hash = HASHES[mechanism]
        self._password = password.encode()
        self._nonce = nonce or secrets.token_urlsafe(24)
        self._first_bare = f"n={_escape(username)},r={self._nonce}"
        self._server_signature: bytes | None = None
        self._step = self._client_first

    def respond(self, challenge: bytes) -> bytes | None:
        """The next message, None after the server's signature was found right; SaslError."""
        return self._step(challenge)

    def _client_first(self, challenge: bytes) -> bytes | None:
        if challenge:
            raise SaslError("unexpected data from the server before the first SCRAM message")
        self._step = self._client_final
        return f"n,,{self._first_bare}".encode()

    def _client_final(self, challenge: bytes) -> bytes | None:
        server_first, attributes = _parse(challenge)
        nonce = attributes.get("r", "")
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise SaslError("the server's SCRAM nonce does not continue ours")
        salt = _base64(attributes.get("s", ""), "salt")
        if not salt:
            raise SaslError("the server's SCRAM salt is empty")
        salted = hashlib.pbkdf2_hmac(self._hash, self._password, salt, _iterations(attributes.get("i", "")))
        client_key = self._hmac(salted, b"Client Key")
        stored_key = hashlib.new(self._hash, client_key).digest()
        # c= is the GS2 header "n,,": no channel binding.
        without_proof = f"c=biws,r={nonce}"
        signed = f"{self._first_bare},{server_first},{without_proof}".encode()
        signature = self._hmac(stored_key, signed)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self._server_signature = self._hmac(self._hmac(salted, b"Server Key"), signed)
        self._step = self._verify_server
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()

    def _verify_server(self, challenge: bytes) -> bytes | None:
        _, attributes = _parse(challenge)
        if "e" in attributes:
            raise SaslError(f"the server refused the SCRAM exchange: {attributes['e']}")
        signature = _base64(attributes.get("v", ""), "signature")
        if not hmac.compare_digest(signature, self._server_signature or b""):
            raise SaslError("the server's SCRAM signature is wrong: it does not know the password")
        self.done = True
        return None

    def _hmac(self, key: bytes, data: bytes) -> bytes:
        return hmac.digest(key, data, self._hash)


def _escape(name: str) -> str:
    return name.replace("=", "=3D").replace(",", "=2C")


def _parse(message: bytes) -> tuple[str, dict[str, str]]:
    try:
        text = message.decode()
    except UnicodeDecodeError as error:
        raise SaslError("the server's SCRAM message is not UTF-8") from error
    attributes: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or len(name) != 1 or name in attributes:
            raise SaslError("the server's SCRAM message is malformed")
        attributes[name] = value
    if "m" in attributes:
        raise SaslError("the server demands a SCRAM extension that nobody defined")
    return text, attributes


def _base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SaslError(f"the server's SCRAM {what} is not base64") from error


def _iterations(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise SaslError("the server's SCRAM iteration count is not a number")
    iterations = int(text)
    if not _MIN_ITERATIONS <= iterations <= _MAX_ITERATIONS:
        raise SaslError(f"the server's SCRAM iteration count {iterations} is not in 4096..1000000")
    return iterations
