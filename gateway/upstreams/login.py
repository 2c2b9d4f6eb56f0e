"""Our SASL login at a broker, and its renewal before the session that the broker grants is over (KIP-368)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.upstreams.errors import AuthenticationFailed
from protocol.api_keys import ApiKey
from protocol.messages import request_class
from protocol.sasl import SaslError, sasl_client

# Java's clients take between 85 and 95 %.
_RENEW_AFTER: Final = 0.85
# A broker renews a session once in a second at most.
_MIN_INTERVAL_S: Final = 1.05

# Sends a message and returns its response.
Ask = Callable[[Any], Awaitable[Any]]


@dataclass(slots=True)
class Login:
    """Who we are on one connection, in which versions of the requests; `due_at` by `time.monotonic`."""

    peer: str
    mechanism: str
    username: str = field(repr=False)
    password: str = field(repr=False)
    handshake_version: int
    authenticate_version: int
    lifetime_ms: int = 0
    due_at: float = float("inf")

    @property
    def due(self) -> bool:
        """Whether it should be renewed before the next request."""
        return time.monotonic() >= self.due_at

    async def perform(self, ask: Ask) -> None:
        """Logs in, or renews the login; AuthenticationFailed, and what `ask` raises."""
        began = time.monotonic()
        try:
            client = sasl_client(self.mechanism, self.username, self.password)
            shake = request_class(ApiKey.SASL_HANDSHAKE, self.handshake_version)
            response = await ask(shake(mechanism=self.mechanism))
            if response.error_code != ErrorCode.none:
                offered = ", ".join(response.mechanisms) or "none"
                raise AuthenticationFailed(
                    f"{self.peer} does not offer SASL {self.mechanism}; it offers {offered}"
                )
            challenge = b""
            while not client.done:
                # A SCRAM reply costs thousands of hash rounds, of which the server chooses the number.
                answer = await asyncio.to_thread(client.respond, challenge)
                if answer is None:
                    break
                challenge = await self._exchange(ask, answer)
        except SaslError as error:
            raise AuthenticationFailed(f"{self.peer}: {error}") from error
        lifetime_s = self.lifetime_ms / 1000
        self.due_at = began + max(lifetime_s * _RENEW_AFTER, _MIN_INTERVAL_S) if lifetime_s else float("inf")

    async def _exchange(self, ask: Ask, answer: bytes) -> bytes:
        message = request_class(ApiKey.SASL_AUTHENTICATE, self.authenticate_version)(auth_bytes=answer)
        response = await ask(message)
        if response.error_code != ErrorCode.none:
            reason = response.error_message or ErrorCode(response.error_code).name
            raise AuthenticationFailed(f"{self.peer} refused the credentials: {reason}")
        if self.authenticate_version >= 1:
            self.lifetime_ms = response.session_lifetime // timedelta(milliseconds=1)
        return bytes(response.auth_bytes)
