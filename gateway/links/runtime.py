"""A link at work on this gateway: what runs for each kind of half."""

import time
from typing import Final

from gateway.links.attach import SourceHalf
from gateway.links.replicator import Replicator
from gateway.links.requests import LinkErrorKind, LinkState, TaskError, TaskState, TaskView
from gateway.state.records import LinkRecord, UserRecord
from gateway.tasks import Tasks
from gateway.upstreams.cluster import Cluster
from gateway.upstreams.parked import ParkedPool

# A link that reconnects within this is not worth a word.
UNAVAILABLE_AFTER_S: Final = 5.0
SYNC_TASKS: Final = {
    "AclSync": "acl.sync.enable",
    "AutoCreateMirror": "auto.create.mirror.topics.enable",
    "ConsumerOffsetSync": "consumer.offset.sync.enable",
}


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
    ) -> None:
        self.record = record
        self.source = source
        self.pool = pool
        self.replicator = replicator
        self.source_half = source_half
        # The link's owner as it was when the state was last followed; None: a user that is not in the state.
        self.owner_user: UserRecord | None = None
        self._tasks = Tasks(f"link {record.link_name}")
        self._started = time.monotonic()

    def start(self) -> None:
        """Start working; `close` ends it."""
        if self.replicator is not None:
            self._tasks.spawn(self.replicator.run(), name="replicator")
        if self.source_half is not None:
            self._tasks.spawn(self.source_half.run(), name="source half")

    async def close(self) -> None:
        """Stop everything and close every connection of the link. Idempotent."""
        await self._tasks.close()
        if self.source is not None:
            await self.source.close()
        if self.pool is not None:
            await self.pool.close()

    @property
    def source_unavailable(self) -> bool:
        """Whether the source has not answered for a while."""
        if self.pool is not None and self.pool.count == 0 and not self._fetching:
            return time.monotonic() - self._started > UNAVAILABLE_AFTER_S
        down = self.replicator.source_down_since if self.replicator is not None else None
        return down is not None and time.monotonic() - down > UNAVAILABLE_AFTER_S

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
            return LinkState.UNAVAILABLE, LinkErrorKind.TIMEOUT_ERROR, self.source_half.error
        if not self.source_unavailable:
            return LinkState.ACTIVE, LinkErrorKind.NO_ERROR, None
        error = self.replicator.source_error if self.replicator is not None else None
        if self.pool is not None and self.pool.count == 0:
            error = error or "no source gateway is attached to this link"
        return LinkState.UNAVAILABLE, LinkErrorKind.BOOTSTRAP_TCP_CONNECTION_FAILED_ERROR, error

    def tasks(self) -> list[TaskView]:
        """The link's recurring jobs, as the contract names them."""
        views = []
        for name, switch in SYNC_TASKS.items():
            if self.record.configs.get(switch, "false").lower() != "true":
                views.append(TaskView(name, TaskState.NOT_CONFIGURED))
                continue
            message = f"{switch} is set, but this version of Causeway does not do it yet"
            views.append(TaskView(name, TaskState.IN_ERROR, [TaskError("NOT_SUPPORTED_ERROR", message)]))
        views.append(TaskView("TopicConfigsSync", TaskState.NOT_CONFIGURED))
        return views
