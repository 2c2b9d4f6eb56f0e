"""A group coordinator of Kafka's classic protocol, for one group, whose clock the test moves."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from kio.schema.errors import ErrorCode

from gateway.upstreams.metadata import nested_class
from protocol.api_keys import ApiKey
from protocol.headers import RequestHeader
from protocol.messages import decode_request, response_class
from tests.fakes.broker import Answer, FakeBroker

_NONE = timedelta()


@dataclass
class Member:
    """One that has joined, and the answer that it waits for."""

    metadata: bytes
    joined: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: bool = False


class FakeCoordinator(FakeBroker):
    """Members are expelled by the test; errors come first where `errors` has some for an API key."""

    def __init__(self) -> None:
        super().__init__()
        self.versions |= {
            ApiKey.FIND_COORDINATOR: (0, 4),
            ApiKey.JOIN_GROUP: (0, 9),
            ApiKey.SYNC_GROUP: (0, 5),
            ApiKey.HEARTBEAT: (0, 4),
            ApiKey.LEAVE_GROUP: (0, 5),
        }
        self.handlers |= {
            ApiKey.FIND_COORDINATOR: self._find,
            ApiKey.JOIN_GROUP: self._join,
            ApiKey.SYNC_GROUP: self._sync,
            ApiKey.HEARTBEAT: self._heartbeat,
            ApiKey.LEAVE_GROUP: self._leave,
        }
        self.members: dict[str, Member] = {}
        self.generation = 0
        self.joining = False
        self.errors: dict[int, list[ErrorCode]] = {}
        # Heartbeats and joins are answered while this is set.
        self.answers = asyncio.Event()
        self.answers.set()
        self._assignments: dict[str, bytes] = {}
        self._synced = asyncio.Event()
        self._count = 0

    def expel(self, member_id: str) -> None:
        """As when its session has ended."""
        del self.members[member_id]
        self._rebalance()

    def _rebalance(self) -> None:
        self.joining = bool(self.members)
        self._complete()

    def _complete(self) -> None:
        if self.joining and all(member.waiting for member in self.members.values()):
            self.joining = False
            self.generation += 1
            self._synced.clear()
            for member in self.members.values():
                member.waiting = False
                member.joined.set()

    def _error(self, api_key: int) -> ErrorCode | None:
        waiting = self.errors.get(api_key)
        return waiting.pop(0) if waiting else None

    def _find(self, header: RequestHeader, _: bytes) -> Answer:
        code = self._error(header.api_key) or ErrorCode.none
        return response_class(header.api_key, header.api_version)(
            throttle_time=_NONE,
            error_code=code,
            error_message=None,
            node_id=self.node_id,
            host="127.0.0.1",
            port=self.port,
        )

    async def _join(self, header: RequestHeader, body: bytes) -> Answer:
        await self.answers.wait()
        request = decode_request(header.api_key, header.api_version, body)
        response = response_class(header.api_key, header.api_version)
        code, name = self._error(header.api_key), request.member_id
        if code is None and not name:
            self._count += 1
            code, name = ErrorCode.member_id_required, f"member-{self._count}"
            self.members[name] = Member(b"", waiting=True)
        elif code is None and name not in self.members:
            code = ErrorCode.unknown_member_id
        if code is not None:
            return self._joined(response, code, name, ())
        member = self.members[name]
        member.metadata = request.protocols[0].metadata
        member.joined.clear()
        member.waiting = self.joining = True
        self._complete()
        await member.joined.wait()
        leader = min(self.members)
        described = nested_class(response, "JoinGroupResponseMember")
        members = (described(member_id=n, metadata=m.metadata) for n, m in self.members.items())
        return self._joined(response, ErrorCode.none, name, tuple(members) if name == leader else ())

    def _joined(self, response: Any, code: ErrorCode, name: str, members: tuple[Any, ...]) -> Any:
        return response(
            throttle_time=_NONE,
            error_code=code,
            generation_id=self.generation,
            protocol_name="slots-1",
            leader=min(self.members, default=""),
            member_id=name,
            members=members,
        )

    async def _sync(self, header: RequestHeader, body: bytes) -> Answer:
        request = decode_request(header.api_key, header.api_version, body)
        response = response_class(header.api_key, header.api_version)
        code = self._error(header.api_key)
        if code is not None:
            if code is ErrorCode.unknown_member_id:
                self.expel(request.member_id)
            return response(throttle_time=_NONE, error_code=code, assignment=b"")
        if request.assignments:
            self._assignments = {each.member_id: each.assignment for each in request.assignments}
            self._synced.set()
        await self._synced.wait()
        mine = self._assignments.get(request.member_id, b"")
        return response(throttle_time=_NONE, error_code=ErrorCode.none, assignment=mine)

    async def _heartbeat(self, header: RequestHeader, body: bytes) -> Answer:
        await self.answers.wait()
        request = decode_request(header.api_key, header.api_version, body)
        code = self._error(header.api_key)
        if code is None and request.member_id not in self.members:
            code = ErrorCode.unknown_member_id
        elif code is None and self.joining:
            code = ErrorCode.rebalance_in_progress
        elif code is None and request.generation_id != self.generation:
            code = ErrorCode.illegal_generation
        response = response_class(header.api_key, header.api_version)
        return response(throttle_time=_NONE, error_code=code or ErrorCode.none)

    def _leave(self, header: RequestHeader, body: bytes) -> Answer:
        request = decode_request(header.api_key, header.api_version, body)
        for member in request.members:
            self.members.pop(member.member_id, None)
        self._rebalance()
        response = response_class(header.api_key, header.api_version)
        return response(throttle_time=_NONE, error_code=ErrorCode.none, members=())
