"""Decides which connections are taken: limits over all listeners, per listener and per client address.

All listeners of a process share one `Admission`. A connection first takes a place (`enter`), then, once
the client is known (behind a balancer only after its PROXY header), one of the client's (`claim`).
IPv6 addresses count by their network: whoever has one usually has 2⁶⁴ of them.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.config import LimitsConfig

# Buckets of so many clients are remembered; the one that was used longest ago goes first, and is mostly full.
_MAX_BUCKETS: Final = 65_536


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a connection is not taken: the name of the limit, for metrics and log, and its value."""

    limit: str
    value: int


class Admission:
    """Counts connections and refuses the surplus. `clock` is in seconds and never goes back."""

    def __init__(self, limits: LimitsConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._total = 0
        self._by_listener: Counter[str] = Counter()
        self._by_client: Counter[str] = Counter()
        # Of every client: how many connections it may make at once, and when that was.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return self._total

    def enter(self, listener: str, listener_limit: int | None = None) -> Refusal | None:
        """Takes a place at that listener, to be given back by `leave`, unless there is a reason not to."""
        if self._total >= self._limits.max_connections:
            return Refusal("max_connections", self._limits.max_connections)
        if listener_limit is not None and self._by_listener[listener] >= listener_limit:
            return Refusal("max_connections_of_listener", listener_limit)
        self._total += 1
        self._by_listener[listener] += 1
        return None

    def leave(self, listener: str) -> None:
        """Gives back what `enter` took."""
        self._total -= 1
        self._by_listener[listener] -= 1

    def claim(self, client: str) -> Refusal | None:
        """Takes a place of that client (see `client_group`), to be given back by `unclaim`."""
        limits = self._limits
        if self._by_client[client] >= limits.max_connections_per_ip:
            return Refusal("max_connections_per_ip", limits.max_connections_per_ip)
        rate = limits.connections_per_second_per_ip
        if rate is not None and not self._take_token(client, rate):
            return Refusal("connections_per_second_per_ip", rate)
        self._by_client[client] += 1
        return None

    def unclaim(self, client: str) -> None:
        """Gives back what `claim` took."""
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]

    def client_group(self, host: str) -> str:
        """What a client's address counts as."""
        return client_group(host, self._limits.ipv6_prefix_bits)

    def _take_token(self, client: str, rate: int) -> bool:
        now = self._clock()
        burst = float(self._limits.connection_burst_per_ip)
        tokens, at = self._buckets.pop(client, (burst, now))
        tokens = min(burst, tokens + (now - at) * rate)
        taken = tokens >= 1
        self._buckets[client] = (tokens - taken, now)
        if len(self._buckets) > _MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return taken


def client_group(host: str, ipv6_prefix_bits: int) -> str:
    """An IPv4 address as it is, in IPv6's clothes too; of an IPv6 address the network; else the text."""
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ipaddress.AddressValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, ipv6_prefix_bits), strict=False))
