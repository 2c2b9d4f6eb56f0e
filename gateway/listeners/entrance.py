"""From an accepted socket to a framed connection: socket options and the TLS handshake, in one deadline."""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from typing import Final

from gateway.wire import FrameConnection

_KEEPALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}


class NotEntered(Exception):
    """A connection that does not become a session; `reason` is its label in metrics, the text says more."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Arrival:
    """A client at the door: its connection, and the broker that it asked for (None: any)."""

    wire: FrameConnection
    node_id: int | None


class Entrance:
    """How connections to the listener `name` come in; each has `timeout_s` for all that is before Kafka."""

    def __init__(
        self, name: str, *, max_frame_bytes: int, timeout_s: float, ssl_context: ssl.SSLContext | None
    ) -> None:
        self._name = name
        self._max_frame_bytes = max_frame_bytes
        self._timeout_s = timeout_s
        self._ssl_context = ssl_context

    async def enter(self, accepted: socket.socket, node_id: int | None) -> Arrival:
        """Takes over the socket, accepted at the port of `node_id`; NotEntered, with the socket closed."""
        try:
            _tune(accepted)
            wire = FrameConnection(max_frame_bytes=self._max_frame_bytes, name=f"client at {self._name}")
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: wire,
                accepted,
                ssl=self._ssl_context,
                ssl_handshake_timeout=self._timeout_s if self._ssl_context else None,
            )
        except OSError as error:
            # ssl.SSLError is an OSError, as are resets and the handshake's timeout.
            accepted.close()
            text = str(error) or type(error).__name__
            raise NotEntered("tls" if self._ssl_context else "lost", text) from error
        except BaseException:
            accepted.close()
            raise
        return Arrival(wire, node_id)


def _tune(accepted: socket.socket) -> None:
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A client that vanished without a word must not hold its session for ever.
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        option = getattr(socket, name, None)
        if option is not None:
            accepted.setsockopt(socket.IPPROTO_TCP, option, value)
