"""Passwords: salted SCRAM keys (RFC 5802), and SASL PLAIN (RFC 4616) and HTTP Basic checked against them.

A password is never kept: static users of the configuration become keys at start, as users of the state are.
A user that does not exist costs the same time as a wrong password, and in SCRAM shows a salt of its own that
stays the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.security.principals import Principal, user
from protocol.sasl import HASHES

SCRAM_SHA_256 = "SCRAM-SHA-256"
SCRAM_SHA_512 = "SCRAM-SHA-512"
SCRAM_MECHANISMS = tuple(HASHES)
# Kafka's minimum and default of both mechanisms (ScramMechanism).
DEFAULT_ITERATIONS = 4096
_SALT_BYTES = 20
# Passwords are checked in threads; more at once than this only helps whoever floods the listener.
_CHECKS_AT_ONCE = 4


class Keys(Protocol):
    """What a stored user has per mechanism; ScramKeys here and the state's record both fit."""

    @property
    def salt(self) -> bytes: ...
    @property
    def iterations(self) -> int: ...
    @property
    def stored_key(self) -> bytes: ...
    @property
    def server_key(self) -> bytes: ...


class StoredUser(Protocol):
    """A user of the state topic: keys by SCRAM mechanism."""

    @property
    def scram(self) -> Mapping[str, Keys]: ...


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """The keys that RFC 5802 §3 lets a server keep instead of the password."""

    salt: bytes
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


def scram_keys(
    password: str, mechanism: str, iterations: int = DEFAULT_ITERATIONS, salt: bytes | None = None
) -> ScramKeys:
    """Keys of `password`, salted at random unless told; ValueError if the mechanism is unknown or weak."""
    if mechanism not in HASHES:
        raise ValueError(f"unknown SCRAM mechanism {mechanism}")
    if iterations < DEFAULT_ITERATIONS:
        raise ValueError(f"{mechanism} needs at least {DEFAULT_ITERATIONS} iterations, not {iterations}")
    salt = os.urandom(_SALT_BYTES) if salt is None else salt
    algorithm = HASHES[mechanism]
    salted = hashlib.pbkdf2_hmac(algorithm, password.encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", algorithm)
    return ScramKeys(
        salt=salt,
        iterations=iterations,
        stored_key=hashlib.new(algorithm, client_key).digest(),
        server_key=hmac.digest(salted, b"Server Key", algorithm),
    )


def verify(password: str, keys: Keys, mechanism: str) -> bool:
    """Whether `password` gives these keys, compared in constant time."""
    made = scram_keys(password, mechanism, keys.iterations, keys.salt)
    return hmac.compare_digest(made.stored_key, keys.stored_key)


class PlainTokenError(ValueError):
    """A SASL PLAIN token that breaks RFC 4616; the text may be shown to the client."""


def parse_plain_token(token: bytes) -> tuple[str, str]:
    """User name and password of a SASL PLAIN token, by the rules of Kafka's PlainSaslServer."""
    parts = token.split(b"\0")
    if len(parts) != 3:
        raise PlainTokenError(
            f"Invalid SASL/PLAIN response: expected 3 tokens, got {len(parts)}",
        )
    try:
        authorization_id, name, password = (part.decode() for part in parts)
    except UnicodeDecodeError:
        raise PlainTokenError("Invalid SASL/PLAIN response: not UTF-8") from None
    if not name:
        raise PlainTokenError("Authentication failed: username not specified")
    if not password:
        raise PlainTokenError("Authentication failed: password not specified")
    if authorization_id and authorization_id != name:
        raise PlainTokenError(
            "Authentication failed: Client requested an authorization id that is different from username"
        )
    return name, password


class Credentials:
    """The users of this gateway: static ones of the configuration first, then those of the state.

    `secret` makes the salts of users that do not exist; gateways that share it show the same ones.
    """

    def __init__(
        self,
        static: Mapping[str, str],
        lookup: Callable[[str], StoredUser | None],
        *,
        secret: bytes | None = None,
    ) -> None:
        self._static = {
            name: {mechanism: scram_keys(password, mechanism) for mechanism in SCRAM_MECHANISMS}
            for name, password in static.items()
        }
        self._lookup = lookup
        self._secret = secret or os.urandom(32)
        self._at_once = asyncio.Semaphore(_CHECKS_AT_ONCE)

    async def verify_plain(self, username: str, password: str) -> Principal | None:
        """The principal, or None: no such user or wrong password, which take equally long."""
        mechanism, keys = SCRAM_SHA_512, self._find(username, SCRAM_SHA_512)
        if keys is None:
            found = self._find(username, SCRAM_SHA_256)
            if found is not None:
                mechanism, keys = SCRAM_SHA_256, found
        async with self._at_once:
            right = await asyncio.to_thread(
                verify, password, keys or self._nobody(username, mechanism), mechanism
            )
        return user(username) if right and keys is not None else None

    def scram(self, username: str, mechanism: str) -> Keys:
        """The user's keys; of one that has none, keys that no password has, the same at every call."""
        # Made in any case, so that both take the same time.
        nobody = self._nobody(username, mechanism)
        return self._find(username, mechanism) or nobody

    def _find(self, username: str, mechanism: str) -> Keys | None:
        static = self._static.get(username)
        if static is not None:
            return static[mechanism]
        stored = self._lookup(username)
        return None if stored is None else stored.scram.get(mechanism)

    def _nobody(self, username: str, mechanism: str) -> ScramKeys:
        def derive(what: str) -> bytes:
            return hmac.digest(self._secret, f"{what}\0{mechanism}\0{username}".encode(), "sha512")

        size = hashlib.new(HASHES[mechanism]).digest_size
        return ScramKeys(
            salt=derive("salt")[:_SALT_BYTES],
            iterations=DEFAULT_ITERATIONS,
            stored_key=derive("stored key")[:size],
            server_key=derive("server key")[:size],
        )
