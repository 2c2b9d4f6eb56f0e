"""The gateway as one process: everything is made from the configuration, started, watched and ended here.

Ports are bound at once, whether or not the cluster is up. Until the cluster was reached and the state read,
clients are turned away (they try again) and `/readyz` says what is missing; a cluster that is away never ends
the process. SIGTERM and SIGINT drain: no new connections, what is in flight is finished, for at most
`drain_timeout_ms`. As one of several workers it shares its ports with the others; only the first has the
links and the admin address.
"""

from __future__ import annotations

import asyncio
import gc
import hmac
import random
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from typing import Final
from uuid import UUID, uuid4

import structlog

from gateway import observe
from gateway.admin.acls import AclService
from gateway.admin.audited import AuditedApi
from gateway.admin.overview import Overview
from gateway.admin.rest import build_api
from gateway.admin.server import AdminServer
from gateway.admin.users import UserService
from gateway.byte_budget import ByteBudget
from gateway.complaints import Complaints
from gateway.config import Config, ListenerConfig, ProxyProtocol, format_host_port
from gateway.links.attach import ServeBound
from gateway.links.link import Links, LinkServices
from gateway.links.local_groups import LocalGroups
from gateway.links.mirror_topics import MirrorTopics
from gateway.links.shown_mirrors import ShownMirrors
from gateway.listeners.admission import Admission
from gateway.listeners.certificate_names import uncovered
from gateway.listeners.descriptors import allow_descriptors
from gateway.listeners.endpoints import Endpoint, Endpoints, bind
from gateway.listeners.listener import Listener
from gateway.listeners.memory import Trimmer
from gateway.peers import ALONE, EXIT_FAILED, NoAnswer, Peers, Worker
from gateway.reload import FileWatch
from gateway.security.audit import Audit, AuditError
from gateway.security.credentials import Credentials
from gateway.security.issuers import TokenIssuers
from gateway.security.jwks import JwksError
from gateway.security.policy import AuthenticationPolicy
from gateway.security.sasl import mechanisms
from gateway.sessions.acl_requests import AclChanges, AclRequests
from gateway.sessions.bound_session import BoundSession
from gateway.sessions.broker_versions import VersionCache
from gateway.sessions.current_acls import current_acls
from gateway.sessions.link_gate import TopicCatalog
from gateway.sessions.reserved_names import is_reserved
from gateway.sessions.scram_users import ScramUsers
from gateway.sessions.services import SessionServices
from gateway.sessions.session import Session
from gateway.sessions.topic_ids import TopicIds
from gateway.sessions.topic_questions import TopicQuestions
from gateway.state.records import StateFormatError
from gateway.state.secrets import Secrets
from gateway.state.store import STATE_TOPIC, StateUnavailable, Store
from gateway.state.topic import StateTopicError
from gateway.tasks import Tasks
from gateway.tls import ReloadingContext, TlsError
from gateway.upstreams.cluster import Cluster, DialConnector
from gateway.upstreams.dialer import Security
from gateway.upstreams.errors import ClusterIdMismatch, DialError, KafkaError
from gateway.watched_tls import watch_client, watch_server
from gateway.wire import ConnectionClosed, FrameConnection
from protocol.api_versions import link_versions
from protocol.errors import ProtocolError
from protocol.principal_rules import PrincipalMapper

log = structlog.get_logger(__name__)

_BACKOFF_S: Final = (0.2, 5.0)
# What the first worker asks the others before a mirror topic is made.
_READ_STATE: Final = "read-state"
_WATCH_S: Final = 5.0
_ADMIN_BACKLOG: Final = 128
_UPSTREAM_TROUBLE: Final = (DialError, KafkaError, ConnectionClosed, ProtocolError, TimeoutError, OSError)


class StartError(Exception):
    """The gateway cannot run, and waiting will not help; the text tells an operator what to do."""


class App:
    """One gateway. `run` returns when it was stopped; StartError if it cannot work at all."""

    def __init__(self, config: Config, worker: Worker = ALONE) -> None:
        self._config = config
        self._worker = worker
        self._peers = Peers(worker)
        self._overview = Overview(self._peers, self.not_ready)
        self._watch = FileWatch()
        security = Security.from_config(config.cluster.security)
        if isinstance(security.ssl_context, ReloadingContext):
            watch_client(self._watch, "cluster", config.cluster.security, security.ssl_context)
        connector = DialConnector(
            config.cluster.bootstrap_servers,
            security,
            connect_timeout_s=config.cluster.connect_timeout_ms / 1000,
            expected_cluster_id=config.cluster.cluster_id,
            max_frame_bytes=config.limits.max_frame_bytes,
        )
        self._cluster = Cluster(connector)
        # Brokers that were found alive, and in the right cluster, before aiokafka is let loose on them.
        self._store = Store(
            connector.addresses,
            security,
            replication_factor=config.state.replication_factor,
            cluster_id=lambda: self._cluster.cluster_id,
        )
        static = {user.name: user.password.get_secret_value() for user in config.users if user.password}
        store = self._store
        # The state is a new object after every change.
        self._credentials = Credentials(
            static,
            lambda name: store.state.users.get(name),  # noqa: PLW0108
            secret=_shared_secret(config),
        )
        self._scram_users = ScramUsers(self._store, static)
        self._token_keys = TokenIssuers()
        self._local_groups = LocalGroups(self._store)
        secrets_key = config.state.secrets_key
        self._acls = current_acls(config, self._store)
        self._audit = Audit.of(config.audit, self._acls.owners if self._acls else None)
        self._acl_changes = None if self._acls is None else AclChanges(self._store)
        self._acl_requests = None if self._acl_changes is None else AclRequests(self._acl_changes)
        self._links = Links(
            LinkServices(
                cluster=self._cluster,
                store=self._store,
                local_groups=self._local_groups,
                secrets=Secrets(secrets_key.get_secret_value() if secrets_key else None),
                bootstrap_servers=config.cluster.bootstrap_servers,
                serve_bound=self._serve_bound,
                versions=link_versions,
                instance_id=str(uuid4()),
                worker=worker,
                all_have_read=self._all_have_read,
                has_acls=self._acls is not None,
            )
        )
        self._topic_ids = TopicIds(self._cluster, is_reserved)
        self._mirrors = MirrorTopics(
            self._store,
            self._cluster,
            names_of=self._topic_ids.names_of,
            max_staleness_s=config.state.max_staleness_ms / 1000,
            on_deleted=self._links.forget_mirror,
        )
        self._shown = ShownMirrors(lambda: store.state)
        self._versions = VersionCache(self._cluster)
        self._admission = Admission(config.limits)
        self._complaints = Complaints()
        self._budget = ByteBudget(config.limits.max_buffered_bytes, on_full=self._buffers_are_full)
        observe.buffered_bytes.set_function(lambda: self._budget.used_bytes)
        observe.sessions_held_back.set_function(lambda: self._budget.waiting)
        self._listeners = [self._listener(section) for section in config.listeners]
        self._tasks = Tasks("gateway")
        self._stopping = asyncio.Event()
        self._failure: StartError | None = None
        self._serving = False
        self._hidden_brokers: dict[str, list[int]] = {}
        self._upstream_trouble: str | None = "the cluster was not reached yet"

    # --- life ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Runs until `stop` is called; StartError."""
        allow_descriptors(self._config.limits.max_connections)
        admin = self._bind_admin() if self._worker.is_first else None
        try:
            await self._peers.serve({**self._overview.answers(), _READ_STATE: self._read_state})
            for listener in self._listeners:
                await listener.start()
        except OSError as error:
            await self._close_listeners(0)
            if admin is not None:
                admin.close()
            raise StartError(str(error)) from error
        server = self._admin_server()
        if admin is not None:
            self._tasks.spawn(server.serve_on(admin), name="admin")
        self._token_keys.start()
        for path, keys in self._token_keys.files.items():
            self._watch.add(str(path), [path], keys.reload)
        self._tasks.spawn(self._watch.run(), name="watch files")
        self._tasks.spawn(self._start(), name="start")
        self._tasks.spawn(self._watch_upstream(), name="watch upstream")
        self._tasks.spawn(Trimmer(lambda: len(self._admission)).run(), name="give memory back")
        await self._stopping.wait()
        log.info("gateway.draining", timeout_ms=self._config.drain_timeout_ms)
        async with asyncio.TaskGroup() as group:
            # Other gateways need not wait for the clients of this one.
            group.create_task(self._links.hand_over())
            group.create_task(self._close_listeners(self._config.drain_timeout_ms / 1000))
        await self._links.close()
        await self._local_groups.close()
        if admin is not None:
            await server.stop()
        await self._peers.close()
        await self._token_keys.close()
        await self._tasks.close()
        await self._store.stop()
        await self._cluster.close()
        self._audit.close()
        log.info("gateway.stopped")
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Begins to drain. A second call gives up waiting for clients."""
        if self._stopping.is_set():
            for listener in self._listeners:
                listener.abort()
        self._stopping.set()

    def drain(self) -> None:
        """Begins to drain; calling it again changes nothing."""
        self._stopping.set()

    def not_ready(self) -> list[str]:
        """What is being waited for; empty when the gateway serves."""
        reasons = [
            f"listener {listener.name} is not bound" for listener in self._listeners if not listener.bound
        ]
        if self._stopping.is_set():
            reasons.append("the gateway is stopping")
        if self._upstream_trouble is not None:
            reasons.append(self._upstream_trouble)
        if not self._serving:
            reasons.append("the state was not read yet")
        return reasons

    async def _start(self) -> None:
        backoff_s, cap_s = _BACKOFF_S
        while True:
            try:
                await self._cluster.start()
                break
            except _UPSTREAM_TROUBLE as error:
                self._note_upstream(error)
                await asyncio.sleep(random.uniform(backoff_s / 2, backoff_s))  # noqa: S311 - no secret
                backoff_s = min(backoff_s * 2, cap_s)
        self._note_upstream(None)
        try:
            await self._store.start()
            await self._links.start()
        except (StateTopicError, StateFormatError) as error:
            self._fail(StartError(str(error)))
            return
        except Exception as error:
            self._fail(StartError(f"the gateway could not start: {error!r}"))
            raise
        # What is there by now stays: walking over it again would hold everybody up for tens of milliseconds.
        gc.collect()
        gc.freeze()
        self._serving = True
        log.info("gateway.ready", cluster_id=self._cluster.cluster_id)
        try:
            await self._store.keep_cluster_id()
        except StateUnavailable as error:
            log.warning("state.cluster_id_not_kept", error=str(error))

    def _fail(self, error: StartError) -> None:
        self._failure = error
        self.stop()

    async def _watch_upstream(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            if self._cluster.cluster_id is None:
                continue
            try:
                metadata = await self._cluster.metadata([], timeout_s=_WATCH_S)
            except _UPSTREAM_TROUBLE as error:
                self._note_upstream(error)
            else:
                self._note_upstream(None)
                self._note_brokers(metadata.brokers)

    def _note_upstream(self, error: BaseException | None) -> None:
        trouble = None if error is None else f"the cluster cannot be reached: {error}"
        if trouble == self._upstream_trouble:
            return
        if error is None:
            log.info("upstream.reached", cluster_id=self._cluster.cluster_id)
        else:
            observe.upstream_errors.labels(type(error).__name__).inc()
            # Requests would go to somebody else's data: nothing is more urgent for an operator.
            level = 50 if isinstance(error, ClusterIdMismatch) else 30
            log.log(level, "upstream.unreachable", error=str(error))
        self._upstream_trouble = trouble

    def _note_brokers(self, brokers: Iterable[int]) -> None:
        hidden = {
            section.name: missing
            for section in self._config.listeners
            if (missing := sorted(set(brokers) - set(section.node_ids)))
        }
        for listener, node_ids in hidden.items():
            if self._hidden_brokers.get(listener) != node_ids:
                log.warning("listener.broker_without_address", listener=listener, node_ids=node_ids)
        self._hidden_brokers = hidden

    async def _read_state(self) -> str:
        try:
            await self._store.read_to_end()
        except StateUnavailable as error:
            raise NoAnswer(str(error)) from error
        return "read"

    async def _all_have_read(self) -> None:
        # Whoever has not by then must not produce without having read, and knows it.
        timeout_s = self._config.state.max_staleness_ms / 1000
        if not await self._peers.hear_all(_READ_STATE, timeout_s=timeout_s):
            log.warning("workers.not_heard", waited_s=timeout_s)

    # --- clients -------------------------------------------------------------------------------------

    def _listener(self, section: ListenerConfig) -> Listener:
        shared = self._worker.count > 1
        endpoints = Endpoints(section, self._config.cluster.host_label, shared=shared)
        if section.tls is not None:
            lacking = uncovered(section.tls.certificate_file, endpoints.advertised_hosts)
            if lacking:
                log.warning("listener.certificate_lacks_names", listener=section.name, names=lacking[:5])
        services = SessionServices(
            listener=section.name,
            authentication=self._policy(section),
            advertised=endpoints.advertised,
            cluster=self._cluster,
            versions=self._versions,
            topic_ids=self._topic_ids,
            mirrors=self._mirrors,
            commits=self._local_groups,
            shown=self._shown.current,
            limits=self._config.limits,
            super_users=frozenset(self._config.super_users),
            acls=None if self._acls is None else self._acls.now,
            acl_requests=self._acl_requests,
            users=self._scram_users,
            attach=self._links,
            reserved_ids=self._reserved_ids,
            questions=TopicQuestions(self._cluster),
            audit=self._audit,
            serving=lambda: self._serving,
        )

        def make_session(wire: FrameConnection, node_id: int | None) -> Session:
            return Session(wire, services, node_id=node_id)

        return Listener(
            section.name,
            endpoints.bound,
            make_session,
            limits=self._config.limits,
            admission=self._admission,
            budget=self._budget,
            max_connections=section.max_connections,
            ssl_context=None
            if section.tls is None
            else watch_server(self._watch, f"listener {section.name}", section.tls),
            proxies=section.proxy_protocol_from if section.proxy_protocol is ProxyProtocol.REQUIRED else None,
            server_names=endpoints.server_names,
        )

    def _buffers_are_full(self) -> None:
        observe.hold_backs.inc()
        self._complaints.say(
            log.warning,
            "gateway.buffers_full",
            limit_bytes=self._budget.limit_bytes,
            held_bytes=self._budget.used_bytes,
            sessions_held_back=self._budget.waiting,
        )

    def _policy(self, section: ListenerConfig) -> AuthenticationPolicy:
        tokens = None
        if section.oauthbearer is not None:
            tokens = self._token_keys.validator(section.oauthbearer)
        session_ms = section.connections_max_reauth_ms
        return AuthenticationPolicy(
            method=section.authentication,
            mechanisms=mechanisms(section.mechanisms, self._credentials, tokens),
            mapper=PrincipalMapper(section.principal_mapping_rules),
            max_session_s=None if session_ms is None else session_ms / 1000,
        )

    def _reserved_ids(self) -> frozenset[UUID]:
        topic_id = self._store.topic_id
        if topic_id is not None:
            self._topic_ids.learn(STATE_TOPIC, topic_id.bytes)
        return self._topic_ids.reserved

    async def _close_listeners(self, timeout_s: float) -> None:
        async with asyncio.TaskGroup() as group:
            for listener in self._listeners:
                group.create_task(listener.drain(timeout_s))

    # --- links ---------------------------------------------------------------------------------------

    def _serve_bound(self, link_name: str, cluster: Cluster) -> ServeBound:
        catalog = TopicCatalog(cluster)

        acls = self._acl_requests

        async def serve(wire: FrameConnection, node_id: int | None) -> None:
            session = BoundSession(
                wire, cluster, node_id, catalog, shown=self._shown.current, acls=acls, link=link_name
            )
            await session.run()

        return serve

    # --- administrators ------------------------------------------------------------------------------

    def _bind_admin(self) -> socket.socket:
        admin = self._config.admin
        try:
            return bind(Endpoint(admin.bind, admin.port, None), backlog=_ADMIN_BACKLOG)
        except OSError as error:
            raise StartError(f"admin: {error.strerror}") from error

    def _admin_server(self) -> AdminServer:
        admin, label = self._config.admin, self._config.cluster.host_label
        api = build_api(
            links=self._links,
            groups=self._links.groups,
            bootstrap=[
                format_host_port(*Endpoints(each, label).bootstrap) for each in self._config.listeners
            ],
            users=UserService(self._store, [user.name for user in self._config.users]),
            acls=AclService(self._acl_changes, self._cluster),
            current_acls=None if self._acls is None else self._acls.now,
            credentials=self._credentials,
            super_users=self._config.super_users,
            cluster_id=lambda: self._cluster.cluster_id if self._serving else None,
            open_access=admin.insecure,
            waiting_for=self._overview.waiting_for,
            metrics_page=self._overview.metrics_page,
        )
        tls = None if admin.tls is None else watch_server(self._watch, "admin", admin.tls)
        return AdminServer(AuditedApi(api, self._audit), tls)


def _shared_secret(config: Config) -> bytes | None:
    """What all gateways in front of a cluster know and nobody else does; None if there is no such thing."""
    if config.state.secrets_key is not None:
        key = config.state.secrets_key.get_secret_value()
    else:
        files = (section.tls.key_file for section in config.listeners if section.tls is not None)
        file = next(files, None)
        if file is None:
            return None
        key = file.read_bytes()
    return hmac.digest(key, b"salts of users that do not exist", "sha256")


async def _run(config: Config, worker: Worker) -> None:
    app = App(config, worker)
    loop = asyncio.get_running_loop()
    # A worker gets the terminal's and systemd's signals too, beside those that its parent passes on.
    stop = app.stop if worker.count == 1 else app.drain
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if worker.count > 1:
        loop.add_signal_handler(signal.SIGUSR1, app.stop)
    await app.run()


def run(config: Config, worker: Worker = ALONE) -> int:
    """Runs the gateway until it is told to stop; its exit code. Errors go to stderr."""
    observe.configure_logging(config.logging.level, config.logging.format)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(config, worker))
    except (StartError, TlsError, JwksError, AuditError) as error:
        print(f"causeway: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
