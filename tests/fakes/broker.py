"""A broker of few words on a real socket: it can do what a real one cannot be made to do."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, TypeAlias

from kio.schema.errors import ErrorCode

from gateway.upstreams.metadata import nested_class
from gateway.wire import ConnectionClosed, FrameConnection
from protocol.api_keys import ApiKey
from protocol.errors import DecodeError
from protocol.headers import RequestHeader, encode_response_header, peek_request_header
from protocol.messages import decode_request, encode_response, response_class

# A response, its bytes, or None: no answer.
Answer: TypeAlias = Any
Handler: TypeAlias = Callable[[RequestHeader, bytes], Answer | Awaitable[Answer]]

VERSIONS: Mapping[int, tuple[int, int]] = {
    ApiKey.LIST_OFFSETS: (1, 7),
    ApiKey.METADATA: (5, 9),
    ApiKey.SASL_HANDSHAKE: (0, 1),
    ApiKey.API_VERSIONS: (0, 3),
    ApiKey.CREATE_TOPICS: (2, 5),
    ApiKey.INIT_PRODUCER_ID: (0, 2),
    ApiKey.SASL_AUTHENTICATE: (0, 2),
}


class FakeBroker:
    """Answers ApiVersions and Metadata like a broker of 2.4; `handlers` by API key do the rest."""

    def __init__(self, node_id: int = 1, *, cluster_id: str = "cluster-a") -> None:
        self.node_id = node_id
        self.cluster_id = cluster_id
        self.controller_id = node_id
        self.brokers: dict[int, tuple[str, int]] = {}
        self.versions = dict(VERSIONS)
        self.handlers: dict[int, Handler] = {
            ApiKey.API_VERSIONS: self.api_versions,
            ApiKey.METADATA: self.metadata,
        }
        self.requests: list[RequestHeader] = []
        self.connections: list[FrameConnection] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, *, port: int = 0, tls: ssl.SSLContext | None = None) -> FakeBroker:
        """Listens on loopback; tells its own address unless `brokers` say otherwise."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._new_connection, "127.0.0.1", port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.brokers.setdefault(self.node_id, ("127.0.0.1", self.port))
        return self

    @property
    def bootstrap(self) -> str:
        """Its address as text."""
        return f"127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many clients are connected."""
        return sum(not connection.closed for connection in self.connections)

    async def wait_for_connections(self, wanted: int) -> None:
        """Returns when so many clients are connected; TimeoutError after 5 s."""
        async with asyncio.timeout(5):
            while self.open_connections != wanted:
                await asyncio.sleep(0.005)

    async def wait_for_requests(self, wanted: int) -> None:
        """Returns when so many requests have come in all; TimeoutError after 5 s."""
        async with asyncio.timeout(5):
            while len(self.requests) < wanted:
                await asyncio.sleep(0.005)

    def count(self, api_key: int) -> int:
        """How many requests of that kind came."""
        return sum(header.api_key == api_key for header in self.requests)

    async def close(self) -> None:
        """Stops listening and ends every connection; idempotent."""
        for task in self._tasks:
            task.cancel()
        for connection in self.connections:
            connection.abort()
        for connection in self.connections:
            await connection.wait_closed()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    def _new_connection(self) -> FrameConnection:
        connection = FrameConnection(max_frame_bytes=1 << 20, name="broker", on_connected=self._serve)
        self.connections.append(connection)
        return connection

    def _serve(self, connection: FrameConnection) -> None:
        self._tasks.append(asyncio.create_task(self._answer_all(connection)))

    async def _answer_all(self, connection: FrameConnection) -> None:
        try:
            while True:
                frame = await connection.read_frame()
                header = peek_request_header(frame)
                self.requests.append(header)
                answer = self.handlers[header.api_key](header, bytes(frame[header.body_offset :]))
                if isinstance(answer, Awaitable):
                    answer = await answer
                if answer is not None:
                    self.reply(connection, header, answer)
        except (ConnectionClosed, DecodeError):
            pass
        finally:
            connection.close()

    def reply(self, connection: FrameConnection, header: RequestHeader, answer: Answer) -> None:
        """Sends a response or its bytes."""
        body = answer if isinstance(answer, bytes) else encode_response(answer)
        version = header.api_version
        connection.write_frame(encode_response_header(header.api_key, version, header.correlation_id), body)

    def api_versions(self, header: RequestHeader, body: bytes) -> Answer:
        """As a broker: what it does not speak is answered in version 0 with what it does (KIP-511)."""
        lowest, highest = self.versions[ApiKey.API_VERSIONS]
        known = lowest <= header.api_version <= highest
        version = header.api_version if known else 0
        response: Any = response_class(ApiKey.API_VERSIONS, version)
        row = nested_class(response, "ApiVersion")
        return response(
            error_code=ErrorCode.none if known else ErrorCode.unsupported_version,
            api_keys=tuple(
                row(api_key=key, min_version=low, max_version=high)
                for key, (low, high) in self.versions.items()
            ),
            **({"throttle_time": timedelta()} if version >= 1 else {}),
        )

    def metadata(self, header: RequestHeader, body: bytes) -> Answer:
        """The brokers that it was told of; no topics, whatever was asked."""
        decode_request(header.api_key, header.api_version, body)
        response: Any = response_class(ApiKey.METADATA, header.api_version)
        broker = nested_class(response, "MetadataResponseBroker")
        return response(
            throttle_time=timedelta(),
            brokers=tuple(
                broker(node_id=node_id, host=host, port=port)
                for node_id, (host, port) in self.brokers.items()
            ),
            cluster_id=self.cluster_id,
            controller_id=self.controller_id,
            topics=(),
        )
