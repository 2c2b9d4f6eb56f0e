"""The limits of the configuration: what one client, one address and all clients together may take."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from gateway.config.section import Section
from gateway.config.values import Count, Millis

_FrameBytes: TypeAlias = Annotated[int, Field(ge=1024, le=2**31 - 1)]


class LimitsConfig(Section):
    """Bounds per connection, per address and over all clients of this process."""

    max_frame_bytes: _FrameBytes = 104_857_600
    max_frame_bytes_before_authentication: _FrameBytes = 65_536
    max_decoded_request_bytes: _FrameBytes = 1_048_576
    max_in_flight: Count = 64
    max_in_flight_bytes: Count = 16_777_216
    max_buffered_bytes: Count = 536_870_912
    max_connections: Count = 10_000
    max_connections_per_ip: Count = 5_000
    connections_per_second_per_ip: Count | None = None
    connection_burst_per_ip: Count = 100
    ipv6_prefix_bits: Annotated[int, Field(ge=1, le=128)] = 64
    authentication_timeout_ms: Millis = 10_000
    authentication_failure_delay_ms: Annotated[int, Field(ge=0, le=60_000)] = 100
    frame_timeout_ms: Millis = 60_000
    idle_timeout_ms: Millis = 600_000
