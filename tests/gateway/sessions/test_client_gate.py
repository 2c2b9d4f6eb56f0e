from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from gateway.config import LimitsConfig
from gateway.upstreams.metadata import nested_class
from gateway.wire import ConnectionClosed
from protocol.api_keys import ApiKey
from protocol.fillers import encode_filler_batch
from protocol.headers import RequestHeader
from protocol.messages import decode_request, encode_response, response_class
from protocol.presentation import KnownFillers, Region
from protocol.record_batches import read_batches
from protocol.shown_responses import ShownPartition, ShownTopic
from tests.e2e.raw_client import batch, make, produce
from tests.gateway.sessions.lab import MIRROR_ID, PLAIN_ID, STATE_TOPIC_ID, Client, Lab, heartbeat, lab


def nothing(response: Any) -> dict[str, Any]:
    return {"throttle_time": timedelta()} if "throttle_time" in response.__dataclass_fields__ else {}


def takes_produce(header: RequestHeader, body: bytes) -> Any:
    """Appends whatever comes, at offset 5."""
    request = decode_request(ApiKey.PRODUCE, header.api_version, body)
    response: Any = response_class(ApiKey.PRODUCE, header.api_version)
    topic = nested_class(response, "TopicProduceResponse")
    partition = nested_class(topic, "PartitionProduceResponse")
    if request.acks == 0:
        return None
    key = "topic_id" if header.api_version >= 13 else "name"
    return response(
        responses=tuple(
            topic(
                **{key: getattr(data, key)},
                partition_responses=tuple(
                    partition(
                        index=each.index,
                        error_code=ErrorCode.none,
                        base_offset=5,
                        log_append_time=None,
                        record_errors=(),
                    )
                    for each in data.partition_data
                ),
            )
            for data in request.topic_data
        ),
        throttle_time=timedelta(),
    )


def outcomes(response: Any) -> dict[Any, tuple[ErrorCode, str | None, int]]:
    return {
        getattr(topic, "name", None) or topic.topic_id: (
            partition.error_code,
            partition.error_message,
            partition.base_offset,
        )
        for topic in response.responses
        for partition in topic.partition_responses
    }


async def producing(here: Lab) -> Client:
    here.broker.handlers[ApiKey.PRODUCE] = takes_produce
    here.mirrors.mirrors = {"mirror": "mirror", MIRROR_ID: "mirror"}
    return await here.client()


def produced(here: Lab, seen: list[Any]) -> None:
    inner = here.broker.handlers[ApiKey.PRODUCE]

    def note(header: RequestHeader, body: bytes) -> Any:
        seen.append(decode_request(ApiKey.PRODUCE, header.api_version, body))
        return inner(header, body)

    here.broker.handlers[ApiKey.PRODUCE] = note


# --- mirrors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [8, 9, 12])
async def test_a_mirror_refuses_produce_and_other_topics_of_the_request_go_through(version: int) -> None:
    async with lab() as here:
        client = await producing(here)
        answer = await client.call(produce(version, {"mirror": batch(b"x"), "plain": batch(b"y")}))
        message = "Cannot append records to read-only mirror topic 'mirror'"
        assert outcomes(answer) == {
            "mirror": (ErrorCode.invalid_request, message, -1),
            "plain": (ErrorCode.none, None, 5),
        }


async def test_a_mirror_is_known_by_its_id_too() -> None:
    async with lab() as here:
        client = await producing(here)
        answer = await client.call(produce(13, {PLAIN_ID: batch(b"y"), MIRROR_ID: batch(b"x")}))
        assert {topic: outcome[0] for topic, outcome in outcomes(answer).items()} == {
            PLAIN_ID: ErrorCode.none,
            MIRROR_ID: ErrorCode.invalid_request,
        }


async def test_a_request_for_mirrors_only_never_reaches_the_broker() -> None:
    async with lab() as here:
        client = await producing(here)
        answer = await client.call(produce(9, {"mirror": batch(b"x")}))
        assert outcomes(answer)["mirror"][0] == ErrorCode.invalid_request
        assert here.forwarded(ApiKey.PRODUCE) == []
        await client.call(produce(9, {"plain": batch(b"x")}))


async def test_without_acknowledgements_the_refusal_is_the_end_of_the_connection() -> None:
    async with lab() as here:
        client = await producing(here)
        seen: list[Any] = []
        produced(here, seen)
        client.send(produce(9, {"mirror": batch(b"x"), "plain": batch(b"y")}, acks=0))
        with pytest.raises(ConnectionClosed):
            await client.wire.read_frame(10)
        assert [[topic.name for topic in request.topic_data] for request in seen] == [["plain"]]


async def test_every_topic_is_asked_for_before_it_is_produced_to() -> None:
    async with lab() as here:
        client = await producing(here)
        await client.call(produce(9, {"a": batch(b"x"), "b": batch(b"y")}))
        await client.call(produce(13, {PLAIN_ID: batch(b"x")}))
        assert here.mirrors.asked == ["a", "b", PLAIN_ID]


async def test_while_the_state_is_unknown_nothing_is_appended() -> None:
    async with lab() as here:
        client = await producing(here)
        here.mirrors.unavailable = True
        answer = await client.call(produce(9, {"plain": batch(b"x")}))
        assert outcomes(answer)["plain"][0] == ErrorCode.not_leader_or_follower
        add = make(
            ApiKey.ADD_PARTITIONS_TO_TXN,
            3,
            v3_and_below_transactional_id="t",
            v3_and_below_producer_id=1,
            v3_and_below_producer_epoch=0,
            v3_and_below_topics=[{"name": "plain", "partitions": (0,)}],
        )
        added = await client.call(add)
        code = added.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code
        assert code == ErrorCode.coordinator_load_in_progress
        assert here.forwarded(ApiKey.PRODUCE) == here.forwarded(ApiKey.ADD_PARTITIONS_TO_TXN) == []
        client.send(alter_configs(1, "plain", "retention.ms"))
        with pytest.raises(ConnectionClosed):
            await client.wire.read_frame(10)


def create_partitions(*topics: str) -> Any:
    each = [{"name": topic, "count": 9, "assignments": None} for topic in topics]
    return make(ApiKey.CREATE_PARTITIONS, 3, topics=each, timeout=timedelta(seconds=1), validate_only=False)


def delete_records(*topics: str) -> Any:
    partition = [{"partition_index": 0, "offset": 1}]
    each = [{"name": topic, "partitions": partition} for topic in topics]
    return make(ApiKey.DELETE_RECORDS, 2, topics=each, timeout=timedelta(seconds=1))


async def test_a_mirror_gets_no_partitions_and_loses_no_records() -> None:
    async with lab() as here:
        client = await producing(here)
        created = await client.call(create_partitions("mirror"))
        assert created.results[0].error_code == ErrorCode.invalid_request
        assert "read-only mirror topic 'mirror'" in created.results[0].error_message
        deleted = await client.call(delete_records("mirror"))
        assert deleted.topics[0].partitions[0].error_code == ErrorCode.invalid_request
        assert len(here.broker.requests) == len(here.forwarded(ApiKey.API_VERSIONS)) + len(
            here.forwarded(ApiKey.METADATA)
        )


async def test_what_is_no_mirror_is_forwarded_and_the_answers_are_merged() -> None:
    async with lab() as here:
        client = await producing(here)

        def answer(header: RequestHeader, body: bytes) -> Any:
            request = decode_request(ApiKey.CREATE_PARTITIONS, header.api_version, body)
            response: Any = response_class(ApiKey.CREATE_PARTITIONS, header.api_version)
            result = nested_class(response, "CreatePartitionsTopicResult")
            done = tuple(result(name=topic.name, error_code=ErrorCode.none) for topic in request.topics)
            return response(throttle_time=timedelta(), results=done)

        here.broker.handlers[ApiKey.CREATE_PARTITIONS] = answer
        created = await client.call(create_partitions("a", "mirror", "b"))
        assert [(each.name, each.error_code) for each in created.results] == [
            ("a", ErrorCode.none),
            ("mirror", ErrorCode.invalid_request),
            ("b", ErrorCode.none),
        ]


def alter_configs(version: int, topic: str, *names: str) -> Any:
    configs = [{"name": name, "value": "1"} for name in names]
    resource = {"resource_type": 2, "resource_name": topic, "configs": configs}
    return make(ApiKey.ALTER_CONFIGS, version, resources=[resource], validate_only=False)


def incremental(topic: str, *names: str) -> Any:
    configs = [{"name": name, "config_operation": 0, "value": "1"} for name in names]
    resource = {"resource_type": 2, "resource_name": topic, "configs": configs}
    return make(ApiKey.INCREMENTAL_ALTER_CONFIGS, 1, resources=[resource], validate_only=False)


async def test_what_a_link_relies_on_is_not_altered_and_the_rest_is() -> None:
    async with lab() as here:
        client = await producing(here)
        here.mirrors.held = {"mirror": frozenset({"retention.ms"})}

        def answer(header: RequestHeader, body: bytes) -> Any:
            request = decode_request(header.api_key, header.api_version, body)
            response: Any = response_class(header.api_key, header.api_version)
            result = nested_class(response, "AlterConfigsResourceResponse")
            done = tuple(
                result(
                    error_code=ErrorCode.none,
                    error_message=None,
                    resource_type=2,
                    resource_name=r.resource_name,
                )
                for r in request.resources
            )
            return response(throttle_time=timedelta(), responses=done)

        here.broker.handlers[ApiKey.INCREMENTAL_ALTER_CONFIGS] = answer
        here.broker.handlers[ApiKey.ALTER_CONFIGS] = answer
        codes = []
        for request in (
            incremental("mirror", "retention.ms", "segment.ms"),
            incremental("mirror", "segment.ms"),
            incremental("plain", "retention.ms"),
            # This one replaces all configs: what it does not name is reset.
            alter_configs(2, "mirror", "segment.ms"),
            alter_configs(2, "plain", "retention.ms"),
        ):
            response = await client.call(request)
            codes.append(response.responses[0].error_code)
        refused, done = ErrorCode.invalid_request, ErrorCode.none
        assert codes == [refused, done, done, refused, done]


async def test_a_deleted_topic_is_told() -> None:
    async with lab() as here:
        client = await producing(here)

        def answer(header: RequestHeader, body: bytes) -> Any:
            response: Any = response_class(ApiKey.DELETE_TOPICS, 6)
            result = nested_class(response, "DeletableTopicResult")
            codes = {"gone": ErrorCode.none, "kept": ErrorCode.topic_authorization_failed}
            results = [result(name=n, topic_id=None, error_code=c) for n, c in codes.items()]
            results.append(result(name=None, topic_id=PLAIN_ID, error_code=ErrorCode.none))
            return response(throttle_time=timedelta(), responses=tuple(results))

        here.broker.handlers[ApiKey.DELETE_TOPICS] = answer
        topics = [{"name": "gone", "topic_id": None}]
        request = make(ApiKey.DELETE_TOPICS, 6, topics=topics, timeout=timedelta(seconds=1))
        assert len((await client.call(request)).responses) == 3
        assert here.mirrors.deleted == ["gone", PLAIN_ID]


# --- fillers -----------------------------------------------------------------------------------------


async def test_a_filler_is_shown_as_a_control_batch() -> None:
    key = bytes(range(16))
    region = Region(0, None, KnownFillers(key))
    known: dict[str | UUID, ShownTopic] = {"mirror": lambda index: ShownPartition(regions=(region,))}
    others: dict[str | UUID, ShownTopic] = {}
    barrier = encode_filler_batch(key, 1, 1_700_000_000_000, 4, 1, 0)

    def answer(header: RequestHeader, body: bytes) -> Any:
        response: Any = response_class(ApiKey.FETCH, 11)
        topic = nested_class(response, "FetchableTopicResponse")
        partition = nested_class(topic, "PartitionData")
        data = partition(
            partition_index=0,
            error_code=ErrorCode.none,
            high_watermark=1,
            aborted_transactions=None,
            records=barrier,
        )
        return response(
            throttle_time=timedelta(),
            error_code=ErrorCode.none,
            responses=(topic(topic="mirror", partitions=(data,)),),
        )

    async with lab() as here:
        here.broker.handlers[ApiKey.FETCH] = answer
        client = await here.client()
        for shown_as, shown_as_control in ((None, False), (others.get, False), (known.get, True)):
            here.mirrors.shown = shown_as
            response = await client.call(fetch(11, "mirror"))
            (shown,) = read_batches(response.responses[0].partitions[0].records)
            assert shown.is_control is shown_as_control
            assert (key in shown.raw.tobytes()) is not shown_as_control


async def test_a_mirrors_log_begins_where_its_source_does() -> None:
    def answer(header: RequestHeader, body: bytes) -> Any:
        response: Any = response_class(ApiKey.LIST_OFFSETS, 5)
        topic = nested_class(response, "ListOffsetsTopicResponse")
        partition = nested_class(topic, "ListOffsetsPartitionResponse")
        data = partition(partition_index=0, error_code=ErrorCode.none, timestamp=-1, offset=3)
        return response(throttle_time=timedelta(), topics=(topic(name="mirror", partitions=(data,)),))

    async with lab() as here:
        here.broker.handlers[ApiKey.LIST_OFFSETS] = answer
        client = await here.client()
        request = make(
            ApiKey.LIST_OFFSETS,
            5,
            replica_id=-1,
            topics=[{"name": "mirror", "partitions": [{"partition_index": 0, "timestamp": -2}]}],
        )
        for log_start, expected in ((0, 3), (1000, 1000)):
            partitions = {0: ShownPartition(log_start)}
            known: dict[str | UUID, ShownTopic] = {"mirror": partitions.__getitem__}
            here.mirrors.shown = known.get
            response = await client.call(request)
            assert response.topics[0].partitions[0].offset == expected


def fetch(version: int, *topics: str, session: tuple[int, int] = (0, -1)) -> Any:
    partition = {"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1 << 20}
    return make(
        ApiKey.FETCH,
        version,
        replica_id=-1,
        max_wait=timedelta(seconds=0),
        min_bytes=1,
        session_id=session[0],
        session_epoch=session[1],
        topics=[{"topic": topic, "partitions": [partition]} for topic in topics],
        forgotten_topics_data=(),
    )


# --- reserved names ----------------------------------------------------------------------------------


def echo_metadata(seen: list[Any]) -> Callable[[RequestHeader, bytes], Any]:
    """Knows the topics of the gateway and one more; says of others what Kafka says."""

    def answer(header: RequestHeader, body: bytes) -> Any:
        request = decode_request(ApiKey.METADATA, header.api_version, body)
        seen.append(request)
        response: Any = response_class(ApiKey.METADATA, header.api_version)
        topic = nested_class(response, "MetadataResponseTopic")
        asked = [(t.name, t.topic_id) for t in request.topics] if request.topics is not None else None
        known = {"_causeway-state": STATE_TOPIC_ID, "_causeway-work": UUID(int=9), "plain": PLAIN_ID}
        topics = []
        for name, topic_id in asked if asked is not None else list(known.items()):
            exists = name in known or topic_id in known.values()
            code = ErrorCode.none if exists else ErrorCode.unknown_topic_or_partition
            topics.append(topic(name=name, topic_id=topic_id, error_code=code, partitions=()))
        return response(
            throttle_time=timedelta(),
            brokers=(nested_class(response, "MetadataResponseBroker")(node_id=1, host="broker", port=9092),),
            cluster_id="cluster-a",
            controller_id=1,
            topics=tuple(topics),
        )

    return answer


def ask_metadata(*names: str | UUID, all_topics: bool = False) -> Any:
    topics = [
        {"topic_id": n, "name": None} if isinstance(n, UUID) else {"topic_id": None, "name": n} for n in names
    ]
    return make(
        ApiKey.METADATA,
        12,
        topics=None if all_topics else topics,
        allow_auto_topic_creation=True,
        include_topic_authorized_operations=False,
    )


async def test_our_topics_do_not_exist_by_name_by_id_or_among_all() -> None:
    async with lab() as here:
        client = await here.client()
        await client.call(heartbeat())
        seen: list[Any] = []
        here.broker.handlers[ApiKey.METADATA] = echo_metadata(seen)
        names = await client.call(ask_metadata("_causeway-state", "plain", "my_causeway-topic"))
        missing, found = ErrorCode.unknown_topic_or_partition, ErrorCode.none
        assert [(t.name, t.error_code) for t in names.topics] == [
            ("_causeway-state", missing),
            ("plain", found),
            ("my_causeway-topic", missing),
        ]
        assert [t.name for t in seen[-1].topics] == ["!causeway-state", "plain", "my_causeway-topic"]
        ids = await client.call(ask_metadata(STATE_TOPIC_ID, PLAIN_ID))
        assert [(t.topic_id, t.error_code) for t in ids.topics] == [
            (STATE_TOPIC_ID, missing),
            (PLAIN_ID, found),
        ]
        assert STATE_TOPIC_ID not in [t.topic_id for t in seen[-1].topics]
        everything = await client.call(ask_metadata(all_topics=True))
        assert [t.name for t in everything.topics] == ["plain"]


async def test_a_longer_name_that_holds_ours_goes_through_untouched() -> None:
    async with lab() as here:
        client = await here.client()
        bodies: list[bytes] = []
        inner = here.broker.handlers[ApiKey.HEARTBEAT]

        def note(header: RequestHeader, body: bytes) -> Any:
            bodies.append(body)
            return inner(header, body)

        here.broker.handlers[ApiKey.HEARTBEAT] = note
        await client.call(heartbeat("prod_causeway_events"))
        await client.call(heartbeat("_causeway-work"))
        assert b"prod_causeway_events" in bodies[0]
        assert b"!causeway-work" in bodies[1]


async def test_our_groups_are_not_listed() -> None:
    def answer(header: RequestHeader, body: bytes) -> Any:
        response: Any = response_class(ApiKey.LIST_GROUPS, 4)
        group = nested_class(response, "ListedGroup")
        groups = tuple(
            group(group_id=name, protocol_type="consumer", group_state="Stable")
            for name in ("a", "_causeway-work", "b_causeway")
        )
        return response(throttle_time=timedelta(), error_code=ErrorCode.none, groups=groups)

    async with lab() as here:
        here.broker.handlers[ApiKey.LIST_GROUPS] = answer
        listed = await (await here.client()).call(make(ApiKey.LIST_GROUPS, 4, states_filter=()))
        assert [group.group_id for group in listed.groups] == ["a", "b_causeway"]


async def test_produce_to_our_topics_is_refused_by_name_id_and_transaction() -> None:
    async with lab() as here:
        client = await producing(here)
        named = await client.call(produce(9, {"_causeway-state": batch(b"x"), "plain": batch(b"x")}))
        assert {topic: outcome[0] for topic, outcome in outcomes(named).items()} == {
            "_causeway-state": ErrorCode.unknown_topic_or_partition,
            "plain": ErrorCode.none,
        }
        by_id = await client.call(produce(13, {STATE_TOPIC_ID: batch(b"x")}))
        assert outcomes(by_id)[STATE_TOPIC_ID][0] == ErrorCode.unknown_topic_id
        within = await client.call(produce(9, {"plain": batch(b"x")}, transactional_id="_causeway-state"))
        assert outcomes(within)["plain"][0] == ErrorCode.transactional_id_authorization_failed
        assert len(here.forwarded(ApiKey.PRODUCE)) == 1


async def test_our_transactional_id_is_no_clients() -> None:
    def answer(header: RequestHeader, body: bytes) -> Any:
        made = response_class(header.api_key, header.api_version)
        return made(throttle_time=timedelta(), error_code=ErrorCode.none, producer_id=7, producer_epoch=0)

    async with lab() as here:
        here.broker.handlers[ApiKey.INIT_PRODUCER_ID] = answer
        client = await here.client()
        for transactional_id, producer_id in (("_causeway-state", -1), ("my_causeway", 7), (None, 7)):
            wanted = make(
                ApiKey.INIT_PRODUCER_ID,
                1,
                transactional_id=transactional_id,
                transaction_timeout=timedelta(seconds=1),
            )
            response = await client.call(wanted)
            assert response.producer_id == producer_id
            refused = response.error_code == ErrorCode.transactional_id_authorization_failed
            assert refused == (producer_id < 0)
        assert len(here.forwarded(ApiKey.INIT_PRODUCER_ID)) == 2


async def test_no_broker_resolves_a_regular_expression() -> None:
    bodies: list[bytes] = []

    def answer(header: RequestHeader, body: bytes) -> Any:
        bodies.append(bytes(body))
        made = response_class(header.api_key, header.api_version)
        return made(
            throttle_time=timedelta(),
            error_code=ErrorCode.none,
            member_epoch=1,
            heartbeat_interval=timedelta(seconds=5),
        )

    def heartbeats(version: int, **fields: Any) -> Any:
        more = {"group_id": "g", "member_id": "m", "member_epoch": 0, "topic_partitions": None, **fields}
        return make(ApiKey.CONSUMER_GROUP_HEARTBEAT, version, **more)

    async with lab() as here:
        here.broker.handlers[ApiKey.CONSUMER_GROUP_HEARTBEAT] = answer
        client = await here.client()
        refused = await client.call(heartbeats(1, subscribed_topic_regex=".*"))
        assert refused.error_code == ErrorCode.invalid_regular_expression
        assert "subscribe by names" in refused.error_message
        assert not bodies
        for regex in (None, ""):
            taken = await client.call(heartbeats(1, subscribed_topic_regex=regex))
            assert (taken.error_code, taken.member_epoch) == (ErrorCode.none, 1)
        assert (await client.call(heartbeats(0))).member_epoch == 1
        ours = heartbeats(1, subscribed_topic_names=("_causeway-state",))
        assert (await client.call(ours)).member_epoch == 1
        assert b"!causeway-state" in bodies[-1]


async def test_no_broker_resolves_the_regular_expressions_of_a_streams_application() -> None:
    def answer(header: RequestHeader, body: bytes) -> Any:
        made = response_class(header.api_key, header.api_version)
        more = dict.fromkeys(("status", "active_tasks", "standby_tasks", "warmup_tasks"))
        return made(
            throttle_time=timedelta(),
            error_code=ErrorCode.none,
            member_id="m",
            member_epoch=1,
            heartbeat_interval=timedelta(seconds=5),
            acceptable_recovery_lag=0,
            task_offset_interval=timedelta(),
            endpoint_information_epoch=0,
            partitions_by_user_endpoint=None,
            **more,
        )

    def joins(*regexes: str) -> Any:
        subtopologies = [
            {"subtopology_id": "0", "source_topics": ("plain",)},
            {"subtopology_id": "1", "source_topics": (), "source_topic_regex": regexes},
        ]
        return make(
            ApiKey.STREAMS_GROUP_HEARTBEAT, 0, group_id="g", topology={"subtopologies": subtopologies}
        )

    async with lab() as here:
        here.broker.handlers[ApiKey.STREAMS_GROUP_HEARTBEAT] = answer
        client = await here.client()
        refused = await client.call(joins("plain", ".*"))
        assert refused.error_code == ErrorCode.invalid_request
        assert here.forwarded(ApiKey.STREAMS_GROUP_HEARTBEAT) == []
        goes_on = make(ApiKey.STREAMS_GROUP_HEARTBEAT, 0, group_id="g", topology=None)
        for taken in (joins(), goes_on):
            assert (await client.call(taken)).member_epoch == 1


async def test_a_fetch_of_our_topic_is_asked_without_a_session_under_another_name() -> None:
    seen: list[Any] = []

    def answer(header: RequestHeader, body: bytes) -> Any:
        request = decode_request(ApiKey.FETCH, 11, body)
        seen.append(request)
        response: Any = response_class(ApiKey.FETCH, 11)
        topic = nested_class(response, "FetchableTopicResponse")
        partition = nested_class(topic, "PartitionData")
        data = partition(
            partition_index=0,
            error_code=ErrorCode.unknown_topic_or_partition,
            high_watermark=-1,
            aborted_transactions=None,
            records=None,
        )
        topics = tuple(topic(topic=each.topic, partitions=(data,)) for each in request.topics)
        return response(throttle_time=timedelta(), error_code=ErrorCode.none, responses=topics)

    async with lab() as here:
        here.broker.handlers[ApiKey.FETCH] = answer
        client = await here.client()
        response = await client.call(fetch(11, "_causeway-state", "plain", session=(77, 4)))
        assert [topic.topic for topic in response.responses] == ["_causeway-state", "plain"]
        assert (seen[0].session_id, seen[0].session_epoch) == (0, -1)
        assert [topic.topic for topic in seen[0].topics] == ["!causeway-state", "plain"]
        await client.call(fetch(11, "plain", session=(77, 5)))
        assert (seen[1].session_id, seen[1].session_epoch) == (77, 5)


# --- topic ids ---------------------------------------------------------------------------------------


async def test_an_id_that_no_topic_has_is_refused_and_the_others_go_through() -> None:
    async with lab() as here:
        client = await producing(here)
        unknown = UUID(int=0xDEAD)
        answer = await client.call(produce(13, {unknown: batch(b"x"), PLAIN_ID: batch(b"y")}))
        assert {topic: outcome[0] for topic, outcome in outcomes(answer).items()} == {
            unknown: ErrorCode.unknown_topic_id,
            PLAIN_ID: ErrorCode.none,
        }
        # The mirrors are asked for what exists only.
        assert here.mirrors.asked == [PLAIN_ID]


async def test_a_new_topic_is_found_by_its_id() -> None:
    async with lab() as here:
        client = await producing(here)
        await client.call(heartbeat())
        here.broker.handlers[ApiKey.METADATA] = echo_metadata([])
        here.topic_ids.forget("plain")
        answer = await client.call(produce(13, {PLAIN_ID: batch(b"y")}))
        # The broker of this test tells no name in an answer by id.
        assert outcomes(answer)[PLAIN_ID][0] == ErrorCode.unknown_topic_id
        here.topic_ids.learn("plain", PLAIN_ID.bytes)
        answer = await client.call(produce(13, {PLAIN_ID: batch(b"y")}))
        assert outcomes(answer)[PLAIN_ID][0] == ErrorCode.none


async def test_a_cluster_that_cannot_tell_what_an_id_is_makes_producers_try_again() -> None:
    async with lab() as here:
        client = await producing(here)
        await client.call(produce(13, {PLAIN_ID: batch(b"x")}))
        here.broker.handlers[ApiKey.METADATA] = lambda header, body: b"\xff" * 9
        answer = await client.call(produce(13, {UUID(int=0xDEAD): batch(b"x"), PLAIN_ID: batch(b"y")}))
        assert {outcome[0] for outcome in outcomes(answer).values()} == {ErrorCode.not_leader_or_follower}
        assert len(here.forwarded(ApiKey.PRODUCE)) == 1


# --- large requests ----------------------------------------------------------------------------------


def delete_groups(count: int, name: str) -> Any:
    return make(ApiKey.DELETE_GROUPS, 2, groups_names=(name,) * count)


@pytest.mark.parametrize(
    ("count", "name"),
    [(100, "g" * 1000), (5000, "g")],
    ids=["bytes", "structures"],
)
async def test_a_request_that_is_too_large_to_be_looked_into_is_refused(count: int, name: str) -> None:
    limits = LimitsConfig(max_decoded_request_bytes=65_536)
    async with lab(limits=limits) as here:
        here.broker.handlers[ApiKey.DELETE_GROUPS] = lambda header, body: response_class(42, 2)(
            throttle_time=timedelta(), results=()
        )
        client = await here.client()
        # What nobody has to look into goes through.
        await client.call(delete_groups(count, name))
        await client.call(delete_groups(20, "_causeway-work"))
        client.send(delete_groups(count, "_causeway-" + name))
        with pytest.raises(ConnectionClosed):
            await client.wire.read_frame(10)
        assert len(here.forwarded(ApiKey.DELETE_GROUPS)) == 2


# --- nothing asked for -------------------------------------------------------------------------------


async def test_a_produce_request_without_topics_is_the_brokers_to_answer() -> None:
    async with lab() as here:
        client = await producing(here)
        for version in (3, 9, 13):
            assert (await client.call(produce(version, {}))).responses == ()
        client.send(produce(9, {}, acks=0))
        client.send(produce(9, {"plain": batch(b"x")}, acks=0))
        await client.call(heartbeat())
        assert len(here.forwarded(ApiKey.PRODUCE)) == 5


NOTHING: list[tuple[int, int, dict[str, Any]]] = [
    (ApiKey.ADD_PARTITIONS_TO_TXN, 3, {"v3_and_below_topics": []}),
    (ApiKey.DELETE_RECORDS, 2, {"topics": []}),
    (ApiKey.CREATE_PARTITIONS, 3, {"topics": []}),
    (ApiKey.ALTER_CONFIGS, 2, {"resources": []}),
    (ApiKey.INCREMENTAL_ALTER_CONFIGS, 1, {"resources": []}),
    (ApiKey.DELETE_TOPICS, 6, {"topics": []}),
    (ApiKey.DELETE_TOPICS, 5, {"topic_names": ()}),
]


@pytest.mark.parametrize(("key", "version", "fields"), NOTHING)
async def test_a_request_about_nothing_is_the_brokers_to_answer(
    key: int, version: int, fields: dict[str, Any]
) -> None:
    async with lab() as here:
        body = encode_response(nothing_done(key, version))
        here.broker.handlers[key] = lambda header, request: body
        client = await here.client()
        client.send(make(key, version, **fields))
        assert (await client.receive_body())[3] == body
        assert len(here.forwarded(key)) == 1


def nothing_done(key: int, version: int) -> Any:
    made: Any = response_class(key, version)
    lists = [name for name in made.__dataclass_fields__ if name in ("topics", "results", "responses")]
    if key == ApiKey.ADD_PARTITIONS_TO_TXN:
        lists = ["results_by_topic_v3_and_below"]
    return made(throttle_time=timedelta(), **dict.fromkeys(lists, ()))
