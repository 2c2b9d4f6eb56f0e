"""A link at work on this gateway: what runs for each kind of half."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from gateway.links.attach import SourceHalf
from gateway.links.link_tasks import TIMEOUT_ERROR, UNREACHABLE_ERROR, LinkTask, Work, config_of
from gateway.links.offset_sync import ConsumerOffsetSync
from gateway.links.replicator import Replicator
from gateway.links.requests import LinkErrorKind, LinkState, TaskError, TaskState, TaskView
from gateway.links.settings import LinkSettings
from gateway.links.sync_tasks import AUTO_CREATE, TASK_NAMES, sync_tasks
from gateway.links.work_group import WorkGroup
from gateway.links.work_plan import Holding
from gateway.state.records import LinkRecord, UserRecord
from gateway.state.shared_answer import SharedAnswer
from gateway.tasks import Tasks
from gateway.upstreams.cluster import Cluster
from gateway.upstreams.parked import ParkedPool

# A moment without a share in the work is not worth a word.
NO_SHARE_AFTER_S: Final = 5.0


class LinkRuntime:
    """One half of a link: a replicator with its way to the source, or the source half that dials out."""

    def __init__(
        self,
        record: LinkRecord,
        *,
        source: Cluster | None = None,
        pool: ParkedPool | None = None,
        replicator: Replicator | None = None,
        source_half: SourceHalf | None = None,
        offset_sync: ConsumerOffsetSync | None = None,
        works: Mapping[str, Work] | None = None,
        work: WorkGroup | None = None,
    ) -> None:
        self.record = record
        self.settings = LinkSettings()
        # By `time.monotonic`; None while it is not paused.
        self.paused_since: float | None = None
        self.source = source
        self.pool = pool
        self.replicator = replicator
        self.source_half = source_half
        self.offset_sync = offset_sync
        self._work = work
        self._set(LinkSettings.of(config_of(record)))
        # The link's owner as it was when the state was last followed; None: a user that is not in the state.
        self.owner_user: UserRecord | None = None
        self._tasks = Tasks(f"link {record.link_name}")
        self._started = time.monotonic()
        self._last_syncs = SharedAnswer(self._run_tasks_once, self._tasks)
        self.link_tasks: list[LinkTask] = []
        if replicator is not None:
            self.link_tasks = sync_tasks(record, works or {}, self._held_back, self.has_tasks)

    def _set(self, settings: LinkSettings) -> None:
        self.settings = settings
        if not self.paused:
            self.paused_since = None
        elif self.paused_since is None:
            self.paused_since = time.monotonic()

    def start(self) -> None:
        """Start working; `close` ends it."""
        if self.replicator is not None:
            self._tasks.spawn(self.replicator.run(), name="replicator")
        if self.source_half is not None:
            self._tasks.spawn(self.source_half.run(), name="source half")
        for task in self.link_tasks:
            self._tasks.spawn(task.run_for_ever(), name=task.name)

    def follow(self, record: LinkRecord) -> None:
        """Take over the link as it now stands in the state."""
        self.record = record
        self._set(LinkSettings.of(config_of(record)))
        for task in self.link_tasks:
            task.follow(record)

    async def last_syncs(self) -> list[TaskError]:
        """Run every task that is on once more, as a mirror topic is about to stop; what could not be done.

        Topics that stop at the same time share a run that has begun after all of them asked.
        """
        return await self._last_syncs.get()

    async def _run_tasks_once(self) -> list[TaskError]:
        # New mirror topics are nothing that an old one could wait for.
        syncs = [task for task in self.link_tasks if task.name != AUTO_CREATE]
        return [error for task in syncs for error in await task.run_once_if_on()]

    async def close(self) -> None:
        """Stop everything and close every connection of the link. Idempotent."""
        await self._tasks.close()
        if self.source is not None:
            await self.source.close()
        if self.pool is not None:
            await self.pool.close()

    async def hold(self, holding: Holding) -> None:
        """Do this share of the link's work; returns when nothing more is sent for the rest."""
        for task in self.link_tasks:
            task.wake()
        if self.replicator is not None:
            await self.replicator.hold(holding.of(self.record.cluster_link_id))

    def has_tasks(self) -> bool:
        """Whether it is on this gateway that the link does what it does in one place only."""
        return self._work is None or self._work.holds_tasks(self.record.cluster_link_id)

    @property
    def paused(self) -> bool:
        """Whether `cluster.link.paused` keeps this half from copying."""
        return self.settings.paused and self.replicator is not None

    @property
    def source_unavailable(self) -> bool:
        """Whether the source has not answered for a while, here and, as far as is known, elsewhere."""
        if self._work is not None and self._work.is_left_out(self.record.cluster_link_id):
            return False
        return self.source_silent

    @property
    def source_silent(self) -> bool:
        """Whether the source has not answered this gateway for a while: `availability.check.*`."""
        if self.paused:
            return False
        after_s = self.settings.unavailable_after_s
        if self.pool is not None and self.pool.count == 0 and not self._fetching:
            return time.monotonic() - self._started > after_s
        down = self.replicator.source_down_since if self.replicator is not None else None
        return down is not None and time.monotonic() - down > after_s

    def source_trouble(self, mirror_topic_name: str) -> str | None:
        """Why nothing of this mirror's source can be had, once that has lasted; None while it can."""
        if self.source_unavailable:
            return f"the source cannot be reached: {self.health()[2] or 'it does not answer'}"
        replicator = self.replicator
        mirror = replicator.mirrors.get(mirror_topic_name) if replicator is not None else None
        if mirror is None or mirror.source_trouble is None:
            return None
        since, text = mirror.source_trouble
        return text if time.monotonic() - since > self.settings.unavailable_after_s else None

    @property
    def _fetching(self) -> bool:
        replicator = self.replicator
        if replicator is None or replicator.source_down_since is not None:
            return False
        return any(mirror.running for mirror in replicator.mirrors.values())

    def health(self) -> tuple[LinkState, LinkErrorKind, str | None]:
        """State of the link, and the error that keeps it from working."""
        if self.source_half is not None:
            if self.source_half.error is None:
                return LinkState.ACTIVE, LinkErrorKind.NO_ERROR, None
            return LinkState.UNAVAILABLE, self.source_half.error_kind, self.source_half.error
        if self.paused:
            return LinkState.PAUSED, LinkErrorKind.NO_ERROR, None
        if (trouble := self._trouble()) is not None:
            return LinkState.UNAVAILABLE, LinkErrorKind.UNKNOWN, trouble
        if not self.source_unavailable:
            return LinkState.ACTIVE, LinkErrorKind.NO_ERROR, None
        error, kind = None, LinkErrorKind.NO_ERROR
        if self.replicator is not None:
            error, kind = self.replicator.source_error, self.replicator.source_error_kind
        if self.pool is not None and self.pool.count == 0:
            error = error or "no source gateway is attached to this link"
        if kind is LinkErrorKind.NO_ERROR:
            kind = LinkErrorKind.BOOTSTRAP_TCP_CONNECTION_FAILED_ERROR
        return LinkState.UNAVAILABLE, kind, error

    def _trouble(self) -> str | None:
        """Why this gateway cannot share in the work."""
        work = self._work
        if work is None or work.lease.valid or time.monotonic() - self._started < NO_SHARE_AFTER_S:
            return None
        return work.trouble

    def _held_back(self) -> TaskState | None:
        return TaskState.LINK_PAUSED if self.paused else None

    def tasks(self) -> list[TaskView]:
        """The link's recurring jobs, as the contract names them. The source half has none."""
        if self.replicator is None:
            return [TaskView(name, TaskState.NOT_CONFIGURED) for name in TASK_NAMES]
        views = [task.view() for task in self.link_tasks]
        if self.source_unavailable:
            views = [
                replace(view, state=TaskState.LINK_UNAVAILABLE)
                if view.state is TaskState.ACTIVE or _is_about_source(view)
                else view
                for view in views
            ]
        return views


def _is_about_source(view: TaskView) -> bool:
    codes = {error.error_code for error in view.errors}
    return view.state is TaskState.IN_ERROR and bool(codes) and codes <= {UNREACHABLE_ERROR, TIMEOUT_ERROR}
