"""Names the producers whose open transactions hold a mirror up.

A source is read up to its last stable offset. Where that stays behind the high watermark for a while, the
partition's leader is asked whose transaction it is (DescribeProducers, KIP-664; Kafka 2.8 and later).
"""

import asyncio
import time
from collections import defaultdict
from typing import Final

from gateway.links.board import TRANSPORT_ERRORS, Board
from gateway.links.partition import MirrorPartition, OpenTransaction
from gateway.upstreams.admin import open_transactions
from gateway.upstreams.cluster import Cluster

INTERVAL_S: Final = 5.0
# Transactions that are shorter than this are not worth a word.
PATIENCE_S: Final = 10.0


class OpenTransactions:
    """Looks for them, for the description of mirror topics."""

    def __init__(self, board: Board, source: Cluster) -> None:
        self._board = board
        self._source = source

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            by_leader: dict[int, list[MirrorPartition]] = defaultdict(list)
            for mirror in self._board.mirrors.values():
                for p in mirror.partitions:
                    if mirror.running and p.source_leader is not None and _is_held_up(p):
                        by_leader[p.source_leader].append(p)
                    else:
                        p.open_transactions = ()
            for leader, partitions in by_leader.items():
                await self._ask(leader, partitions)

    async def _ask(self, leader: int, partitions: list[MirrorPartition]) -> None:
        names = {(p.mirror.record.source_topic_name, p.index): p for p in partitions}
        try:
            found = await open_transactions(self._source, leader, list(names))
        except TRANSPORT_ERRORS as error:
            # An older source, or one that does not let us see it: where the transaction is, is known.
            self._board.log.info("producers_unknown", node_id=leader, error=str(error))
            found = {}
        for name, p in names.items():
            since = time.monotonic() - (p.stable_since or time.monotonic())
            producers = found.get(name, [])
            p.open_transactions = tuple(
                OpenTransaction(p.index, each.start_offset, each.producer_id, each.last_write_ms, since)
                for each in producers
            ) or (OpenTransaction(p.index, p.source_end or 0, None, None, since),)


def _is_held_up(p: MirrorPartition) -> bool:
    behind = p.source_end is not None and p.source_watermark > p.source_end
    if not behind or p.stable_since is None:
        return False
    return time.monotonic() - p.stable_since > PATIENCE_S
