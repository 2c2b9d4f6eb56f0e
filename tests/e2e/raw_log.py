"""Reads partitions raw, below any client library: batches as they are stored, records at their offsets."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from protocol.record_batches import BatchView, read_batches
from protocol.records import Record, iterate_records
from protocol.replication import FetchPartition, FetchTopic, decode_fetch, encode_fetch

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
        name = topic.encode()
        body = struct.pack(">ibi", -1, 0, 1) + struct.pack(">h", len(name)) + name
        answer = self.call(2, 5, body + struct.pack(">iiiq", 1, partition, -1, -1))
        error, _, offset = struct.unpack_from(">hqq", answer, len(answer) - 22)
        if error:
            raise RuntimeError(f"{topic}-{partition}: error {error}")
        return int(offset)

    def batches(self, topic: str, partition: int, start: int = 0) -> Iterator[BatchView]:
        """Every batch from `start` to the high watermark."""
        offset = start
        while True:
            wanted = FetchTopic(topic, None, [FetchPartition(partition, offset, 8 << 20)])
            body = encode_fetch(
                FETCH_VERSION, [wanted], max_wait_ms=0, min_bytes=0, max_bytes=8 << 20, isolation_level=0
            )
            error, answers = decode_fetch(FETCH_VERSION, self.call(1, FETCH_VERSION, body))
            answer = answers[0]
            if error or answer.error_code:
                raise RuntimeError(f"{topic}-{partition} at {offset}: error {error or answer.error_code}")
            for batch in read_batches(answer.records):
                if batch.next_offset <= offset:
                    continue
                assert batch.verify_crc(), f"{topic}-{partition}: batch at {batch.base_offset} fails its CRC"
                yield batch
                offset = batch.next_offset
            if offset >= answer.high_watermark:
                return

    def records(self, topic: str, partition: int, start: int = 0) -> Iterator[Record]:
        """Every record from `start` to the high watermark."""
        for batch in self.batches(topic, partition, start):
            yield from iterate_records(batch)


@dataclass(frozen=True)
class Difference:
    """The first place where two partitions are not the same."""

    partition: int
    offset: int
    source: Record | None
    mirror: Record | None


def compare(
    source: RawBroker,
    mirror: RawBroker,
    topic: str,
    partitions: Iterable[int],
    *,
    ends: dict[int, int] | None = None,
) -> tuple[int, list[Difference]]:
    """Compare offset, key, value, headers and timestamp of every record; how many were equal, what was not.

    `ends` cuts the mirror before its barrier.
    """
    equal = 0
    differences: list[Difference] = []
    for partition in partitions:
        theirs = source.records(topic, partition)
        ours = (r for r in mirror.records(topic, partition) if ends is None or r.offset < ends[partition])
        while True:
            a, b = next(theirs, None), next(ours, None)
            if a is None and b is None:
                break
            if a != b:
                offset = (a or b).offset  # type: ignore[union-attr]  # one of them is a record
                differences.append(Difference(partition, offset, a, b))
                break
            equal += 1
    return equal, differences


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
