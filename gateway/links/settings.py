"""What a link's configs say to its replicator; may change while it runs."""

from dataclasses import dataclass
from typing import Self

from gateway.links.configs import LinkConfig


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Sizes in bytes, times in seconds; `retry_timeout_s` None: tried again for ever."""

    paused: bool = False
    fetch_partition_bytes: int = 2 << 20
    fetch_response_bytes: int = 16 << 20
    fetch_wait_ms: int = 500
    metadata_max_age_s: float = 30.0
    unavailable_after_s: float = 5.0
    retry_timeout_s: float | None = None

    @classmethod
    def of(cls, config: LinkConfig) -> Self:
        """As the configs have them."""
        retry_ms = config.text("cluster.link.retry.timeout.ms")
        checks = config.number("availability.check.consecutive.failure.threshold")
        return cls(
            paused=config.flag("cluster.link.paused"),
            fetch_partition_bytes=config.number("replica.fetch.max.bytes"),
            fetch_response_bytes=config.number("replica.fetch.response.max.bytes"),
            fetch_wait_ms=config.number("replica.fetch.wait.max.ms"),
            metadata_max_age_s=config.number("metadata.max.age.ms") / 1000,
            unavailable_after_s=config.number("availability.check.ms") * checks / 1000,
            retry_timeout_s=None if retry_ms is None else int(retry_ms) / 1000,
        )
