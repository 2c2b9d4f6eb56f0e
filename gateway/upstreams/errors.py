"""What can go wrong between us and a broker; each error names the broker or the thing that was asked for."""

from __future__ import annotations

from kio.schema.errors import ErrorCode


class UpstreamError(Exception):
    """A cluster could not be reached, or refused."""


class DialError(UpstreamError):
    """A connection to a broker could not be made ready for requests."""


class ConnectFailed(DialError):
    """No TCP connection, or it ended before it was ready: refused, timed out, name not found."""


class NameNotFound(ConnectFailed):
    """The host's name has no address."""


class TlsFailed(DialError):
    """The TLS handshake failed: certificate, host name or protocol."""


class AuthenticationFailed(DialError):
    """The broker refused our credentials or mechanism, or could not prove that it knows the password."""


class ClusterIdMismatch(DialError):
    """The broker belongs to another cluster than the one that is expected there."""


class KafkaError(UpstreamError):
    """A broker answered with an error code; `code` is it, `message` says to what."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        self.message = message
        known = code in ErrorCode.__members__.values()
        name = ErrorCode(code).name.upper() if known else "unknown error"
        super().__init__(f"{name} ({int(code)}): {message}")
