"""A connection on which we are the Kafka client: requests are pipelined, replies come in order.

Supports ApiVersions 0 to 4 (KIP-511, KIP-584), SaslHandshake 1 with SaslAuthenticate 0 to 2 (KIP-43, KIP-152,
KIP-368), and any other request that kio knows, or raw bytes.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.upstreams.errors import AuthenticationFailed, KafkaError
from gateway.upstreams.login import Login
from gateway.wire import BytesLike, ConnectionClosed, FrameConnection
from protocol.api_keys import ApiKey, supported_versions
from protocol.errors import DecodeError, ProtocolError, UnsupportedVersion
from protocol.headers import encode_request_header, peek_correlation_id, response_body_offset
from protocol.messages import decode_response, encode_request, request_class

_SOFTWARE_NAME: Final = "causeway"
_SOFTWARE_VERSION: Final = "0.1.0"
_CORRELATION_IDS: Final = 2**31
# What the kernel takes in one piece, unless it is waiting to get rid of much more.
_AT_ONCE_BYTES: Final = 16 * 1024
_FORBIDDEN: Final = "what was to be sent may not be sent any more"


class _Pending:
    __slots__ = ("api_key", "api_version", "correlation_id", "reply")

    def __init__(
        self, api_key: int, api_version: int, correlation_id: int, reply: asyncio.Future[bytearray]
    ) -> None:
        self.api_key = api_key
        self.api_version = api_version
        self.correlation_id = correlation_id
        self.reply = reply


class BrokerConnection:
    """Owns a connected `FrameConnection`; `negotiate` first, then `request`."""

    def __init__(self, wire: FrameConnection, *, client_id: str, node_id: int | None) -> None:
        self.client_id = client_id
        self.node_id = node_id
        self.api_versions: dict[int, tuple[int, int]] = {}
        self.features: dict[str, tuple[int, int]] = {}
        self.finalized_features: dict[str, int] = {}
        self._login: Login | None = None
        self._renewing = asyncio.Lock()
        self._wire = wire
        self._correlation_ids = itertools.count()
        self._pending: deque[_Pending] = deque()
        self._detached = False
        wire.on_readable = self._take_replies

    def __repr__(self) -> str:
        return f"<BrokerConnection node {self.node_id} {self.peer}{' closed' if self.closed else ''}>"

    @property
    def peer(self) -> str:
        """The address as `host:port`."""
        return self._wire.peer

    @property
    def closed(self) -> bool:
        """True when no further request can be sent."""
        return self._detached or self._wire.closed

    @property
    def outstanding(self) -> int:
        """How many requests wait for their reply."""
        return len(self._pending)

    @property
    def last_read_monotonic(self) -> float:
        """When the peer was last heard, in seconds of `time.monotonic`."""
        return self._wire.last_read_monotonic

    # --- requests -------------------------------------------------------------------------------------

    async def request(self, message: Any, *, timeout_s: float = 30) -> Any:
        """Sends a kio request and returns its response; ConnectionClosed, TimeoutError, DecodeError."""
        api_key, version = int(message.__api_key__), int(message.__version__)
        body = await self.request_raw(api_key, version, (encode_request(message),), timeout_s=timeout_s)
        return decode_response(api_key, version, body)

    async def request_raw(
        self,
        api_key: int,
        api_version: int,
        parts: Sequence[BytesLike],
        *,
        timeout_s: float,
        expects_reply: bool = True,
    ) -> memoryview:
        """Sends a request body and returns the reply's body; a TimeoutError ends the connection."""
        return await self._ask(api_key, api_version, parts, timeout_s, expects_reply=expects_reply)

    async def request_guarded(
        self,
        api_key: int,
        api_version: int,
        parts: Sequence[BytesLike],
        *,
        timeout_s: float,
        may_send: Callable[[], bool],
    ) -> memoryview:
        """As `request_raw`, but the peer has the whole request only if `may_send` says yes at the very end.

        A large one takes a while to send, and a process may be stopped at any time and go on much later: its
        last byte is kept back until all else is out. At a no the connection ends, with ConnectionClosed.
        """
        return await self._ask(api_key, api_version, parts, timeout_s, may_send=may_send)

    async def _ask(
        self,
        api_key: int,
        api_version: int,
        parts: Sequence[BytesLike],
        timeout_s: float,
        *,
        expects_reply: bool = True,
        renewing: bool = False,
        may_send: Callable[[], bool] | None = None,
    ) -> memoryview:
        try:
            async with asyncio.timeout(timeout_s):
                await self._wire.drain()
                # While a login is renewed a broker takes nothing else on the connection.
                while not renewing and self._login is not None and self._must_wait(self._login):
                    await self._renew_login(self._login, timeout_s)
                    await self._wire.drain()
                if may_send is not None:
                    frame = await (await self._send_guarded(api_key, api_version, parts, may_send))
                else:
                    reply = self._send(api_key, api_version, parts, expects_reply=expects_reply)
                    if reply is None:
                        return memoryview(b"")
                    frame = await reply
        except TimeoutError:
            # Replies come in order: behind one that is missing no other can be had.
            self.abort()
            raise TimeoutError(f"{self.peer} did not answer {_name(api_key)} within {timeout_s} s") from None
        return memoryview(frame)[response_body_offset(api_key, api_version, frame) :]

    def _send(
        self, api_key: int, api_version: int, parts: Sequence[BytesLike], *, expects_reply: bool
    ) -> asyncio.Future[bytearray] | None:
        if self._detached:
            raise ConnectionClosed("connection given away")
        correlation_id, header = self._header(api_key, api_version)
        self._wire.write_frame(header, *parts)
        return self._expect(api_key, api_version, correlation_id) if expects_reply else None

    async def _send_guarded(
        self, api_key: int, api_version: int, parts: Sequence[BytesLike], may_send: Callable[[], bool]
    ) -> asyncio.Future[bytearray]:
        if self._detached:
            raise ConnectionClosed("connection given away")
        if sum(map(len, parts)) < _AT_ONCE_BYTES:
            if not may_send():
                raise ConnectionClosed(_FORBIDDEN)
            correlation_id, header = self._header(api_key, api_version)
            self._wire.write_frame(header, *parts)
            return self._expect(api_key, api_version, correlation_id)
        correlation_id, header = self._header(api_key, api_version)
        last = self._wire.begin_frame(header, *parts)
        reply = self._expect(api_key, api_version, correlation_id)
        try:
            await self._wire.drain()
            if not may_send():
                raise ConnectionClosed(_FORBIDDEN)
            self._wire.end_frame(last)
        except BaseException:
            # Half a request is of no use to anybody.
            reply.cancel()
            self.abort()
            raise
        return reply

    def _header(self, api_key: int, api_version: int) -> tuple[int, bytes]:
        correlation_id = next(self._correlation_ids) % _CORRELATION_IDS
        return correlation_id, encode_request_header(api_key, api_version, correlation_id, self.client_id)

    def _expect(self, api_key: int, api_version: int, correlation_id: int) -> asyncio.Future[bytearray]:
        reply: asyncio.Future[bytearray] = asyncio.get_running_loop().create_future()
        self._pending.append(_Pending(api_key, api_version, correlation_id, reply))
        return reply

    def _take_replies(self) -> None:
        # Frames are left alone while nothing is outstanding: after `detach` they are requests to us.
        try:
            while self._pending and (frame := self._wire.next_frame()) is not None:
                self._settle(frame)
        except ConnectionClosed as end:
            self._fail(end)
        except ProtocolError as error:
            self._fail(ConnectionClosed(f"{self.peer} broke the protocol: {error}", error))
            self._wire.abort()

    def _settle(self, frame: bytearray) -> None:
        correlation_id = peek_correlation_id(frame)
        pending = self._pending[0]
        if correlation_id != pending.correlation_id:
            raise DecodeError(
                f"reply {correlation_id} where {pending.correlation_id} to {_name(pending.api_key)} was due"
            )
        self._pending.popleft()
        if not pending.reply.done():
            pending.reply.set_result(frame)

    def _fail(self, end: ConnectionClosed) -> None:
        pending, self._pending = self._pending, deque()
        for request in pending:
            if not request.reply.done():
                request.reply.set_exception(ConnectionClosed(end.reason, end.cause))

    # --- what the peer can do -------------------------------------------------------------------------

    async def negotiate(self, *, timeout_s: float = 30) -> None:
        """Learns the broker's versions and features; DecodeError, KafkaError, ConnectionClosed."""
        ours = supported_versions(ApiKey.API_VERSIONS)
        version = ours[-1] if ours else 0
        response = await self._ask_versions(version, timeout_s)
        if response.error_code == ErrorCode.unsupported_version and version > 0:
            # Such an answer has the form of version 0 and, from 2.4 on, says what would do (KIP-511).
            theirs = {int(row.api_key): int(row.max_version) for row in response.api_keys}
            version = min(version - 1, theirs.get(ApiKey.API_VERSIONS, 0))
            response = await self._ask_versions(version, timeout_s)
        if response.error_code != ErrorCode.none:
            raise KafkaError(response.error_code, f"ApiVersions to {self.peer}")
        self.api_versions = {
            int(row.api_key): (int(row.min_version), int(row.max_version)) for row in response.api_keys
        }
        # What it answered to, whatever it says: something in between may know less than the broker.
        self.api_versions[ApiKey.API_VERSIONS] = (0, version)
        if version >= 3:
            self.features = {
                row.name: (int(row.min_version), int(row.max_version)) for row in response.supported_features
            }
            self.finalized_features = {
                row.name: int(row.max_version_level) for row in response.finalized_features
            }

    async def _ask_versions(self, version: int, timeout_s: float) -> Any:
        names = (
            {"client_software_name": _SOFTWARE_NAME, "client_software_version": _SOFTWARE_VERSION}
            if version >= 3
            else {}
        )
        message = request_class(ApiKey.API_VERSIONS, version)(**names)
        body = await self.request_raw(
            ApiKey.API_VERSIONS, version, (encode_request(message),), timeout_s=timeout_s
        )
        if bytes(body[:2]) == int(ErrorCode.unsupported_version).to_bytes(2, "big"):
            version = 0
        return decode_response(ApiKey.API_VERSIONS, version, body)

    def pick_version(self, api_key: int, lowest: int, highest: int) -> int:
        """The highest version within the bounds that the broker and we know; UnsupportedVersion if none."""
        ours = supported_versions(api_key)
        theirs = self.api_versions.get(api_key)
        if ours is None or theirs is None:
            raise UnsupportedVersion(api_key, highest)
        version = min(highest, ours[-1], theirs[1])
        if version < max(lowest, ours[0], theirs[0]):
            raise UnsupportedVersion(api_key, version)
        return version

    async def authenticate(
        self, mechanism: str, username: str, password: str, *, timeout_s: float = 30
    ) -> None:
        """Logs in by SASL PLAIN or SCRAM; AuthenticationFailed (then close), ConnectionClosed."""
        self._login = Login(
            self.peer,
            mechanism,
            username,
            password,
            handshake_version=self.pick_version(ApiKey.SASL_HANDSHAKE, 1, 1),
            authenticate_version=self.pick_version(ApiKey.SASL_AUTHENTICATE, 0, 2),
        )
        await self._perform(self._login, timeout_s)

    @property
    def session_lifetime_ms(self) -> int:
        """How long the broker lets a login last; 0: as long as the connection."""
        return 0 if self._login is None else self._login.lifetime_ms

    @property
    def login_due_at(self) -> float:
        """When the login should be renewed, by `time.monotonic`; infinity: never."""
        return float("inf") if self._login is None else self._login.due_at

    def _must_wait(self, login: Login) -> bool:
        return login.due or self._renewing.locked()

    async def _perform(self, login: Login, timeout_s: float) -> None:
        async def ask(message: Any) -> Any:
            key, version = int(message.__api_key__), int(message.__version__)
            body = await self._ask(key, version, (encode_request(message),), timeout_s, renewing=True)
            return decode_response(key, version, body)

        async with self._renewing:
            await login.perform(ask)

    async def _renew_login(self, login: Login, timeout_s: float) -> None:
        """Returns when the login is not due; ConnectionClosed if the broker does not take it any more."""
        if self._renewing.locked():
            async with self._renewing:
                return
        try:
            await self._perform(login, timeout_s)
        except AuthenticationFailed as error:
            self._wire.abort()
            raise ConnectionClosed(f"the login could not be renewed: {error}", error) from error
        except BaseException:
            # Half renewed it is of no use.
            self._wire.abort()
            raise

    async def renew_detached(self, *, timeout_s: float = 30) -> None:
        """Renews the login of a connection that was given away, between two requests of its new owner.

        Nothing may be outstanding, and nobody else may use it meanwhile. ConnectionClosed, TimeoutError.
        """
        owner, self._wire.on_readable = self._wire.on_readable, self._take_replies
        self._detached = False
        try:
            if self._login is not None and self._login.due:
                await self._renew_login(self._login, timeout_s)
        finally:
            self._detached = True
            self._wire.on_readable = owner

    # --- ending ---------------------------------------------------------------------------------------

    def detach(self) -> FrameConnection:
        """Gives the connection away; RuntimeError while requests are outstanding."""
        if self._pending:
            raise RuntimeError(f"{self.peer}: {len(self._pending)} requests are outstanding")
        self._detached = True
        self._wire.on_readable = None
        return self._wire

    def close(self) -> None:
        """Closes after sending what was written; outstanding requests raise ConnectionClosed."""
        if not self._detached:
            self._wire.close()

    def abort(self) -> None:
        """Closes at once; outstanding requests raise ConnectionClosed."""
        if not self._detached:
            self._wire.abort()

    async def wait_closed(self) -> None:
        """Returns when the socket is gone."""
        if not self._detached:
            await self._wire.wait_closed()


def _name(api_key: int) -> str:
    try:
        return ApiKey(api_key).name
    except ValueError:
        return f"API key {api_key}"
