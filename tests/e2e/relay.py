"""A TCP relay between two ends that remembers every byte, for what must not be in them, and can be cut."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Final, Self

from compose.kafka import KafkaCluster
from tests.e2e.raw_client import Address

_ADVERTISED: Final = b"localhost"


def addresses_in(received: bytes | bytearray, kafka: KafkaCluster) -> list[str]:
    """Which brokers' addresses the bytes hold: a host, or a port behind ours, in a message or in a text.

    A port alone is four bytes that an offset may have too.
    """
    found = []
    for node in kafka.nodes:
        forms = [node.host.encode()]
        for port in (node.port, node.internal_port):
            forms += (_ADVERTISED + struct.pack(">i", port), b":%d" % port)
        found += [f"{form!r} of broker {node.node_id}" for form in forms if form in received]
    return found


class Relay:
    """Listens at `host` and a free or the given port, and passes bytes to `target` and back until closed."""

    def __init__(self, target: Address, host: str = "127.0.0.1", port: int = 0) -> None:
        self._target = target
        self._listening = socket.create_server((host, port))
        self.address: Address = (host, self._listening.getsockname()[1])
        self.received = bytearray()
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def lead_to(self, target: Address) -> None:
        """New connections go there; those that are open stay."""
        self._target = target

    def cut(self) -> None:
        """Ends all connections; new ones are taken."""
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends everything; idempotent."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=5)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            self._open |= {client, server}
            ways = ((client, server, False), (server, client, True))
            ends = [threading.Thread(target=self._pass, args=way, daemon=True) for way in ways]
            for thread in ends:
                thread.start()
            closer = threading.Thread(target=self._close_after, args=(ends, client, server), daemon=True)
            closer.start()
            self._threads.append(closer)

    def _pass(self, source: socket.socket, target: socket.socket, remember: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if remember:
                    self.received += data
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _close_after(self, ends: list[threading.Thread], *sockets: socket.socket) -> None:
        for thread in ends:
            thread.join()
        for each in sockets:
            self._open.discard(each)
            each.close()
