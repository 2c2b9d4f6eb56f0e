"""What the admin address says of all workers of a gateway; the others are asked, each time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gateway import observe
from gateway.peers import Answer, Peers, PeerSilent
from gateway.worker_metrics import merged_page

NOT_READY: Final = "not-ready"
METRICS: Final = "metrics"
# Whoever asks us, waits too.
_TIMEOUT_S: Final = 2.0


class Overview:
    """`not_ready` is what this worker waits for; alone it is all there is to say."""

    def __init__(self, peers: Peers, not_ready: Callable[[], Sequence[str]]) -> None:
        self._peers = peers
        self._not_ready = not_ready

    def answers(self) -> Mapping[str, Answer]:
        """What this worker tells the first one when asked."""

        async def not_ready() -> str:
            return json.dumps(list(self._not_ready()))

        async def metrics() -> str:
            return observe.metrics_page().decode()

        return {NOT_READY: not_ready, METRICS: metrics}

    async def waiting_for(self) -> list[str]:
        """What all workers wait for; empty when the gateway serves."""
        reasons = list(self._not_ready())
        for index, answer in (await self._peers.ask_others(NOT_READY, timeout_s=_TIMEOUT_S)).items():
            if isinstance(answer, PeerSilent):
                reasons.append(str(answer))
            else:
                reasons += [f"worker {index}: {reason}" for reason in json.loads(answer)]
        return reasons

    async def metrics_page(self) -> bytes:
        """The metrics of all workers that answer."""
        answers = await self._peers.ask_others(METRICS, timeout_s=_TIMEOUT_S)
        own = observe.metrics_page()
        if not answers:
            return own
        pages = {index: answer for index, answer in answers.items() if isinstance(answer, str)}
        return merged_page({0: own.decode(), **pages}, expected=1 + len(answers))
