"""What the sessions of one listener share, and the shapes of what is passed in from above."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol
from uuid import UUID

from gateway.complaints import Complaints
from gateway.config import LimitsConfig
from gateway.security.acls import Acls
from gateway.security.audit import Audit
from gateway.security.policy import AuthenticationPolicy
from gateway.security.principals import Principal
from gateway.sessions.acl_requests import AclRequests
from gateway.sessions.broker_versions import VersionCache
from gateway.sessions.presentation import ShownNow, no_mirrors
from gateway.sessions.scram_users import ScramUsers
from gateway.sessions.topic_ids import TopicIds
from gateway.sessions.topic_questions import TopicQuestions
from gateway.upstreams.connection import BrokerConnection
from gateway.wire import FrameConnection
from protocol.reverse import LinkAttachRequest, LinkAttachResponse

_SAID_AT_ONCE: Final = 20


class UpstreamCluster(Protocol):
    """The cluster behind the sessions; `node_id` None stands for any broker."""

    async def connect(self, node_id: int | None) -> BrokerConnection:
        """A connection of its own, ready for requests; DialError."""
        ...


class MirrorGuard(Protocol):
    """What the sessions ask about mirror topics; a topic is named by its name or its id."""

    async def before_produce(self, topics: Iterable[str | UUID]) -> None:
        """Returns when the state is known up to now for each of the topics; StateUnavailable."""
        ...

    def are_known(self, topics: Iterable[str | UUID]) -> bool:
        """Whether `before_produce` would return at once, without an error."""
        ...

    def read_only_mirror(self, topic: str | UUID) -> str | None:
        """The name of the mirror topic that clients may not write to, else None."""
        ...

    def held_configs(self, topic: str) -> frozenset[str]:
        """The configs that the link relies on; empty if the topic is no mirror."""
        ...

    def shown_configs(self, topic: str) -> Mapping[str, tuple[str, bool]] | None:
        """What clients are shown of configs that the link holds: see `held_configs`."""
        ...

    def topic_deleted(self, topic: str | UUID) -> None:
        """Told after a client deleted a topic."""
        ...


class CommitGuard(Protocol):
    """What is told of offsets that clients commit; topics are named by name or id."""

    @property
    def watching(self) -> bool:
        """Whether there is anything to be told at all."""
        ...

    async def before_commit(self, group: str, offsets: Mapping[str | UUID, Mapping[int, int]]) -> None:
        """Returns when the commit may go to the broker; StateUnavailable if it may not for now."""
        ...


class AttachHandler(Protocol):
    """The destination side of source-initiated links."""

    async def attach(self, principal: Principal, request: LinkAttachRequest) -> LinkAttachResponse:
        """Decides; the answer is sent by the session."""
        ...

    def park(
        self,
        principal: Principal,
        request: LinkAttachRequest,
        wire: FrameConnection,
        lifetime_s: float | None,
    ) -> None:
        """Takes the connection over after an answer without an error; its login holds for `lifetime_s`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionServices:
    """Shared by the sessions of one listener. `advertised` gives a broker's address as its clients see it."""

    listener: str
    authentication: AuthenticationPolicy
    advertised: Callable[[int], tuple[str, int] | None]
    cluster: UpstreamCluster
    versions: VersionCache
    topic_ids: TopicIds
    mirrors: MirrorGuard
    commits: CommitGuard | None = None
    shown: ShownNow = no_mirrors
    limits: LimitsConfig
    super_users: frozenset[str] = frozenset()
    # The ACLs of now, None while they are not known; without a getter nothing is authorized.
    acls: Callable[[], Acls | None] | None = None
    # Without it requests about ACLs are the broker's.
    acl_requests: AclRequests | None = None
    audit: Audit = field(default_factory=Audit)
    questions: TopicQuestions | None = None
    users: ScramUsers | None = None
    attach: AttachHandler | None = None
    reserved_ids: Callable[[], frozenset[UUID]] = frozenset
    # False until users, mirrors and fillers are known.
    serving: Callable[[], bool] = lambda: True
    # Why sessions ended, so many times in some seconds.
    complaints: Complaints = field(default_factory=lambda: Complaints(burst=_SAID_AT_ONCE))
