"""The cluster links of this gateway: made, shown, altered and deleted here; `runtime` has what keeps running.

Everything is decided on the state topic: a change is written first, and what runs follows the state.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import structlog

from gateway import observe
from gateway.links import errors
from gateway.links.attached import Attached
from gateway.links.config_changes import ConfigChanges
from gateway.links.errors import LinkError
from gateway.links.group_moves import GroupMoves
from gateway.links.lag_metrics import LagMetrics
from gateway.links.link_making import LinkMaker
from gateway.links.link_parts import LinkParts, LinkServices, takes_new_connections
from gateway.links.mirrors import Mirrors
from gateway.links.requests import (
    AlterResult,
    CreateMirror,
    LinkErrorKind,
    LinkState,
    LinkView,
    MirrorVerb,
    MirrorView,
    compiled,
)
from gateway.links.runtime import LinkRuntime
from gateway.links.work_plan import Holding
from gateway.state.acl_changes import drop_link, keep_for_admin
from gateway.state.records import Delete, LinkRecord, MirrorRecord, MirrorStatus, Record, State
from gateway.tasks import Tasks

__all__ = ["LinkServices", "Links"]

log = structlog.get_logger(__name__)

FORCED_DELETE_TIMEOUT_S: Final = 30.0
SHARE_RETRY_S: Final = 1.0
# A source comes and goes: others are told no more often than this.
SILENT_SOURCES_INTERVAL_S: Final = 2.0


class Links:
    """All links of the fronted cluster. Every public method may raise LinkError."""

    def __init__(self, services: LinkServices) -> None:
        self._store = services.store
        self._services = services
        self._runtimes: dict[str, LinkRuntime] = {}
        # Links whose configs cannot be used on this gateway, with the reason.
        self._not_started: dict[str, str] = {}
        self._mirrors = Mirrors(
            self._store, services.cluster, self._runtimes, self._follow, services.all_have_read
        )
        self._work = services.join(services.cluster, services.instance_id, self._hold)
        self._parts = LinkParts(services, self._mirrors, self._work)
        self._instances = 1
        attached = Attached(services, self._runtimes, self._mirrors.write, lambda: self._work.instances)
        # Make a half of a link; judge a LinkAttach, and take over its connection; change configs.
        self.create_link = LinkMaker(services, self._parts, self._mirrors.write).create
        self.attach, self.park = attached.attach, attached.park
        self.alter_configs = ConfigChanges(self._store, services.secrets, self._mirrors.write).alter
        # How groups of a link stand, and moving them.
        self.groups = GroupMoves(self._runtimes, services.local_groups)
        self._tasks = Tasks("links")
        self._sharing: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._following = asyncio.Lock()
        # It follows the state no more; and its metrics are gone.
        self._closed = self._ended = False
        self._metrics = LagMetrics(self._runtimes, lambda: self.mirrors(None, None))

    # Life.

    async def start(self) -> None:
        """Start every link of the state, and follow the state from now on."""
        self._store.subscribe(lambda _: self._changed.set())
        observe.registry.register(self._metrics)
        await self._follow()
        self._tasks.spawn(self._follow_for_ever(), name="follow the state")

    async def hand_over(self) -> None:
        """Leave the links' work to the other gateways, as soon as nothing of it is under way. Idempotent."""
        self._closed = True
        sharing, self._sharing = self._sharing, None
        if sharing is not None:
            sharing.cancel()
            await asyncio.wait({sharing})
            await self._work.leave()

    async def close(self) -> None:
        """Stop every link. Idempotent."""
        await self.hand_over()
        if not self._ended:
            self._ended = True
            observe.remove(self._metrics)
        await self._tasks.close()
        await self._mirrors.close()
        for runtime in list(self._runtimes.values()):
            await runtime.close()
        self._runtimes.clear()

    async def _follow_for_ever(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._follow()
            except Exception:
                # Whatever is wrong with one link, the others are still to be followed.
                log.exception("state_not_followed")
                await asyncio.sleep(1)
                self._changed.set()

    async def _follow(self) -> None:
        # The state may change again meanwhile, and several may wish to follow it.
        async with self._following:
            if not self._closed and self._services.worker.is_first:
                await self._follow_state(self._store.state)

    async def _follow_state(self, state: State) -> None:
        for name, runtime in list(self._runtimes.items()):
            record = state.links.get(name)
            if (
                record is None
                or record.cluster_link_id != runtime.record.cluster_link_id
                or takes_new_connections(runtime.record, record)
            ):
                # Forgotten once it is closed: whoever does this may be cancelled, and another has to end it.
                await runtime.close()
                del self._runtimes[name]
        self._not_started = {name: why for name, why in self._not_started.items() if name in state.links}
        for name, record in state.links.items():
            if name not in self._runtimes:
                try:
                    self._runtimes[name] = self._parts.runtime(record)
                except LinkError as error:
                    log.error("link_not_started", link=name, error=error.message)
                    self._not_started[name] = error.message
                    continue
                self._not_started.pop(name, None)
                self._runtimes[name].start()
                await self._runtimes[name].hold(self._work.holding)
            runtime = self._runtimes[name]
            runtime.follow(record)
            self._drop_who_may_not(runtime, state)
            if runtime.replicator is not None:
                mirrors = [m for m in state.mirrors.values() if m.cluster_link_id == record.cluster_link_id]
                runtime.replicator.update(mirrors, runtime.settings)
                for mirror in mirrors:
                    self._mirrors.finish_creation(mirror)
        self._share()

    # Sharing the work.

    def _share(self) -> None:
        """Take part in the work as soon as there is any; source halves are every gateway's own."""
        if self._sharing is None and any(r.replicator is not None for r in self._runtimes.values()):
            self._sharing = self._tasks.spawn(self._share_for_ever(), name="share the work")
            self._tasks.spawn(self._tell_what_is_silent(), name="tell which sources are silent")

    async def _share_for_ever(self) -> None:
        while True:
            try:
                await self._work.run()
            except Exception:
                log.exception("work_not_shared")
            await asyncio.sleep(SHARE_RETRY_S)

    async def _hold(self, holding: Holding) -> None:
        runtimes = list(self._runtimes.values())
        if self._work.instances != self._instances:
            self._instances = self._work.instances
            for runtime in runtimes:
                if runtime.pool is not None:
                    runtime.pool.recall()
        await asyncio.gather(*(runtime.hold(holding) for runtime in runtimes))

    async def _tell_what_is_silent(self) -> None:
        while True:
            await asyncio.sleep(SILENT_SOURCES_INTERVAL_S)
            runtimes = [r for r in self._runtimes.values() if r.replicator is not None]
            self._work.cannot_reach(frozenset(r.record.cluster_link_id for r in runtimes if r.source_silent))

    def _drop_who_may_not(self, runtime: LinkRuntime, state: State) -> None:
        """Ends what a user has attached that is gone since, or has another password."""
        owner = (runtime.record.owner or "").removeprefix("User:")
        known, now = runtime.owner_user, state.users.get(owner)
        runtime.owner_user = now
        if known is not None and known != now and runtime.pool is not None:
            what = "was deleted" if now is None else "has another password"
            runtime.pool.drop_all(f"user {owner} {what}")

    # Links.

    def links(self) -> list[LinkView]:
        """Every link, by name."""
        return [self.link(name) for name in sorted(self._store.state.links)]

    def link(self, link_name: str) -> LinkView:
        """One link as it stands."""
        record = self._link(link_name)
        runtime = self._runtimes.get(link_name)
        topics = [m.mirror_topic_name for m in self._mirrors.of(record)]
        if runtime is None:
            why = self._not_started.get(link_name, "see the gateway's log")
            return LinkView(record, LinkState.FAILED, LinkErrorKind.UNKNOWN, why, topics)
        return LinkView(record, *runtime.health(), topics, runtime.tasks())

    def _link(self, link_name: str) -> LinkRecord:
        record = self._store.state.links.get(link_name)
        if record is None:
            raise errors.link_not_found(link_name)
        return record

    async def delete_link(
        self, link_name: str, *, force: bool, validate_only: bool, drop_acls: bool = False
    ) -> None:
        """Delete this half. Mirrors that have not stopped forbid it; `force` fails them over first.

        The ACLs that it has brought become the administrator's, or go with it if `drop_acls` is set.
        """
        record = self._link(link_name)
        live = [m.mirror_topic_name for m in self._mirrors.of(record) if m.status is not MirrorStatus.STOPPED]
        if live and not force:
            raise errors.link_in_use(link_name, live)
        if validate_only:
            return
        if live:
            await self._fail_over_all(record)

        def remove(state: State) -> list[Record | Delete]:
            current = state.links.get(link_name)
            if current is None or current.cluster_link_id != record.cluster_link_id:
                raise errors.link_not_found(link_name)
            mirrors = [m for m in state.mirrors.values() if m.cluster_link_id == record.cluster_link_id]
            # Mirrors that stopped are kept: the barrier at their end must stay hidden.
            left = [m for m in mirrors if m.status is not MirrorStatus.STOPPED]
            alive = [m.mirror_topic_name for m in left if not (force and _may_be_forgotten(m))]
            if alive:
                # Made while the others were failed over.
                raise errors.link_in_use(link_name, alive)
            let_go = drop_link if drop_acls else keep_for_admin
            groups = [k for k, g in state.groups.items() if g.cluster_link_id == record.cluster_link_id]
            return [
                Delete("link", link_name),
                *(Delete("mirror", m.mirror_topic_name) for m in left),
                *(Delete("group", name) for name in groups),
                *let_go(state, link_name),
            ]

        await self._mirrors.write(remove)

    async def _fail_over_all(self, record: LinkRecord) -> None:
        def alive() -> list[str]:
            return [
                m.mirror_topic_name
                for m in self._mirrors.of(record)
                if m.status is not MirrorStatus.STOPPED and not _may_be_forgotten(m)
            ]

        await self._mirrors.alter("failover", record, alive(), validate_only=False)
        deadline = time.monotonic() + FORCED_DELETE_TIMEOUT_S
        while alive():
            if time.monotonic() > deadline:
                raise errors.state_unavailable(
                    f"Cluster link '{record.link_name}' was not deleted: its mirror topics could not be "
                    f"failed over in {FORCED_DELETE_TIMEOUT_S:.0f} s. Is the destination cluster in order?"
                )
            await asyncio.sleep(0.1)

    # Mirror topics.

    async def create_mirror(self, link_name: str, request: CreateMirror) -> None:
        """Make a mirror topic on the destination half."""
        link = self._link(link_name)
        await self._mirrors.create(link, self._parts.config(link), request)

    def mirrors(self, link_name: str | None, status: MirrorStatus | None) -> list[MirrorView]:
        """Mirror topics of one link, or of all."""
        state = self._store.state
        links = (
            [self._link(link_name)]
            if link_name is not None
            else [state.links[n] for n in sorted(state.links)]
        )
        views = [self._mirrors.view(record) for link in links for record in self._mirrors.of(link)]
        return [view for view in views if status is None or view.record.status is status]

    def mirror(self, link_name: str, mirror_topic_name: str) -> MirrorView:
        """One mirror topic as it stands."""
        for record in self._mirrors.of(self._link(link_name)):
            if record.mirror_topic_name == mirror_topic_name:
                return self._mirrors.view(record)
        raise errors.mirror_not_found(link_name, mirror_topic_name)

    async def alter_mirrors(
        self,
        verb: MirrorVerb,
        link_name: str,
        names: Sequence[str] | None,
        pattern: str | None,
        validate_only: bool,
        *,
        force: bool = False,
    ) -> list[AlterResult]:
        """Promote, fail over, pause or resume; one result per mirror topic, `force` also out of FAILED."""
        link = self._link(link_name)
        if pattern is not None:
            matches = compiled(pattern).fullmatch
            topics = [m.mirror_topic_name for m in self._mirrors.of(link)]
            names = [name for name in topics if matches(name)]
        return await self._mirrors.alter(verb, link, names or (), validate_only=validate_only, force=force)

    def forget_mirror(self, name: str) -> None:
        """A client deleted the topic: its record goes too, once the topic is gone."""
        self._mirrors.forget(name)


def _may_be_forgotten(mirror: MirrorRecord) -> bool:
    """Whether nothing is lost with the record of a mirror whose link goes."""
    return mirror.status is MirrorStatus.FAILED or mirror.topic_id is None
