"""Client libraries as their users use them, behind one interface, so that one test can try each.

Every method makes its client anew and closes it. Values are what travels; keys are left out. Librdkafka,
kcat, aiokafka and kafka-python; the Java tools are in `java_clients`.
"""

from __future__ import annotations

import asyncio
import functools
import subprocess
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, Literal, TypeVar

import aiokafka
import confluent_kafka
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin import NewTopic as AiokafkaTopic
from aiokafka.admin.config_resource import ConfigResource as AiokafkaResource
from aiokafka.admin.config_resource import ConfigResourceType as AiokafkaResourceType
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from tests.e2e.front import Access

with warnings.catch_warnings():
    # It reads its schemas in a way that Python 3.11 deprecates and 3.13 allows again.
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka
    import kafka.admin

Acks = Literal["0", "1", "all"]
# Values of one transaction, and whether it commits.
Transaction = tuple[Sequence[bytes], bool]
T = TypeVar("T")

WITHIN_S = 30


class ProduceFailed(Exception):
    """A record was refused; the text is the client's."""


class Client(ABC):
    """One library, getting in by `access`."""

    name: ClassVar[str]
    can_abort: ClassVar[bool] = True
    can_administer: ClassVar[bool] = True

    def __init__(self, access: Access) -> None:
        self.access = access

    @abstractmethod
    def produce(
        self, topic: str, values: Sequence[bytes], *, acks: Acks = "all", idempotent: bool = False
    ) -> None:
        """Returns when all are delivered, as far as `acks` tells; ProduceFailed."""

    @abstractmethod
    def transact(self, topic: str, transactional_id: str, transactions: Sequence[Transaction]) -> None:
        """Produces in transactions, one after the other, each ended; ProduceFailed."""

    @abstractmethod
    def consume(self, topic: str, group: str, count: int) -> list[bytes]:
        """Subscribes, reads so many records (read_committed, from the start if the group is new), commits."""

    def create_topic(self, topic: str, partitions: int) -> None:
        """Creates a topic and returns when it is there."""
        raise NotImplementedError

    def count_partitions(self, topic: str) -> int:
        """How many partitions a topic has by its description."""
        raise NotImplementedError

    def alter_config(self, topic: str, name: str, value: str) -> None:
        """Sets a config of a topic."""
        raise NotImplementedError

    def describe_config(self, topic: str, name: str) -> str:
        """The value of a config of a topic."""
        raise NotImplementedError

    def list_groups(self) -> set[str]:
        """All consumer groups."""
        raise NotImplementedError

    def delete_topic(self, topic: str) -> None:
        """Deletes a topic."""
        raise NotImplementedError


# --- librdkafka ---------------------------------------------------------------------------------------------


class Librdkafka(Client):
    """confluent-kafka."""

    name = "librdkafka"

    def producer(self, **settings: Any) -> confluent_kafka.Producer:
        """A producer with these settings on top."""
        return confluent_kafka.Producer(self.access.librdkafka() | {"linger.ms": 1} | settings)

    def produce(
        self, topic: str, values: Sequence[bytes], *, acks: Acks = "all", idempotent: bool = False
    ) -> None:
        failures: list[str] = []
        producer = self.producer(**{"acks": acks, "enable.idempotence": idempotent})

        def delivered(error: Any, _: Any) -> None:
            if error is not None:
                failures.append(str(error))

        for value in values:
            producer.produce(topic, value, on_delivery=delivered)
        left = producer.flush(WITHIN_S)
        if failures or left:
            raise ProduceFailed(f"{left} not delivered; {failures[:1]}")

    def transact(self, topic: str, transactional_id: str, transactions: Sequence[Transaction]) -> None:
        producer = self.producer(**{"transactional.id": transactional_id})
        try:
            producer.init_transactions(WITHIN_S)
            for values, commit in transactions:
                producer.begin_transaction()
                for value in values:
                    producer.produce(topic, value)
                producer.flush(WITHIN_S)
                end = producer.commit_transaction if commit else producer.abort_transaction
                end(WITHIN_S)
        except confluent_kafka.KafkaException as error:
            raise ProduceFailed(str(error)) from error

    def consume(self, topic: str, group: str, count: int, **settings: Any) -> list[bytes]:
        consumer = confluent_kafka.Consumer(
            self.access.librdkafka()
            | {"group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False}
            | settings
        )
        values: list[bytes] = []
        deadline = time.monotonic() + WITHIN_S
        try:
            consumer.subscribe([topic])
            while len(values) < count and time.monotonic() < deadline:
                message = consumer.poll(0.5)
                if message is not None and message.error() is None:
                    values.append(message.value() or b"")
            if values:
                consumer.commit(asynchronous=False)
        finally:
            consumer.close()
        return values

    # Kept: its futures end with it.
    @functools.cached_property
    def _admin(self) -> AdminClient:
        return AdminClient(self.access.librdkafka())

    def create_topic(self, topic: str, partitions: int) -> None:
        self._admin.create_topics([NewTopic(topic, partitions, -1)])[topic].result(WITHIN_S)

    def count_partitions(self, topic: str) -> int:
        names = confluent_kafka.TopicCollection([topic])
        return len(self._admin.describe_topics(names)[topic].result(WITHIN_S).partitions)

    def alter_config(self, topic: str, name: str, value: str) -> None:
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        self._admin.incremental_alter_configs([resource])[resource].result(WITHIN_S)

    def describe_config(self, topic: str, name: str) -> str:
        resource = ConfigResource(ResourceType.TOPIC, topic)
        described = self._admin.describe_configs([resource])[resource].result(WITHIN_S)
        return str(described[name].value)

    def list_groups(self) -> set[str]:
        return {group.group_id for group in self._admin.list_consumer_groups().result(WITHIN_S).valid}

    def delete_topic(self, topic: str) -> None:
        self._admin.delete_topics([topic])[topic].result(WITHIN_S)


class Kcat(Client):
    """kcat, the command line of librdkafka."""

    name = "kcat"
    # It aborts only when it is killed at the right moment.
    can_abort = False
    can_administer = False

    def run(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Its standard output; subprocess.CalledProcessError."""
        settings = [f"-X{key}={value}" for key, value in self.access.librdkafka().items()]
        command = ["kcat", "-F", "/dev/null", *settings, *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, timeout=WITHIN_S, check=True).stdout

    def produce(
        self, topic: str, values: Sequence[bytes], *, acks: Acks = "all", idempotent: bool = False
    ) -> None:
        self._send(topic, values, f"acks={acks}", f"enable.idempotence={str(idempotent).lower()}")

    def transact(self, topic: str, transactional_id: str, transactions: Sequence[Transaction]) -> None:
        for values, _ in transactions:
            self._send(topic, values, f"transactional.id={transactional_id}")

    def _send(self, topic: str, values: Sequence[bytes], *settings: str) -> None:
        options = [f"-X{setting}" for setting in settings]
        try:
            self.run("-P", "-t", topic, *options, stdin=b"\n".join(values) + b"\n")
        except subprocess.CalledProcessError as error:
            raise ProduceFailed(error.stderr.decode()) from error

    def consume(self, topic: str, group: str, count: int) -> list[bytes]:
        options = ("-Xauto.offset.reset=earliest", "-Xisolation.level=read_committed", "-q", "-u")
        return self.run(*options, "-c", str(count), "-G", group, topic).splitlines()


# --- aiokafka -----------------------------------------------------------------------------------------------


class Aiokafka(Client):
    """aiokafka, each call in an event loop of its own."""

    name = "aiokafka"

    def produce(
        self, topic: str, values: Sequence[bytes], *, acks: Acks = "all", idempotent: bool = False
    ) -> None:
        async def work() -> None:
            settings = {"acks": acks if acks == "all" else int(acks), "enable_idempotence": idempotent}
            producer = aiokafka.AIOKafkaProducer(**self.access.python(), **settings)
            await producer.start()
            try:
                sent = [await producer.send(topic, value) for value in values]
                await producer.flush()
                for each in sent:
                    await each
            except aiokafka.errors.KafkaError as error:
                raise ProduceFailed(f"{type(error).__name__}: {error}") from error
            finally:
                await producer.stop()

        _run(work)

    def transact(self, topic: str, transactional_id: str, transactions: Sequence[Transaction]) -> None:
        async def work() -> None:
            producer = aiokafka.AIOKafkaProducer(**self.access.python(), transactional_id=transactional_id)
            await producer.start()
            try:
                for values, commit in transactions:
                    await producer.begin_transaction()
                    for value in values:
                        await (await producer.send(topic, value))
                    await (producer.commit_transaction() if commit else producer.abort_transaction())
            except aiokafka.errors.KafkaError as error:
                raise ProduceFailed(f"{type(error).__name__}: {error}") from error
            finally:
                await producer.stop()

        _run(work)

    def consume(self, topic: str, group: str, count: int) -> list[bytes]:
        async def work() -> list[bytes]:
            consumer = aiokafka.AIOKafkaConsumer(
                topic,
                **self.access.python(),
                group_id=group,
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                isolation_level="read_committed",
            )
            await consumer.start()
            try:
                values = [(await consumer.getone()).value for _ in range(count)]
                await consumer.commit()
            finally:
                await consumer.stop()
            return values

        return _run(work)

    def create_topic(self, topic: str, partitions: int) -> None:
        self._administer(lambda admin: admin.create_topics([AiokafkaTopic(topic, partitions, 1)]))

    def count_partitions(self, topic: str) -> int:
        return len(self._administer(lambda admin: admin.describe_topics([topic]))[0]["partitions"])

    def alter_config(self, topic: str, name: str, value: str) -> None:
        resource = AiokafkaResource(AiokafkaResourceType.TOPIC, topic, {name: value})
        self._administer(lambda admin: admin.alter_configs([resource]))

    def describe_config(self, topic: str, name: str) -> str:
        resource = AiokafkaResource(AiokafkaResourceType.TOPIC, topic)
        (answer,) = self._administer(lambda admin: admin.describe_configs([resource]))
        return str(next(entry[1] for entry in answer.resources[0][4] if entry[0] == name))

    def list_groups(self) -> set[str]:
        return {group[0] for group in self._administer(lambda admin: admin.list_consumer_groups())}

    def delete_topic(self, topic: str) -> None:
        self._administer(lambda admin: admin.delete_topics([topic]))

    def _administer(self, ask: Callable[[AIOKafkaAdminClient], Awaitable[T]]) -> T:
        async def work() -> T:
            admin = AIOKafkaAdminClient(**self.access.python())
            await admin.start()
            try:
                return await ask(admin)
            finally:
                await admin.close()

        return _run(work)


def _run(work: Callable[[], Awaitable[T]]) -> T:
    async def bounded() -> T:
        # After a refusal aiokafka never asks what became of some of its own futures.
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with asyncio.timeout(WITHIN_S):
            return await work()

    return asyncio.run(bounded())


# --- kafka-python -------------------------------------------------------------------------------------------


class KafkaPython(Client):
    """kafka-python."""

    name = "kafka-python"

    def produce(
        self, topic: str, values: Sequence[bytes], *, acks: Acks = "all", idempotent: bool = False
    ) -> None:
        settings = {"acks": acks if acks == "all" else int(acks), "enable_idempotence": idempotent}
        producer = kafka.KafkaProducer(**self.access.python(), **settings)
        try:
            sent = [producer.send(topic, value) for value in values]
            producer.flush(WITHIN_S)
            for each in sent:
                each.get(WITHIN_S)
        except kafka.errors.KafkaError as error:
            raise ProduceFailed(str(error)) from error
        finally:
            producer.close(WITHIN_S)

    def transact(self, topic: str, transactional_id: str, transactions: Sequence[Transaction]) -> None:
        producer = kafka.KafkaProducer(**self.access.python(), transactional_id=transactional_id)
        try:
            producer.init_transactions()
            for values, commit in transactions:
                producer.begin_transaction()
                sent = [producer.send(topic, value) for value in values]
                producer.flush(WITHIN_S)
                for each in sent:
                    each.get(WITHIN_S)
                (producer.commit_transaction if commit else producer.abort_transaction)()
        except kafka.errors.KafkaError as error:
            raise ProduceFailed(str(error)) from error
        finally:
            producer.close(WITHIN_S)

    def consume(self, topic: str, group: str, count: int) -> list[bytes]:
        consumer = kafka.KafkaConsumer(
            topic,
            **self.access.python(),
            group_id=group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            isolation_level="read_committed",
            consumer_timeout_ms=WITHIN_S * 1000,
        )
        values = []
        try:
            for record in consumer:
                values.append(record.value)
                if len(values) == count:
                    break
            consumer.commit()
        finally:
            consumer.close()
        return values

    def create_topic(self, topic: str, partitions: int) -> None:
        self._administer(lambda admin: admin.create_topics({topic: {"num_partitions": partitions}}))

    def count_partitions(self, topic: str) -> int:
        return len(self._administer(lambda admin: admin.describe_topics([topic]))[0]["partitions"])

    def alter_config(self, topic: str, name: str, value: str) -> None:
        resource = kafka.admin.ConfigResource("TOPIC", topic, {name: value})
        self._administer(lambda admin: admin.alter_configs([resource]))

    def describe_config(self, topic: str, name: str) -> str:
        resource = kafka.admin.ConfigResource("TOPIC", topic)
        described = self._administer(lambda admin: admin.describe_configs([resource]))
        return str(described["topic"][topic][name]["value"])

    def list_groups(self) -> set[str]:
        groups = self._administer(lambda admin: admin.list_groups())
        return {group["group_id"] for group in groups}

    def delete_topic(self, topic: str) -> None:
        self._administer(lambda admin: admin.delete_topics([topic]))

    def _administer(self, ask: Callable[[Any], T]) -> T:
        admin = kafka.KafkaAdminClient(**self.access.python())
        try:
            return ask(admin)
        finally:
            admin.close()
