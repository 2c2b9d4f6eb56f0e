"""File descriptors for as many connections as the configuration allows: two for each, one on either side."""

from __future__ import annotations

import resource
from typing import Final

import structlog

log = structlog.get_logger(__name__)

# Ports, state, links, logs, and what libraries open.
_FOR_OTHER_THINGS: Final = 1_000


def allow_descriptors(max_connections: int) -> None:
    """Raises the process's soft limit as far as it may and is useful; warns if that is not enough."""
    wanted = 2 * max_connections + _FOR_OTHER_THINGS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < wanted:
        log.warning(
            "gateway.few_descriptors",
            limit=soft,
            wanted=wanted,
            advice="raise the limit of open files (ulimit -n, LimitNOFILE) or lower limits.max_connections",
        )
