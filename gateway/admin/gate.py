"""In front of the REST API: who asks, whether they may, and how much they may send; before a body is read."""

import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Final, Protocol, TypeAlias

from gateway.admin.asker import ASKER, Asker
from gateway.security.acls import Acls
from gateway.security.java_hosts import java_host
from gateway.security.principals import Principal, certificate_principal

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

# Where the server puts the client's verified certificate (DER) into the ASGI scope.
CERTIFICATE_EXTENSION: Final = "causeway.client_certificate"
OPEN_PATHS: Final = frozenset({"/livez", "/readyz", "/metrics"})
MAX_BODY_BYTES: Final = 1024 * 1024
_CHALLENGE: Final = (b"www-authenticate", b'Basic realm="causeway", charset="UTF-8"')


class PasswordCheck(Protocol):
    """The users that may log in with a password."""

    async def verify_plain(self, username: str, password: str) -> Principal | None: ...


class Gate:
    """ASGI middleware: HTTP Basic (RFC 7617) or a client certificate; says who asks in the scope.

    Without `acls` only super users may enter. With `open_access` everybody may do everything; the
    configuration allows it on loopback only.
    """

    def __init__(
        self,
        app: App,
        *,
        credentials: PasswordCheck,
        super_users: Collection[str],
        open_access: bool,
        acls: Callable[[], Acls | None] | None = None,
    ) -> None:
        self._app = app
        self._credentials = credentials
        self._super_users = frozenset(super_users)
        self._open_access = open_access
        self._acls = acls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 401, 403 or 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] != "/":
            # Confluent's own tools call `/links/`.
            scope["path"] = scope["path"].rstrip("/")
        if scope["path"] not in OPEN_PATHS and not self._open_access:
            principal = await self._principal(scope)
            if principal is None:
                await _refuse(send, 401, 40101, "Authentication failed", _CHALLENGE)
                return
            is_super_user = str(principal) in self._super_users
            if self._acls is None and not is_super_user:
                await _refuse(send, 403, 40301, f"{principal} is not a super user of this gateway.")
                return
            scope[ASKER] = Asker(str(principal), _host(scope), is_super_user, self._acls)
        else:
            scope[ASKER] = Asker("User:ANONYMOUS")
        body = await _read_body(scope, receive)
        if body is None:
            await _refuse(send, 413, 413, f"The request body is longer than {MAX_BODY_BYTES} bytes.")
            return
        await self._app(scope, _Replay(body, receive), send)

    async def _principal(self, scope: Scope) -> Principal | None:
        authorization = _header(scope, b"authorization")
        if authorization is not None:
            login = _basic(authorization)
            return await self._credentials.verify_plain(*login) if login is not None else None
        certificate: bytes | None = scope.get("extensions", {}).get(CERTIFICATE_EXTENSION)
        if certificate is None:
            return None
        try:
            return certificate_principal(certificate)
        except ValueError:
            return None


class _Replay:
    """Hands out a body that was read already, then what the server says."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            return await self._receive()
        return {"type": "http.request", "body": body, "more_body": False}


async def _read_body(scope: Scope, receive: Receive) -> bytes | None:
    length = _header(scope, b"content-length")
    if length is not None and length.isdigit() and int(length[:20]) > MAX_BODY_BYTES:
        return None
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _host(scope: Scope) -> str:
    client = scope.get("client")
    try:
        return java_host(client[0]) if client else ""
    except ValueError:
        return ""


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key.lower() == name), None)


def _basic(authorization: bytes) -> tuple[str, str] | None:
    scheme, _, token = authorization.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        name, colon, password = base64.b64decode(token.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (name, password) if colon else None


async def _refuse(send: Send, status: int, code: int, message: str, *headers: tuple[bytes, bytes]) -> None:
    body = json.dumps({"error_code": code, "message": message}).encode()
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
