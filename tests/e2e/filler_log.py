"""Writes logs as links leave them, with fillers of every shape; registers them as mirrors in the state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from compose.kafka import KafkaCluster
from gateway.state.records import FillerPayload, MirrorRecord, MirrorStatus
from gateway.state.store import Store
from protocol.api_keys import ApiKey
from protocol.codecs import Codec
from protocol.fillers import FillerFormat
from protocol.record_batches import read_batches, rewrite_for_append
from protocol.records import Record, build_batch
from tests.e2e.raw_client import RawClient, make

KEY = bytes(range(0x30, 0x40))
FILLERS = FillerFormat(KEY)


class FillerLog:
    """A topic of one partition, written raw at its exact offsets; `records` is what clients see of it."""

    def __init__(self, kafka: KafkaCluster, topic: str, **configs: str) -> None:
        self.kafka = kafka
        self.topic = topic
        self.end = 0
        self.records: list[Record] = []
        admin = AdminClient({"bootstrap.servers": kafka.internal_bootstrap})
        (created,) = admin.create_topics([NewTopic(topic, 1, 1, config=dict(configs))]).values()
        created.result()
        host, _, port = kafka.internal_bootstrap.split(",")[0].rpartition(":")
        self._client = RawClient((host, int(port)))
        self.producer_id = self._call(
            make(ApiKey.INIT_PRODUCER_ID, 4, transaction_timeout=timedelta())
        ).producer_id

    def close(self) -> None:
        """Close the connection."""
        self._client.socket.close()

    def _call(self, request: Any) -> Any:
        return self._client.call(request)

    def append(self, batch: bytes | bytearray) -> None:
        """Append one batch at the end of the log, which must be where we think it is."""
        partitions = [{"index": 0, "records": bytes(batch)}]
        request = make(
            ApiKey.PRODUCE, 9, acks=-1, timeout=timedelta(seconds=10),
            topic_data=[{"name": self.topic, "partition_data": partitions}],
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while True:
            answer = self._call(request).responses[0].partition_responses[0]
            if answer.error_code == 0:
                break
            # A new topic's leader is announced before it is ready.
            assert time.monotonic() < deadline, answer
            time.sleep(0.1)
        assert answer.base_offset == self.end, answer
        (view,) = read_batches(batch)
        self.end += view.last_offset_delta + 1

    def _records(self, offsets: Sequence[int], tag: bytes, size: int) -> list[Record]:
        now = int(time.time() * 1000)
        return [Record(offset, now, b"k%d" % offset, tag + bytes(size)) for offset in offsets]

    def data(self, count: int, codec: Codec = Codec.NONE, size: int = 10) -> None:
        """A batch of records."""
        records = self._records(range(self.end, self.end + count), b"data", size)
        (view,) = read_batches(build_batch(records, codec=codec))
        self.records += records
        self.append(rewrite_for_append(view, self.producer_id, 0, self.end))

    def fillers(self, count: int, *, fixed: bool = True) -> None:
        """A run of fillers, in as many batches as it takes."""
        end = self.end + count
        while self.end < end:
            piece = FILLERS.next_count(end - self.end, max_bytes=1 << 20, fixed=fixed)
            self.append(
                FILLERS.encode(
                    piece,
                    timestamp_ms=int(time.time() * 1000),
                    producer_id=self.producer_id,
                    producer_epoch=0,
                    base_sequence=self.end,
                    fixed=fixed,
                )
            )

    def mixed(self, present: Sequence[int], count: int) -> None:
        """A batch of `count` offsets, with records at those `present`."""
        records = self._records([self.end + each for each in present], b"mixed", 100)
        self.records += records
        by_offset = {record.offset: record for record in records}
        filler = self._records([self.end], b"", 0)[0]._replace(key=KEY, value=None)
        whole = [
            by_offset.get(offset, filler._replace(offset=offset))
            for offset in range(self.end, self.end + count)
        ]
        (view,) = read_batches(build_batch(whole))
        self.append(rewrite_for_append(view, self.producer_id, 0, self.end))

    def barrier(self) -> None:
        """The end of the mirror."""
        self.append(
            FILLERS.encode(
                1,
                timestamp_ms=int(time.time() * 1000),
                producer_id=self.producer_id,
                producer_epoch=1,
                base_sequence=0,
            )
        )

    def local(self, count: int, key: bytes | None = None) -> None:
        """Records of a client, after a promote."""
        records = self._records(range(self.end, self.end + count), b"local", 10)
        if key is not None:
            # What a client might write that saw fillers around the gateway.
            records = [record._replace(key=key, value=None) for record in records]
        self.records += records
        (view,) = read_batches(build_batch(records))
        self.append(rewrite_for_append(view, -1, -1, -1))

    def mirror(self, topic_id: UUID, stop: int | None, **changes: Any) -> MirrorRecord:
        """Its record in the state: promoted, with its end at `stop`, or still a mirror."""
        return MirrorRecord(
            link_name="gone",
            cluster_link_id="gone",
            filler_key=KEY,
            filler_payloads=tuple(
                FillerPayload(count=each.count, size_bytes=each.size_bytes, sha256=each.sha256)
                for each in FILLERS.payloads()
            ),
            mirror_topic_name=self.topic,
            source_topic_name=self.topic,
            num_partitions=1,
            topic_id=topic_id,
            producer_id=self.producer_id,
            status=MirrorStatus.ACTIVE if stop is None else MirrorStatus.STOPPED,
            stop_offsets=None if stop is None else {0: stop},
            state_time_ms=0,
        ).model_copy(update=changes)

    def topic_id(self) -> UUID:
        """Its id."""
        answer = self._call(make(ApiKey.METADATA, 12, topics=[{"topic_id": None, "name": self.topic}]))
        found = answer.topics[0].topic_id
        assert isinstance(found, UUID)
        return found


def register(kafka: KafkaCluster, mirrors: Sequence[MirrorRecord]) -> None:
    """Write mirrors into the state of the gateways of a cluster."""

    async def write() -> None:
        store = Store(lambda: kafka.internal_bootstrap.split(","), replication_factor=1)
        await store.start()
        try:
            await store.update(lambda state: list(mirrors))
        finally:
            await store.stop()

    asyncio.run(write())
