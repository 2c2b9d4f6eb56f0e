"""A relay between a gateway and one broker that notes every request which reaches the broker.

It stands for the broker: in Metadata it puts its own address, so that the gateway knows no other way. It can
answer ApiVersions as a broker of another age would.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Final, NamedTuple, Self

from kio.schema.errors import ErrorCode

from protocol.api_keys import ApiKey
from protocol.broker_addresses import rewrite_addresses
from protocol.errors import ProtocolError
from protocol.headers import encode_response_header, peek_correlation_id, peek_request_header
from tests.e2e.raw_client import Address

_SIZE: Final = struct.Struct(">i")


class Arrived(NamedTuple):
    """A request that got to the broker."""

    api_key: int
    version: int
    client_id: str | None


class UpstreamRelay:
    """Listens at a free port and passes frames to the broker at `target` and back until closed.

    `api_versions_up_to` refuses newer ApiVersions requests in version 0, as brokers do that lack them. While
    requests are held the gateway's connections stay as they are; what is let go later still gets there.
    """

    def __init__(self, target: Address, *, api_versions_up_to: int = 9) -> None:
        self._target = target
        self._api_versions_up_to = api_versions_up_to
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address: Address = ("127.0.0.1", self._listening.getsockname()[1])
        self.arrived: list[Arrived] = []
        self._open: set[socket.socket] = set()
        self._held: frozenset[int] | None = frozenset()
        self._let_go = threading.Condition()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def of(self, client_id: str) -> set[tuple[int, int]]:
        """Key and version of all that came from one client."""
        return {(each.api_key, each.version) for each in self.arrived if each.client_id == client_id}

    def hold(self, *api_keys: int) -> None:
        """Requests of these kinds, or without any of all, go no further until `let_go`."""
        self._held = frozenset(api_keys) or None

    def let_go(self) -> None:
        """What was held goes on its way, even where the gateway has given it up."""
        with self._let_go:
            self._held = frozenset()
            self._let_go.notify_all()

    def wait(self, api_key: int) -> None:
        """Returns when a request of that kind may go on."""
        with self._let_go:
            self._let_go.wait_for(lambda: self._held is not None and api_key not in self._held)

    def close(self) -> None:
        """Ends everything; idempotent."""
        self.let_go()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._threads[0].join(5)
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                gateway, _ = self._listening.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(self._target, timeout=5)
                broker.settimeout(None)
            except OSError:
                gateway.close()
                continue
            self._open |= {gateway, broker}
            connection = _Connection(self, gateway, broker)
            ends = [
                threading.Thread(target=_until_end, args=(way, gateway, broker), daemon=True)
                for way in (connection.requests, connection.responses)
            ]
            for thread in ends:
                thread.start()
            closer = threading.Thread(target=self._close_after, args=(ends, gateway, broker), daemon=True)
            closer.start()
            self._threads.append(closer)

    def _close_after(self, ends: list[threading.Thread], *sockets: socket.socket) -> None:
        for thread in ends:
            thread.join()
        for each in sockets:
            self._open.discard(each)
            each.close()


def _until_end(way: Callable[[], None], *sockets: socket.socket) -> None:
    with contextlib.suppress(OSError, EOFError):
        way()
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


class _Connection:
    def __init__(self, relay: UpstreamRelay, gateway: socket.socket, broker: socket.socket) -> None:
        self._relay = relay
        self._gateway = gateway
        self._broker = broker
        self._metadata: dict[int, int] = {}

    def requests(self) -> None:
        while True:
            frame = _read_frame(self._gateway)
            if not self._note(frame):
                self._relay.wait(struct.unpack_from(">h", frame)[0])
                _write_frame(self._broker, frame)

    def _note(self, frame: bytes) -> bool:
        """Whether the request is answered here."""
        try:
            header = peek_request_header(frame)
        except ProtocolError:
            key, version = struct.unpack_from(">hh", frame)
            self._relay.arrived.append(Arrived(key, version, None))
            return False
        self._relay.arrived.append(Arrived(header.api_key, header.api_version, header.client_id))
        if header.api_key == ApiKey.METADATA:
            self._metadata[header.correlation_id] = header.api_version
        highest = self._relay._api_versions_up_to
        if header.api_key != ApiKey.API_VERSIONS or header.api_version <= highest:
            return False
        # KIP-511: version 0, the error, and what would do.
        rows = struct.pack(">i3h", 1, ApiKey.API_VERSIONS, 0, highest)
        answer = encode_response_header(ApiKey.API_VERSIONS, 0, header.correlation_id)
        _write_frame(self._gateway, answer + struct.pack(">h", ErrorCode.unsupported_version) + rows)
        return True

    def responses(self) -> None:
        while True:
            frame = _read_frame(self._broker)
            version = self._metadata.pop(peek_correlation_id(frame), None)
            if version is not None:
                parts = rewrite_addresses(
                    ApiKey.METADATA, version, frame, lambda node_id: self._relay.address
                )
                frame = b"".join(parts) if isinstance(parts, list) else bytes(parts)
            _write_frame(self._gateway, frame)


def _read_frame(source: socket.socket) -> bytes:
    (size,) = _SIZE.unpack(_read(source, 4))
    return _read(source, size)


def _read(source: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = source.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def _write_frame(target: socket.socket, frame: bytes) -> None:
    target.sendall(_SIZE.pack(len(frame)) + frame)
