"""Bearer tokens: signed JSON Web Tokens (RFC 7519) of one issuer for us, as Kafka checks them (KIP-768).

A token must be signed by a key of the issuer's key set with an allowed algorithm, name its issuer, us as its
audience, and whom it is about, and must not have expired. Unsecured tokens (`alg` none) never pass.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import jwt

from gateway.security.principals import Principal, user

INVALID_TOKEN: Final = "invalid_token"  # noqa: S105 - a status of RFC 6750
INSUFFICIENT_SCOPE: Final = "insufficient_scope"
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f]{1,255}")


class TokenRefused(Exception):
    """A token that lets nobody in; `status` may be told the client, the text is for the log."""

    def __init__(self, reason: str, status: str = INVALID_TOKEN) -> None:
        super().__init__(reason)
        self.status = status


class TokenKeys(Protocol):
    """The issuer's keys."""

    async def find(self, key_id: str | None) -> jwt.PyJWK | None:
        """The key of that id, None if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whom a token is about, and until when, in seconds of Unix time."""

    principal: Principal
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """What is asked of a token; see `listeners[].oauthbearer` of the configuration."""

    issuer: str
    audience: Sequence[str]
    algorithms: Sequence[str]
    clock_skew_s: float = 30.0
    principal_claim: str = "sub"
    scope_claim: str = "scope"
    required_scopes: Collection[str] = ()


class TokenValidator:
    """Checks tokens against `rules` and the keys of `keys`."""

    def __init__(self, rules: TokenRules, keys: TokenKeys, *, clock: Callable[[], float] = time.time) -> None:
        self._rules = rules
        self._keys = keys
        self._clock = clock

    async def validate(self, token: str) -> Bearer:
        """Whom it lets in; TokenRefused."""
        rules = self._rules
        key = await self._key(token)
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=list(rules.algorithms),
                issuer=rules.issuer,
                audience=list(rules.audience) or None,
                leeway=rules.clock_skew_s,
                options={"require": ["exp", "iss"], "verify_aud": bool(rules.audience)},
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise TokenRefused(f"{type(error).__name__}: {error}") from error
        missing = set(rules.required_scopes) - scopes(claims.get(rules.scope_claim))
        if missing:
            raise TokenRefused(f"the token lacks scope {' '.join(sorted(missing))}", INSUFFICIENT_SCOPE)
        name = claims.get(rules.principal_claim)
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name == "ANONYMOUS":
            raise TokenRefused(f"claim {rules.principal_claim!r} of the token is not the name of a user")
        expires_at = float(claims["exp"])
        if expires_at <= self._clock():
            # Taken only because clocks may differ: for as long as they may.
            expires_at += rules.clock_skew_s
        return Bearer(user(name), expires_at)

    async def _key(self, token: str) -> Any:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise TokenRefused(f"not a token: {error}") from error
        algorithm, key_id = header.get("alg"), header.get("kid")
        # Before the keys are looked at: a token that cannot pass must not cause a fetch.
        if algorithm not in self._rules.algorithms:
            raise TokenRefused(f"algorithm {str(algorithm)[:20]!r} is not allowed")
        found = await self._keys.find(key_id)
        if found is None:
            raise TokenRefused(f"no key {str(key_id)[:100]!r} in the key set")
        # Of the key only, so that the token's own algorithm is the one that is verified with.
        return found.key


def scopes(claim: object) -> frozenset[str]:
    """The scopes of a claim: a text with blanks between them (RFC 8693) or a list."""
    if isinstance(claim, str):
        return frozenset(claim.split())
    if isinstance(claim, list):
        return frozenset(each for each in claim if isinstance(each, str))
    return frozenset()
