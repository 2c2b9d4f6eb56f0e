"""The cluster links of this gateway: made, shown, altered and deleted here; `runtime` has what keeps running.

Everything is decided on the state topic: a change is written first, and what runs follows the state.
"""

import asyncio
import base64
import re
import secrets as random_source
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from gateway.links import errors
from gateway.links.attach import AttachRefused, ServeBound, SourceHalf, Versions
from gateway.links.board import TRANSPORT_ERRORS
from gateway.links.configs import LinkConfig, is_sensitive, validate
from gateway.links.errors import LinkError
from gateway.links.mirror_topics import MAX_TOPIC_NAME
from gateway.links.mirrors import Mirrors, nobody_else
from gateway.links.replicator import Replicator
from gateway.links.requests import (
    AlterResult,
    CreateLink,
    CreateMirror,
    LinkErrorKind,
    LinkState,
    LinkView,
    MirrorVerb,
    MirrorView,
)
from gateway.links.runtime import LinkRuntime
from gateway.peers import ALONE, Worker
from gateway.security.principals import Principal
from gateway.state.records import (
    ConnectionMode,
    Delete,
    LinkMode,
    LinkRecord,
    MirrorRecord,
    MirrorStatus,
    Record,
    State,
)
from gateway.state.secrets import Secrets, SecretsError
from gateway.state.store import Store
from gateway.tasks import Tasks
from gateway.upstreams.cluster import Cluster, DialConnector
from gateway.upstreams.dialer import Security
from gateway.upstreams.errors import DialError, KafkaError
from gateway.upstreams.parked import ParkedPool
from gateway.wire import FrameConnection
from protocol.reverse import DIAL_AGAIN, LinkAttachRequest, LinkAttachResponse

log = structlog.get_logger(__name__)

LINK_NAME: Final = re.compile(r"[a-zA-Z0-9._-]+")
FORCED_DELETE_TIMEOUT_S: Final = 30.0

INCONSISTENT_CLUSTER_ID: Final = 104
RESOURCE_NOT_FOUND: Final = 91
CLUSTER_AUTHORIZATION_FAILED: Final = 31
INVALID_REQUEST: Final = 42
NOT_CONTROLLER_YET: Final = 14


@dataclass(frozen=True, slots=True)
class LinkServices:
    """What the links need of the gateway around them."""

    cluster: Cluster
    store: Store
    secrets: Secrets
    # How this gateway gets into the fronted cluster, used by a source half without `local.*`.
    bootstrap_servers: Sequence[str]
    # Sessions for bound connections of a link, of this name, with requests to this cluster.
    serve_bound: Callable[[str, Cluster], ServeBound]
    versions: Callable[[], Versions]
    instance_id: str
    # Only the first worker runs links; the others send source halves on.
    worker: Worker = ALONE
    # Returns when all other workers have read the state as it is now, or must not produce without it.
    all_have_read: Callable[[], Awaitable[None]] = nobody_else


class Links:
    """All links of the fronted cluster. Every public method may raise LinkError."""

    def __init__(self, services: LinkServices) -> None:
        self._cluster = services.cluster
        self._store = services.store
        self._services = services
        self._runtimes: dict[str, LinkRuntime] = {}
        self._mirrors = Mirrors(
            self._store, self._cluster, self._runtimes, self._follow, services.all_have_read
        )
        self._tasks = Tasks("links")
        self._changed = asyncio.Event()
        self._following = asyncio.Lock()
        self._closed = False

    # Life.

    async def start(self) -> None:
        """Start every link of the state, and follow the state from now on."""
        self._store.subscribe(lambda _: self._changed.set())
        await self._follow()
        self._tasks.spawn(self._follow_for_ever(), name="follow the state")

    async def close(self) -> None:
        """Stop every link. Idempotent."""
        self._closed = True
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
            if record is None or record.cluster_link_id != runtime.record.cluster_link_id:
                # Forgotten once it is closed: whoever does this may be cancelled, and another has to end it.
                await runtime.close()
                del self._runtimes[name]
        for name, record in state.links.items():
            if name not in self._runtimes:
                try:
                    self._runtimes[name] = self._runtime(record)
                except LinkError as error:
                    log.error("link_not_started", link=name, error=error.message)
                    continue
                self._runtimes[name].start()
            runtime = self._runtimes[name]
            runtime.follow(record)
            self._drop_who_may_not(runtime, state)
            if runtime.replicator is not None:
                mirrors = [m for m in state.mirrors.values() if m.cluster_link_id == record.cluster_link_id]
                runtime.replicator.update(mirrors)
                for mirror in mirrors:
                    self._mirrors.finish_creation(mirror)

    def _drop_who_may_not(self, runtime: LinkRuntime, state: State) -> None:
        """Ends what a user has attached that is gone since, or has another password."""
        owner = (runtime.record.owner or "").removeprefix("User:")
        known, now = runtime.owner_user, state.users.get(owner)
        runtime.owner_user = now
        if known is not None and known != now and runtime.pool is not None:
            what = "was deleted" if now is None else "has another password"
            runtime.pool.drop_all(f"user {owner} {what}")

    def _runtime(self, record: LinkRecord) -> LinkRuntime:
        config = self._config(record)
        if record.link_mode is LinkMode.SOURCE:
            local = self._cluster
            if config.local_security is not None:
                connector = DialConnector(self._services.bootstrap_servers, config.local_security)
                local = Cluster(connector)
            half = self._source_half(record.link_name, record.cluster_link_id or None, config, local)
            owned = local if local is not self._cluster else None
            return LinkRuntime(record, source=owned, source_half=half)
        pool = None
        if record.connection_mode is ConnectionMode.INBOUND:
            pool = ParkedPool(record.link_name)
            source = Cluster(pool)
            source.cluster_id = record.source_cluster_id
        else:
            source = Cluster(
                DialConnector(
                    config.bootstrap_servers,
                    config.security or Security(),
                    expected_cluster_id=record.source_cluster_id,
                )
            )
        replicator = Replicator(record.link_name, source, self._cluster, record.filler_key, self._mirrors)
        return LinkRuntime(record, source=source, pool=pool, replicator=replicator)

    def _source_half(
        self, link_name: str, link_id: str | None, config: LinkConfig, local: Cluster
    ) -> SourceHalf:
        return SourceHalf(
            link_name=link_name,
            link_id=link_id,
            source_cluster_id=self._cluster_id(),
            bootstrap_servers=config.bootstrap_servers,
            security=config.security or Security(),
            versions=self._services.versions,
            serve_bound=self._services.serve_bound(link_name, local),
        )

    def _cluster_id(self) -> str:
        cluster_id = self._cluster.cluster_id
        if cluster_id is None:
            raise errors.state_unavailable("the cluster behind this gateway has not been reached yet")
        return cluster_id

    def _config(self, record: LinkRecord) -> LinkConfig:
        secrets = self._services.secrets
        try:
            configs = {k: secrets.decrypt(v) if is_sensitive(k) else v for k, v in record.configs.items()}
        except SecretsError as error:
            raise errors.invalid_request(f"Cluster link '{record.link_name}': {error}") from error
        return validate(configs)

    # Links.

    async def create_link(self, request: CreateLink, *, validate_only: bool, validate_link: bool) -> None:
        """Make a half of a link. With `validate_link` the other side must be there and agree."""
        config = validate(request.configs)
        name = request.link_name
        if not LINK_NAME.fullmatch(name) or len(name) > MAX_TOPIC_NAME:
            raise errors.invalid_request(
                f"Cluster link name '{name}' is not valid: letters, digits, '.', '_' and '-', at most 249."
            )
        if name in self._store.state.links:
            raise errors.link_exists(name)
        own = self._cluster_id()
        source_id: str | None = own
        destination_id = request.destination_cluster_id
        link_id = _kafka_uuid()
        if config.link_mode is LinkMode.SOURCE:
            if validate_link:
                link_id = await self._validate_destination(name, config)
            else:
                link_id = ""
        else:
            destination_id = own
            source_id = request.source_cluster_id
            if config.connection_mode is ConnectionMode.INBOUND:
                if source_id is None:
                    raise errors.invalid_request(
                        "An inbound link needs source_cluster_id: it cannot ask the source."
                    )
            elif validate_link or source_id is None:
                source_id = await self._validate_source(config, source_id)
            if source_id == own:
                raise errors.invalid_request(f"Source and destination are the same cluster, {own}.")
        if validate_only:
            return
        secrets = self._services.secrets
        try:
            configs = {k: secrets.encrypt(v) if is_sensitive(k) else v for k, v in request.configs.items()}
        except SecretsError as error:
            raise errors.invalid_request(f"Cluster link '{name}' cannot be kept: {error}.") from error
        record = LinkRecord(
            link_name=name,
            cluster_link_id=link_id,
            link_mode=config.link_mode,
            connection_mode=config.connection_mode,
            source_cluster_id=source_id,
            destination_cluster_id=destination_id,
            configs=configs,
            filler_key=random_source.token_bytes(16),
            created_ms=_now_ms(),
        )

        def add(state: State) -> list[Record | Delete]:
            if name in state.links:
                raise errors.link_exists(name)
            return [record]

        await self._mirrors.write(add)

    async def _validate_destination(self, name: str, config: LinkConfig) -> str:
        half = self._source_half(name, None, config, self._cluster)
        try:
            connection, response = await half.attach()
        except AttachRefused as error:
            if error.code == RESOURCE_NOT_FOUND:
                message = f"The destination cluster does not have a link named {name}. Create it there first."
                raise LinkError(400, 400, message) from error
            raise LinkError(400, 400, f"The destination refuses the link: {error}") from error
        except (DialError, *TRANSPORT_ERRORS) as error:
            raise LinkError(400, 400, f"The destination cannot be reached: {error}") from error
        connection.abort()
        return response.link_id or ""

    async def _validate_source(self, config: LinkConfig, expected: str | None) -> str:
        source = Cluster(DialConnector(config.bootstrap_servers, config.security or Security()))
        try:
            found = (await source.metadata([])).cluster_id
        except (DialError, KafkaError, *TRANSPORT_ERRORS) as error:
            raise errors.invalid_request(f"The source cluster cannot be reached: {error}") from error
        finally:
            await source.close()
        if found is None or (expected is not None and found != expected):
            raise errors.invalid_request(
                f"The bootstrap servers belong to cluster {found}, the link is for {expected}."
            )
        return found

    def links(self) -> list[LinkView]:
        """Every link, by name."""
        return [self.link(name) for name in sorted(self._store.state.links)]

    def link(self, link_name: str) -> LinkView:
        """One link as it stands."""
        record = self._link(link_name)
        runtime = self._runtimes.get(link_name)
        topics = [m.mirror_topic_name for m in self._mirrors.of(record)]
        if runtime is None:
            return LinkView(record, LinkState.FAILED, LinkErrorKind.UNKNOWN, "see the gateway's log", topics)
        return LinkView(record, *runtime.health(), topics, runtime.tasks())

    def _link(self, link_name: str) -> LinkRecord:
        record = self._store.state.links.get(link_name)
        if record is None:
            raise errors.link_not_found(link_name)
        return record

    async def delete_link(self, link_name: str, *, force: bool, validate_only: bool) -> None:
        """Delete this half. Mirrors that have not stopped forbid it; `force` fails them over first."""
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
            return [Delete("link", link_name), *(Delete("mirror", m.mirror_topic_name) for m in left)]

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
        await self._mirrors.create(link, self._config(link), request)

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
    ) -> list[AlterResult]:
        """Promote, fail over, pause or resume; one result per mirror topic."""
        link = self._link(link_name)
        if pattern is not None:
            try:
                matches = re.compile(pattern).fullmatch
            except re.error as error:
                raise errors.invalid_request(f"'{pattern}' is not a regular expression: {error}") from error
            topics = [m.mirror_topic_name for m in self._mirrors.of(link)]
            names = [name for name in topics if matches(name)]
        return await self._mirrors.alter(verb, link, names or (), validate_only=validate_only)

    def forget_mirror(self, name: str) -> None:
        """A client deleted the topic: its record goes too, once the topic is gone."""
        self._mirrors.forget(name)

    # Source halves that dial in.

    async def attach(self, principal: Principal, request: LinkAttachRequest) -> LinkAttachResponse:
        """Judge a LinkAttach; the first principal that attaches a link owns it."""
        name = request.link_name
        worker = self._services.worker
        if not worker.is_first:
            return LinkAttachResponse(
                DIAL_AGAIN,
                f"links run in another worker process ({worker.count} share this port): dial again",
                None,
                self._services.instance_id,
                worker.count,
            )
        record = self._store.state.links.get(name)
        if record is None:
            return self._refused(RESOURCE_NOT_FOUND, f"there is no cluster link named '{name}' here")
        runtime = self._runtimes.get(name)
        if runtime is None or runtime.pool is None:
            return self._refused(
                INVALID_REQUEST, f"cluster link '{name}' does not wait for its source to dial in"
            )
        if request.link_id not in (None, "", record.cluster_link_id):
            return self._refused(
                INVALID_REQUEST, f"cluster link '{name}' was recreated: its id is another one"
            )
        if request.source_cluster_id != record.source_cluster_id:
            return self._refused(
                INCONSISTENT_CLUSTER_ID,
                f"cluster link '{name}' is for source cluster {record.source_cluster_id}, "
                f"not for {request.source_cluster_id}",
            )
        if record.owner is None:
            try:
                record = await self._claim(record, str(principal))
            except LinkError as error:
                return self._refused(NOT_CONTROLLER_YET, error.message)
        if record is None or record.owner != str(principal):
            return self._refused(
                CLUSTER_AUTHORIZATION_FAILED, f"cluster link '{name}' belongs to another principal"
            )
        reason = runtime.pool.refusal(request.agent_id, request.agent_epoch)
        if reason is not None:
            return self._refused(INVALID_REQUEST, reason)
        return LinkAttachResponse(0, None, record.cluster_link_id, self._services.instance_id, 1)

    async def _claim(self, judged: LinkRecord, principal: str) -> LinkRecord | None:
        name = judged.link_name

        def own(state: State) -> list[Record | Delete]:
            return [judged.model_copy(update={"owner": principal})] if state.links.get(name) == judged else []

        await self._mirrors.write(own)
        return self._store.state.links.get(name)

    def park(
        self,
        principal: Principal,
        request: LinkAttachRequest,
        wire: FrameConnection,
        lifetime_s: float | None = None,
    ) -> None:
        """Take over the connection of a LinkAttach that was answered, for as long as its login holds."""
        runtime = self._runtimes.get(request.link_name)
        # The link may have been deleted, and made again for somebody else, since it was judged.
        if runtime is None or runtime.pool is None or runtime.record.owner != str(principal):
            wire.abort()
            return
        runtime.pool.park(wire, request.agent_id, request.agent_epoch, lifetime_s)

    def _refused(self, code: int, message: str) -> LinkAttachResponse:
        return LinkAttachResponse(code, message, None, self._services.instance_id, 1)


def _may_be_forgotten(mirror: MirrorRecord) -> bool:
    """Whether nothing is lost with the record of a mirror whose link goes."""
    return mirror.status is MirrorStatus.FAILED or mirror.topic_id is None


def _kafka_uuid() -> str:
    return base64.urlsafe_b64encode(random_source.token_bytes(16)).decode().rstrip("=")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
