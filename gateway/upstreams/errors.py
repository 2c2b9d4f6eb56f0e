"""What can go wrong between us and a broker; each error names the broker."""

from __future__ import annotations

from kio.schema.errors import ErrorCode


class DialError(Exception):
    """A connection to a broker could not be made ready for requests."""


class ConnectFailed(DialError):
    """No TCP connection, or it ended before it was ready: refused, timed out, name not found."""


class TlsFailed(DialError):
    """The TLS handshake failed: certificate, host name or protocol."""


class AuthenticationFailed(DialError):
    """The broker refused our credentials or mechanism, or could not prove that it knows the password."""


class ClusterIdMismatch(DialError):
    """The broker belongs to another cluster than the one that this gateway fronts."""


class KafkaError(Exception):
    """A broker answered with an error code; `code` is it, `message` says for what."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(f"{code.name.upper()} ({int(code)}): {message}")
        self.code = code
        self.message = message

    @property
    def retriable(self) -> bool:
        """Kafka's own word on whether the same request may succeed later."""
        return self.code.retriable
