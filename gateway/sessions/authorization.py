"""What the client of one session may do: every request is judged by the ACLs of now, and cut accordingly.

The rules are `protocol.authorize`'s, the decisions `gateway.security.acls`'. Here the ids of topics become
names, what must be asked of the cluster is asked, and everything is told to the audit. Whatever cannot be
judged (ACLs that are not known, a cluster that does not answer) is not forwarded.
"""

from __future__ import annotations

import asyncio
import dataclasses
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

import structlog
from kio.schema.errors import ErrorCode

from gateway import observe
from gateway.security.acls import Acls
from gateway.security.java_hosts import java_host
from gateway.sessions.fetch_gate import FetchGate, Later, joined
from gateway.sessions.judge import AclsUnknown, RequestJudge
from gateway.sessions.metadata_creation import Merge, without_creation
from gateway.sessions.request_path import Decision, Finish, Forward, Parts, Refuse, Reply
from gateway.sessions.reserved_names import is_reserved
from gateway.sessions.services import SessionServices
from gateway.sessions.share_gate import ShareGate
from gateway.sessions.topic_ids import UNREACHABLE
from gateway.sessions.topic_questions import TopicQuestions
from gateway.upstreams.errors import KafkaError
from protocol.acls import CLUSTER_NAME
from protocol.api_keys import ApiKey, is_flexible
from protocol.authorize import authorize
from protocol.authorize_more import internal_topics
from protocol.authorize_topics import not_creatable
from protocol.blank_messages import build, element_class
from protocol.broker_addresses import drop_topics
from protocol.errors import DecodeError, TooLargeToDecode
from protocol.fields import COMPACT, MALFORMED, PLAIN, Buffer, expect_string
from protocol.headers import RequestHeader, response_body_offset
from protocol.judging import Hide, Outcome, allowed, answer, refuse
from protocol.messages import decode_request, encode_request
from protocol.permissions import PERMISSIONS, REFUSED
from protocol.refusals import Answer, Cut, Refusal
from protocol.request_views import ProduceView, has_transactional_records

log = structlog.get_logger(__name__)

Inner: TypeAlias = Callable[[RequestHeader, bytearray], Awaitable[Any]]

# The group is the first field of these, and all that must be known of them; what they carry may be large.
_BEGIN_WITH_GROUP: Final = frozenset(
    {ApiKey.JOIN_GROUP, ApiKey.SYNC_GROUP, ApiKey.HEARTBEAT, ApiKey.LEAVE_GROUP}
)
# Their handling asks the cluster, or remembers something.
_NEVER_AT_ONCE: Final = frozenset(
    {ApiKey.SHARE_FETCH, ApiKey.DESCRIBE_TOPIC_PARTITIONS, ApiKey.STREAMS_GROUP_HEARTBEAT}
)
_CANNOT_ASK: Final = (*UNREACHABLE, KafkaError)
_LONGEST_WAIT_S: Final = 30.0
_REMEMBERED_BYTES: Final = 512
_WRITE_TRANSACTION, _WRITE_TOPIC = PERMISSIONS[ApiKey.PRODUCE]


class _Passed(NamedTuple):
    """A request that passed as it was, by the ACLs of its judge."""

    api_version: int
    body: bytearray
    judge: RequestJudge

    def is_about(self, api_version: int, body: bytearray | None, acls: Acls) -> bool:
        """Whether the same would be found again."""
        return acls is self.judge.acls and api_version == self.api_version and body == self.body


class Authorization:
    """Judges the requests of `principal` (`Type:name`) from the address `host`."""

    def __init__(self, services: SessionServices, principal: str, host: str, node_id: int | None) -> None:
        if services.acls is None:
            raise ValueError("these sessions have no ACLs")
        self._services = services
        self._current = services.acls
        self._principal = principal
        self._host = java_host(host)
        self._node_id = node_id
        self._super_user = Acls((), services.super_users) if principal in services.super_users else None
        self._audit = services.audit
        self._fetches = FetchGate(self.judge, self.acls)
        self._shares = ShareGate()
        # By API, the last request that passed as it was: a client asks the same again and again.
        self._passed: dict[int, _Passed] = {}
        self._fetched: tuple[bytearray, RequestJudge, Forward | Reply | Later] | None = None

    def acls(self) -> Acls:
        """The ACLs of now; AclsUnknown."""
        acls = self._current()
        if acls is not None:
            return acls
        if self._super_user is None:
            raise AclsUnknown("the ACLs are not known: the state has not been read for too long")
        return self._super_user

    @property
    def _questions(self) -> TopicQuestions:
        if self._services.questions is None:
            raise AclsUnknown("there is nobody to ask about topics")
        return self._services.questions

    def judge(self) -> RequestJudge:
        """Who decides about the next request; AclsUnknown."""
        return RequestJudge(
            self.acls(),
            self._principal,
            self._host,
            self._services.topic_ids.name_of,
            notes_allowed=self._audit.tells_allowed,
        )

    # --- at once ---------------------------------------------------------------------------------------

    def passes(self, header: RequestHeader, frame: bytearray) -> bool:
        """Whether a request goes on as it is, as far as can be said at once; the rest is for `around`."""
        key = header.api_key
        if not PERMISSIONS[key]:
            return True
        if key in _NEVER_AT_ONCE or self._is_unknown():
            return False
        judge = self.judge()
        if key in _BEGIN_WITH_GROUP:
            passes = _may_use_group(header, frame, judge)
        else:
            body = frame[header.body_offset :] if len(frame) <= _REMEMBERED_BYTES else None
            known = self._passed.get(key)
            if known is not None and known.is_about(header.api_version, body, judge.acls):
                self._tell(header, known.judge)
                return True
            try:
                request = self._decode(header, frame)
            except TooLargeToDecode:
                return False
            topic_ids = _topic_ids(request)
            passes = not (key == ApiKey.METADATA and not_creatable(request, judge))
            passes = passes and all(judge.name_of(each) is not None for each in topic_ids)
            passes = passes and authorize(request, judge) is None
            # Whose name an id is may change without a change of the ACLs.
            if passes and body is not None and not topic_ids:
                self._passed[key] = _Passed(header.api_version, body, judge)
        if passes:
            self._tell(header, judge)
        return passes

    def passes_produce(self, header: RequestHeader, request: ProduceView) -> bool:
        """Whether all of a Produce request is allowed whose topics are known by name."""
        if self._is_unknown():
            return False
        judge = self.judge()
        if self._refuses_transaction(request, judge):
            return False
        for view in request.topics:
            topic = view.topic
            name = topic if isinstance(topic, str) else judge.name_of(topic)
            if name is None or not allowed(judge, _WRITE_TOPIC, name):
                return False
        self._tell(header, judge)
        return True

    def fetch_at_once(self, header: RequestHeader, frame: bytearray, plain: Finish | None) -> Forward | None:
        """What to send for a Fetch request, if it can be said at once; the rest is for `fetch`."""
        if self._is_unknown():
            return None
        view = self._fetches.read(header, frame)
        judge = self.judge()
        if any(judge.name_of(each) is None for each in self._fetches.ids(view)):
            return None
        decision = self._fetches.decide(header, frame, view, judge, plain)
        if isinstance(decision, Forward):
            self._tell(header, judge)
            return decision
        # A session has moved on: it must not be asked again.
        self._fetched = frame, judge, decision
        return None

    def _is_unknown(self) -> bool:
        try:
            self.acls()
        except AclsUnknown:
            return True
        return False

    # --- what may have to wait -------------------------------------------------------------------------

    async def around(self, header: RequestHeader, frame: bytearray, inner: Inner) -> Any:
        """What becomes of a request: what is left of it is for `inner` to decide about. DecodeError."""
        try:
            return await self._around(header, frame, inner)
        except AclsUnknown as error:
            return Refuse(error.reason)
        except _CANNOT_ASK as error:
            log.warning("authorization.cannot_ask", api=observe.api_name(header.api_key), error=str(error))
            return Refuse(f"the cluster cannot be asked what this request is about: {error}")

    async def _around(self, header: RequestHeader, frame: bytearray, inner: Inner) -> Any:
        judge = self.judge()
        if header.api_key in _BEGIN_WITH_GROUP and _may_use_group(header, frame, judge):
            self._tell(header, judge)
            return await inner(header, frame)
        request = asked = self._decode(header, frame)
        await self._services.topic_ids.names_of(_topic_ids(request))
        judge = self.judge()
        merges: list[Merge] = []
        if header.api_key == ApiKey.METADATA:
            names = not_creatable(request, judge)
            if names:
                request, fix = await without_creation(request, names, judge, self._questions, self._node_id)
                merges.append(fix)
        elif header.api_key == ApiKey.DESCRIBE_TOPIC_PARTITIONS and not request.topics:
            request = await self._with_all_topics(request)
            if not request.topics:
                return Reply(answer(request, {"next_cursor": None}).body)
        elif header.api_key == ApiKey.STREAMS_GROUP_HEARTBEAT and await self._lacks_create(request, judge):
            self._tell(header, judge)
            return Reply(refuse(request, ErrorCode.topic_authorization_failed).body)
        # After what was waited for: by the ACLs of now.
        judge.acls = self.acls()
        wait_s = 0.0
        outcome: Outcome
        if header.api_key == ApiKey.SHARE_FETCH:
            outcome, wait_s = self._shares.fetch(request, judge)
        else:
            outcome = authorize(request, judge)
        self._tell(header, judge)
        await asyncio.sleep(min(wait_s, _LONGEST_WAIT_S))
        if isinstance(outcome, Answer):
            return Reply(self._merged(header, judge, merges)(outcome.body))
        if isinstance(outcome, Cut):
            merges.insert(0, outcome.merge)
            body: bytes | None = outcome.body
        else:
            body = None if request is asked else encode_request(request)
        sent = header._replace(api_version=request.__version__)
        if body is not None:
            frame = _request_frame(sent, frame, body)
        decision = await inner(sent, frame)
        if isinstance(outcome, Hide):
            decision = self._hiding(sent, decision, outcome, judge)
        return self._finished(sent, decision, merges, judge)

    async def fetch(
        self, header: RequestHeader, frame: bytearray, plain: Finish | None
    ) -> Forward | Reply | Refuse:
        """What becomes of a Fetch request; one that is answered here waits as at a broker. DecodeError."""
        try:
            if self._fetched is None or self._fetched[0] is not frame:
                view = self._fetches.read(header, frame)
                await self._services.topic_ids.names_of(self._fetches.ids(view))
                judge = self.judge()
                decision = self._fetches.decide(header, frame, view, judge, plain)
            else:
                _, judge, decision = self._fetched
        except AclsUnknown as error:
            return Refuse(error.reason)
        except _CANNOT_ASK as error:
            return Refuse(f"the cluster cannot be asked which topics are fetched: {error}")
        self._fetched = None
        self._tell(header, judge)
        if isinstance(decision, Later):
            await asyncio.sleep(min(decision.wait_s, _LONGEST_WAIT_S))
            return decision.reply
        return decision

    def produce_refusals(
        self, header: RequestHeader, request: ProduceView, names: Mapping[UUID, str]
    ) -> dict[str | UUID, Refusal]:
        """The refused topics of a Produce request, without those of unknown ids; AclsUnknown."""
        judge = self.judge()
        topics = [view.topic for view in request.topics]
        refused: dict[str | UUID, Refusal] = {}
        if self._refuses_transaction(request, judge):
            refused = dict.fromkeys(topics, _REFUSED_TRANSACTION)
        else:
            for topic in topics:
                name = names.get(topic) if isinstance(topic, UUID) else topic
                if name is not None and not allowed(judge, _WRITE_TOPIC, name):
                    refused[topic] = _REFUSED_TOPIC
        self._tell(header, judge)
        return refused

    def may_use_cluster(self, header: RequestHeader) -> bool:
        """Whether the client has what an API needs that is about the cluster alone; AclsUnknown."""
        judge = self.judge()
        fits = all(allowed(judge, need, CLUSTER_NAME) for need in PERMISSIONS[header.api_key])
        self._tell(header, judge)
        return fits

    # --- parts -----------------------------------------------------------------------------------------

    def _refuses_transaction(self, request: ProduceView, judge: RequestJudge) -> bool:
        if not has_transactional_records(request):
            return False
        name = request.transactional_id
        return name is None or not allowed(judge, _WRITE_TRANSACTION, name)

    def _decode(self, header: RequestHeader, frame: bytearray) -> Any:
        return decode_request(
            header.api_key,
            header.api_version,
            memoryview(frame)[header.body_offset :],
            max_bytes=self._services.limits.max_decoded_request_bytes,
        )

    async def _with_all_topics(self, request: Any) -> Any:
        """The request by name: a broker's page, and its cursor, would show what is not to be seen."""
        names = await self._questions.all_names()
        judge = self.judge()
        (need,) = PERMISSIONS[request.__api_key__]
        visible = [
            name
            for name in sorted(names)
            if not is_reserved(name) and allowed(judge, need._replace(quiet=True), name)
        ]
        made = element_class(type(request), "topics")
        return dataclasses.replace(request, topics=tuple(build(made, {"name": name}) for name in visible))

    async def _lacks_create(self, request: Any, judge: RequestJudge) -> bool:
        """Whether a broker would make topics for a streams group that its member may not make."""
        if request.topology is None:
            return False
        create = PERMISSIONS[request.__api_key__][2]._replace(quiet=True)
        names = set(internal_topics(request.topology.subtopologies or ()))
        lacking = {name for name in names if not allowed(judge, create, name)}
        if not lacking:
            return False
        missing = lacking - await self._questions.existing(lacking)
        loud = create._replace(quiet=False)
        return bool([name for name in sorted(missing) if not allowed(judge, loud, name)])

    def _hiding(
        self, header: RequestHeader, decision: Decision, outcome: Hide, judge: RequestJudge
    ) -> Decision:
        if not isinstance(decision, Forward):
            return decision
        plain = decision.finish

        def finish(response: bytearray) -> Parts:
            judge.acls = self.acls()
            whole = joined(response if plain is None else plain(response))
            shown = drop_topics(header.api_version, whole, outcome.hidden)
            return shown if isinstance(shown, list) else (shown,)

        return dataclasses.replace(decision, finish=finish)

    def _finished(
        self, header: RequestHeader, decision: Decision, merges: Sequence[Merge], judge: RequestJudge
    ) -> Decision:
        if not merges:
            return decision
        merge = self._merged(header, judge, merges)
        if isinstance(decision, Reply):
            return Reply(merge(decision.body))
        if not isinstance(decision, Forward):
            return decision
        plain = decision.finish

        def finish(response: bytearray) -> Parts:
            whole = joined(response if plain is None else plain(response))
            at = response_body_offset(header.api_key, header.api_version, whole)
            return whole[:at], merge(memoryview(whole)[at:])

        return dataclasses.replace(decision, finish=finish)

    def _merged(self, header: RequestHeader, judge: RequestJudge, merges: Sequence[Merge]) -> Merge:
        def merge(body: Buffer) -> bytes:
            judge.acls = self.acls()
            judge.forget()
            for each in merges:
                body = each(body)
            self._tell(header, judge)
            return bytes(body)

        return merge

    def _tell(self, header: RequestHeader, judge: RequestJudge) -> None:
        self._audit.decided(
            header, self._services.listener, self._principal, self._host, judge.allowed, judge.noted
        )


def _may_use_group(header: RequestHeader, frame: bytearray, judge: RequestJudge) -> bool:
    """Whether the group may be read that such a request begins with; DecodeError."""
    encoding = COMPACT if is_flexible(header.api_key, header.api_version) else PLAIN
    try:
        name, _ = encoding.read_string(frame, header.body_offset)
    except MALFORMED as error:
        raise DecodeError(f"{observe.api_name(header.api_key)}: {error}") from error
    (need,) = PERMISSIONS[header.api_key]
    return allowed(judge, need, expect_string(name))


def _topic_ids(request: Any) -> list[UUID]:
    """The ids of topics in a request, one level or two down."""
    found = []
    for holder in (request, *(getattr(request, "groups", None) or ())):
        for topic in getattr(holder, "topics", None) or ():
            topic_id = getattr(topic, "topic_id", None)
            if topic_id is not None:
                found.append(topic_id)
    return found


def _request_frame(header: RequestHeader, frame: bytearray, body: bytes) -> bytearray:
    whole = frame[: header.body_offset] + body
    struct.pack_into(">h", whole, _VERSION_AT, header.api_version)
    return whole


_VERSION_AT: Final = 2
_REFUSED_TRANSACTION: Final = Refusal(REFUSED[_WRITE_TRANSACTION.resource])
_REFUSED_TOPIC: Final = Refusal(REFUSED[_WRITE_TOPIC.resource])
