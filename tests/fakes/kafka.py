"""Brokers with logs in memory, on real sockets: what a link reads from and writes to, and faults by request.

Appends are as a broker's: at the end of the log, base offset 0 wanted, and with `remembers` only as the exact
continuation of what the producer wrote (`ProducerStateManager`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from kio.schema.errors import ErrorCode

from gateway.upstreams.metadata import nested_class
from protocol.api_keys import ApiKey
from protocol.headers import RequestHeader
from protocol.messages import decode_request, response_class
from protocol.record_batches import ATTRIBUTES_OFFSET, BatchView, read_batches, seal
from protocol.records import Record, build_batch
from tests.fakes.broker import VERSIONS, Answer, FakeBroker

LOG_END_READER: Final = 2_000_000_000
_SEQUENCES: Final = 1 << 31


@dataclass
class Log:
    """One partition: its stored batches, and what its leader says of it."""

    leader: int = 1
    start: int = 0
    batches: list[bytes] = field(default_factory=list)
    # What a consumer sees less of than the log has; None: everything.
    high_watermark: int | None = None
    stable: int | None = None
    # What is sent with every Fetch: batches from before what was asked for, and nonsense behind.
    from_start: bool = False
    garbage: bytes = b""
    # Of the producer ids, epoch and next sequence number.
    producers: dict[int, tuple[int, int]] = field(default_factory=dict)
    # Producer id, first and last offset of every aborted transaction.
    aborted: list[tuple[int, int, int]] = field(default_factory=list)
    # Producers with a transaction open, or none (-1): id, timestamp of the last record, first offset.
    open: list[tuple[int, int, int]] = field(default_factory=list)
    # Leader epochs with their first offsets; without any the broker knows of none.
    epochs: list[tuple[int, int]] = field(default_factory=list)
    remembers: bool = True
    # Error codes to answer with, one per request.
    fetch_errors: deque[int] = field(default_factory=deque)
    produce_errors: deque[int] = field(default_factory=deque)
    offset_errors: deque[int] = field(default_factory=deque)

    @property
    def end(self) -> int:
        """The log end offset."""
        return next(read_batches(self.batches[-1])).next_offset if self.batches else self.start

    @property
    def watermark(self) -> int:
        """Where consumers stop."""
        return self.end if self.high_watermark is None else self.high_watermark

    def views(self) -> list[BatchView]:
        """The batches of the log."""
        return [next(read_batches(batch)) for batch in self.batches]

    def append(self, batch: bytes | bytearray) -> int:
        """Stores a batch at the end; returns its base offset."""
        base = self.end
        stored = bytearray(batch)
        stored[0:8] = base.to_bytes(8)
        self.batches.append(bytes(stored))
        return base

    def lead(self, epoch: int) -> None:
        """A leader of that epoch takes over."""
        self.epochs.append((epoch, self.end))

    def epoch_end(self, wanted: int) -> tuple[int, int]:
        """The latest epoch not above the wanted one, and where it ends; -1 if the log does not know."""
        if not self.epochs or wanted > self.epochs[-1][0]:
            return -1, -1
        found = [each for each in self.epochs if each[0] <= wanted]
        after = [start for epoch, start in self.epochs if epoch > wanted]
        return (found[-1][0] if found else wanted), (after[0] if after else self.end)

    def write(self, *counts: int, size: int = 10, **attributes: Any) -> None:
        """Appends batches of so many records, as a producer without a producer id."""
        if self.epochs:
            attributes.setdefault("partition_leader_epoch", self.epochs[-1][0])
        for count in counts:
            base = self.end
            records = [Record(i, 1_000 + base + i, b"k%d" % (base + i), bytes(size)) for i in range(count)]
            self.append(build_batch(records, **attributes))

    def write_unknown(self, count: int = 1) -> None:
        """Appends a batch with a codec that Kafka does not have: nobody can copy it."""
        batch = bytearray(build_batch([Record(i, 1_000, b"k", b"v") for i in range(count)]))
        batch[ATTRIBUTES_OFFSET + 1] |= 7
        seal(batch)
        self.append(batch)

    def produce(self, batch: BatchView) -> tuple[int, int]:
        """Error code and base offset of an append by a client."""
        if batch.base_offset != 0:
            return ErrorCode.invalid_record, -1
        epoch, expected = self.producers.get(batch.producer_id, (-1, batch.base_sequence))
        if self.remembers and batch.producer_epoch < epoch:
            return ErrorCode.invalid_producer_epoch, -1
        if batch.producer_epoch > epoch >= 0:
            expected = 0
        if self.remembers and batch.base_sequence != expected:
            return ErrorCode.out_of_order_sequence_number, -1
        following = (batch.base_sequence + batch.count) % _SEQUENCES
        self.producers[batch.producer_id] = (batch.producer_epoch, following)
        return ErrorCode.none, self.append(bytes(batch.raw))

    def read(self, offset: int, limit: int) -> bytes:
        """Whole batches from the one that holds `offset` on, below `limit`."""
        first = self.start if self.from_start else offset
        wanted = [
            batch.raw for batch in self.views() if batch.next_offset > first and batch.base_offset < limit
        ]
        return b"".join(wanted) + self.garbage


@dataclass
class Topic:
    """A topic; `error_code` is what Metadata says of it."""

    topic_id: UUID | None
    logs: list[Log]
    configs: dict[str, str] = field(default_factory=dict)
    error_code: int = 0


# Called with the header and the decoded request; it returns the answer, or None for the usual one.
Fault = Callable[[RequestHeader, Any], "Answer | Awaitable[Answer] | None"]


class FakeKafka(FakeBroker):
    """A broker of a cluster whose brokers share `topics`."""

    def __init__(
        self, node_id: int = 1, *, cluster_id: str = "cluster-a", topics: dict[str, Topic] | None = None
    ) -> None:
        super().__init__(node_id, cluster_id=cluster_id)
        self.topics: dict[str, Topic] = {} if topics is None else topics
        # Answers to DescribeConfigs, by topic.
        self.config_errors: dict[str, int] = {}
        self.defaults = {
            "cleanup.policy": "delete",
            "compression.type": "producer",
            "max.message.bytes": "1048588",
            "message.timestamp.type": "CreateTime",
            "min.insync.replicas": "1",
            "retention.bytes": "-1",
            "retention.ms": "604800000",
            "segment.bytes": "1073741824",
        }
        self.producer_ids = 4711
        # What was asked, decoded, in order: API key and request.
        self.asked: list[tuple[int, Any]] = []
        self.faults: dict[int, deque[Fault]] = {}
        self.versions = {
            **VERSIONS,
            ApiKey.PRODUCE: (3, 13),
            ApiKey.FETCH: (4, 13),
            ApiKey.METADATA: (5, 12),
            ApiKey.CREATE_TOPICS: (2, 7),
            ApiKey.DELETE_TOPICS: (1, 6),
            ApiKey.DESCRIBE_CONFIGS: (1, 4),
            ApiKey.INCREMENTAL_ALTER_CONFIGS: (0, 1),
            ApiKey.INIT_PRODUCER_ID: (0, 4),
            ApiKey.DELETE_RECORDS: (0, 2),
            ApiKey.OFFSET_FOR_LEADER_EPOCH: (0, 4),
            ApiKey.CREATE_PARTITIONS: (0, 3),
            ApiKey.DESCRIBE_PRODUCERS: (0, 0),
        }
        self._usual: dict[int, Callable[[Any, Any], Answer]] = {
            ApiKey.METADATA: self._metadata,
            ApiKey.FETCH: self._fetch,
            ApiKey.PRODUCE: self._produce,
            ApiKey.LIST_OFFSETS: self._list_offsets,
            ApiKey.CREATE_TOPICS: self._create_topics,
            ApiKey.DELETE_TOPICS: self._delete_topics,
            ApiKey.DESCRIBE_CONFIGS: self._describe_configs,
            ApiKey.INCREMENTAL_ALTER_CONFIGS: self._alter_configs,
            ApiKey.INIT_PRODUCER_ID: self._init_producer_id,
            ApiKey.DELETE_RECORDS: self._delete_records,
            ApiKey.OFFSET_FOR_LEADER_EPOCH: self._epoch_ends,
            ApiKey.CREATE_PARTITIONS: self._create_partitions,
            ApiKey.DESCRIBE_PRODUCERS: self._describe_producers,
        }
        self.handlers.update(dict.fromkeys(self._usual, self._handle))

    def create(self, name: str, partitions: int = 1, **more: Any) -> Topic:
        """Makes a topic led by this broker."""
        made = Topic(uuid4(), [Log(self.node_id) for _ in range(partitions)], **more)
        self.topics[name] = made
        return made

    def fault(self, api_key: int, *faults: Fault) -> None:
        """The next requests of that kind go through these instead."""
        self.faults.setdefault(api_key, deque()).extend(faults)

    def of_kind(self, *api_keys: int) -> list[tuple[int, Any]]:
        """What was asked of these kinds, in order."""
        return [(key, request) for key, request in self.asked if key in api_keys]

    def cut(self) -> None:
        """Ends every connection at once."""
        for connection in self.connections:
            connection.abort()

    def usual(self, header: RequestHeader, request: Any) -> Answer:
        """What is answered without a fault."""
        return self._usual[header.api_key](response_class(header.api_key, header.api_version), request)

    async def _handle(self, header: RequestHeader, body: bytes) -> Answer:
        request = decode_request(header.api_key, header.api_version, body)
        self.asked.append((header.api_key, request))
        waiting = self.faults.get(header.api_key)
        if waiting:
            answer = waiting.popleft()(header, request)
            if isinstance(answer, Awaitable):
                answer = await answer
            if answer is not None:
                return None if answer is NO_ANSWER else answer
        answer = self.usual(header, request)
        fetched = answer.responses if header.api_key == ApiKey.FETCH else None
        if fetched is not None and not any(p.records for topic in fetched for p in topic.partitions):
            # In place of the wait that was asked for, so that nobody polls without a pause.
            await asyncio.sleep(0.005)
        return answer

    def _find(self, named: Any) -> tuple[str, Topic] | None:
        """A topic of a Fetch or Produce request, by name or id."""
        name = getattr(named, "topic", None) or getattr(named, "name", None)
        if name is not None:
            topic = self.topics.get(name)
            return None if topic is None else (name, topic)
        found = [(n, t) for n, t in self.topics.items() if t.topic_id == named.topic_id]
        return found[0] if found else None

    def _log(self, named: Any, index: int) -> tuple[Log | None, int]:
        found = self._find(named)
        if found is None:
            missing = ErrorCode.unknown_topic_id
            return None, missing if hasattr(named, "topic_id") else ErrorCode.unknown_topic_or_partition
        if index >= len(found[1].logs):
            return None, ErrorCode.unknown_topic_or_partition
        log = found[1].logs[index]
        return log, ErrorCode.none if log.leader == self.node_id else ErrorCode.not_leader_or_follower

    # --- the usual answers ----------------------------------------------------------------------------

    def _metadata(self, response: Any, request: Any) -> Answer:
        broker = nested_class(response, "MetadataResponseBroker")
        names = self.topics if request.topics is None else [topic.name for topic in request.topics]
        return response(
            throttle_time=timedelta(),
            brokers=tuple(broker(node_id=n, host=h, port=p) for n, (h, p) in self.brokers.items()),
            cluster_id=self.cluster_id,
            controller_id=self.controller_id,
            topics=tuple(self._described(response, name) for name in names),
        )

    def _described(self, response: Any, name: str) -> Any:
        described = nested_class(response, "MetadataResponseTopic")
        partition = nested_class(response, "MetadataResponsePartition")
        topic = self.topics.get(name)
        code = ErrorCode.unknown_topic_or_partition if topic is None else ErrorCode(topic.error_code)
        ids = {"topic_id": None if topic is None else topic.topic_id} if response.__version__ >= 10 else {}
        logs = [] if topic is None or topic.error_code else topic.logs
        epochs = response.__version__ >= 7
        return described(
            error_code=code,
            name=name,
            is_internal=False,
            partitions=tuple(
                partition(
                    error_code=ErrorCode.none,
                    partition_index=index,
                    leader_id=log.leader,
                    **({"leader_epoch": log.epochs[-1][0] if log.epochs else -1} if epochs else {}),
                    replica_nodes=(),
                    isr_nodes=(),
                    offline_replicas=(),
                )
                for index, log in enumerate(logs)
            ),
            **ids,
        )

    def _fetch(self, response: Any, request: Any) -> Answer:
        topics = []
        for wanted in request.topics:
            partitions = [
                self._fetched(response, wanted, p, request.isolation_level) for p in wanted.partitions
            ]
            name = {"topic_id": wanted.topic_id} if response.__version__ >= 13 else {"topic": wanted.topic}
            topics.append(
                nested_class(response, "FetchableTopicResponse")(partitions=tuple(partitions), **name)
            )
        return response(
            throttle_time=timedelta(), error_code=ErrorCode.none, session_id=0, responses=tuple(topics)
        )

    def _fetched(self, response: Any, topic: Any, p: Any, isolation: int) -> Any:
        log, code = self._log(topic, p.partition)
        records: bytes | None = None
        if log is not None and not code:
            stable = log.watermark if log.stable is None else log.stable
            code = ErrorCode(log.fetch_errors.popleft()) if log.fetch_errors else ErrorCode.none
            code = code or _epoch_error(log, p.current_leader_epoch)
            if not code and not log.start <= p.fetch_offset <= log.watermark:
                code = ErrorCode.offset_out_of_range
            if not code:
                records = log.read(p.fetch_offset, stable if isolation else log.watermark)
        known = log is not None and not code
        return nested_class(response, "PartitionData")(
            partition_index=p.partition,
            error_code=code,
            high_watermark=log.watermark if log is not None and known else -1,
            last_stable_offset=(log.watermark if log.stable is None else log.stable)
            if log is not None and known
            else -1,
            log_start_offset=log.start if log is not None and known else -1,
            aborted_transactions=tuple(
                nested_class(response, "AbortedTransaction")(producer_id=pid, first_offset=first)
                for pid, first, last in (log.aborted if log is not None and isolation else ())
                if p.fetch_offset <= last
            ),
            preferred_read_replica=-1,
            records=records,
        )

    def _produce(self, response: Any, request: Any) -> Answer:
        topics = []
        for topic in request.topic_data:
            partitions = []
            for p in topic.partition_data:
                log, code = self._log(topic, p.index)
                base = -1
                if log is not None and not code:
                    code = log.produce_errors.popleft() if log.produce_errors else 0
                    if not code:
                        code, base = log.produce(next(iter(read_batches(p.records))))
                partitions.append(
                    nested_class(response, "PartitionProduceResponse")(
                        index=p.index,
                        error_code=ErrorCode(code),
                        base_offset=base,
                        log_append_time=None,
                        log_start_offset=0,
                        record_errors=(),
                        error_message="because" if code else None,
                    )
                )
            name = {"topic_id": topic.topic_id} if response.__version__ >= 13 else {"name": topic.name}
            topics.append(
                nested_class(response, "TopicProduceResponse")(partition_responses=tuple(partitions), **name)
            )
        return response(responses=tuple(topics), throttle_time=timedelta())

    def _list_offsets(self, response: Any, request: Any) -> Answer:
        topics = []
        for topic in request.topics:
            partitions = []
            for p in topic.partitions:
                log, code = self._log(topic, p.partition_index)
                offset = -1
                if log is not None and not code:
                    code = ErrorCode(log.offset_errors.popleft()) if log.offset_errors else ErrorCode.none
                    offset = -1 if code else self._offset(log, p.timestamp, request)
                partitions.append(
                    nested_class(response, "ListOffsetsPartitionResponse")(
                        partition_index=p.partition_index, error_code=code, timestamp=-1, offset=offset
                    )
                )
            topics.append(
                nested_class(response, "ListOffsetsTopicResponse")(
                    name=topic.name, partitions=tuple(partitions)
                )
            )
        return response(throttle_time=timedelta(), topics=tuple(topics))

    def _offset(self, log: Log, timestamp: int, request: Any) -> int:
        if timestamp == -2:
            return log.start
        if timestamp >= 0:
            later = (b.base_offset for b in log.views() if b.max_timestamp >= timestamp)
            return next(later, -1)
        if request.replica_id == LOG_END_READER:
            return log.end
        return log.stable if request.isolation_level and log.stable is not None else log.watermark

    def _epoch_ends(self, response: Any, request: Any) -> Answer:
        topics = []
        for topic in request.topics:
            partitions = []
            for p in topic.partitions:
                log, code = self._log(topic, p.partition)
                code = _epoch_error(log, p.current_leader_epoch) if log is not None and not code else code
                epoch, end = (-1, -1) if log is None or code else log.epoch_end(p.leader_epoch)
                partitions.append(
                    nested_class(response, "EpochEndOffset")(
                        partition=p.partition, error_code=code, leader_epoch=epoch, end_offset=end
                    )
                )
            topics.append(
                nested_class(response, "OffsetForLeaderTopicResult")(
                    topic=topic.topic, partitions=tuple(partitions)
                )
            )
        return response(throttle_time=timedelta(), topics=tuple(topics))

    def _delete_records(self, response: Any, request: Any) -> Answer:
        topics = []
        for topic in request.topics:
            partitions = []
            for p in topic.partitions:
                log, code = self._log(topic, p.partition_index)
                if log is not None and not code:
                    log.start = max(log.start, p.offset)
                partitions.append(
                    nested_class(response, "DeleteRecordsPartitionResult")(
                        partition_index=p.partition_index,
                        low_watermark=-1 if log is None or code else log.start,
                        error_code=code,
                    )
                )
            topics.append(
                nested_class(response, "DeleteRecordsTopicResult")(
                    name=topic.name, partitions=tuple(partitions)
                )
            )
        return response(throttle_time=timedelta(), topics=tuple(topics))

    def _create_topics(self, response: Any, request: Any) -> Answer:
        results = []
        for topic in request.topics:
            code = ErrorCode.topic_already_exists if topic.name in self.topics else ErrorCode.none
            if not code:
                configs = {config.name: config.value for config in topic.configs}
                self.create(topic.name, topic.num_partitions, configs=configs)
            results.append(
                nested_class(response, "CreatableTopicResult")(
                    name=topic.name,
                    error_code=code,
                    error_message=None,
                    **({"topic_id": self.topics[topic.name].topic_id} if response.__version__ >= 7 else {}),
                    **({"configs": None} if response.__version__ >= 5 else {}),
                )
            )
        return response(throttle_time=timedelta(), topics=tuple(results))

    def _create_partitions(self, response: Any, request: Any) -> Answer:
        results = []
        for wanted in request.topics:
            topic = self.topics.get(wanted.name)
            code = ErrorCode.unknown_topic_or_partition
            if topic is not None:
                more = wanted.count - len(topic.logs)
                code = ErrorCode.none if more > 0 else ErrorCode.invalid_partitions
                topic.logs += [Log(self.node_id) for _ in range(more)]
            results.append(
                nested_class(response, "CreatePartitionsTopicResult")(
                    name=wanted.name, error_code=code, error_message=None
                )
            )
        return response(throttle_time=timedelta(), results=tuple(results))

    def _describe_producers(self, response: Any, request: Any) -> Answer:
        topics = []
        for topic in request.topics:
            partitions = []
            for index in topic.partition_indexes:
                log, code = self._log(topic, index)
                states = [
                    nested_class(response, "ProducerState")(
                        producer_id=producer_id,
                        producer_epoch=0,
                        coordinator_epoch=0,
                        last_timestamp=timestamp,
                        current_txn_start_offset=start,
                    )
                    for producer_id, timestamp, start in (log.open if log is not None else ())
                ]
                partitions.append(
                    nested_class(response, "PartitionResponse")(
                        partition_index=index, error_code=code, active_producers=tuple(states)
                    )
                )
            topics.append(
                nested_class(response, "TopicResponse")(name=topic.name, partitions=tuple(partitions))
            )
        return response(throttle_time=timedelta(), topics=tuple(topics))

    def _delete_topics(self, response: Any, request: Any) -> Answer:
        results = []
        for topic in request.topics:
            gone = self.topics.pop(topic.name, None)
            code = ErrorCode.unknown_topic_or_partition if gone is None else ErrorCode.none
            results.append(
                nested_class(response, "DeletableTopicResult")(
                    name=topic.name, topic_id=gone and gone.topic_id, error_code=code, error_message=None
                )
            )
        return response(throttle_time=timedelta(), responses=tuple(results))

    def _describe_configs(self, response: Any, request: Any) -> Answer:
        results = []
        for resource in request.resources:
            topic = self.topics.get(resource.resource_name)
            own = {} if topic is None else topic.configs
            unknown = topic is None and not resource.resource_name.startswith("_causeway")
            code = ErrorCode.unknown_topic_or_partition if unknown else ErrorCode.none
            code = ErrorCode(self.config_errors.get(resource.resource_name, code))
            config = nested_class(response, "DescribeConfigsResourceResult")
            results.append(
                nested_class(response, "DescribeConfigsResult")(
                    error_code=code,
                    error_message=None,
                    resource_type=resource.resource_type,
                    resource_name=resource.resource_name,
                    configs=tuple(
                        config(
                            name=name,
                            value=value,
                            read_only=False,
                            config_source=1 if name in own else 5,
                            is_sensitive=False,
                            synonyms=(),
                            config_type=2,
                            documentation=None,
                        )
                        for name, value in {**self.defaults, **own}.items()
                    ),
                )
            )
        return response(throttle_time=timedelta(), results=tuple(results))

    def _alter_configs(self, response: Any, request: Any) -> Answer:
        results = []
        for resource in request.resources:
            topic = self.topics.get(resource.resource_name)
            own = {} if topic is None else topic.configs
            for config in resource.configs:
                if config.config_operation == 0:
                    own[config.name] = config.value
                else:
                    own.pop(config.name, None)
            results.append(
                nested_class(response, "AlterConfigsResourceResponse")(
                    error_code=ErrorCode.unknown_topic_or_partition if topic is None else ErrorCode.none,
                    error_message=None,
                    resource_type=resource.resource_type,
                    resource_name=resource.resource_name,
                )
            )
        return response(throttle_time=timedelta(), responses=tuple(results))

    def _init_producer_id(self, response: Any, request: Any) -> Answer:
        self.producer_ids += 1
        return response(
            throttle_time=timedelta(),
            error_code=ErrorCode.none,
            producer_id=self.producer_ids,
            producer_epoch=0,
        )


def _epoch_error(log: Log, expected: int) -> ErrorCode:
    own = log.epochs[-1][0] if log.epochs else -1
    if expected in (-1, own):
        return ErrorCode.none
    return ErrorCode.fenced_leader_epoch if expected < own else ErrorCode.unknown_leader_epoch


class _NoAnswer:
    """Returned by a fault: the request stays unanswered."""


NO_ANSWER: Final = _NoAnswer()
