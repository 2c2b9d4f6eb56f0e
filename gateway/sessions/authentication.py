"""The server side of authentication on one connection, a state machine that the session drives.

SASL by SaslHandshake 1 and SaslAuthenticate 0–2 (KIP-43, KIP-152) with re-authentication (KIP-368), mTLS
(KIP-371), or none. It decides and never writes: the session sends the answers, and delays those that refuse.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from kio.schema.errors import ErrorCode

from gateway import observe
from gateway.config import Authentication
from gateway.security.policy import AuthenticationPolicy
from gateway.security.principals import ANONYMOUS, Principal, certificate_principal
from gateway.security.sasl import Accepted, Challenge, Exchange, SaslRefused
from gateway.sessions import local_replies
from gateway.sessions.session_state import SessionEvent
from gateway.wire import FrameConnection
from protocol.api_keys import ApiKey
from protocol.api_versions import ANSWERED_HERE
from protocol.errors import UnsupportedVersion
from protocol.headers import RequestHeader
from protocol.messages import decode_request

# Kafka's KafkaChannel: a client may authenticate anew once in a second.
_MIN_REAUTHENTICATION_INTERVAL_S: Final = 1.0


class AuthenticationRefused(Exception):
    """The connection ends, after `body` was sent if there is one; the text is for the log."""

    def __init__(self, reason: str, body: bytes | None = None) -> None:
        super().__init__(reason)
        self.body = body


@dataclass(frozen=True, slots=True)
class Step:
    """The body of the answer, what happens to the session, and who the client is if that is known now.

    After `lifetime_s` the session has expired, unless it is None.
    """

    body: bytes
    event: SessionEvent | None = None
    principal: Principal | None = None
    lifetime_s: float | None = None


class Authenticator:
    """Finds out who is at the other end of `wire`, and whether it still is."""

    def __init__(
        self,
        wire: FrameConnection,
        policy: AuthenticationPolicy,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wire = wire
        self._policy = policy
        self._clock = clock
        self._principal: Principal | None = None
        self._mechanism: str | None = None
        self._exchange: Exchange | None = None
        self._expires_at: float | None = None
        self._reauthenticated_at = float("-inf")

    def open(self) -> Principal | None:
        """The principal where it is known without a request, else None; AuthenticationRefused."""
        if self._policy.method is Authentication.NONE:
            self._principal = ANONYMOUS
        elif self._policy.method is Authentication.MTLS:
            certificate = self._wire.ssl_object and self._wire.ssl_object.getpeercert(binary_form=True)
            try:
                if not certificate:
                    raise ValueError("no client certificate")
                self._principal = certificate_principal(certificate, self._policy.mapper)
            except ValueError as error:
                self._count("refused")
                raise AuthenticationRefused(str(error)) from None
            self._count("accepted")
        return self._principal

    async def take(self, header: RequestHeader, frame: bytearray) -> Step:
        """Handles SaslHandshake and SaslAuthenticate; AuthenticationRefused, ProtocolError."""
        lowest, highest = ANSWERED_HERE[header.api_key]
        if not lowest <= header.api_version <= highest:
            raise UnsupportedVersion(header.api_key, header.api_version)
        return await _STEPS[header.api_key](self, header, frame)

    def late(self) -> None:
        """Told that the client took too long."""
        self._count("timeout")

    def left_s(self) -> float | None:
        """For how many seconds it still holds who the client is; None: as long as the connection."""
        return None if self._expires_at is None else max(self._expires_at - self._clock(), 0.0)

    # --- SaslHandshake ---------------------------------------------------------------------------------

    async def _handshake(self, header: RequestHeader, frame: bytearray) -> Step:
        version, offered = header.api_version, self._policy.mechanisms
        if self._principal is not None and not self._may_reauthenticate():
            body = local_replies.sasl_handshake(version, ErrorCode.illegal_sasl_state, offered)
            if self._expires_at is not None and self._clock() >= self._expires_at:
                raise AuthenticationRefused("the session has expired", body)
            return Step(body)
        # Version 0 goes on with raw tokens instead of SaslAuthenticate (before Kafka 1.0).
        if version == 0:
            raise AuthenticationRefused("SaslHandshake version 0")
        request = decode_request(header.api_key, version, memoryview(frame)[header.body_offset :])
        make = offered.get(request.mechanism)
        if make is None:
            self._count("refused")
            body = local_replies.sasl_handshake(version, ErrorCode.unsupported_sasl_mechanism, offered)
            raise AuthenticationRefused(f"SASL mechanism {request.mechanism[:40]!r} is not offered", body)
        if self._principal is None:
            self._mechanism = request.mechanism
        else:
            self._reauthenticated_at = self._clock()
        self._exchange = (
            make()
            if request.mechanism == self._mechanism
            else _OtherMechanism(request.mechanism, self._mechanism)
        )
        body = local_replies.sasl_handshake(version, ErrorCode.none, offered)
        return Step(body, SessionEvent.MECHANISM_CHOSEN)

    def _may_reauthenticate(self) -> bool:
        if self._expires_at is None:
            return False
        return self._clock() - self._reauthenticated_at >= _MIN_REAUTHENTICATION_INTERVAL_S

    # --- SaslAuthenticate ------------------------------------------------------------------------------

    async def _authenticate(self, header: RequestHeader, frame: bytearray) -> Step:
        version = header.api_version
        exchange = self._exchange
        if exchange is None:
            why = "SaslAuthenticate request received after successful authentication"
            return Step(local_replies.sasl_authenticate(version, ErrorCode.illegal_sasl_state, why))
        request = decode_request(header.api_key, version, memoryview(frame)[header.body_offset :])
        try:
            outcome = await exchange.respond(bytes(request.auth_bytes))
        except SaslRefused as refusal:
            self._refuse(version, str(refusal), refusal.shown)
        if isinstance(outcome, Challenge):
            return Step(local_replies.sasl_authenticate(version, token=outcome.message))
        return self._accept(version, outcome)

    def _accept(self, version: int, outcome: Accepted) -> Step:
        before = self._principal
        if before is not None and before != outcome.principal:
            # As Kafka's SaslServerAuthenticator words it.
            why = (
                f"Cannot change principals during re-authentication from {before.type}.{before.name}: "
                f"{outcome.principal.type}.{outcome.principal.name}"
            )
            self._refuse(version, why, why)
        self._principal, self._exchange = outcome.principal, None
        lifetime_s = session_lifetime_s(self._policy.max_session_s, outcome.expires_at, time.time())
        self._expires_at = None if lifetime_s is None else self._clock() + lifetime_s
        self._count("accepted" if before is None else "renewed")
        body = local_replies.sasl_authenticate(
            version, token=outcome.message, lifetime_ms=int((lifetime_s or 0) * 1000)
        )
        return Step(body, SessionEvent.AUTHENTICATED, outcome.principal, lifetime_s)

    def _refuse(self, version: int, reason: str, shown: str | None) -> NoReturn:
        self._count("refused")
        stage = "authentication" if self._principal is None else "re-authentication"
        # Kafka's words, which say nothing of whether there is such a user.
        general = (
            f"Authentication failed during {stage} due to invalid credentials "
            f"with SASL mechanism {self._mechanism}"
        )
        body = local_replies.sasl_authenticate(
            version, ErrorCode.sasl_authentication_failed, shown or general
        )
        raise AuthenticationRefused(reason, body)

    def _count(self, outcome: str) -> None:
        method = self._policy.method
        observe.authentications.labels(
            (self._mechanism or "unknown") if method.uses_sasl else method, outcome
        ).inc()


def session_lifetime_s(max_session_s: float | None, expires_at: float | None, now: float) -> float | None:
    """How long a session lasts: the shorter of the listener's bound and what is left of the credential."""
    left = None if expires_at is None else max(expires_at - now, 0.0)
    bounds = [bound for bound in (max_session_s, left) if bound is not None]
    return min(bounds) if bounds else None


class _OtherMechanism:
    """A re-authentication by another mechanism, which is refused at its end, as Kafka does."""

    def __init__(self, mechanism: str, before: str | None) -> None:
        self._why = (
            f"SASL mechanism '{mechanism}' requested by client is not supported for re-authentication "
            f"of mechanism '{before}'"
        )

    async def respond(self, message: bytes) -> Challenge | Accepted:  # noqa: ARG002 - whatever it is
        """Refuses; SaslRefused."""
        raise SaslRefused(self._why, self._why)


_Handle = Callable[[Authenticator, RequestHeader, bytearray], Awaitable[Step]]
# A table of the authenticator's own methods.
_STEPS: Final[dict[int, _Handle]] = {
    ApiKey.SASL_HANDSHAKE: Authenticator._handshake,
    ApiKey.SASL_AUTHENTICATE: Authenticator._authenticate,
}
