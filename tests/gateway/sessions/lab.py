"""Sessions on real sockets: a listener in front of a broker of few words, and a client of bytes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from kio.schema.errors import ErrorCode

from gateway.config import Authentication, LimitsConfig
from gateway.listeners.endpoints import Endpoint
from gateway.listeners.listener import Listener
from gateway.security.acls import Acls
from gateway.security.credentials import Credentials
from gateway.security.policy import AuthenticationPolicy
from gateway.security.principals import Principal
from gateway.security.sasl import mechanisms
from gateway.sessions.broker_versions import VersionCache
from gateway.sessions.reserved_names import is_reserved
from gateway.sessions.scram_users import ScramUsers
from gateway.sessions.services import CommitGuard, SessionServices
from gateway.sessions.session import Session
from gateway.sessions.topic_ids import TopicIds
from gateway.state.store import StateUnavailable
from gateway.upstreams.cluster import Cluster, DialConnector
from gateway.upstreams.dialer import Security
from gateway.wire import FrameConnection
from protocol.api_keys import ApiKey
from protocol.api_versions import FORWARDED
from protocol.headers import RequestHeader, encode_request_header, peek_correlation_id, response_body_offset
from protocol.messages import decode_response, encode_request, response_class
from protocol.reverse import LinkAttachRequest, LinkAttachResponse
from protocol.sasl import sasl_client
from protocol.shown_responses import Shown
from tests.e2e.raw_client import make
from tests.fakes.broker import FakeBroker

STATE_TOPIC_ID = UUID(int=0xCA05E)
MIRROR_ID = UUID(int=1)
PLAIN_ID = UUID(int=2)
NODE_ID = 1
PASSWORD = "wonderland"


class Mirrors:
    """What the sessions ask of the links."""

    def __init__(self) -> None:
        self.mirrors: dict[str | UUID, str] = {}
        self.held: dict[str, frozenset[str]] = {}
        self.shown: Shown | None = None
        self.shown_values: dict[str, dict[str, tuple[str, bool]]] = {}
        self.asked: list[str | UUID] = []
        self.deleted: list[str | UUID] = []
        self.unavailable = False
        # Of which it need not be asked whether they are mirrors.
        self.known: set[str | UUID] = set()

    async def before_produce(self, topics: Iterable[str | UUID]) -> None:
        self.asked += topics
        if self.unavailable:
            raise StateUnavailable("the state topic is away")

    def are_known(self, topics: Iterable[str | UUID]) -> bool:
        return not self.unavailable and all(topic in self.known for topic in topics)

    def read_only_mirror(self, topic: str | UUID) -> str | None:
        return self.mirrors.get(topic)

    def shown_configs(self, topic: str) -> Mapping[str, tuple[str, bool]] | None:
        return self.shown_values.get(topic)

    def held_configs(self, topic: str) -> frozenset[str]:
        return self.held.get(topic, frozenset())

    def topic_deleted(self, topic: str | UUID) -> None:
        self.deleted.append(topic)


class Attach:
    """The destination side of links: answers with `error` and keeps what is parked."""

    def __init__(self) -> None:
        self.error = ErrorCode.none
        self.principals: list[str] = []
        self.parked: list[FrameConnection] = []
        self.lifetimes: list[float | None] = []
        self.decided = asyncio.Event()
        self.decided.set()

    async def attach(self, principal: Principal, request: LinkAttachRequest) -> LinkAttachResponse:
        self.principals.append(str(principal))
        await self.decided.wait()
        return LinkAttachResponse(self.error, None, "link-id", "instance", 1)

    def park(
        self,
        principal: Principal,
        request: LinkAttachRequest,
        wire: FrameConnection,
        lifetime_s: float | None,
    ) -> None:
        self.parked.append(wire)
        self.lifetimes.append(lifetime_s)


@dataclass
class Lab:
    """A gateway's client side, and what is around it."""

    broker: FakeBroker
    cluster: Cluster
    listener: Listener
    mirrors: Mirrors
    attach: Attach
    sessions: list[Session]
    topic_ids: TopicIds
    serving: bool = True
    clients: list[Client] = field(default_factory=list)

    async def client(self, node_id: int | None = NODE_ID, tls: ssl.SSLContext | None = None) -> Client:
        """A connection to the port of a broker (None: bootstrap)."""
        wire = FrameConnection(max_frame_bytes=64 << 20, name="client")
        await asyncio.get_running_loop().create_connection(
            lambda: wire,
            "127.0.0.1",
            self.listener.ports[node_id],
            ssl=tls,
            server_hostname="localhost" if tls else None,
        )
        client = Client(wire)
        self.clients.append(client)
        return client

    def forwarded(self, api_key: int) -> list[RequestHeader]:
        """The requests of that kind that reached the broker."""
        return [header for header in self.broker.requests if header.api_key == api_key]


class Client:
    """Sends requests and reads responses one by one."""

    def __init__(self, wire: FrameConnection) -> None:
        self.wire = wire
        self._sent: dict[int, tuple[int, int]] = {}
        self._next = 1000

    async def call(self, request: Any) -> Any:
        """Sends and returns the answer."""
        self.send(request)
        return await self.receive()

    def send(self, request: Any) -> int:
        """Sends; the correlation id."""
        key, version = int(request.__api_key__), int(request.__version__)
        return self.send_body(key, version, encode_request(request))

    def send_body(self, key: int, version: int, body: bytes) -> int:
        """Sends a body of any kind; the correlation id."""
        self._next += 7
        self._sent[self._next] = key, version
        self.wire.write_frame(encode_request_header(key, version, self._next, "lab"), body)
        return self._next

    async def receive(self) -> Any:
        """The next answer, decoded as its correlation id wants."""
        _, key, version, body = await self.receive_body()
        return decode_response(key, version, body)

    async def receive_body(self) -> tuple[int, int, int, bytes]:
        """Correlation id, key, version and body of the next answer."""
        frame = await self.wire.read_frame(10)
        correlation_id = peek_correlation_id(frame)
        key, version = self._sent.pop(correlation_id)
        return correlation_id, key, version, bytes(frame[response_body_offset(key, version, frame) :])

    async def log_in(
        self, user: str = "alice", password: str = PASSWORD, mechanism: str = "PLAIN", version: int = 2
    ) -> Any:
        """The last answer of a SASL exchange, the first one that is an error if there is one."""
        sasl = sasl_client(mechanism, user, password)
        answer = await self.call(make(ApiKey.SASL_HANDSHAKE, 1, mechanism=mechanism))
        challenge = b""
        while answer.error_code == ErrorCode.none and (token := sasl.respond(challenge)) is not None:
            answer = await self.call(make(ApiKey.SASL_AUTHENTICATE, version, auth_bytes=token))
            challenge = bytes(answer.auth_bytes)
            if mechanism == "PLAIN":
                break
        return answer

    async def close(self) -> None:
        """Leaves."""
        self.wire.close()
        await self.wire.wait_closed()


def heartbeat(group: str = "g") -> Any:
    """A request that is forwarded as it is."""
    return make(ApiKey.HEARTBEAT, 4, group_id=group, generation_id=1, member_id="m", group_instance_id=None)


def heartbeat_response(error: ErrorCode = ErrorCode.none) -> Any:
    """The broker's answer to it."""
    return response_class(ApiKey.HEARTBEAT, 4)(throttle_time=timedelta(), error_code=error)


def sasl_policy(
    method: Authentication = Authentication.SASL, names: Sequence[str] = ("PLAIN",), **options: Any
) -> AuthenticationPolicy:
    """How alice and admin get in."""
    credentials = Credentials({"alice": PASSWORD, "admin": PASSWORD}, lambda name: None)
    offered = mechanisms(names, credentials) if method.uses_sasl else {}
    return AuthenticationPolicy(method=method, mechanisms=offered, **options)


@asynccontextmanager
async def lab(
    *,
    authentication: Authentication = Authentication.NONE,
    policy: AuthenticationPolicy | None = None,
    tls: ssl.SSLContext | None = None,
    limits: LimitsConfig | None = None,
    super_users: frozenset[str] = frozenset({"User:ANONYMOUS"}),
    users: ScramUsers | None = None,
    acls: Callable[[], Acls | None] | None = None,
    upstream: Security | None = None,
    commits: CommitGuard | None = None,
    prepare: Callable[[FakeBroker], object] = lambda broker: None,
) -> AsyncIterator[Lab]:
    """A listener with bootstrap and broker ports; node 9 has a port but no broker."""
    broker = FakeBroker(NODE_ID)
    broker.versions = dict(FORWARDED) | broker.versions
    broker.versions[ApiKey.METADATA] = (5, 12)
    broker.handlers[ApiKey.HEARTBEAT] = lambda header, body: heartbeat_response()
    prepare(broker)
    await broker.start()
    cluster = Cluster(DialConnector([broker.bootstrap], upstream or Security()))
    limits = limits or LimitsConfig()
    topic_ids = TopicIds(cluster, is_reserved)
    for name, topic_id in (("_causeway-state", STATE_TOPIC_ID), ("mirror", MIRROR_ID), ("plain", PLAIN_ID)):
        topic_ids.learn(name, topic_id.bytes)
    mirrors, attach, sessions = Mirrors(), Attach(), list[Session]()
    services = SessionServices(
        listener="lab",
        authentication=policy or sasl_policy(authentication),
        advertised=lambda node_id: ("gateway.example", 9000 + node_id) if node_id < 5 else None,
        cluster=cluster,
        versions=VersionCache(cluster),
        topic_ids=topic_ids,
        mirrors=mirrors,
        commits=commits,
        shown=lambda: mirrors.shown,
        limits=limits,
        super_users=super_users,
        users=users,
        acls=acls,
        attach=attach,
        reserved_ids=lambda: topic_ids.reserved,
        serving=lambda: made.serving,
    )

    def make_session(wire: FrameConnection, node_id: int | None) -> Session:
        sessions.append(Session(wire, services, node_id=node_id))
        return sessions[-1]

    endpoints = tuple(Endpoint("127.0.0.1", 0, node_id) for node_id in (None, NODE_ID, 9))
    listener = Listener("lab", endpoints, make_session, limits=limits, ssl_context=tls)
    await listener.start()
    made = Lab(broker, cluster, listener, mirrors, attach, sessions, topic_ids)
    try:
        yield made
    finally:
        for client in made.clients:
            await client.close()
        await listener.drain(1)
        for wire in attach.parked:
            wire.abort()
            await wire.wait_closed()
        await cluster.close()
        await broker.close()
