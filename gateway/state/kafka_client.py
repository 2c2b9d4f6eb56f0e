"""kio's messages over aiokafka's client, whose own messages know neither topic ids nor single transactions.

One question at a time; after any failure the connections are closed, and the next question opens new ones.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, Self

from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, UnsupportedVersionError
from kio.schema.errors import ErrorCode

from gateway.tasks import Tasks
from protocol.errors import ProtocolError
from protocol.headers import encode_request_header, peek_correlation_id, response_body_offset
from protocol.messages import decode_response, encode_request

_FINISH_S: Final = 1.0

# Its attempts that fail are errors to it; we report what becomes of them.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


class ClusterError(Exception):
    """The cluster could not be asked, or answered with the error code `code`."""

    def __init__(self, message: str, code: ErrorCode | None = None) -> None:
        super().__init__(message)
        self.code = code


def check(code: ErrorCode, doing: str) -> None:
    """ClusterError if `code` is an error."""
    if code is not ErrorCode.none:
        raise ClusterError(f"{code.name.upper()} ({int(code)}) while {doing}", code)


def error_text(error: BaseException) -> str:
    """What an error says, or its name if it says nothing."""
    return str(error) or type(error).__name__


async def finish_starting(starting: Coroutine[Any, Any, None]) -> None:
    """Awaits what connects an aiokafka client; when cancelled, lets it go on a little.

    aiokafka forgets the connection that it is making when it is cancelled.
    """
    tasks = Tasks("aiokafka")
    task = tasks.spawn(_outcome(starting), name="start")
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=_FINISH_S)
        raise
    finally:
        await tasks.close()
    if (error := task.result()) is not None:
        raise error


async def stop_consumer(consumer: AIOKafkaConsumer) -> None:
    """Closes a consumer, whatever it is doing.

    Its `stop` cancels its own tasks and may end as if it had been cancelled itself, connections still open.
    """
    tasks = Tasks("aiokafka")
    task = tasks.spawn(_outcome(consumer.stop()), name="stop")
    try:
        await asyncio.wait([task], timeout=_FINISH_S)
    finally:
        await tasks.close()
        if task.cancelled():
            await consumer._client.close()


async def _outcome(work: Coroutine[Any, Any, None]) -> Exception | None:
    try:
        await work
    except (KafkaError, OSError) as error:
        return error
    return None


class KafkaClient:
    """Connections to the brokers of a cluster, `cluster_id` if that is known.

    `options` are aiokafka's, asked for whenever connections are made.
    """

    def __init__(
        self, options: Callable[[], Mapping[str, Any]], cluster_id: Callable[[], str | None] = lambda: None
    ) -> None:
        self._options = options
        self._cluster_id = cluster_id
        self._client: AIOKafkaClient | None = None
        self._busy = asyncio.Lock()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[Self]:
        """Connects, and holds the connections for some requests in a row. ClusterError."""
        async with self._busy:
            try:
                if self._client is None:
                    self._client = AIOKafkaClient(**self._options())
                    await finish_starting(self._client.bootstrap())
                yield self
            except BaseException as error:
                await self._disconnect()
                if isinstance(error, (KafkaError, OSError, ProtocolError)):
                    raise ClusterError(error_text(error)) from error
                raise

    async def send(self, *candidates: Any, node_id: int | None = None) -> Any:
        """The answer to the first message that the broker (any by default) knows. Inside `exclusive`."""
        if self._client is None:
            raise RuntimeError("send is for use inside `exclusive`")
        node = self._client.get_random_node() if node_id is None else node_id
        return (await self._client.send(node, _KioRequest(candidates))).message

    def check_cluster(self, found: str | None) -> None:
        """ClusterError if a broker belongs to another cluster than expected."""
        expected = self._cluster_id()
        if expected is not None and found != expected:
            raise ClusterError(f"a bootstrap server belongs to cluster {found}, not to {expected}")

    async def close(self) -> None:
        """Closes the connections; a later use opens new ones."""
        async with self._busy:
            await self._disconnect()

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def encode(self) -> bytes:
        return self._data


@dataclass(frozen=True, slots=True)
class _ResponseHeader:
    correlation_id: int


@dataclass(frozen=True, slots=True)
class _Response:
    # A DecodeError must not reach aiokafka's reading task, which would end by it.
    decoded: Any

    @property
    def message(self) -> Any:
        if isinstance(self.decoded, ProtocolError):
            raise self.decoded
        return self.decoded


class _KioRequest:
    """What aiokafka's connection needs of a request, here the first kio message that the broker knows."""

    def __init__(self, candidates: Sequence[Any]) -> None:
        self._candidates = candidates

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> "_PreparedRequest":
        for message in self._candidates:
            lowest, highest = versions.get(message.__api_key__, (1, 0))
            if lowest <= message.__version__ <= highest:
                return _PreparedRequest(message)
        raise UnsupportedVersionError(f"the broker does not know {type(self._candidates[0]).__name__}")


class _PreparedRequest:
    def __init__(self, message: Any) -> None:
        self._message = message
        self._api = message.__api_key__, message.__version__

    @property
    def RESPONSE_TYPE(self) -> "_PreparedRequest":  # noqa: N802 - aiokafka's name
        return self

    def build_request_header(self, correlation_id: int, client_id: str) -> _Bytes:
        return _Bytes(encode_request_header(*self._api, correlation_id, client_id))

    def encode(self) -> bytes:
        return encode_request(self._message)

    def parse_response_header(self, frame: BytesIO) -> _ResponseHeader:
        data = frame.getvalue()
        frame.seek(response_body_offset(*self._api, data))
        return _ResponseHeader(peek_correlation_id(data))

    def decode(self, frame: BytesIO) -> _Response:
        try:
            return _Response(decode_response(*self._api, frame.read()))
        except ProtocolError as error:
            return _Response(error)
