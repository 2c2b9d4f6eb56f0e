"""The client beside a fuzz that must not notice it: produces, reads back, and watches the time it takes."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any, Final

from protocol.api_keys import ApiKey
from tests.e2e.raw_client import Address, Closed, RawClient, batch, make, produce

_PAUSE_S: Final = 0.02
_ROUNDS_PER_CONNECTION: Final = 25


class HealthyClient:
    """Works in a thread of its own from `start` to `stop`; `failures` says what it was refused."""

    def __init__(self, address: Address, topic: str, *, user: str, password: str) -> None:
        self._address = address
        self._topic = topic
        self._login = {"user": user, "password": password}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.latencies_s: list[float] = []
        self.failures: list[str] = []

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after the round that it is in."""
        self._stopping.set()
        self._thread.join(30)

    def percentile_ms(self, share: float) -> float:
        """A latency that so many (0–1) of its requests stayed below."""
        ordered = sorted(self.latencies_s) or [0.0]
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1000

    def _run(self) -> None:
        number = 0
        while not self._stopping.is_set():
            try:
                with RawClient(self._address, **self._login) as client:  # type: ignore[arg-type]
                    for _ in range(_ROUNDS_PER_CONNECTION):
                        if self._stopping.wait(_PAUSE_S):
                            return
                        number += 1
                        self._round(client, b"%d" % number)
            except (OSError, Closed, PermissionError, AssertionError) as error:
                self.failures.append(repr(error))
                self._stopping.wait(0.2)

    def _round(self, client: RawClient, value: bytes) -> None:
        answer = self._timed(client, produce(9, {self._topic: batch(value)}))
        stored = answer.responses[0].partition_responses[0]
        assert stored.error_code == 0, f"produce: {stored.error_code!r}"
        partition = {"partition": 0, "fetch_offset": stored.base_offset, "partition_max_bytes": 1 << 20}
        fetch = make(
            ApiKey.FETCH,
            11,
            replica_id=-1,
            max_wait=timedelta(seconds=1),
            min_bytes=1,
            max_bytes=1 << 20,
            session_epoch=-1,
            topics=[{"topic": self._topic, "partitions": [partition]}],
        )
        records = self._timed(client, fetch).responses[0].partitions[0].records
        assert records is not None, "nothing was fetched"
        assert value in records, "something else was fetched"

    def _timed(self, client: RawClient, request: Any) -> Any:
        began = time.monotonic()
        answer = client.call(request)
        self.latencies_s.append(time.monotonic() - began)
        return answer
