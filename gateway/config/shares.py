"""The share of one worker process in the limits that are meant for all of them together."""

from __future__ import annotations

from typing import Final

from gateway.config.models import Config

# Rounded up. What is not here holds for each connection, or is no amount.
DIVIDED_LIMITS: Final = frozenset(
    {
        "connection_burst_per_ip",
        "connections_per_second_per_ip",
        "max_buffered_bytes",
        "max_connections",
        "max_connections_per_ip",
    }
)
DIVIDED_OF_LISTENERS: Final = frozenset({"max_connections"})


def share(config: Config, workers: int) -> Config:
    """The configuration of each of so many workers."""
    limits = {name: _share(getattr(config.limits, name), workers) for name in DIVIDED_LIMITS}
    listeners = [
        listener.model_copy(
            update={name: _share(getattr(listener, name), workers) for name in DIVIDED_OF_LISTENERS}
        )
        for listener in config.listeners
    ]
    return config.model_copy(
        update={"limits": config.limits.model_copy(update=limits), "listeners": listeners}
    )


def _share(value: int | None, workers: int) -> int | None:
    return None if value is None else -(-value // workers)
