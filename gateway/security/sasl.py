"""The server side of SASL exchanges: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 (KIP-84), OAUTHBEARER (KIP-255).

An exchange takes what the client sends until it is accepted or refused. What is told to a client whose
password is wrong is what it is told when there is no such user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeAlias

import structlog

from gateway.security.credentials import SCRAM_MECHANISMS, Credentials, PlainTokenError, parse_plain_token
from gateway.security.principals import Principal, user
from gateway.security.tokens import TokenRefused, TokenValidator
from protocol.oauthbearer import ACKNOWLEDGED, error_challenge, parse_bearer_message
from protocol.sasl import SaslError
from protocol.scram import ScramServer

log = structlog.get_logger(__name__)

# One text for a wrong password and a wrong name, as Kafka's PlainServerCallbackHandler has it.
BAD_CREDENTIALS: Final = "Authentication failed: Invalid username or password"


@dataclass(frozen=True, slots=True)
class Challenge:
    """The exchange goes on with this message."""

    message: bytes


@dataclass(frozen=True, slots=True)
class Accepted:
    """It is known who the client is, until `expires_at` (Unix time in seconds; None: for ever)."""

    principal: Principal
    message: bytes = b""
    expires_at: float | None = None


class SaslRefused(Exception):
    """The exchange failed; the text is for the log, `shown` for the client (None: Kafka's general one)."""

    def __init__(self, reason: str, shown: str | None = None) -> None:
        super().__init__(reason)
        self.shown = shown


class Exchange(Protocol):
    """One authentication of one client."""

    async def respond(self, message: bytes) -> Challenge | Accepted:
        """What follows from the client's message; SaslRefused ends the exchange."""
        ...


Mechanisms: TypeAlias = Mapping[str, Callable[[], Exchange]]


def mechanisms(
    names: Iterable[str], credentials: Credentials, tokens: TokenValidator | None = None
) -> Mechanisms:
    """What makes exchanges, by mechanism, in the order of `names`; KeyError for an unknown one."""
    known: dict[str, Callable[[], Exchange]] = {"PLAIN": partial(PlainExchange, credentials)}
    for scram in SCRAM_MECHANISMS:
        known[scram] = partial(ScramExchange, scram, credentials)
    if tokens is not None:
        known["OAUTHBEARER"] = partial(BearerExchange, tokens)
    return {name: known[name] for name in names}


class PlainExchange:
    """RFC 4616: one message with name and password."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def respond(self, message: bytes) -> Challenge | Accepted:
        """Accepted, or SaslRefused."""
        try:
            name, password = parse_plain_token(message)
        except PlainTokenError as error:
            raise SaslRefused(str(error), str(error)) from None
        principal = await self._credentials.verify_plain(name, password)
        if principal is None:
            raise SaslRefused(BAD_CREDENTIALS, BAD_CREDENTIALS)
        return Accepted(principal)


class ScramExchange:
    """RFC 5802: two messages, of which neither shows the password."""

    def __init__(self, mechanism: str, credentials: Credentials) -> None:
        self._mechanism = mechanism
        self._credentials = credentials
        self._server = ScramServer(mechanism)
        self._name: str | None = None

    async def respond(self, message: bytes) -> Challenge | Accepted:
        """A challenge, then Accepted; SaslRefused."""
        try:
            if self._name is None:
                name = self._server.read_first(message)
                keys = self._credentials.scram(name, self._mechanism)
                self._name = name
                return Challenge(
                    self._server.challenge(
                        salt=keys.salt,
                        iterations=keys.iterations,
                        stored_key=keys.stored_key,
                        server_key=keys.server_key,
                    )
                )
            return Accepted(user(self._name), self._server.finish(message))
        except SaslError as error:
            raise SaslRefused(str(error)) from None


class BearerExchange:
    """RFC 7628: one message with a token; one that is refused is told why, and then refused."""

    def __init__(self, tokens: TokenValidator) -> None:
        self._tokens = tokens
        self._refusal: TokenRefused | None = None

    async def respond(self, message: bytes) -> Challenge | Accepted:
        """Accepted, or a challenge with the error; SaslRefused for whatever follows that."""
        if self._refusal is not None:
            shown = error_challenge(self._refusal.status).decode() if message == ACKNOWLEDGED else None
            raise SaslRefused(str(self._refusal), shown)
        try:
            first = parse_bearer_message(message)
            bearer = await self._tokens.validate(first.token)
        except SaslError as error:
            raise SaslRefused(str(error)) from None
        except TokenRefused as refusal:
            # Here already: many clients close the connection when they read the error.
            log.warning("bearer.refused", reason=str(refusal))
            self._refusal = refusal
            return Challenge(error_challenge(refusal.status))
        if first.authorization_id not in {"", bearer.principal.name}:
            text = (
                "Authentication failed: Client requested an authorization id "
                f"({first.authorization_id}) that is different from the token's principal name "
                f"({bearer.principal.name})"
            )
            raise SaslRefused(text, text)
        return Accepted(bearer.principal, expires_at=bearer.expires_at)
