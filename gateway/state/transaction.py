"""One transaction on the state topic: fence the others, then append what is committed or never seen.

Clients retry inside a transaction. This one does not: whatever goes wrong, its owner begins a new one, which
aborts what is left of this (KIP-98, InitProducerId with a transactional id).
"""

import asyncio
import datetime
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kio.schema.add_partitions_to_txn.v1.request import AddPartitionsToTxnRequest, AddPartitionsToTxnTopic
from kio.schema.end_txn.v1.request import EndTxnRequest
from kio.schema.errors import ErrorCode
from kio.schema.find_coordinator.v2.request import FindCoordinatorRequest
from kio.schema.init_producer_id.v1.request import InitProducerIdRequest
from kio.schema.produce.v8.request import PartitionProduceData, ProduceRequest, TopicProduceData
from kio.schema.types import ProducerId, TopicName, TransactionalId
from kio.static.primitive import Records, i8, i16, i32, i32Timedelta

from gateway.state.kafka_client import KafkaClient, check
from gateway.state.topic import find_leader
from protocol.records import Record, build_batch

_TRANSACTION: Final = i8(1)
_ALL: Final = i16(-1)
_PRODUCE_TIMEOUT: Final = i32Timedelta.parse(datetime.timedelta(seconds=5))
# A writer that dies inside a transaction hides later writes from readers for this long at most.
_TRANSACTION_TIMEOUT: Final = i32Timedelta.parse(datetime.timedelta(seconds=10))
# The coordinator is still writing the markers of the transaction before: a matter of milliseconds.
_MARKERS_S: Final = 0.01
# Half of what a broker takes by default (`message.max.bytes`); a record's headers and lengths are little.
_MAX_BATCH_BYTES: Final = 500_000
_RECORD_OVERHEAD: Final = 64


@dataclass(frozen=True, slots=True)
class Transaction:
    """The right to write, until somebody else begins a transaction under the same id."""

    transactional_id: str
    coordinator_id: int
    producer_id: int
    producer_epoch: int

    @classmethod
    async def begin(cls, client: KafkaClient, transactional_id: str) -> "Transaction":
        """Fences the earlier ones, and waits until the last of them is committed or aborted. ClusterError."""
        async with client.exclusive():
            found = await client.send(FindCoordinatorRequest(key=transactional_id, key_type=_TRANSACTION))
            check(found.error_code, f"looking for the coordinator of transactional id {transactional_id}")
            request = InitProducerIdRequest(
                transactional_id=TransactionalId(transactional_id), transaction_timeout=_TRANSACTION_TIMEOUT
            )
            answer = await _patient(client, request, found.node_id)
            check(answer.error_code, f"initialising transactional id {transactional_id}")
            return cls(transactional_id, found.node_id, answer.producer_id, answer.producer_epoch)

    async def commit(
        self,
        client: KafkaClient,
        topic: str,
        changes: Sequence[tuple[bytes, bytes | None]],
        headers: Sequence[tuple[str, bytes]],
    ) -> int:
        """Appends these keys and values to the topic's only partition; the offset of the last one.

        After a ClusterError it may be committed all the same: the answer may have been lost.
        """
        now_ms = time.time_ns() // 1_000_000
        async with client.exclusive():
            await self._add_partition(client, topic)
            sequence = base_offset = count = 0
            for part in _parts(changes):
                count = len(part)
                batch = build_batch(
                    [Record(at, now_ms, key, value, tuple(headers)) for at, (key, value) in enumerate(part)],
                    producer_id=self.producer_id,
                    producer_epoch=self.producer_epoch,
                    base_sequence=sequence,
                    transactional=True,
                )
                base_offset = await self._append(client, topic, batch)
                sequence += count
            request = EndTxnRequest(
                transactional_id=TransactionalId(self.transactional_id),
                producer_id=ProducerId(self.producer_id),
                producer_epoch=i16(self.producer_epoch),
                committed=True,
            )
            answer = await client.send(request, node_id=self.coordinator_id)
            check(answer.error_code, f"committing a write to topic {topic}")
            return base_offset + count - 1

    async def _add_partition(self, client: KafkaClient, topic: str) -> None:
        request = AddPartitionsToTxnRequest(
            v3_and_below_transactional_id=TransactionalId(self.transactional_id),
            v3_and_below_producer_id=ProducerId(self.producer_id),
            v3_and_below_producer_epoch=i16(self.producer_epoch),
            v3_and_below_topics=(AddPartitionsToTxnTopic(name=TopicName(topic), partitions=(i32(0),)),),
        )
        answer = await client.send(request, node_id=self.coordinator_id)
        code = answer.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code
        check(code, f"adding topic {topic} to a transaction")

    async def _append(self, client: KafkaClient, topic: str, batch: bytes) -> int:
        leader_id, _ = await find_leader(client, topic)
        data = PartitionProduceData(index=i32(0), records=Records.parse(batch))
        request = ProduceRequest(
            transactional_id=TransactionalId(self.transactional_id),
            acks=_ALL,
            timeout=_PRODUCE_TIMEOUT,
            topic_data=(TopicProduceData(name=TopicName(topic), partition_data=(data,)),),
        )
        answer = (await client.send(request, node_id=leader_id)).responses[0].partition_responses[0]
        check(answer.error_code, f"writing to topic {topic}: {answer.error_message}")
        return int(answer.base_offset)


def _parts(
    changes: Sequence[tuple[bytes, bytes | None]],
) -> Iterator[list[tuple[bytes, bytes | None]]]:
    """The changes, as many at a time as a broker takes in one batch."""
    part: list[tuple[bytes, bytes | None]] = []
    size = 0
    for key, value in changes:
        added = len(key) + len(value or b"") + _RECORD_OVERHEAD
        if part and size + added > _MAX_BATCH_BYTES:
            yield part
            part, size = [], 0
        part.append((key, value))
        size += added
    yield part


async def _patient(client: KafkaClient, request: Any, node_id: int) -> Any:
    while True:
        answer = await client.send(request, node_id=node_id)
        if answer.error_code is not ErrorCode.concurrent_transactions:
            return answer
        await asyncio.sleep(_MARKERS_S)
