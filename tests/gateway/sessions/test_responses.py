"""What is done about responses on their way: topic ids noted, a broker's addresses withheld, tags kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from gateway.upstreams.metadata import nested_class
from gateway.wire import ConnectionClosed
from protocol.api_keys import ApiKey
from protocol.headers import RequestHeader
from protocol.messages import decode_response, encode_response, response_class
from tests.e2e.raw_client import make
from tests.gateway.sessions.lab import heartbeat, lab

NEW_ID = UUID(int=0xBEEF)
BROKER, TOPIC = 4, 2


def metadata(version: int, *topics: tuple[str | None, UUID | None], node_id: int = 1) -> Any:
    response: Any = response_class(ApiKey.METADATA, version)
    topic = nested_class(response, "MetadataResponseTopic")
    broker = nested_class(response, "MetadataResponseBroker")
    rows = tuple(
        topic(
            name=name,
            error_code=ErrorCode.none,
            partitions=(),
            is_internal=False,
            **({"topic_id": topic_id} if version >= 10 else {}),
        )
        for name, topic_id in topics
    )
    return response(
        throttle_time=timedelta(),
        brokers=(broker(node_id=node_id, host="broker", port=9092),),
        cluster_id="cluster-a",
        controller_id=1,
        topics=rows,
    )


@pytest.mark.parametrize("version", [9, 12])
async def test_metadata_tells_topic_ids(version: int) -> None:
    async with lab() as here:
        client = await here.client()
        await client.call(heartbeat())
        rows: list[tuple[str | None, UUID | None]] = [
            ("new", NEW_ID),
            ("bad", None),
            ("_causeway-work", UUID(int=8)),
        ]
        if by_id := version >= 10:
            rows.append((None, UUID(int=7)))
        here.broker.handlers[ApiKey.METADATA] = lambda header, body: metadata(header.api_version, *rows)
        await client.call(make(ApiKey.METADATA, version, topics=None))
        assert here.topic_ids.name_of(NEW_ID) == ("new" if by_id else None)
        assert here.topic_ids.name_of(UUID(int=7)) is None
        assert (UUID(int=8) in here.topic_ids.reserved) is by_id


async def test_a_client_is_not_left_without_any_broker() -> None:
    """Its connection ends instead, and it asks another."""
    async with lab() as here:
        client = await here.client()
        await client.call(heartbeat())
        here.broker.handlers[ApiKey.METADATA] = lambda header, body: metadata(
            header.api_version, ("new", NEW_ID), node_id=9
        )
        client.send(make(ApiKey.METADATA, 12, topics=None))
        with pytest.raises(ConnectionClosed):
            await client.receive()


@pytest.mark.parametrize("version", [6, 7])
async def test_created_topics_have_an_id_and_deleted_ones_none(version: int) -> None:
    def created(header: RequestHeader, body: bytes) -> Any:
        response: Any = response_class(ApiKey.CREATE_TOPICS, header.api_version)
        row = nested_class(response, "CreatableTopicResult")
        more = {"topic_id": NEW_ID} if header.api_version >= 7 else {}
        failed = {"topic_id": None} if header.api_version >= 7 else {}
        none, exists = ErrorCode.none, ErrorCode.topic_already_exists
        rows = (
            row(name="new", error_code=none, error_message=None, configs=(), **more),
            row(name="old", error_code=exists, error_message=None, configs=None, **failed),
        )
        return response(throttle_time=timedelta(), topics=rows)

    def deleted(header: RequestHeader, body: bytes) -> Any:
        response: Any = response_class(ApiKey.DELETE_TOPICS, header.api_version)
        row = nested_class(response, "DeletableTopicResult")
        return response(throttle_time=timedelta(), responses=(row(name="new", error_code=ErrorCode.none),))

    async with lab() as here:
        here.broker.versions[ApiKey.CREATE_TOPICS] = (2, 7)
        here.broker.handlers |= {ApiKey.CREATE_TOPICS: created, ApiKey.DELETE_TOPICS: deleted}
        client = await here.client()
        await client.call(make(ApiKey.CREATE_TOPICS, version, topics=[{"name": "new"}, {"name": "old"}]))
        assert here.topic_ids.name_of(NEW_ID) == ("new" if version >= 7 else None)
        here.topic_ids.learn("new", NEW_ID.bytes)
        await client.call(make(ApiKey.DELETE_TOPICS, 5, topic_names=("new",)))
        assert here.topic_ids.name_of(NEW_ID) is None
        assert here.mirrors.deleted == ["new"]


def configs(header: RequestHeader, *resources: tuple[int, dict[str, str]]) -> Any:
    response: Any = response_class(ApiKey.DESCRIBE_CONFIGS, header.api_version)
    result = nested_class(response, "DescribeConfigsResult")
    config = nested_class(response, "DescribeConfigsResourceResult")
    synonym = nested_class(response, "DescribeConfigsSynonym")
    more = {"documentation": None} if header.api_version >= 3 else {}
    rows = tuple(
        result(
            error_code=ErrorCode.none,
            error_message=None,
            resource_type=kind,
            resource_name="1" if kind == BROKER else "mirror",
            configs=tuple(
                config(
                    name=name,
                    value=value,
                    read_only=True,
                    is_sensitive=False,
                    synonyms=(synonym(name=name, value=value, source=4),),
                    **more,
                )
                for name, value in values.items()
            ),
        )
        for kind, values in resources
    )
    return response(throttle_time=timedelta(), results=rows)


ADDRESSES = {
    "advertised.listeners": "PLAINTEXT://secret-broker:9092",
    "listeners": "PLAINTEXT://secret-broker:9092",
    "controller.quorum.voters": "1@secret-broker:9093",
    "controller.quorum.bootstrap.servers": "secret-broker:9093",
    "zookeeper.connect": "secret-broker:2181",
    "host.name": "secret-broker",
    "advertised.host.name": "secret-broker",
    "rlmm.config.bootstrap.servers": "secret-broker:9092",
}
OTHERS = {"controller.listener.names": "CONTROLLER", "log.retention.ms": "1", "ssl.client.auth": "none"}


@pytest.mark.parametrize("version", [1, 2, 3, 4])
async def test_the_configs_of_a_broker_do_not_tell_where_it_listens(version: int) -> None:
    async with lab() as here:
        here.broker.handlers[ApiKey.DESCRIBE_CONFIGS] = lambda header, body: configs(
            header, (BROKER, ADDRESSES | OTHERS), (TOPIC, {"listeners": "a topic's own"})
        )
        client = await here.client()
        client.send(make(ApiKey.DESCRIBE_CONFIGS, version, resources=[]))
        _, key, _, body = await client.receive_body()
        assert b"secret-broker" not in body
        broker, topic = decode_response(key, version, body).results
        shown = {each.name: (each.value, each.is_sensitive) for each in broker.configs}
        assert shown == dict.fromkeys(ADDRESSES, (None, True)) | {
            name: (value, False) for name, value in OTHERS.items()
        }
        assert [each.value for each in topic.configs] == ["a topic's own"]


@pytest.mark.parametrize("version", [1, 2, 3, 4])
async def test_what_a_link_holds_is_shown_as_it_is_at_the_source(version: int) -> None:
    held = {"retention.ms": "-1", "cleanup.policy": "delete", "segment.ms": "5"}
    async with lab() as here:
        here.broker.handlers[ApiKey.DESCRIBE_CONFIGS] = lambda header, body: configs(
            header, (BROKER, held), (TOPIC, held)
        )
        here.mirrors.shown_values["mirror"] = {
            "retention.ms": ("1000", True),
            "cleanup.policy": ("compact", False),
        }
        here.mirrors.shown_values["1"] = {"retention.ms": ("not a topic", True)}
        client = await here.client()

        async def shown() -> list[dict[str, tuple[Any, ...]]]:
            client.send(make(ApiKey.DESCRIBE_CONFIGS, version, resources=[]))
            _, key, _, body = await client.receive_body()
            return [
                {
                    each.name: (
                        each.value,
                        each.config_source,
                        [(synonym.value, synonym.source) for synonym in each.synonyms],
                    )
                    for each in result.configs
                }
                for result in decode_response(key, version, body).results
            ]

        plain = {name: (value, -1, [(value, 4)]) for name, value in held.items()}
        assert await shown() == [plain, plain], "without mirrors nothing is looked into"
        here.mirrors.shown = lambda _: None
        assert await shown() == [
            plain,
            {
                **plain,
                "retention.ms": ("1000", 1, [("1000", 1)]),
                "cleanup.policy": ("compact", 5, [("compact", 5)]),
            },
        ]


async def test_configs_without_addresses_are_not_looked_into() -> None:
    async with lab() as here:
        # What cannot be decoded passes as it came.
        here.broker.handlers[ApiKey.DESCRIBE_CONFIGS] = lambda header, body: b"not a response"
        client = await here.client()
        client.send(make(ApiKey.DESCRIBE_CONFIGS, 1, resources=[]))
        assert (await client.receive_body())[3] == b"not a response"


async def test_tagged_fields_that_nobody_knows_survive_rewriting() -> None:
    """A newer broker may add fields that its clients can use (KIP-482)."""
    unknown = b"\x01\x63\x03new"

    def answer(header: RequestHeader, body: bytes) -> Any:
        response: Any = response_class(ApiKey.METADATA, header.api_version)
        broker = nested_class(response, "MetadataResponseBroker")
        topic = nested_class(response, "MetadataResponseTopic")
        encoded = encode_response(
            response(
                throttle_time=timedelta(),
                brokers=(broker(node_id=1, host="secret-broker", port=9092, rack=None),),
                cluster_id="cluster-a",
                controller_id=1,
                topics=tuple(
                    topic(name=name, topic_id=UUID(int=5), error_code=ErrorCode.none, partitions=())
                    for name in ("_causeway-state", "plain")
                ),
            )
        )
        # The tags of the response itself, and of the broker, whose last field is the null rack.
        encoded = encoded[:-1] + unknown
        rack_at = encoded.index(b"secret-broker") + len(b"secret-broker") + 4
        assert encoded[rack_at : rack_at + 2] == b"\x00\x00"
        return encoded[: rack_at + 1] + unknown + encoded[rack_at + 2 :]

    async with lab() as here:
        client = await here.client()
        await client.call(heartbeat())
        here.broker.handlers[ApiKey.METADATA] = answer
        client.send(make(ApiKey.METADATA, 12, topics=None))
        _, _, _, body = await client.receive_body()
        assert body.count(unknown) == 2
        assert body.endswith(unknown)
        assert b"gateway.example" in body
        assert b"secret-broker" not in body
        assert b"_causeway" not in body
