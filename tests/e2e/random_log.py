"""Writes random logs: transactions of all sizes, aborts, every codec, DeleteRecords; made again by a seed."""

import random
import time
from collections.abc import Callable

from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin._listoffsets import EarliestSpec, LatestSpec

from compose.kafka import KafkaCluster
from tests.e2e.link_lab import CODECS

TRANSACTION_TIMEOUT_MS = 60_000
CLIENT_TIMEOUT_S = 60


class RandomLog:
    """A topic, and producers of every kind that write to it.

    `transactional` counts the records of committed transactions.
    """

    def __init__(
        self, cluster: KafkaCluster, topic: str, partitions: int, seed: int, *, age_s: float = 0
    ) -> None:
        self._cluster = cluster
        self._topic = topic
        self._partitions = partitions
        self._random = random.Random(seed)
        self._age_s = age_s
        self._number = 0
        self.records = self.transactional = 0
        self._plain = [self._producer(codec) for codec in CODECS]
        self._transactional = [
            self._producer(codec, **{"transactional.id": f"{topic}-{codec}"}) for codec in CODECS
        ]
        for producer in self._transactional:
            producer.init_transactions(CLIENT_TIMEOUT_S)

    def _producer(self, codec: str, **more: str) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self._cluster.internal_bootstrap,
                "compression.type": codec,
                "linger.ms": self._random.choice([0, 2, 20]),
                "batch.num.messages": self._random.choice([1, 7, 500]),
                "enable.idempotence": "true",
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                "message.timeout.ms": TRANSACTION_TIMEOUT_MS,
                **more,
            }
        )

    def run(self, seconds: float, go_on: Callable[[], bool] = lambda: False) -> None:
        """Write for so long, and longer as long as `go_on` says so."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or go_on():
            self.step()
        for producer in self._plain:
            assert producer.flush(CLIENT_TIMEOUT_S) == 0

    def step(self) -> None:
        """One action."""
        kinds = [self._write, self._commit, self._abort, self._interleave, self._single, self._delete]
        self._random.choices(kinds, weights=[5, 4, 2, 3, 2, 1])[0]()

    def _size(self) -> int:
        return self._random.choice([1, 1, 2, 10, 100, 750])

    def _write(self) -> None:
        self._fill(self._random.choice(self._plain), self._size())

    def _commit(self) -> None:
        self._transaction([self._random.choice(self._transactional)], self._size(), [True])

    def _abort(self) -> None:
        self._transaction([self._random.choice(self._transactional)], self._size(), [False])

    def _interleave(self) -> None:
        producers = self._random.sample(self._transactional, 3)
        self._transaction(producers, self._size(), [self._random.random() < 0.6 for _ in producers])

    def _single(self) -> None:
        producer = self._random.choice(self._transactional)
        for _ in range(10):
            self._transaction([producer], 1, [self._random.random() < 0.8])

    def _transaction(self, producers: list[Producer], size: int, commits: list[bool]) -> None:
        try:
            for producer in producers:
                producer.begin_transaction()
            for producer in producers:
                self._fill(producer, size)
                if self._random.random() < 0.5:
                    producer.flush(CLIENT_TIMEOUT_S)
                    self._fill(self._random.choice(self._plain), 3)
            for producer, commit in zip(producers, commits, strict=True):
                if commit:
                    producer.commit_transaction(CLIENT_TIMEOUT_S)
                    self.transactional += size
                else:
                    producer.abort_transaction(CLIENT_TIMEOUT_S)
        except KafkaException:
            # A broker was killed. What became of a transaction is for the source to say; new producers of the
            # same names end what is open.
            for producer in producers:
                self._renew(producer)

    def _renew(self, producer: Producer) -> None:
        place = self._transactional.index(producer)
        codec = CODECS[place]
        self._transactional[place] = self._producer(codec, **{"transactional.id": f"{self._topic}-{codec}"})
        self._transactional[place].init_transactions(CLIENT_TIMEOUT_S)

    def _fill(self, producer: Producer, count: int) -> None:
        now_ms = int((time.time() - self._age_s) * 1000)
        for _ in range(count):
            self._number += 1
            self.records += 1
            chosen = self._random
            while True:
                try:
                    producer.produce(
                        self._topic,
                        None if chosen.random() < 0.1 else b"%d:" % self._number + chosen.randbytes(20) * 3,
                        key=None if chosen.random() < 0.1 else b"%d" % (self._number % 50),
                        partition=chosen.randrange(self._partitions),
                        headers=[("n", b"%d" % self._number)] if chosen.random() < 0.2 else None,
                        timestamp=now_ms + chosen.randrange(-1_000, 1_000),
                    )
                    break
                except BufferError:
                    producer.poll(0.05)
        producer.poll(0)

    def _delete(self) -> None:
        partition = self._random.randrange(self._partitions)
        try:
            low, high = self._watermarks(partition)
            if high - low < 1_000:
                return
            where = TopicPartition(
                self._topic, partition, self._random.randrange(low, low + (high - low) // 3)
            )
            self._cluster.admin.delete_records([where])[where].result(CLIENT_TIMEOUT_S)
        except KafkaException:
            # A broker that was killed; another time.
            return

    def _watermarks(self, partition: int) -> tuple[int, int]:
        where = TopicPartition(self._topic, partition)
        admin = self._cluster.admin
        specs = EarliestSpec(), LatestSpec()  # type: ignore[no-untyped-call]  # the library's
        found = [admin.list_offsets({where: spec})[where] for spec in specs]
        low, high = (each.result(CLIENT_TIMEOUT_S).offset for each in found)
        return low, high
