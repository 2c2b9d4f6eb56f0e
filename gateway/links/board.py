"""What the loops of one link share: its mirror topics, who leads their partitions, who waits for what."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import structlog

from gateway import observe
from gateway.links.lease import Lease, Unlimited
from gateway.links.link_errors import kind_of
from gateway.links.partition import Mirror, MirrorPartition, Phase
from gateway.links.requests import LinkErrorKind
from gateway.links.settings import LinkSettings
from gateway.links.work_plan import SLOTS, Slots
from gateway.state.records import MirrorRecord, MirrorStatus, MirrorTopicError
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import DialError, KafkaError
from gateway.wire import ConnectionClosed
from protocol.errors import ProtocolError

REQUEST_TIMEOUT_S: Final = 15.0
METADATA_INTERVAL_S: Final = 5.0
RETRY_DELAY_S: Final = 0.1
BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
# A topic that is gone, or a log end behind us, is believed when it stays so for this long: metadata and
# high watermarks trail behind for a moment after a change of leader.
BELIEF_S: Final = 15.0

TRANSPORT_ERRORS: Final = (ConnectionClosed, DialError, KafkaError, ProtocolError, TimeoutError, OSError)


class Board:
    """The mirror topics of a link, by name; those partitions of theirs that are held, by leader.

    They are worked on while the lease is valid. What is not held is another gateway's to work on.
    """

    def __init__(self, link_name: str, lease: Lease | None = None) -> None:
        self.log = structlog.get_logger(__name__).bind(link=link_name)
        self.settings = LinkSettings()
        self.lease = Unlimited() if lease is None else lease
        self.mirrors: dict[str, Mirror] = {}
        self._slots: Slots = frozenset(range(SLOTS))
        self._held = observe.link_partitions_held.labels(link_name)
        self.by_source: dict[int, list[MirrorPartition]] = {}
        self.by_destination: dict[int, list[MirrorPartition]] = {}
        self.wake_metadata = asyncio.Event()
        self.wake_notes = asyncio.Event()
        self.wake_fetch: dict[int, asyncio.Event] = defaultdict(asyncio.Event)
        self.wake_append: dict[int, asyncio.Event] = defaultdict(asyncio.Event)
        self.wake_resolve: dict[int, asyncio.Event] = defaultdict(asyncio.Event)
        self.source_down_since: float | None = None
        self.source_error: str | None = None
        self.source_error_kind = LinkErrorKind.NO_ERROR

    def update(self, records: Iterable[MirrorRecord], settings: LinkSettings | None = None) -> None:
        """Take over the mirror topics, and what the link's configs say, as they now stand in the state."""
        self.settings = settings or self.settings
        wanted = {record.mirror_topic_name: record for record in records}
        for name in self.mirrors.keys() - wanted.keys():
            self._stop(self.mirrors.pop(name))
        for name, record in wanted.items():
            mirror = self.mirrors.get(name)
            if mirror is None or _is_another(mirror.record, record):
                if mirror is not None:
                    self._stop(mirror)
                mirror = self.mirrors[name] = Mirror(record)
            mirror.record = record
            mirror.link_paused = self.settings.paused
            for index in range(len(mirror.partitions), record.num_partitions):
                partition = MirrorPartition(mirror, index)
                partition.held = partition.slot in self._slots
                mirror.partitions.append(partition)
            for partition in mirror.partitions:
                # A failover forgets the end that a promote had decided on.
                partition.end_at((record.stop_offsets or {}).get(partition.index))
                partition.epochs_noted()
                if not mirror.running:
                    partition.doubt(time.monotonic())
                elif record.failover:
                    partition.clear()
        self.index()
        self.wake_metadata.set()

    def hold(self, slots: Slots) -> None:
        """Work on the partitions in these slots, and on no others."""
        self._slots = slots
        for mirror in self.mirrors.values():
            for partition in mirror.partitions:
                partition.hold(partition.slot in slots, time.monotonic())
        self.index()
        self.wake_metadata.set()

    @property
    def letting_go(self) -> bool:
        """Whether appends are under way to partitions that are not held any more."""
        partitions = (p for mirror in self.mirrors.values() for p in mirror.partitions)
        return any(p.sending is not None and not p.held for p in partitions)

    def _stop(self, mirror: Mirror) -> None:
        for partition in mirror.partitions:
            partition.clear()
            partition.phase = Phase.FAILED

    def index(self) -> None:
        """Sort what is held by its leaders anew, and have everybody look again."""
        by_source, by_destination = defaultdict(list), defaultdict(list)
        for mirror in self.mirrors.values():
            for partition in mirror.partitions:
                if not partition.held:
                    continue
                if partition.source_leader is not None:
                    by_source[partition.source_leader].append(partition)
                if partition.destination_leader is not None:
                    by_destination[partition.destination_leader].append(partition)
        self.by_source, self.by_destination = by_source, by_destination
        self._held.set(sum(p.held for m in self.mirrors.values() if m.running for p in m.partitions))
        for events in (self.wake_fetch, self.wake_append, self.wake_resolve):
            for event in events.values():
                event.set()

    def fail(self, mirror: Mirror, error: MirrorTopicError, message: str) -> None:
        """The mirror topic cannot go on; the replicator sees to it that the state says so."""
        for partition in mirror.partitions:
            partition.clear()
            partition.phase = Phase.FAILED
        if mirror.failure is None:
            mirror.failure = (error, message)
            self.log.error(
                "mirror_failed", topic=mirror.record.mirror_topic_name, error=error, message=message
            )
        self.wake_metadata.set()

    def source_is_up(self) -> None:
        """The source answered."""
        self.source_down_since = self.source_error = None
        self.source_error_kind = LinkErrorKind.NO_ERROR

    def source_is_down(self, error: Exception) -> None:
        """The source did not answer, for this reason."""
        if self.source_down_since is None:
            self.source_down_since = time.monotonic()
            self.log.warning("source_unreachable", error=str(error))
        self.source_error = str(error)
        self.source_error_kind = kind_of(error)


def _is_another(before: MirrorRecord, after: MirrorRecord) -> bool:
    """Whether nothing of what was known of a mirror holds: it was made anew, or its failure is overruled."""
    overruled = before.status == MirrorStatus.FAILED and after.status == MirrorStatus.PENDING_STOPPED
    return before.producer_id != after.producer_id or overruled


def backoff_s(failures: int) -> float:
    """How long to wait after so many failures in a row, in seconds."""
    return BACKOFF_S[min(failures, len(BACKOFF_S)) - 1]


async def wait_for(event: asyncio.Event, timeout_s: float) -> None:
    """Wait until the event is set, at most so long, and clear it."""
    # Not `asyncio.wait_for`: up to Python 3.11 it loses a cancellation that comes together with the event.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    event.clear()


def drop(connection: BrokerConnection | None) -> None:
    """End a connection at once, if there is one."""
    if connection is not None:
        connection.abort()
