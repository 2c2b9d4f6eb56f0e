"""Membership in the group of gateways that share a cluster's links, and the lease on what this one holds.

Kafka's classic group protocol with a protocol type of our own: FindCoordinator 2, JoinGroup 5, SyncGroup 3,
Heartbeat 3, LeaveGroup 3. The coordinator says who is alive and numbers the generations; who gets what is
decided by the member that it calls the leader (`work_plan`). Heartbeats have a connection of their own, since
a JoinGroup is answered only when all have joined. Members work on while they join.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

import structlog
from kio.schema.errors import ErrorCode

from gateway import observe
from gateway.links.board import TRANSPORT_ERRORS
from gateway.links.lease import LEASE_S, Lease, now_s
from gateway.links.work_plan import (
    NOTHING,
    BadPlan,
    Claim,
    Holding,
    decode_claim,
    decode_share,
    encode_claim,
    encode_share,
    plan,
    slot_of_tasks,
)
from gateway.upstreams.cluster import Cluster
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import KafkaError
from gateway.upstreams.metadata import nested_class
from protocol.api_keys import ApiKey
from protocol.messages import request_class

GROUP: Final = "_causeway-work"
PROTOCOL_TYPE: Final = "causeway"
# Another form of claims or shares is another protocol, so that no two forms are ever mixed.
PROTOCOL: Final = "slots-1"

HEARTBEAT_S: Final = 0.5
# Not below what brokers allow by default (`group.min.session.timeout.ms`, 6 s).
SESSION_S: Final = 8.0
# For how long the coordinator waits for those who are alive and do not join. Without having joined nobody's
# lease goes on for as long.
REBALANCE_S: Final = 12.0
REBALANCE_MARGIN_S: Final = SESSION_S - LEASE_S
RETRY_S: Final = 0.3
REQUEST_TIMEOUT_S: Final = 5.0
LEAVE_TIMEOUT_S: Final = 3.0

_MOVED: Final = frozenset(
    {
        ErrorCode.not_coordinator,
        ErrorCode.coordinator_not_available,
        ErrorCode.coordinator_load_in_progress,
    }
)
_EXPELLED: Final = frozenset(
    {ErrorCode.unknown_member_id, ErrorCode.illegal_generation, ErrorCode.fenced_instance_id}
)

Release = Callable[[Holding], Awaitable[None]]

log = structlog.get_logger(__name__)


class WorkGroup:
    """This gateway's place in the group. `run` keeps it; `holding` counts as long as `lease` is valid.

    `release` is told what is held from now on, whenever that changes, and returns when nothing more can be
    sent for what is not.
    """

    def __init__(self, cluster: Cluster, instance_id: str, release: Release) -> None:
        self.lease = Lease()
        self.holding = NOTHING
        # How many gateways there are, and why this one takes no part.
        self.instances = 1
        self.trouble: str | None = "it has not joined the group yet"
        self._cluster = cluster
        self._instance_id = instance_id
        self._release = release
        self._unreachable: frozenset[str] = frozenset()
        self._releasing = 0
        # Given up, but perhaps not out of hand yet.
        self._loose = NOTHING
        self._member_id = ""
        self._generation = -1
        self._joining = False
        self._rejoin = asyncio.Event()
        # When the coordinator last had no reason to wait for anybody.
        self._settled_s = float("-inf")
        self._log = log.bind(instance=instance_id)

    def holds_tasks(self, link_id: str) -> bool:
        """Whether it is this gateway that does what a link does in one place only."""
        return self.lease.valid and slot_of_tasks(link_id) in self.holding.of(link_id)

    def is_left_out(self, link_id: str) -> bool:
        """Whether others do all of a link's work, since they reach its source and this gateway does not."""
        return self.lease.valid and link_id in self.holding.by_link and not self.holding.of(link_id)

    def cannot_reach(self, links: frozenset[str]) -> None:
        """Of these links, by id, this gateway does not reach the source."""
        if links != self._unreachable:
            self._unreachable = links
            self._rejoin.set()

    async def run(self) -> None:
        """Take part until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_lease())
            group.create_task(self._take_part_for_ever())

    async def leave(self) -> None:
        """Give everything back in good order; after `run` was cancelled. Never raises what brokers say."""
        # What is under way may still be answered, within the lease.
        await self._set(NOTHING)
        self.lease.end()
        if not self._member_id:
            return
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                connection = await self._connect(await self._find_coordinator())
                try:
                    await self._send_leave(connection)
                finally:
                    connection.abort()
        except TRANSPORT_ERRORS as error:
            self._log.warning("work_group_not_left", error=str(error))

    # What is held.

    async def _set(self, holding: Holding) -> None:
        lost = not holding.covers(self.holding)
        if lost:
            self._loose = self._loose | self.holding
        changed, self.holding = holding != self.holding, holding
        if not changed:
            return
        slots = {link: len(slots) for link, slots in holding.by_link.items()}
        self._log.info("work_shared", slots=slots, instances=self.instances)
        # More may be lost before this has been let go.
        self._releasing += 1
        try:
            await self._release(holding)
        finally:
            self._releasing -= 1
        if not self._releasing and self._loose != NOTHING:
            self._loose = NOTHING
            # Others wait for it.
            self._rejoin.set()

    async def _lose(self, why: str) -> None:
        self.lease.end()
        if self.holding != NOTHING:
            self._log.warning("work_lost", reason=why)
        await self._set(NOTHING)

    async def _watch_lease(self) -> None:
        while True:
            await asyncio.sleep(max(self.lease.left_s, HEARTBEAT_S / 5))
            if self.holding != NOTHING and not self.lease.valid:
                await self._lose(f"the group's coordinator took no heartbeat for {LEASE_S:g} s")
                self._rejoin.set()

    # Life in the group.

    async def _take_part_for_ever(self) -> None:
        while True:
            try:
                await self._take_part()
            except* TRANSPORT_ERRORS as errors:
                self._note_trouble(_first(errors))
            except* BadPlan as errors:
                self._note_trouble(_first(errors))
            await asyncio.sleep(RETRY_S)

    def _note_trouble(self, error: BaseException) -> None:
        text = str(error) or type(error).__name__
        if text != self.trouble:
            self._log.warning("work_group_trouble", error=text)
        self.trouble = text

    async def _take_part(self) -> None:
        node_id = await self._find_coordinator()
        joiner, beater = await self._connect(node_id), None
        try:
            beater = await self._connect(node_id)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._beat(beater))
                group.create_task(self._join_for_ever(joiner))
        finally:
            self._joining = False
            for connection in (joiner, beater):
                if connection is not None:
                    connection.abort()

    async def _join_for_ever(self, connection: BrokerConnection) -> None:
        while True:
            self._rejoin.clear()
            self._joining = True
            joined = await self._join(connection)
            self._joining = False
            if not joined:
                await asyncio.sleep(RETRY_S / 10)
                continue
            self.trouble = None
            await self._rejoin.wait()

    async def _join(self, connection: BrokerConnection) -> bool:
        """One round; False: the next one is due at once."""
        claim = Claim(self._instance_id, self.holding | self._loose, self._unreachable)
        answer = await connection.request(self._join_request(claim), timeout_s=SESSION_S + REBALANCE_S)
        code = answer.error_code
        if code is ErrorCode.member_id_required:
            self._member_id = answer.member_id
            return False
        if code in _EXPELLED:
            await self._expelled(code)
            return False
        _check(code, "joining")
        self._member_id, self._generation = answer.member_id, answer.generation_id
        shares = {}
        if answer.leader == answer.member_id:
            claims = {member.member_id: decode_claim(member.metadata) for member in answer.members}
            shares = {name: encode_share(share) for name, share in plan(claims).items()}
        sent_s = now_s()
        message = request_class(ApiKey.SYNC_GROUP, 3)
        assigned = nested_class(message, "SyncGroupRequestAssignment")
        answer = await connection.request(
            message(
                group_id=GROUP,
                generation_id=self._generation,
                member_id=self._member_id,
                assignments=tuple(assigned(member_id=m, assignment=data) for m, data in shares.items()),
            ),
            timeout_s=REBALANCE_S,
        )
        code = answer.error_code
        if code is ErrorCode.rebalance_in_progress:
            return False
        if code in _EXPELLED:
            await self._expelled(code)
            return False
        _check(code, "learning its work from")
        share = decode_share(bytes(answer.assignment))
        self._settled_s = sent_s
        # It may have been long under way: then what it says is not true any more.
        if not self.lease.give(sent_s + LEASE_S):
            await self._lose("the group's answer came too late")
            return False
        self.instances = share.instances
        observe.link_gateways.set(share.instances)
        await self._set(share.holding)
        return True

    async def _expelled(self, code: ErrorCode) -> None:
        self._generation = -1
        # Otherwise the group would wait for a member that nobody is any more.
        if code is not ErrorCode.illegal_generation:
            self._member_id = ""
        await self._lose("the group's coordinator has taken this gateway for dead")

    async def _beat(self, connection: BrokerConnection) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if self._generation < 0:
                continue
            generation, sent_s = self._generation, now_s()
            message = request_class(ApiKey.HEARTBEAT, 3)(
                group_id=GROUP, generation_id=generation, member_id=self._member_id
            )
            code = (await connection.request(message, timeout_s=REQUEST_TIMEOUT_S)).error_code
            if code is ErrorCode.none:
                self._settled_s = max(self._settled_s, sent_s)
                self.lease.extend(sent_s + LEASE_S)
            elif code is ErrorCode.rebalance_in_progress:
                limit_s = self._settled_s + REBALANCE_S - REBALANCE_MARGIN_S
                self.lease.extend(min(sent_s + LEASE_S, limit_s))
                if not self._joining:
                    self._rejoin.set()
            elif code not in _EXPELLED:
                _check(code, "sending a heartbeat to")
            elif not self._joining and generation == self._generation:
                await self._expelled(code)
                self._rejoin.set()

    # Requests.

    def _join_request(self, claim: Claim) -> Any:
        message = request_class(ApiKey.JOIN_GROUP, 5)
        protocol = nested_class(message, "JoinGroupRequestProtocol")
        return message(
            group_id=GROUP,
            session_timeout=timedelta(seconds=SESSION_S),
            rebalance_timeout=timedelta(seconds=REBALANCE_S),
            member_id=self._member_id,
            protocol_type=PROTOCOL_TYPE,
            protocols=(protocol(name=PROTOCOL, metadata=encode_claim(claim)),),
        )

    async def _send_leave(self, connection: BrokerConnection) -> None:
        message = request_class(ApiKey.LEAVE_GROUP, 3)
        member = nested_class(message, "MemberIdentity")(member_id=self._member_id)
        await connection.request(message(group_id=GROUP, members=(member,)), timeout_s=LEAVE_TIMEOUT_S)
        self._member_id, self._generation = "", -1

    async def _find_coordinator(self) -> int:
        message = request_class(ApiKey.FIND_COORDINATOR, 2)(key=GROUP)
        answer = await self._cluster.request(message, timeout_s=REQUEST_TIMEOUT_S, idempotent=True)
        _check(answer.error_code, "looking for the coordinator of")
        return int(answer.node_id)

    async def _connect(self, node_id: int) -> BrokerConnection:
        return await self._cluster.connect(node_id)


def _check(code: ErrorCode, doing: str) -> None:
    if code is not ErrorCode.none:
        raise KafkaError(code, f"{doing} group '{GROUP}', which shares the links among gateways")


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """One of them, of whatever group within a group."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
