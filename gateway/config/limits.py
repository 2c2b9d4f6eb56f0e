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
    max_in_flight: Count = 64
    max_in_flight_bytes: Count = 16_777_216
    max_connections: Count = 10_000
    authentication_timeout_ms: Millis = 10_000
    idle_timeout_ms: Millis = 600_000
