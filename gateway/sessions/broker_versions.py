"""What each broker speaks, asked again every few seconds, so that an upgraded broker is noticed.

Many clients ask at once after an outage; one question to the broker answers them all, failures included.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import ConnectFailed, DialError
from gateway.wire import ConnectionClosed
from protocol.api_keys import ApiKey
from protocol.api_versions import Features, Versions, advertised
from protocol.errors import ProtocolError
from protocol.messages import request_class

_FRESH_S: Final = 5.0
_FAILURE_FRESH_S: Final = 0.5
_TIMEOUT_S: Final = 5.0
_NEWEST: Final = 4


class VersionSource(Protocol):
    """The cluster; a message may be made for the connection that it is sent on."""

    async def request(
        self,
        message: Callable[[BrokerConnection], Any],
        *,
        node_id: int | None,
        timeout_s: float,
        idempotent: bool,
    ) -> Any: ...


@dataclass(frozen=True, slots=True)
class BrokerVersions:
    """What clients are shown of one broker."""

    shown: Versions
    features: Features


class VersionCache:
    """The versions of every broker, by node id; None stands for any broker."""

    def __init__(self, cluster: VersionSource) -> None:
        self._cluster = cluster
        self._locks: dict[int | None, asyncio.Lock] = {}
        self._answers: dict[int | None, tuple[float, BrokerVersions | DialError]] = {}

    async def of(self, node_id: int | None) -> BrokerVersions:
        """What the broker speaks; DialError if it cannot be asked."""
        answer = self._fresh(node_id)
        if answer is None:
            async with self._locks.setdefault(node_id, asyncio.Lock()):
                answer = self._fresh(node_id)
                if answer is None:
                    answer = await self._ask(node_id)
                    self._answers[node_id] = time.monotonic(), answer
        if isinstance(answer, DialError):
            raise answer
        return answer

    def _fresh(self, node_id: int | None) -> BrokerVersions | DialError | None:
        asked_at, answer = self._answers.get(node_id, (float("-inf"), None))
        keep_s = _FAILURE_FRESH_S if isinstance(answer, DialError) else _FRESH_S
        return answer if time.monotonic() - asked_at < keep_s else None

    async def _ask(self, node_id: int | None) -> BrokerVersions | DialError:
        try:
            response = await self._cluster.request(
                _api_versions_request, node_id=node_id, timeout_s=_TIMEOUT_S, idempotent=True
            )
        except DialError as error:
            return error
        except (ConnectionClosed, TimeoutError, ProtocolError) as error:
            return ConnectFailed(
                f"broker {'?' if node_id is None else node_id} did not tell its versions: {error}"
            )
        versions = {row.api_key: (row.min_version, row.max_version) for row in response.api_keys}
        return BrokerVersions(advertised(versions), Features.of(response))


def _api_versions_request(connection: BrokerConnection) -> Any:
    version = connection.pick_version(ApiKey.API_VERSIONS, 0, _NEWEST)
    names = {"client_software_name": "causeway", "client_software_version": "1"} if version >= 3 else {}
    return request_class(ApiKey.API_VERSIONS, version)(**names)
