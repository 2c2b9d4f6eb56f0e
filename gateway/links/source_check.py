"""Whether a source still holds what was copied from it, asked before anything is fetched from a new leader.

A source that elected an unclean leader, or was restored, may have lost records that are in the mirror, and
may have grown past them since: its offsets say nothing then. Its leader epochs do (KIP-101, KIP-279): which
epochs were copied, and where each began, is recorded before the first batch of an epoch is appended. Where a
follower would be truncated, the mirror is FAILED. Where a source knows of no epochs, as with old message
formats, the last record that was copied is compared with its own.
"""

import time
from collections.abc import Sequence
from typing import Final

from gateway.links.board import REQUEST_TIMEOUT_S, Board, backoff_s
from gateway.links.partition import MirrorPartition, digest_of
from gateway.links.source import fetch
from gateway.state.records import MirrorTopicError
from gateway.upstreams.admin import epoch_ends
from gateway.upstreams.connection import BrokerConnection
from protocol.record_batches import MAGIC, read_batches
from protocol.records import iterate_records
from protocol.replication import FetchPartition, FetchTopic

_UNKNOWN: Final = -1
_BATCH_BYTES: Final = 1 << 20


class SourceCheck:
    """Asks a source broker about partitions that it came to lead."""

    def __init__(self, board: Board) -> None:
        self._board = board

    async def check(self, connection: BrokerConnection, partitions: Sequence[MirrorPartition]) -> None:
        """Let those go on whose source holds what was copied, and fail the others' mirrors."""
        asked: dict[tuple[str, int], tuple[MirrorPartition, int, int, int]] = {}
        wanted: dict[tuple[str, int], tuple[int, int]] = {}
        for p in partitions:
            epoch = p.copied_epoch
            if epoch is None:
                await self._compare(connection, p)
                continue
            key = (p.mirror.record.source_topic_name, p.index)
            asked[key] = (p, epoch, p.position, p.generation)
            wanted[key] = (p.source_epoch, epoch)
        if not wanted:
            return
        answers = await epoch_ends(connection, wanted, timeout_s=REQUEST_TIMEOUT_S)
        for key, (p, epoch, position, generation) in asked.items():
            code, found_epoch, end = answers.get(key, (_UNKNOWN, _UNKNOWN, _UNKNOWN))
            if p.generation != generation:
                continue
            if code:
                self._later(p, code)
            elif found_epoch == _UNKNOWN:
                await self._compare(connection, p)
            elif found_epoch < epoch or end < position:
                self._board.fail(
                    p.mirror,
                    MirrorTopicError.UNEXPECTED_TRUNCATION,
                    f"partition {p.index}: the source lost records: its leader epoch {found_epoch} ends at "
                    f"{end}, but the mirror has its records of epoch {epoch} up to {position}; delete and "
                    "recreate the mirror topic",
                )
            else:
                p.checked_epoch = p.source_epoch

    async def _compare(self, connection: BrokerConnection, p: MirrorPartition) -> None:
        """Where epochs say nothing: the last record that was copied, at the source."""
        generation, source_epoch = p.generation, p.source_epoch
        if p.tail is not None and not await self._holds(connection, p, *p.tail):
            if p.generation == generation:
                self._board.fail(
                    p.mirror,
                    MirrorTopicError.UNEXPECTED_TRUNCATION,
                    f"partition {p.index}: the source has another record at offset {p.tail[0]} than was "
                    "copied: it lost records, or was made anew; delete and recreate the mirror topic",
                )
            return
        p.checked_epoch = source_epoch

    async def _holds(
        self, connection: BrokerConnection, p: MirrorPartition, offset: int, digest: bytes
    ) -> bool:
        record = p.mirror.record
        wanted = FetchTopic(
            record.source_topic_name, record.source_topic_id, [FetchPartition(p.index, offset, _BATCH_BYTES)]
        )
        _, answers = await fetch(
            connection,
            [wanted],
            max_bytes=_BATCH_BYTES,
            max_wait_ms=0,
            timeout_s=REQUEST_TIMEOUT_S,
            read_committed=False,
        )
        for answer in answers:
            for batch in read_batches(answer.records):
                if batch.base_offset <= offset < batch.next_offset and batch.magic == MAGIC:
                    found = [r for r in iterate_records(batch) if r.offset == offset]
                    return not found or batch.is_control or digest_of(found[0]) == digest
        # What the source no longer has it cannot have another of.
        return True

    def _later(self, p: MirrorPartition, code: int) -> None:
        self._board.log.info("source_epoch_unknown", topic=p.name[0], partition=p.index, code=code)
        p.fetch_not_before = max(p.fetch_not_before, time.monotonic() + backoff_s(1))
        self._board.wake_metadata.set()
