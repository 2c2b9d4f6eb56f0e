"""The state topic as a transactional table that every gateway of a cluster shares.

There is no leader. A write is a transaction under one transactional id: initialising it fences and aborts
whoever was writing (KIP-98), so what is then read up to the end is what the write is decided on. A writer
that was fenced meanwhile has changed nothing and starts over.
"""

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol
from uuid import UUID, uuid4

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from kio.schema.errors import ErrorCode

from gateway.state.kafka_client import ClusterError, KafkaClient, error_text, finish_starting, stop_consumer
from gateway.state.records import ClusterRecord, Delete, Record, State, StateFormatError, encode_change
from gateway.state.shared_answer import SharedAnswer
from gateway.state.table import Table
from gateway.state.topic import StateTopic
from gateway.state.transaction import Transaction
from gateway.tasks import Tasks

STATE_TOPIC: Final = "_causeway-state"

# Trying again changes nothing about these.
_HOPELESS: Final = frozenset(
    {
        ErrorCode.cluster_authorization_failed,
        ErrorCode.invalid_record,
        ErrorCode.message_too_large,
        ErrorCode.record_list_too_large,
        ErrorCode.topic_authorization_failed,
        ErrorCode.transactional_id_authorization_failed,
        ErrorCode.unsupported_version,
    }
)
_REQUEST_TIMEOUT_MS: Final = 6_000
_POLL_MS: Final = 100
_STALLED_S: Final = 15.0
_CONFIRM_S: Final = 0.5
_MAX_BACKOFF_S: Final = 3.0
_NO_TROUBLE: Final = "the brokers are slow to answer"
_ATTEMPT_HEADER: Final = "causeway-attempt"

log = structlog.get_logger(__name__)

Change = Callable[[State], Sequence[Record | Delete]]


class StateUnavailable(Exception):
    """The state topic could not be read to its end, or written, in time; the text says why."""


class Security(Protocol):
    """How to get into the cluster."""

    @property
    def protocol(self) -> str: ...
    @property
    def mechanism(self) -> str | None: ...
    @property
    def username(self) -> str | None: ...
    @property
    def password(self) -> str | None: ...
    @property
    def ssl_context(self) -> ssl.SSLContext | None: ...


class Store:
    """The shared state: read by all gateways all the time, written by any of them, one at a time.

    `bootstrap_servers` is asked whenever connections are made. `cluster_id` is the cluster's as far as it is
    known; another one's state is not taken.
    """

    def __init__(
        self,
        bootstrap_servers: Callable[[], Sequence[str]],
        security: Security | None = None,
        *,
        replication_factor: int | None = None,
        topic: str = STATE_TOPIC,
        client_id: str = "causeway",
        read_timeout_s: float = 10.0,
        write_timeout_s: float = 30.0,
        check_interval_s: float = 3.0,
        cluster_id: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._cluster_id = cluster_id
        self._options = partial(_client_options, bootstrap_servers, security, client_id)
        # Two, so that a write that waits does not keep readers waiting.
        self._asker = KafkaClient(self._options, cluster_id)
        self._writer = KafkaClient(self._options, cluster_id)
        self._topic = StateTopic(topic, replication_factor, self._asker)
        self._read_timeout_s = read_timeout_s
        self._write_timeout_s = write_timeout_s
        self._check_interval_s = check_interval_s
        self._tasks = Tasks("state")
        self._writing = asyncio.Lock()
        # Clients that produce to topics that nobody knows cause any number of these questions.
        self._end_now = SharedAnswer(self._ask_end, self._tasks)
        self._subscribers: list[Callable[[State], None]] = []
        self._topic_id: UUID | None = None
        self._state = State()
        # Where the reading of `_state` has come to, and when it was last known to be the topic's end.
        self._position = 0
        self._read_at: float | None = None
        self._moved = asyncio.Condition()
        self._trouble = _NO_TROUBLE
        self._lost = False
        # Transactions of ours that may or may not have been committed.
        self._unsettled: set[bytes] = set()

    @property
    def state(self) -> State:
        """The state as last read; see `staleness_s`."""
        return self._state

    @property
    def topic_id(self) -> UUID | None:
        """Id of the state topic, None before Kafka 2.8."""
        return self._topic_id

    @property
    def staleness_s(self) -> float:
        """Seconds since `state` was last known to be all that the topic holds; infinite before `start`."""
        return float("inf") if self._read_at is None else time.monotonic() - self._read_at

    def subscribe(self, callback: Callable[[State], None]) -> None:
        """Calls `callback` with the state whenever it has changed."""
        self._subscribers.append(callback)

    async def start(self) -> None:
        """Waits for the cluster, creates the topic if needed and reads it to its end.

        Raises StateTopicError or StateFormatError when a person has to act first; otherwise tries for ever.
        """
        backoff_s = 0.2
        while True:
            try:
                self._topic_id = (await self._topic.ensure()).topic_id
                break
            except ClusterError as error:
                log.warning("state.waiting", topic=self._topic.name, error=error_text(error))
                await asyncio.sleep(_jitter(backoff_s))
                backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks.spawn(self._read_forever(first), name="reader")
        await first

    async def keep_cluster_id(self) -> None:
        """Writes into the state whose it is, unless that stands there. StateUnavailable."""
        cluster_id = self._cluster_id()

        def change(state: State) -> list[Record | Delete]:
            if state.cluster_id is not None or cluster_id is None:
                return []
            return [ClusterRecord(cluster_id=cluster_id)]

        if self._state.cluster_id is None:
            await self.update(change)

    async def stop(self) -> None:
        """Ends the reading and closes the connections; updates that are under way fail."""
        await self._tasks.close()
        await self._asker.close()
        await self._writer.close()

    async def read_to_end(self) -> State:
        """The state with everything that was committed when this was called. StateUnavailable.

        Asks the partition's leader for the end of the topic every time.
        """
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(self._read_timeout_s):
                await self._reach(await self._end_now.get())
        except TimeoutError:
            raise StateUnavailable(
                f"topic {self._topic.name} could not be read to its end within {self._read_timeout_s:g} s:"
                f" {self._trouble}"
            ) from None
        self._note_read(asked_at)
        return self._state

    async def update(self, change: Change) -> State:
        """Writes what `change` answers to the newest state, as one transaction; returns the state with it.

        `change` may be called several times, and may raise to leave everything as it is. StateUnavailable if
        the cluster does not take the write in time; whether it was written is then unknown.
        """
        attempts: set[bytes] = set()
        try:
            return await asyncio.wait_for(self._write(change, attempts), self._write_timeout_s)
        except TimeoutError:
            raise StateUnavailable(
                f"topic {self._topic.name} could not be written within {self._write_timeout_s:g} s:"
                f" {self._trouble}"
            ) from None
        finally:
            self._unsettled -= attempts

    async def _write(self, change: Change, attempts: set[bytes]) -> State:
        async with self._writing:
            failures = 0
            while not self._lost:
                try:
                    return await self._try_write(change, attempts)
                except StateUnavailable as error:
                    log.debug("state.write_again", error=str(error))
                except ClusterError as error:
                    self._trouble = str(error)
                    if error.code in _HOPELESS:
                        break
                    log.debug("state.write_again", error=self._trouble)
                failures = min(failures + 1, 5)
                await asyncio.sleep(random.uniform(0, 0.05 * 2**failures))  # noqa: S311 - no secret
        raise StateUnavailable(f"topic {self._topic.name} cannot be written: {self._trouble}")

    async def _try_write(self, change: Change, attempts: set[bytes]) -> State:
        transaction = await Transaction.begin(self._writer, self._topic.name)
        state = await self.read_to_end()
        if attempts - self._unsettled:
            # The answer to an earlier commit was lost, not the commit.
            return state
        changes = [encode_change(each) for each in change(state)]
        if not changes:
            return state
        attempt = uuid4().bytes
        attempts.add(attempt)
        self._unsettled.add(attempt)
        headers = [(_ATTEMPT_HEADER, attempt)]
        last = await transaction.commit(self._writer, self._topic.name, changes, headers)
        await self._reach(last + 1)
        return self._state

    async def _ask_end(self) -> int:
        while True:
            try:
                return await self._end()
            except ClusterError as error:
                self._trouble = error_text(error)
                await asyncio.sleep(_jitter(0.2))

    async def _end(self) -> int:
        before = self._position
        end = await self._topic.stable_end()
        if end < before:
            # No known reason lets a leader say this of a healthy log. To stop for good, it says it twice.
            await asyncio.sleep(_CONFIRM_S)
            end = await self._topic.stable_end()
            if end < before:
                self._lose(f"its end went back from offset {before} to {end}")
        return end

    async def _reach(self, offset: int) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: self._lost or self._position >= offset)
        if self._lost:
            raise StateUnavailable(f"topic {self._topic.name} cannot be trusted: {self._trouble}")

    def _lose(self, what: str) -> None:
        self._lost = True
        self._trouble = (
            f"{what}: it was deleted, recreated or truncated; restart this gateway after repairing it"
        )
        log.error("state.lost", topic=self._topic.name, error=self._trouble)

    def _note_read(self, asked_at: float) -> None:
        self._read_at = asked_at if self._read_at is None else max(self._read_at, asked_at)

    async def _read_forever(self, first: asyncio.Future[None]) -> None:
        backoff_s = 0.2
        while not self._lost:
            started_at = time.monotonic()
            try:
                await self._read(first)
            except StateFormatError as error:
                self._trouble = str(error)
                if not first.done():
                    first.set_exception(error)
                    return
                log.error("state.unreadable", error=self._trouble)
            except (ClusterError, KafkaError, OSError) as error:
                text = error_text(error)
                level = logging.DEBUG if text == self._trouble else logging.WARNING
                self._trouble = text
                log.log(level, "state.read_again", topic=self._topic.name, error=text)
            if time.monotonic() - started_at > 2 * _MAX_BACKOFF_S:
                backoff_s = 0.2
            if not self._lost:
                await asyncio.sleep(_jitter(backoff_s))
            backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)
        async with self._moved:
            self._moved.notify_all()
        if not first.done():
            first.set_exception(StateUnavailable(f"topic {self._topic.name}: {self._trouble}"))

    async def _read(self, first: asyncio.Future[None]) -> None:
        """Reads everything, then what comes; ends by an error, or when the topic is lost."""
        shape = await self._topic.find()
        if shape is None:
            raise ClusterError(f"topic {self._topic.name} is gone")
        if self._topic_id is None:
            self._topic_id = shape.topic_id
        elif shape.topic_id != self._topic_id:
            self._lose("it is another topic of the same name")
            return
        partition = TopicPartition(self._topic.name, 0)
        consumer = AIOKafkaConsumer(
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
            **self._options(),
        )
        try:
            await finish_starting(consumer.start())
            consumer.assign([partition])
            if not await consumer.seek_to_beginning(partition):
                raise ClusterError("the broker did not tell where the topic starts")
            table = Table(self._topic.name, self._cluster_id)
            asked_at = time.monotonic()
            end = await self._end()
            position, moved_at, caught_up = 0, time.monotonic(), False
            while not self._lost:
                for record in (await consumer.getmany(partition, timeout_ms=_POLL_MS)).get(partition, ()):
                    table.apply(record.offset, record.key, record.value)
                    self._unsettled -= {value for name, value in record.headers if name == _ATTEMPT_HEADER}
                now = time.monotonic()
                before, position = position, await consumer.position(partition)
                if position != before or position >= end:
                    moved_at = now
                elif now - moved_at > _STALLED_S:
                    raise ClusterError(f"reading stopped at offset {position}, before the end at {end}")
                # Halfway a record may still stand that is deleted further on.
                if not caught_up:
                    if position < end:
                        continue
                    caught_up = True
                    self._trouble = _NO_TROUBLE
                await self._publish(table.state(), position)
                if position >= end:
                    self._note_read(asked_at)
                    if not first.done():
                        first.set_result(None)
                    if now - asked_at > self._check_interval_s:
                        asked_at, end = now, await self._end()
        finally:
            await stop_consumer(consumer)

    async def _publish(self, state: State, position: int) -> None:
        changed = state != self._state
        self._state = state
        if changed:
            for subscriber in self._subscribers:
                try:
                    subscriber(state)
                except Exception:
                    log.exception("state.subscriber_failed")
        if position != self._position:
            async with self._moved:
                self._position = position
                self._moved.notify_all()


def _client_options(
    bootstrap_servers: Callable[[], Sequence[str]], security: Security | None, client_id: str
) -> dict[str, Any]:
    options: dict[str, Any] = {
        "bootstrap_servers": list(bootstrap_servers()),
        "client_id": client_id,
        "request_timeout_ms": _REQUEST_TIMEOUT_MS,
        "metadata_max_age_ms": 60_000,
    }
    if security is not None:
        options["security_protocol"] = str(security.protocol)
        options["ssl_context"] = security.ssl_context
        if security.mechanism is not None:
            options["sasl_mechanism"] = security.mechanism
            options["sasl_plain_username"] = security.username
            options["sasl_plain_password"] = security.password
    return options


def _jitter(backoff_s: float) -> float:
    return random.uniform(backoff_s / 2, backoff_s)  # noqa: S311 - no secret
