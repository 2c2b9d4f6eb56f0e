"""What becomes of a client's requests once it is known who the client is.

Most are forwarded as they are. Looked into are: Produce and what else would change a mirror topic (refused in
part, the rest goes on), and requests that name what is reserved (`reserved_names`) or have a broker resolve
what we cannot. What was not advertised is refused by closing, as Kafka does. For responses see `responses`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from uuid import UUID

import structlog
from kio.schema.errors import ErrorCode

from gateway import observe
from gateway.security.principals import Principal
from gateway.sessions import local_replies
from gateway.sessions.acl_requests import UnknownElement
from gateway.sessions.authorization import Authorization
from gateway.sessions.broker_versions import BrokerVersions
from gateway.sessions.judge import AclsUnknown
from gateway.sessions.request_path import Decision, Finish, Forward, Parts, Refuse, Reply
from gateway.sessions.reserved_names import (
    RESERVED_BYTES,
    Substitution,
    is_reserved,
)
from gateway.sessions.responses import Responses
from gateway.sessions.scram_users import ScramUsers
from gateway.sessions.services import SessionServices
from gateway.sessions.topic_ids import UNREACHABLE
from gateway.state.store import StateUnavailable
from gateway.upstreams.errors import DialError, KafkaError
from gateway.wire import ConnectionClosed
from protocol.api_keys import ApiKey
from protocol.api_versions import ANSWERED_HERE, encode_api_versions_body, is_forwardable
from protocol.errors import ProtocolError, TooLargeToDecode
from protocol.headers import RequestHeader, response_body_offset
from protocol.messages import decode_request, decode_response, encode_request, encode_response
from protocol.produce_refusals import split_produce
from protocol.refusals import Answer, Cut, Refusal, read_only, split_configs, split_request
from protocol.request_views import ProduceView, read_produce

log = structlog.get_logger(__name__)

_NO_ACKS: Final = 0
_NO_NAMES: Final = "The gateway cannot ask the cluster which topics these are"
_TOPIC_RESOURCE: Final = 2
_TOPIC_REGEX: Final = 1
# Whatever keeps the state from being read: until it can be, it is unknown which topics are mirrors.
_STATE_UNKNOWN: Final = (
    StateUnavailable, DialError, KafkaError, ConnectionClosed, ProtocolError, TimeoutError, OSError
)  # fmt: skip
# What makes a client look again, and the state may be there by then.
_RETRIABLE: Final[dict[int, ErrorCode]] = {
    ApiKey.PRODUCE: ErrorCode.not_leader_or_follower,
    ApiKey.ADD_PARTITIONS_TO_TXN: ErrorCode.coordinator_load_in_progress,
}


@dataclass(frozen=True, slots=True)
class Authenticate:
    """The request belongs to the session's authenticator."""


ClientDecision: TypeAlias = Decision | Authenticate


class ClientGate:
    """Decides about the requests of one session with broker `node_id` (None: any)."""

    def __init__(self, services: SessionServices, node_id: int | None) -> None:
        self.principal: Principal | None = None
        self._services = services
        self._mirrors = services.mirrors
        self._node_id = node_id
        self._versions: BrokerVersions | None = None
        self._log = log.bind(listener=services.listener, node_id=node_id)
        self._responses = Responses(services)
        self._authorization: Authorization | None = None

    def authenticated(self, principal: Principal, host: str) -> None:
        """Told who the client is, and from which address; may be called again."""
        self.principal = principal
        if self._services.acls is not None and self._authorization is None:
            self._authorization = Authorization(self._services, str(principal), host, self._node_id)

    def decide_at_once(self, header: RequestHeader, frame: bytearray) -> Forward | None:
        """As `decide`, if the request is forwarded and nothing must be waited for; otherwise None."""
        key, version = header.api_key, header.api_version
        versions = self._versions
        if versions is None or not is_forwardable(versions.shown, key, version):
            return None
        if key == ApiKey.PRODUCE:
            return self._produce_at_once(header, frame)
        if key in _STEPS or self._may_name_reserved(frame):
            return None
        finish = self._responses.finish(key, version)
        if self._services.acls is None:
            return Forward(frame, finish)
        authorization = self._authorization
        if authorization is None:
            return None
        if key == ApiKey.FETCH:
            return authorization.fetch_at_once(header, frame, finish)
        return Forward(frame, finish) if authorization.passes(header, frame) else None

    async def decide(self, header: RequestHeader, frame: bytearray) -> ClientDecision:
        """What becomes of a request; DecodeError if it had to be looked into and is malformed, DialError."""
        try:
            return await self._decide(header, frame)
        except TooLargeToDecode as error:
            observe.refusals.labels(observe.api_name(header.api_key), "too_large").inc()
            return Refuse(f"{error}; see limits.max_decoded_request_bytes")

    async def _decide(self, header: RequestHeader, frame: bytearray) -> ClientDecision:
        key, version = header.api_key, header.api_version
        versions = self._versions
        if versions is None:
            versions = self._versions = await self._services.versions.of(self._node_id)
        if key in ANSWERED_HERE:
            lowest, highest = ANSWERED_HERE[key]
            # An ApiVersions request of any version has an answer (KIP-511).
            if key != ApiKey.API_VERSIONS and not lowest <= version <= highest:
                return Refuse(f"{observe.api_name(key)} version {version} was not advertised")
            if key in _FOR_ANYBODY or self._services.acls is None:
                return await _STEPS[key](self, header, frame)
            return await self._authorized(header, frame)
        if not is_forwardable(versions.shown, key, version):
            return Refuse(f"{observe.api_name(key)} version {version} was not advertised")
        if self._services.acls is None:
            return await self._unhindered(header, frame)
        return await self._authorized(header, frame)

    async def _authorized(self, header: RequestHeader, frame: bytearray) -> ClientDecision:
        """What becomes of a request where there are ACLs."""
        authorization, key = self._authorization, header.api_key
        if authorization is None:
            return Refuse("it is not known who the client is")
        if key == ApiKey.PRODUCE:
            try:
                return await self._unhindered(header, frame)
            except AclsUnknown as error:
                return Refuse(error.reason)
        if key != ApiKey.FETCH:
            decision: ClientDecision = await authorization.around(header, frame, self._unhindered)
            return decision
        finish = self._responses.finish(key, header.api_version)
        decision = await authorization.fetch(header, frame, finish)
        if isinstance(decision, Forward) and self._may_name_reserved(decision.frame):
            return self._substitute(header, decision.frame, decision.finish)
        return decision

    async def _unhindered(self, header: RequestHeader, frame: bytearray) -> ClientDecision:
        """What becomes of a request as far as ACLs are not concerned."""
        key, version = header.api_key, header.api_version
        step = _STEPS.get(key)
        if step is not None:
            return await step(self, header, frame)
        if self._may_name_reserved(frame):
            return self._substitute(header, frame)
        return Forward(frame, self._responses.finish(key, version))

    def _decode(self, header: RequestHeader, frame: bytearray) -> Any:
        return decode_request(
            header.api_key,
            header.api_version,
            memoryview(frame)[header.body_offset :],
            max_bytes=self._services.limits.max_decoded_request_bytes,
        )

    # --- answered here ---------------------------------------------------------------------------------

    async def _api_versions(self, header: RequestHeader, _frame: bytearray) -> Decision:
        # A client that reconnects to an upgraded broker asks again; one that stays asks never.
        versions = self._versions = await self._services.versions.of(self._node_id)
        return Reply(encode_api_versions_body(header.api_version, versions.shown, versions.features))

    async def _describe_users(self, header: RequestHeader, frame: bytearray) -> Decision:
        request = decode_request(header.api_key, header.api_version, memoryview(frame)[header.body_offset :])
        return Reply(self._users().describe(request, allowed=self._is_super_user()))

    async def _alter_users(self, header: RequestHeader, frame: bytearray) -> Decision:
        request = decode_request(header.api_key, header.api_version, memoryview(frame)[header.body_offset :])
        return Reply(await self._users().alter(request, allowed=self._is_super_user()))

    async def _acls(self, header: RequestHeader, frame: bytearray) -> Decision:
        requests = self._services.acl_requests
        if requests is None:
            if self._may_name_reserved(frame):
                return self._substitute(header, frame)
            return Forward(frame, self._responses.finish(header.api_key, header.api_version))
        try:
            request = self._decode(header, frame)
            return Reply(await requests.answer(header.api_key, header.api_version, request))
        except UnknownElement as error:
            return Refuse(str(error))

    def _users(self) -> ScramUsers:
        if self._services.users is None:
            raise RuntimeError("these sessions have no users")
        return self._services.users

    def _is_super_user(self) -> bool:
        # With ACLs it was judged before, whether super user or not.
        return self._services.acls is not None or str(self.principal) in self._services.super_users

    async def _authenticate(self, _header: RequestHeader, _frame: bytearray) -> Authenticate:
        return Authenticate()

    # --- mirror topics ---------------------------------------------------------------------------------

    def _produce_at_once(self, header: RequestHeader, frame: bytearray) -> Forward | None:
        """Forwards what goes to topics that are known for ordinary ones only; the rest is for `_produce`."""
        request = read_produce(header.api_version, frame, header.body_offset)
        if request.transactional_id is not None and is_reserved(request.transactional_id):
            return None
        topics = [view.topic for view in request.topics]
        if not self._mirrors.are_known(topics):
            return None
        if self._services.acls is not None and (
            self._authorization is None or not self._authorization.passes_produce(header, request)
        ):
            return None
        name_of, read_only_mirror = self._services.topic_ids.name_of, self._mirrors.read_only_mirror
        for topic in topics:
            name = topic if isinstance(topic, str) else name_of(topic)
            if name is None or is_reserved(name) or read_only_mirror(topic) is not None:
                return None
        finish = self._responses.finish(header.api_key, header.api_version)
        return Forward(frame, finish, request.acks != _NO_ACKS)

    async def _produce(self, header: RequestHeader, frame: bytearray) -> Decision:
        request = read_produce(header.api_version, frame, header.body_offset)
        refused = await self._produce_refusals(header, request)
        finish = self._responses.finish(header.api_key, header.api_version)
        expects_reply = request.acks != _NO_ACKS
        split = split_produce(request, refused.get) if refused else None
        if split is None:
            return Forward(frame, finish, expects_reply)
        _count_refusals(header, refused)
        if expects_reply:
            return self._partly(header, frame, split)
        # The only way to tell such a producer that something was refused (KafkaApis.handleProduceRequest).
        why = "Produce without acknowledgement to topics that refuse it"
        if isinstance(split, Answer):
            return Refuse(why)
        return Forward(frame[: header.body_offset] + split.body, expects_reply=False, close_after=why)

    async def _produce_refusals(
        self, header: RequestHeader, request: ProduceView
    ) -> dict[str | UUID, Refusal]:
        topics = [view.topic for view in request.topics]
        if request.transactional_id is not None and is_reserved(request.transactional_id):
            return dict.fromkeys(topics, Refusal(ErrorCode.transactional_id_authorization_failed))
        refused: dict[str | UUID, Refusal] = {}
        topic_ids = [topic for topic in topics if isinstance(topic, UUID)]
        try:
            names = await self._services.topic_ids.names_of(topic_ids)
        except UNREACHABLE as error:
            self._log.warning("topic_ids.unknown", error=str(error))
            return dict.fromkeys(topics, Refusal(_RETRIABLE[ApiKey.PRODUCE], _NO_NAMES))
        for topic in topics:
            if isinstance(topic, UUID):
                name = names.get(topic)
                if name is None or is_reserved(name):
                    refused[topic] = Refusal(ErrorCode.unknown_topic_id)
            elif is_reserved(topic):
                refused[topic] = Refusal(ErrorCode.unknown_topic_or_partition)
        if self._authorization is not None:
            refused = self._authorization.produce_refusals(header, request, names) | refused
        others = [topic for topic in topics if topic not in refused]
        unknown = await self._unknown_state(ApiKey.PRODUCE, others)
        if unknown is not None:
            return refused | dict.fromkeys(others, unknown)
        for topic in others:
            mirror = self._mirrors.read_only_mirror(topic)
            if mirror is not None:
                refused[topic] = read_only(ApiKey.PRODUCE, mirror)
        return refused

    async def _change_topics(self, header: RequestHeader, frame: bytearray) -> Decision:
        """AddPartitionsToTxn, DeleteRecords, CreatePartitions: not on mirrors."""
        key = header.api_key
        request = self._decode(header, frame)
        unknown = await self._unknown_state(key, _topics_of(request))

        def refused(topic: str) -> Refusal | None:
            mirror = self._mirrors.read_only_mirror(topic)
            return unknown if mirror is None else read_only(key, mirror)

        return self._maybe_partly(header, frame, split_request(request, refused))

    async def _alter_configs(self, header: RequestHeader, frame: bytearray) -> Decision:
        """AlterConfigs, IncrementalAlterConfigs: not what the link of a mirror relies on."""
        request = self._decode(header, frame)
        topics = [each.resource_name for each in request.resources if each.resource_type == _TOPIC_RESOURCE]
        if await self._unknown_state(header.api_key, topics) is not None:
            return Refuse("the state cannot be read, so it is unknown which configs a link relies on")
        return self._maybe_partly(header, frame, split_configs(request, self._mirrors.held_configs))

    async def _unknown_state(self, key: int, topics: Iterable[str | UUID]) -> Refusal | None:
        """Why nothing may be written to the topics for now; None if it is known which of them are mirrors."""
        try:
            await self._mirrors.before_produce(topics)
        except _STATE_UNKNOWN as error:
            self._log.warning("state.unknown", error=str(error))
            code = _RETRIABLE.get(key, ErrorCode.request_timed_out)
            return Refusal(code, f"The gateway cannot read its state: {error}")
        return None

    def _maybe_partly(self, header: RequestHeader, frame: bytearray, split: Answer | Cut | None) -> Decision:
        if split is not None:
            observe.refusals.labels(observe.api_name(header.api_key), "mirror").inc()
            return self._partly(header, frame, split)
        if self._may_name_reserved(frame):
            return self._substitute(header, frame)
        return Forward(frame, self._responses.finish(header.api_key, header.api_version))

    def _partly(self, header: RequestHeader, frame: bytearray, split: Answer | Cut) -> Decision:
        """Forwards what is left after a part was refused."""
        if isinstance(split, Answer):
            return Reply(split.body)
        key, version = header.api_key, header.api_version
        plain = self._responses.finish(key, version)

        def finish(response: bytearray) -> Parts:
            body_at = response_body_offset(key, version, response)
            merged = response[:body_at] + split.merge(memoryview(response)[body_at:])
            return (merged,) if plain is None else plain(merged)

        rest = frame[: header.body_offset] + split.body
        if key != ApiKey.PRODUCE and self._may_name_reserved(rest):
            return self._substitute(header, rest, finish)
        return Forward(rest, finish)

    async def _delete_topics(self, header: RequestHeader, frame: bytearray) -> Decision:
        decision = (
            self._substitute(header, frame)
            if self._may_name_reserved(frame)
            else Forward(frame, self._responses.finish(header.api_key, header.api_version))
        )
        plain = decision.finish

        def finish(response: bytearray) -> Parts:
            body = memoryview(response)[response_body_offset(header.api_key, header.api_version, response) :]
            for result in decode_response(header.api_key, header.api_version, body).responses:
                topic = result.name or getattr(result, "topic_id", None)
                if result.error_code == ErrorCode.none and topic is not None:
                    self._mirrors.topic_deleted(topic)
                    if result.name is not None:
                        self._services.topic_ids.forget(result.name)
            return (response,) if plain is None else plain(response)

        return Forward(decision.frame, finish)

    # --- groups ----------------------------------------------------------------------------------------

    async def _commit_offsets(self, header: RequestHeader, frame: bytearray) -> Decision:
        """OffsetCommit, TxnOffsetCommit: a group that commits here is no longer a link's to move."""
        commits = self._services.commits
        if commits is not None and commits.watching:
            request = self._decode(header, frame)
            offsets = {
                getattr(topic, "name", None) or topic.topic_id: {
                    int(p.partition_index): int(p.committed_offset) for p in topic.partitions
                }
                for topic in request.topics
            }
            try:
                await commits.before_commit(request.group_id, offsets)
            except StateUnavailable as error:
                self._log.warning("state.unknown", error=str(error))
                observe.refusals.labels(observe.api_name(header.api_key), "state").inc()
                return Reply(
                    local_replies.offsets_not_committed(request, ErrorCode.coordinator_not_available)
                )
        if self._may_name_reserved(frame):
            return self._substitute(header, frame)
        return Forward(frame, self._responses.finish(header.api_key, header.api_version))

    # --- reserved names --------------------------------------------------------------------------------

    async def _init_producer_id(self, header: RequestHeader, frame: bytearray) -> Decision:
        """Refused for a transactional id of ours, as Produce is: a name in its place would exist then."""
        if RESERVED_BYTES in frame:
            version = header.api_version
            request = self._decode(header, frame)
            if request.transactional_id is not None and is_reserved(request.transactional_id):
                observe.refusals.labels(observe.api_name(header.api_key), "reserved").inc()
                return Reply(
                    local_replies.init_producer_id(version, ErrorCode.transactional_id_authorization_failed)
                )
        return Forward(frame)

    async def _consumer_group_heartbeat(self, header: RequestHeader, frame: bytearray) -> Decision:
        """Refused with a regular expression (v1, KIP-848): a broker would resolve it past us."""
        # An empty one takes back what was subscribed to before.
        if header.api_version >= _TOPIC_REGEX and self._decode(header, frame).subscribed_topic_regex:
            observe.refusals.labels(observe.api_name(header.api_key), "regex").inc()
            return Reply(local_replies.regular_expression_refused(header.api_version))
        if self._may_name_reserved(frame):
            return self._substitute(header, frame)
        return Forward(frame)

    async def _streams_group_heartbeat(self, header: RequestHeader, frame: bytearray) -> Decision:
        """Refused with a regular expression (KIP-1071), for the same reason."""
        topology = self._decode(header, frame).topology
        if topology is not None and any(each.source_topic_regex for each in topology.subtopologies):
            observe.refusals.labels(observe.api_name(header.api_key), "regex").inc()
            return Reply(local_replies.streams_expression_refused(header.api_version))
        if self._may_name_reserved(frame):
            return self._substitute(header, frame)
        return Forward(frame)

    def _may_name_reserved(self, frame: bytearray) -> bool:
        if RESERVED_BYTES in frame:
            return True
        for topic_id in self._services.reserved_ids():  # noqa: SIM110 - a generator costs more than the search
            if topic_id.bytes in frame:
                return True
        return False

    def _substitute(self, header: RequestHeader, frame: bytearray, then: Finish | None = None) -> Forward:
        key, version = header.api_key, header.api_version
        plain = then or self._responses.finish(key, version)
        names = Substitution(self._services.reserved_ids())
        request = names.request(self._decode(header, frame))
        if not names.changed:
            # The bytes were part of something else: a longer name, a text.
            return Forward(frame, plain)
        observe.refusals.labels(observe.api_name(key), "reserved").inc()

        def finish(response: bytearray) -> Parts:
            whole = response if plain is None else bytearray().join(plain(response))
            body_at = response_body_offset(key, version, whole)
            body = names.response(decode_response(key, version, memoryview(whole)[body_at:]))
            return (whole[:body_at], encode_response(body))

        return Forward(frame[: header.body_offset] + encode_request(request), finish)


def _topics_of(request: Any) -> list[str | UUID]:
    """The topics of a DeleteRecords, CreatePartitions or AddPartitionsToTxn (up to v3) request."""
    topics = (
        request.v3_and_below_topics if request.__api_key__ == ApiKey.ADD_PARTITIONS_TO_TXN else request.topics
    )
    return [topic.name for topic in topics]


def _count_refusals(header: RequestHeader, refused: dict[str | UUID, Refusal]) -> None:
    for refusal in refused.values():
        observe.refusals.labels(observe.api_name(header.api_key), ErrorCode(refusal.error_code).name).inc()


# Before anybody is known, and whoever it is.
_FOR_ANYBODY: Final = frozenset({ApiKey.API_VERSIONS, ApiKey.SASL_HANDSHAKE, ApiKey.SASL_AUTHENTICATE})
_Step = Callable[[ClientGate, RequestHeader, bytearray], Awaitable[ClientDecision]]
# A table of the gate's own methods.
_STEPS: Final[dict[int, _Step]] = {
    ApiKey.API_VERSIONS: ClientGate._api_versions,
    ApiKey.SASL_HANDSHAKE: ClientGate._authenticate,
    ApiKey.SASL_AUTHENTICATE: ClientGate._authenticate,
    ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS: ClientGate._describe_users,
    ApiKey.ALTER_USER_SCRAM_CREDENTIALS: ClientGate._alter_users,
    ApiKey.DESCRIBE_ACLS: ClientGate._acls,
    ApiKey.CREATE_ACLS: ClientGate._acls,
    ApiKey.DELETE_ACLS: ClientGate._acls,
    ApiKey.PRODUCE: ClientGate._produce,
    ApiKey.ADD_PARTITIONS_TO_TXN: ClientGate._change_topics,
    ApiKey.DELETE_RECORDS: ClientGate._change_topics,
    ApiKey.CREATE_PARTITIONS: ClientGate._change_topics,
    ApiKey.ALTER_CONFIGS: ClientGate._alter_configs,
    ApiKey.INCREMENTAL_ALTER_CONFIGS: ClientGate._alter_configs,
    ApiKey.DELETE_TOPICS: ClientGate._delete_topics,
    ApiKey.OFFSET_COMMIT: ClientGate._commit_offsets,
    ApiKey.TXN_OFFSET_COMMIT: ClientGate._commit_offsets,
    ApiKey.INIT_PRODUCER_ID: ClientGate._init_producer_id,
    ApiKey.CONSUMER_GROUP_HEARTBEAT: ClientGate._consumer_group_heartbeat,
    ApiKey.STREAMS_GROUP_HEARTBEAT: ClientGate._streams_group_heartbeat,
}
