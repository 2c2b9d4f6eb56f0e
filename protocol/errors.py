"""What can be wrong with a peer's bytes. A caller translates these once, at its border."""

from __future__ import annotations


class ProtocolError(Exception):
    """The peer broke the protocol, or asked for a part of it that we do not speak."""


class DecodeError(ProtocolError):
    """The peer's bytes break the format; the text names the message, the field and the rule."""


class FrameTooLarge(DecodeError):
    """A frame announces more bytes (`size_bytes`) than its connection may send (`limit_bytes`).

    `looks_like` is another protocol, if the size is how that begins.
    """

    def __init__(self, size_bytes: int, limit_bytes: int, looks_like: str | None = None) -> None:
        hint = "" if looks_like is None else f"; this is not Kafka, it looks like {looks_like}"
        super().__init__(f"frame of {size_bytes} bytes, the limit is {limit_bytes}{hint}")
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        self.looks_like = looks_like


class TooLargeToDecode(DecodeError):
    """A well-formed request that would take too much memory and time once decoded."""


class NoBrokers(ProtocolError):
    """A response that would leave a client without any broker to ask again."""


class UnsupportedVersion(ProtocolError):
    """An API key, or a version of it, that we cannot decode (`api_key`, `version`)."""

    def __init__(self, api_key: int, version: int) -> None:
        super().__init__(f"API key {api_key} version {version} is not supported")
        self.api_key = api_key
        self.version = version
