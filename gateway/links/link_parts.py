"""What a link runs on this gateway, made of its record: its way to the other side, and what uses it."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from gateway.links import errors
from gateway.links.acl_sync import AclSync
from gateway.links.attach import ServeBound, SourceHalf, Versions
from gateway.links.auto_create import AutoCreateMirror
from gateway.links.config_effects import reconnects
from gateway.links.configs import LinkConfig, is_sensitive, validate
from gateway.links.link_tasks import Work
from gateway.links.local_groups import LocalGroups
from gateway.links.mirror_making import nobody_else
from gateway.links.mirrors import Mirrors
from gateway.links.offset_sync import ConsumerOffsetSync
from gateway.links.replicator import Replicator
from gateway.links.requests import CreateMirror
from gateway.links.runtime import LinkRuntime
from gateway.links.topic_config_sync import TopicConfigsSync
from gateway.links.work_group import Release, WorkGroup
from gateway.peers import ALONE, Worker
from gateway.state.records import ConnectionMode, LinkMode, LinkRecord, MirrorRecord
from gateway.state.secrets import Secrets, SecretsError
from gateway.state.store import Store
from gateway.upstreams.cluster import Cluster, DialConnector
from gateway.upstreams.dialer import Security
from gateway.upstreams.parked import ParkedPool


@dataclass(frozen=True, slots=True)
class LinkServices:
    """What the links need of the gateway around them."""

    cluster: Cluster
    store: Store
    local_groups: LocalGroups
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
    # Whether clients of this gateway are held to ACLs at all.
    has_acls: bool = True
    # How the links are shared with the cluster's other gateways.
    join: Callable[[Cluster, str, Release], WorkGroup] = WorkGroup


class LinkParts:
    """Makes them. LinkError where a record cannot be worked with."""

    def __init__(self, services: LinkServices, mirrors: Mirrors, work: WorkGroup) -> None:
        self._services = services
        self._cluster = services.cluster
        self._mirrors = mirrors
        self._work = work

    def runtime(self, record: LinkRecord) -> LinkRuntime:
        """What is to be started for a link."""
        config = self.config(record)
        if record.link_mode is LinkMode.SOURCE:
            local = self._cluster
            if config.local_security is not None:
                connector = DialConnector(self._services.bootstrap_servers, config.local_security)
                local = Cluster(connector)
            half = self.source_half(record.link_name, record.cluster_link_id or None, config, local)
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
                    connect_timeout_s=config.number("socket.connection.setup.timeout.ms") / 1000,
                    expected_cluster_id=record.source_cluster_id,
                )
            )
        replicator = Replicator(
            record.link_name, source, self._cluster, record.filler_key, self._mirrors, self._work.lease
        )
        offsets = ConsumerOffsetSync(
            record.link_name,
            record.cluster_link_id,
            source,
            self._cluster,
            self._services.store,
            self._services.local_groups,
            replicator.mirrors.values,
        )
        works = self._works(record, source, replicator)
        works[offsets.name] = offsets
        return LinkRuntime(
            record,
            source=source,
            pool=pool,
            replicator=replicator,
            offset_sync=offsets,
            works=works,
            work=self._work,
        )

    def _works(self, record: LinkRecord, source: Cluster, replicator: Replicator) -> dict[str, Work]:
        mirrors, store, name = self._mirrors, self._services.store, record.link_name

        def records() -> Iterable[MirrorRecord]:
            return mirrors.of(record)

        async def create(config: LinkConfig, request: CreateMirror) -> None:
            link = store.state.links.get(name)
            if link is not None and link.cluster_link_id == record.cluster_link_id:
                await mirrors.create(link, config, request)

        works: list[Work] = [
            AclSync(record, source, store, enforced=self._services.has_acls),
            AutoCreateMirror(source, self._cluster, records, create),
            TopicConfigsSync(source, self._cluster, replicator.mirrors.values, mirrors.write),
        ]
        return {work.name: work for work in works}

    def source_half(
        self, link_name: str, link_id: str | None, config: LinkConfig, local: Cluster
    ) -> SourceHalf:
        """A source half that serves requests to `local`; nothing of it runs yet."""
        return SourceHalf(
            link_name=link_name,
            link_id=link_id,
            source_cluster_id=self.cluster_id(),
            bootstrap_servers=config.bootstrap_servers,
            security=config.security or Security(),
            versions=self._services.versions,
            serve_bound=self._services.serve_bound(link_name, local),
        )

    def cluster_id(self) -> str:
        """Id of the fronted cluster."""
        cluster_id = self._cluster.cluster_id
        if cluster_id is None:
            raise errors.state_unavailable("the cluster behind this gateway has not been reached yet")
        return cluster_id

    def config(self, record: LinkRecord) -> LinkConfig:
        """A link's configs, decrypted and checked."""
        secrets = self._services.secrets
        try:
            configs = {k: secrets.decrypt(v) if is_sensitive(k) else v for k, v in record.configs.items()}
        except SecretsError as error:
            raise errors.invalid_request(f"Cluster link '{record.link_name}': {error}") from error
        return validate(configs)


def takes_new_connections(before: LinkRecord, after: LinkRecord) -> bool:
    """Whether a link's configs have changed so that what runs has to be made anew."""
    names = before.configs.keys() | after.configs.keys()
    return any(
        before.configs.get(name) != after.configs.get(name)
        and reconnects(name, after.link_mode, after.connection_mode)
        for name in names
    )
