"""A Kafka client of bytes: sends whatever a test wants, in any version, and shows exactly what comes back."""

from __future__ import annotations

import dataclasses
import datetime
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from typing import Any, Self, get_args, get_origin

from protocol.api_keys import ApiKey
from protocol.headers import encode_request_header, peek_correlation_id, response_body_offset
from protocol.messages import decode_response, encode_request, request_class
from protocol.records import Record, build_batch

Address = tuple[str, int]
_TIMEOUT = datetime.timedelta(seconds=10)


def make(api_key: int, version: int, /, **fields: Any) -> Any:
    """A request; nested structures are given as dicts, lists as lists. What is not given is zero or empty."""
    return fill(request_class(api_key, version), fields)


def fill(made: Any, values: Mapping[str, Any]) -> Any:
    types = {field.name: field.type for field in dataclasses.fields(made)}
    if unknown := set(values) - set(types):
        raise TypeError(f"{made.__name__} v{made.__version__} has no {unknown}, but {set(types)}")
    needed = {
        field.name: _nothing(field.type)
        for field in dataclasses.fields(made)
        if field.default is dataclasses.MISSING and field.name not in values
    }
    return made(**needed, **{name: _value(types[name], value) for name, value in values.items()})


def _nothing(declared: Any) -> Any:
    if get_origin(declared) is tuple:
        return ()
    kind = declared if isinstance(declared, type) else type(None)
    return next(
        (base() for base in (bool, int, str, bytes, datetime.timedelta) if issubclass(kind, base)), None
    )


def _value(declared: Any, value: Any) -> Any:
    if isinstance(value, dict):
        # Structure, perhaps `| None`.
        return fill(next(filter(dataclasses.is_dataclass, (declared, *get_args(declared)))), value)
    if isinstance(value, list):
        # tuple[Element, ...], perhaps `| None`.
        element = next(
            argument
            for argument in (*get_args(declared), *(b for a in get_args(declared) for b in get_args(a)))
            if argument not in {Ellipsis, type(None)} and not get_args(argument)
        )
        return tuple(_value(element, each) for each in value)
    return value


def batch(*values: bytes, **options: Any) -> bytes:
    """A record batch of values as a producer sends it."""
    now = int(datetime.datetime.now(datetime.UTC).timestamp() * 1000)
    return build_batch([Record(i, now, None, value) for i, value in enumerate(values)], **options)


def produce(version: int, topics: Mapping[Any, bytes], *, acks: int = -1, **fields: Any) -> Any:
    """A Produce request of one batch for partition 0 of each topic: names up to v12, ids from v13 on."""
    key = "topic_id" if version >= 13 else "name"
    data = [
        {key: topic, "partition_data": [{"index": 0, "records": records}]}
        for topic, records in topics.items()
    ]
    return make(ApiKey.PRODUCE, version, acks=acks, timeout=_TIMEOUT, topic_data=data, **fields)


class Closed(Exception):
    """The other side closed or reset the connection."""


class RawClient:
    """One blocking connection; logs in with SASL PLAIN if given a `user`."""

    def __init__(
        self,
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
        user: str | None = None,
        password: str = "",
        timeout_s: float = 20,
        tap: Callable[[bytes], None] | None = None,
    ) -> None:
        self._tap = tap or (lambda data: None)
        self._correlation_id = 0
        self._sent: dict[int, Any] = {}
        self.socket = socket.create_connection(address, timeout=timeout_s)
        try:
            if tls is not None:
                self.socket = tls.wrap_socket(self.socket, server_hostname=address[0])
            if user is not None:
                self.log_in(user, password)
        except BaseException:
            self.socket.close()
            raise

    def log_in(self, user: str, password: str, mechanism: str = "PLAIN") -> Any:
        """SaslHandshake and SaslAuthenticate; the answer to the last. PermissionError if it is a refusal."""
        shaken = self.call(make(ApiKey.SASL_HANDSHAKE, 1, mechanism=mechanism))
        if shaken.error_code:
            raise PermissionError(f"{shaken.error_code!r}: {shaken.mechanisms}")
        token = f"\0{user}\0{password}".encode()
        answer = self.call(make(ApiKey.SASL_AUTHENTICATE, 2, auth_bytes=token))
        if answer.error_code:
            raise PermissionError(f"{answer.error_code!r}: {answer.error_message}")
        return answer

    def call(self, request: Any) -> Any:
        """Sends a request and returns the decoded answer to it; Closed."""
        self.send(request)
        return self.receive()

    def send(self, request: Any) -> None:
        """Sends a request; its answer, if it has one, is for `receive`."""
        key, version = int(request.__api_key__), int(request.__version__)
        self._correlation_id += 1
        self._sent[self._correlation_id] = request
        header = encode_request_header(key, version, self._correlation_id, "raw")
        self.send_frame(header + encode_request(request))

    def send_frame(self, frame: bytes) -> None:
        """Sends a frame with its size."""
        self.send_bytes(struct.pack(">i", len(frame)) + frame)

    def send_bytes(self, data: bytes) -> None:
        """Sends bytes; Closed."""
        try:
            self.socket.sendall(data)
        except (ConnectionError, ssl.SSLError) as error:
            raise Closed(str(error)) from error

    def receive(self) -> Any:
        """The next answer, decoded as the request with its correlation id wants; Closed."""
        frame = self.receive_frame()
        request = self._sent.pop(peek_correlation_id(frame))
        key, version = int(request.__api_key__), int(request.__version__)
        return decode_response(key, version, frame[response_body_offset(key, version, frame) :])

    def receive_frame(self) -> bytes:
        """The next frame, without its size; Closed."""
        (size,) = struct.unpack(">i", self._exactly(4))
        return self._exactly(size)

    def is_closed(self, within_s: float = 5) -> bool:
        """Whether the other side ends the connection in that time without sending anything more.

        Less than a gateway waits for authentication: what is to end at once must not pass by ending then.
        """
        self.socket.settimeout(within_s)
        try:
            return self.socket.recv(1) == b""
        except TimeoutError:
            return False
        except (ConnectionError, ssl.SSLError):
            return True

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                piece = self.socket.recv(size - len(data))
            except (ConnectionError, ssl.SSLError) as error:
                raise Closed(str(error)) from error
            if not piece:
                raise Closed(f"end of stream after {len(data)} of {size} bytes")
            data += piece
        self._tap(bytes(data))
        return bytes(data)

    def close(self) -> None:
        """Ends the connection."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
