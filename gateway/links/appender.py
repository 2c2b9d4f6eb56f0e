"""Appends to the brokers of a link's destination: one loop per broker, one request at a time.

One batch per partition in a request, many partitions in each; those whose replicas are slow have a loop of
their own. A request that did not end well leaves its partitions in doubt; `log_check` looks at their logs
before anything is sent again.
"""

import asyncio
import time
from typing import Final

from gateway.links.board import (
    METADATA_INTERVAL_S,
    REQUEST_TIMEOUT_S,
    TRANSPORT_ERRORS,
    Board,
    backoff_s,
    drop,
    wait_for,
)
from gateway.links.partition import MERGE_BYTES, MirrorPartition, Phase
from gateway.links.sink import Appended, produce
from gateway.state.records import MirrorTopicError
from gateway.upstreams.cluster import Cluster
from gateway.upstreams.connection import BrokerConnection
from protocol.replication import ProduceTopic

REQUEST_BYTES: Final = 8 << 20
# A broker answers when all partitions of a request are replicated, or at the timeout, which names those that
# are not. They then have a connection of their own for a while, and the patience that they need.
PRODUCE_TIMEOUT_MS: Final = 2_000
SLOW_TIMEOUT_MS: Final = 10_000
SLOW_FOR_S: Final = 60.0
# REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS, NOT_ENOUGH_REPLICAS_AFTER_APPEND.
SLOW: Final = frozenset({7, 19, 20})
# A request that was under way when its connection was lost may still sit in the broker's queue.
LOSS_DELAY_S: Final = 1.0
NONE: Final = 0
INVALID_RECORD: Final = 87
# What no further attempt changes: the record or batch itself is refused (`LogValidator`).
REFUSED_FOR_GOOD: Final = {
    2: "CORRUPT_MESSAGE",
    32: "INVALID_TIMESTAMP",
    43: "UNSUPPORTED_FOR_MESSAGE_FORMAT",
    76: "UNSUPPORTED_COMPRESSION_TYPE",
    INVALID_RECORD: "INVALID_RECORD",
}
# The batch is larger than the topic's `max.message.bytes` or `segment.bytes`: one of ours is made smaller.
TOO_LARGE: Final = {10: "MESSAGE_TOO_LARGE", 18: "RECORD_LIST_TOO_LARGE"}


class Appender:
    """Empties the queues of the partitions."""

    def __init__(self, board: Board, destination: Cluster, filler_key: bytes) -> None:
        self._board = board
        self._destination = destination
        self._filler_key = filler_key
        self._connections: set[BrokerConnection] = set()

    async def run(self, node_id: int) -> None:
        """Append at one destination broker until cancelled, where replicas keep up."""
        await self._run(node_id, slow=False)

    async def run_slow(self, node_id: int) -> None:
        """The same for partitions whose replicas do not keep up."""
        await self._run(node_id, slow=True)

    def abandon(self) -> None:
        """Drop every connection: what was not delivered by now never will be."""
        for connection in self._connections:
            connection.abort()
        self._connections.clear()

    async def _connect(self, node_id: int) -> BrokerConnection:
        connection = await self._destination.connect(node_id, linger_zero=True)
        self._connections = {each for each in self._connections if not each.closed} | {connection}
        return connection

    async def _run(self, node_id: int, *, slow: bool) -> None:
        connection: BrokerConnection | None = None
        failures = 0
        turn = 0
        try:
            while True:
                now = time.monotonic()
                ready = [
                    p
                    for p in self._board.by_destination.get(node_id, ())
                    if p.appendable and (p.slow_until > now) is slow
                ]
                if not ready or not self._board.lease.valid:
                    await wait_for(self._board.wake_append[node_id], METADATA_INTERVAL_S)
                    continue
                # Everybody gets to be first, should a request not hold all.
                turn = (turn + 1) % len(ready)
                try:
                    if connection is None or connection.closed:
                        connection = await self._connect(node_id)
                    timeout_ms = SLOW_TIMEOUT_MS if slow else PRODUCE_TIMEOUT_MS
                    await self._append(connection, ready[turn:] + ready[:turn], timeout_ms)
                    failures = 0
                except TRANSPORT_ERRORS as error:
                    self._board.log.warning("append_failed", node_id=node_id, error=str(error))
                    self._board.wake_metadata.set()
                    drop(connection)
                    connection = None
                    failures += 1
                    await asyncio.sleep(backoff_s(failures))
        finally:
            drop(connection)

    async def _append(
        self, connection: BrokerConnection, ready: list[MirrorPartition], timeout_ms: int
    ) -> None:
        topics: dict[str, ProduceTopic] = {}
        sent: list[MirrorPartition] = []
        size = 0
        now_ms = time.time_ns() // 1_000_000
        try:
            for p in ready:
                # While a connection was made it may have come into doubt, or its mirror have changed.
                if not p.appendable:
                    continue
                record = p.mirror.record
                name = record.mirror_topic_name
                topic = topics.setdefault(name, ProduceTopic(name, record.topic_id, []))
                sent.append(p)
                batch = p.take(MERGE_BYTES, self._filler_key, now_ms)
                topic.batches.append((p.index, batch))
                size += len(batch)
                if size >= REQUEST_BYTES:
                    break
            if not sent:
                return
            answers = await produce(
                connection,
                list(topics.values()),
                timeout_ms=timeout_ms,
                timeout_s=REQUEST_TIMEOUT_S,
                may_send=lambda: self._board.lease.valid,
            )
        except BaseException:
            for p in sent:
                p.sending = None
                p.doubt(time.monotonic() + LOSS_DELAY_S)
            raise
        for p in sent:
            # After a doubt that came meanwhile the log is looked at, whatever the answer was.
            if p.phase is Phase.READY:
                self._appended(p, answers.get(p.name))
            p.sending = None
            if p.phase is Phase.DOUBT and p.destination_leader is not None:
                self._board.wake_resolve[p.destination_leader].set()

    def _appended(self, p: MirrorPartition, answer: Appended | None) -> None:
        if answer is not None and answer.error_code == NONE:
            if answer.base_offset != p.position:
                self._board.fail(
                    p.mirror,
                    MirrorTopicError.ILLEGAL_STATE,
                    f"partition {p.index}: foreign writer: the record of source offset {p.position} was "
                    f"appended at {answer.base_offset}, since somebody else had written to the mirror topic",
                )
                return
            p.appended()
            if p.phase is Phase.DONE:
                self._board.wake_metadata.set()
            elif p.obstacle is not None and not p.queue:
                self._board.fail(p.mirror, *p.obstacle)
            if p.source_leader is not None:
                self._board.wake_fetch[p.source_leader].set()
            return
        code, message = (answer.error_code, answer.message) if answer else (-1, "no answer for the partition")
        refused = REFUSED_FOR_GOOD.get(code)
        if code in TOO_LARGE and p.divisible:
            p.merge_halvings += 1
        elif code in TOO_LARGE:
            refused = TOO_LARGE[code]
        if code == INVALID_RECORD and p.mirror.record.compacted:
            p.mirror.refuses_keyless = True
        elif refused is not None:
            self._board.fail(
                p.mirror,
                MirrorTopicError.ILLEGAL_STATE,
                f"partition {p.index}: the destination refuses the batch at offset {p.position} "
                f"with {refused}: {message}",
            )
            return
        self._board.log.info("append_refused", topic=p.name[0], partition=p.index, code=code, message=message)
        if code in SLOW:
            p.slow_until = time.monotonic() + SLOW_FOR_S
        p.refusals += 1
        p.doubt(time.monotonic() + backoff_s(p.refusals))
        self._board.wake_metadata.set()
