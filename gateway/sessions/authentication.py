"""The server side of authentication on one connection, a state machine that the session drives.

SASL PLAIN by SaslHandshake 1 and SaslAuthenticate 0–2 (KIP-43, KIP-152), mTLS, or no authentication. It
decides and never writes: the session sends the answers, and waits before those that refuse.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from kio.schema.errors import ErrorCode

from gateway import observe
from gateway.config import Authentication
from gateway.security.credentials import PlainTokenError, parse_plain_token
from gateway.security.principals import ANONYMOUS, Principal, certificate_principal
from gateway.sessions import local_replies
from gateway.sessions.services import SessionServices
from gateway.sessions.session_state import SessionEvent
from gateway.wire import FrameConnection
from protocol.api_keys import ApiKey
from protocol.api_versions import ANSWERED_HERE
from protocol.errors import UnsupportedVersion
from protocol.headers import RequestHeader
from protocol.messages import decode_request


class AuthenticationRefused(Exception):
    """The connection ends, after `body` was sent if there is one; the text is for the log."""

    def __init__(self, reason: str, body: bytes | None = None) -> None:
        super().__init__(reason)
        self.body = body


@dataclass(frozen=True, slots=True)
class Step:
    """The body of the answer, what happens to the session, and who the client is if that is known now."""

    body: bytes
    event: SessionEvent | None = None
    principal: Principal | None = None


class Authenticator:
    """Finds out who is at the other end of `wire`."""

    def __init__(self, wire: FrameConnection, services: SessionServices) -> None:
        self._wire = wire
        self._services = services
        self._method = services.authentication
        self._done = False

    def open(self) -> Principal | None:
        """The principal where it is known without a request, else None; AuthenticationRefused."""
        if self._method is Authentication.NONE:
            self._done = True
            return ANONYMOUS
        if self._method is Authentication.MTLS:
            certificate = self._wire.ssl_object and self._wire.ssl_object.getpeercert(binary_form=True)
            if not certificate:
                self._count("refused")
                raise AuthenticationRefused("no client certificate")
            principal = certificate_principal(certificate)
            self._count("accepted")
            self._done = True
            return principal
        return None

    async def take(self, header: RequestHeader, frame: bytearray) -> Step:
        """Handles SaslHandshake and SaslAuthenticate; AuthenticationRefused, ProtocolError."""
        lowest, highest = ANSWERED_HERE[header.api_key]
        if not lowest <= header.api_version <= highest:
            raise UnsupportedVersion(header.api_key, header.api_version)
        return await _STEPS[header.api_key](self, header, frame)

    def late(self) -> None:
        """Told that the client took too long."""
        self._count("timeout")

    async def _handshake(self, header: RequestHeader, frame: bytearray) -> Step:
        version = header.api_version
        if self._done:
            return Step(local_replies.sasl_handshake(version, ErrorCode.illegal_sasl_state))
        # Version 0 goes on with raw tokens instead of SaslAuthenticate (before Kafka 1.0).
        if version == 0:
            raise AuthenticationRefused("SaslHandshake version 0")
        request = decode_request(header.api_key, version, memoryview(frame)[header.body_offset :])
        if request.mechanism not in local_replies.MECHANISMS:
            self._count("refused")
            body = local_replies.sasl_handshake(version, ErrorCode.unsupported_sasl_mechanism)
            raise AuthenticationRefused("unsupported mechanism", body)
        return Step(local_replies.sasl_handshake(version, ErrorCode.none), SessionEvent.MECHANISM_CHOSEN)

    async def _authenticate(self, header: RequestHeader, frame: bytearray) -> Step:
        version = header.api_version
        if self._done:
            why = "SaslAuthenticate request received after successful authentication"
            return Step(local_replies.sasl_authenticate(version, ErrorCode.illegal_sasl_state, why))
        request = decode_request(header.api_key, version, memoryview(frame)[header.body_offset :])
        principal, why = None, local_replies.BAD_CREDENTIALS
        try:
            name, password = parse_plain_token(bytes(request.auth_bytes))
            principal = await self._services.credentials.verify_plain(name, password)
        except PlainTokenError as error:
            why = str(error)
        if principal is None:
            self._count("refused")
            body = local_replies.sasl_authenticate(version, ErrorCode.sasl_authentication_failed, why)
            raise AuthenticationRefused(why, body)
        self._count("accepted")
        self._done = True
        return Step(local_replies.sasl_authenticate(version), SessionEvent.AUTHENTICATED, principal)

    def _count(self, outcome: str) -> None:
        observe.authentications.labels(self._method, outcome).inc()


_Handle = Callable[[Authenticator, RequestHeader, bytearray], Awaitable[Step]]
# A table of the authenticator's own methods.
_STEPS: Final[dict[int, _Handle]] = {
    ApiKey.SASL_HANDSHAKE: Authenticator._handshake,
    ApiKey.SASL_AUTHENTICATE: Authenticator._authenticate,
}
