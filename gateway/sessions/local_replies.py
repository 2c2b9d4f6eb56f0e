"""Bodies of the responses that the gateway gives itself, but for ApiVersions, which `protocol` has.

SaslHandshake 0–1, SaslAuthenticate 0–2 (KIP-43, KIP-152, KIP-368), and refusals of InitProducerId,
LinkAttach, OffsetCommit, TxnOffsetCommit, ConsumerGroupHeartbeat and StreamsGroupHeartbeat.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from datetime import timedelta
from typing import Any, get_args, get_type_hints

from kio.schema.errors import ErrorCode

from protocol.api_keys import ApiKey
from protocol.messages import encode_response, response_class
from protocol.reverse import LinkAttachResponse


def sasl_handshake(version: int, error: ErrorCode, mechanisms: Iterable[str]) -> bytes:
    """What mechanisms there are, and whether the client's is one of them."""
    made = response_class(ApiKey.SASL_HANDSHAKE, version)
    return encode_response(made(error_code=error, mechanisms=tuple(mechanisms)))


def sasl_authenticate(
    version: int,
    error: ErrorCode = ErrorCode.none,
    message: str | None = None,
    *,
    token: bytes = b"",
    lifetime_ms: int = 0,
) -> bytes:
    """The server's side of an exchange; `lifetime_ms` from v1 on, 0 for a session without an end."""
    made = response_class(ApiKey.SASL_AUTHENTICATE, version)
    lifetime = {"session_lifetime": timedelta(milliseconds=lifetime_ms)} if version >= 1 else {}
    return encode_response(made(error_code=error, error_message=message, auth_bytes=token, **lifetime))


def init_producer_id(version: int, error: ErrorCode) -> bytes:
    """The refusal of a transactional id."""
    made = response_class(ApiKey.INIT_PRODUCER_ID, version)
    return encode_response(
        made(throttle_time=timedelta(), error_code=error, producer_id=-1, producer_epoch=-1)
    )


def offsets_not_committed(request: Any, error: ErrorCode) -> bytes:
    """The answer to an OffsetCommit or TxnOffsetCommit of which nothing was committed."""
    made = response_class(request.__api_key__, request.__version__)
    topic_class, partition_class = _classes_of(made)
    names = {field.name for field in fields(topic_class)}
    topics = tuple(
        topic_class(
            partitions=tuple(
                partition_class(partition_index=p.partition_index, error_code=error) for p in topic.partitions
            ),
            **({"name": topic.name} if "name" in names else {"topic_id": topic.topic_id}),
        )
        for topic in request.topics
    )
    throttle = {"throttle_time": timedelta()} if "throttle_time" in {f.name for f in fields(made)} else {}
    return encode_response(made(topics=topics, **throttle))


def _classes_of(made: Any) -> tuple[Any, Any]:
    (topic_class, _) = get_args(get_type_hints(made)["topics"])
    (partition_class, _) = get_args(get_type_hints(topic_class)["partitions"])
    return topic_class, partition_class


def regular_expression_refused(version: int) -> bytes:
    """The answer to a ConsumerGroupHeartbeat (KIP-848) whose regular expression a broker would resolve."""
    made = response_class(ApiKey.CONSUMER_GROUP_HEARTBEAT, version)
    return encode_response(
        made(
            throttle_time=timedelta(),
            error_code=ErrorCode.invalid_regular_expression,
            error_message="Brokers behind this gateway resolve no regular expressions: subscribe by names",
            member_epoch=0,
            heartbeat_interval=timedelta(),
        )
    )


def streams_expression_refused(version: int) -> bytes:
    """The same for a StreamsGroupHeartbeat (KIP-1071), in the words of Kafka 4.3, which resolves none yet."""
    made = response_class(ApiKey.STREAMS_GROUP_HEARTBEAT, version)
    return encode_response(
        made(
            throttle_time=timedelta(),
            error_code=ErrorCode.invalid_request,
            error_message="Regular expressions for source topics are not supported yet.",
            member_id="",
            member_epoch=0,
            heartbeat_interval=timedelta(),
            acceptable_recovery_lag=0,
            task_offset_interval=timedelta(),
            status=(),
            active_tasks=None,
            standby_tasks=None,
            warmup_tasks=None,
            endpoint_information_epoch=0,
            partitions_by_user_endpoint=None,
        )
    )


def link_attach_refused(message: str) -> bytes:
    """The answer to a LinkAttach of a principal that may not alter the cluster."""
    return LinkAttachResponse(
        error_code=ErrorCode.cluster_authorization_failed,
        error_message=message,
        link_id=None,
        instance_id="",
        instance_count=0,
    ).encode()
