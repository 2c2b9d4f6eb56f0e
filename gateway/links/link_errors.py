"""What kind of trouble keeps a link from working, in the words of the REST contract."""

from collections.abc import Sequence
from typing import Final

from gateway.links.requests import LinkErrorKind
from gateway.upstreams.errors import AuthenticationFailed, NameNotFound, TlsFailed

# The first that fits. A certificate is as much a proof of who one is as a password.
_KINDS: Final[Sequence[tuple[type[Exception], LinkErrorKind]]] = (
    (AuthenticationFailed, LinkErrorKind.AUTHENTICATION_ERROR),
    (TlsFailed, LinkErrorKind.AUTHENTICATION_ERROR),
    (NameNotFound, LinkErrorKind.UNRESOLVABLE_BOOTSTRAP_ERROR),
    (TimeoutError, LinkErrorKind.TIMEOUT_ERROR),
)


def kind_of(error: BaseException) -> LinkErrorKind:
    """Its `link_error`."""
    for known, kind in _KINDS:
        if isinstance(error, known):
            return kind
    return LinkErrorKind.BOOTSTRAP_TCP_CONNECTION_FAILED_ERROR
