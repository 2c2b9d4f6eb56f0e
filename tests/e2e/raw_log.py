"""Reads partitions raw, below any client library: batches as they are stored, records at their offsets."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

from protocol.record_batches import BatchView, read_batches
from protocol.records import Record, iterate_records
from protocol.replication import (
    READ_COMMITTED,
    READ_UNCOMMITTED,
    FetchedPartition,
    FetchPartition,
    FetchTopic,
    decode_fetch,
    encode_fetch,
)

FETCH_VERSION = 11


class RawBroker:
    """A blocking connection to one broker's PLAINTEXT listener, as `host:port`."""

    def __init__(self, address: str, timeout_s: float = 20) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=timeout_s)
        self._correlation_id = 0

    @property
    def broken(self) -> bool:
        """Whether the broker has ended the connection, or we have."""
        if self._socket.fileno() < 0:
            return True
        # Between calls nothing is due: what can be read is the end.
        readable, _, _ = select.select([self._socket], [], [], 0)
        return bool(readable)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, api_key: int, version: int, body: bytes) -> memoryview:
        """Send a request with a header of version 1; the body of the response after its v0 header."""
        self._correlation_id += 1
        header = struct.pack(">hhih", api_key, version, self._correlation_id, -1)
        try:
            self._socket.sendall(struct.pack(">i", len(header) + len(body)) + header + body)
            (size,) = struct.unpack(">i", self._exactly(4))
            return memoryview(self._exactly(size))[4:]
        except (OSError, EOFError):
            self.close()
            raise

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise EOFError("the broker closed the connection")
            data += piece
        return bytes(data)

    def high_watermark(self, topic: str, partition: int) -> int:
        """Where the log ends for consumers."""
        return self._offset(topic, partition, -1)

    def last_stable_offset(self, topic: str, partition: int) -> int:
        """Where the log ends for consumers of committed data."""
        return self._offset(topic, partition, -1, READ_COMMITTED)

    def _offset(self, topic: str, partition: int, timestamp: int, isolation: int = READ_UNCOMMITTED) -> int:
        name = topic.encode()
        body = struct.pack(">ibi", -1, isolation, 1) + struct.pack(">h", len(name)) + name
        answer = self.call(2, 5, body + struct.pack(">iiiq", 1, partition, -1, timestamp))
        error, _, offset = struct.unpack_from(">hqq", answer, len(answer) - 22)
        if error:
            raise RuntimeError(f"{topic}-{partition}: error {error}")
        return int(offset)

    def _fetch(self, topic: str, partition: int, offset: int, isolation_level: int) -> FetchedPartition:
        wanted = FetchTopic(topic, None, [FetchPartition(partition, offset, 8 << 20)])
        body = encode_fetch(
            FETCH_VERSION,
            [wanted],
            max_wait_ms=0,
            min_bytes=0,
            max_bytes=8 << 20,
            isolation_level=isolation_level,
        )
        error, answers = decode_fetch(FETCH_VERSION, self.call(1, FETCH_VERSION, body))
        if error or answers[0].error_code:
            raise RuntimeError(f"{topic}-{partition} at {offset}: error {error or answers[0].error_code}")
        return answers[0]

    def batches(self, topic: str, partition: int, start: int = 0) -> Iterator[BatchView]:
        """Every batch from `start` to the high watermark."""
        offset = start
        while True:
            answer = self._fetch(topic, partition, offset, READ_UNCOMMITTED)
            for batch in read_batches(answer.records):
                if batch.next_offset <= offset:
                    continue
                assert batch.verify_crc(), f"{topic}-{partition}: batch at {batch.base_offset} fails its CRC"
                yield batch
                offset = batch.next_offset
            if offset >= answer.high_watermark or not answer.records:
                return

    def first_magic(self, topic: str, partition: int) -> int:
        """The message format of the first batch."""
        return next(read_batches(self._fetch(topic, partition, 0, READ_UNCOMMITTED).records)).magic

    def log_start(self, topic: str, partition: int) -> int:
        """Where the log begins."""
        return self._offset(topic, partition, -2)

    def data(self, topic: str, partition: int, filler_key: bytes | None = None) -> Data:
        """What a consumer of committed data would be given, and what it would not, of the whole log.

        Reading follows KIP-98, by code of its own. Records with the filler key are no data.
        """
        found = Data({}, set(), set(), self.log_start(topic, partition), 0)
        offset = found.start
        while True:
            answer = self._fetch(topic, partition, offset, READ_COMMITTED)
            spans = sorted(answer.aborted_transactions, key=lambda each: each[1])
            aborting: dict[int, int] = {}
            moved = False
            for batch in read_batches(answer.records):
                for producer_id, first in spans:
                    if first <= batch.base_offset + batch.last_offset_delta:
                        aborting.setdefault(producer_id, first)
                if batch.next_offset <= offset:
                    continue
                moved = True
                offset = batch.next_offset
                if batch.is_control:
                    spans = [
                        span for span in spans if span[0] != batch.producer_id or span[1] > batch.base_offset
                    ]
                    aborting.pop(batch.producer_id, None)
                    continue
                dropped = batch.is_transactional and batch.producer_id in aborting
                for record in iterate_records(batch):
                    if record.offset < found.start:
                        continue
                    if dropped:
                        found.aborted.add(record.offset)
                    elif filler_key is not None and record.key == filler_key:
                        found.fillers.add(record.offset)
                    else:
                        found.records[record.offset] = record
            if not moved:
                return found._replace(end=max(offset, answer.last_stable_offset))

    def records(self, topic: str, partition: int, start: int = 0) -> Iterator[Record]:
        """Every record from `start` to the high watermark."""
        for batch in self.batches(topic, partition, start):
            yield from iterate_records(batch)


class Data(NamedTuple):
    """The log of a partition: its records by offset, and which offsets hold something else."""

    records: dict[int, Record]
    aborted: set[int]
    fillers: set[int]
    start: int
    end: int


@dataclass(frozen=True)
class Difference:
    """A place where two partitions are not the same.

    `kind`: lost, shifted (it is there at another offset), altered, repeated (it was there before),
    resurrected (of an aborted transaction), early (not committed yet), invented, or start (of the log).
    """

    kind: str
    partition: int
    offset: int
    source: Record | None = None
    mirror: Record | None = None


def compare(
    source: RawBroker,
    mirror: RawBroker,
    topic: str,
    partitions: Iterable[int],
    *,
    ends: dict[int, int] | None = None,
    filler_key: bytes | None = None,
    compacted: bool = False,
) -> tuple[int, list[Difference]]:
    """Compare offset, key, value, headers and timestamp of every record; how many were equal, what was not.

    Both sides are read below any client and gateway. `ends` cuts the mirror, as before its barrier. Where
    both sides are compacted the newest record of each key is compared, and every record that both have.
    """
    equal = 0
    differences: list[Difference] = []
    for partition in partitions:
        theirs = source.data(topic, partition)
        ours = mirror.data(topic, partition, filler_key)
        if ends is not None:
            kept = {o: record for o, record in ours.records.items() if o < ends[partition]}
            ours = ours._replace(records=kept)
        if ours.start != theirs.start:
            found = Record(theirs.start, 0, None, None), Record(ours.start, 0, None, None)
            differences.append(Difference("start", partition, ours.start, *found))
        mine = list(_differences(partition, theirs, ours, compacted))
        differences += mine
        equal += len(theirs.records.keys() & ours.records.keys()) - sum(d.kind == "altered" for d in mine)
    return equal, differences


def _differences(partition: int, theirs: Data, ours: Data, compacted: bool) -> Iterator[Difference]:
    places: dict[tuple[object, ...], int] = {_content(r): o for o, r in theirs.records.items()}
    mirrored = {_content(r) for r in ours.records.values()} if not compacted else set()
    wanted = _newest(theirs) if compacted else theirs.records
    for offset, record in wanted.items():
        if offset not in ours.records:
            kind = "shifted" if _content(record) in mirrored else "lost"
            yield Difference(kind, partition, offset, record)
    stale = set(ours.records) - set(_newest(ours).keys()) if compacted else set()
    for offset, record in ours.records.items():
        source = theirs.records.get(offset)
        if source == record:
            continue
        if source is not None:
            yield Difference("altered", partition, offset, source, record)
        elif offset in theirs.aborted:
            yield Difference("resurrected", partition, offset, None, record)
        elif offset >= theirs.end:
            yield Difference("early", partition, offset, None, record)
        elif not compacted:
            kind = "repeated" if _content(record) in places else "invented"
            yield Difference(kind, partition, offset, None, record)
        elif offset not in stale and record.value is not None:
            # The source's cleaner is ahead; but what is newest here was superseded there, or is lost.
            yield Difference("invented", partition, offset, None, record)


def _content(record: Record) -> tuple[object, ...]:
    return record.timestamp, record.key, record.value, record.headers


def _newest(data: Data) -> dict[int, Record]:
    """The newest record of every key, without those that say that the key is gone.

    Records without a key have none: a cleaner drops them, on either side when it gets there.
    """
    newest = {record.key: offset for offset, record in sorted(data.records.items()) if record.key is not None}
    return {o: data.records[o] for o in newest.values() if data.records[o].value is not None}


def identical_sections(source: RawBroker, mirror: RawBroker, topic: str, partition: int) -> tuple[int, int]:
    """Of the batches with the same bounds on both sides, how many are equal and how many differ."""
    theirs = {
        b.base_offset: (b.last_offset_delta, bytes(b.records)) for b in source.batches(topic, partition)
    }
    same = different = 0
    for batch in mirror.batches(topic, partition):
        bounds = theirs.get(batch.base_offset)
        if bounds is None or bounds[0] != batch.last_offset_delta:
            continue
        if bounds[1] == bytes(batch.records):
            same += 1
        else:
            different += 1
    return same, different
