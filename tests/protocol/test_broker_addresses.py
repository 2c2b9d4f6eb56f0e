"""No response shows a broker's real address: schemas walked, all versions rewritten, hostile bytes."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
from kio.schema.errors import ErrorCode

from protocol.api_keys import ApiKey, supported_versions
from protocol.api_versions import FORWARDED
from protocol.broker_addresses import ADDRESS_VERSIONS, rewrite_addresses
from protocol.errors import DecodeError, NoBrokers, UnsupportedVersion
from protocol.headers import encode_response_header, response_body_offset
from protocol.messages import decode_response, encode_response, response_class
from tests.protocol.real_frames import RESPONSES, RealFrame
from tests.protocol.schema_bytes import build, hostile_variants

EVERY = [(int(key), version) for key, versions in ADDRESS_VERSIONS.items() for version in versions]
every_version = pytest.mark.parametrize(
    ("key", "version"), EVERY, ids=[f"{ApiKey(k).name}-v{v}" for k, v in EVERY]
)
TAGGED = (ApiKey.PRODUCE, ApiKey.FETCH)


def advertised(node_id: int) -> tuple[str, int] | None:
    return (f"broker-{node_id}.gateway.example", node_id % 65536) if node_id % 3 else None


# --- the schemas --------------------------------------------------------------------------------------------

# Words in the names of fields that may hold where something listens.
ADDRESS_WORDS = {"host", "hostname", "port", "endpoint", "endpoints", "listener", "listeners", "address"}
# Fields with such a name that are no broker's address.
NO_BROKERS: dict[int, set[tuple[str, str]]] = {
    # Where a member of a group connects from: this gateway.
    ApiKey.DESCRIBE_GROUPS: {("DescribedGroupMember", "client_host")},
    ApiKey.CONSUMER_GROUP_DESCRIBE: {("Member", "client_host")},
    ApiKey.SHARE_GROUP_DESCRIBE: {("Member", "client_host")},
    # Where a principal may connect from.
    ApiKey.DESCRIBE_ACLS: {("AclDescription", "host")},
    ApiKey.DELETE_ACLS: {("DeleteAclsMatchingAcl", "host")},
    # Where instances of a Streams application serve each other, as they say themselves.
    ApiKey.STREAMS_GROUP_HEARTBEAT: {
        ("StreamsGroupHeartbeatResponse", "partitions_by_user_endpoint"),
        ("StreamsGroupHeartbeatResponse", "endpoint_information_epoch"),
        ("EndpointToPartitions", "user_endpoint"),
        ("Endpoint", "host"),
        ("Endpoint", "port"),
    },
    ApiKey.STREAMS_GROUP_DESCRIBE: {
        ("Member", "client_host"),
        ("Member", "user_endpoint"),
        ("Endpoint", "host"),
        ("Endpoint", "port"),
    },
    # Which kind of node was asked for.
    ApiKey.DESCRIBE_CLUSTER: {("DescribeClusterResponse", "endpoint_type")},
}
BROKER_ENTITIES = {
    ("MetadataResponseBroker", "host"),
    ("MetadataResponseBroker", "port"),
    ("DescribeClusterBroker", "host"),
    ("DescribeClusterBroker", "port"),
    ("FindCoordinatorResponse", "host"),
    ("FindCoordinatorResponse", "port"),
    ("Coordinator", "host"),
    ("Coordinator", "port"),
    ("NodeEndpoint", "host"),
    ("NodeEndpoint", "port"),
    ("ProduceResponse", "node_endpoints"),
    ("FetchResponse", "node_endpoints"),
    ("ShareFetchResponse", "node_endpoints"),
    ("ShareAcknowledgeResponse", "node_endpoints"),
    ("Node", "listeners"),
    ("Listener", "host"),
    ("Listener", "port"),
}


def entities(message: Any) -> Iterator[Any]:
    yield message
    for field in dataclasses.fields(message):
        for kind in kinds(field.type):
            if dataclasses.is_dataclass(kind):
                yield from entities(kind)


def kinds(kind: Any) -> Iterator[Any]:
    inner = get_args(kind)
    if not inner:
        yield kind
    for each in inner:
        yield from kinds(each)


def address_fields(key: int, version: int) -> set[tuple[str, str]]:
    return {
        (entity.__name__, field.name)
        for entity in entities(response_class(key, version))
        for field in dataclasses.fields(entity)
        if ADDRESS_WORDS & set(field.name.split("_"))
    }


@pytest.mark.parametrize("key", FORWARDED, ids=lambda key: ApiKey(key).name)
def test_no_forwarded_response_has_an_address_that_we_do_not_know(key: int) -> None:
    lowest, highest = FORWARDED[key]
    no_brokers = NO_BROKERS.get(key, set())
    unused = set(no_brokers)
    for version in range(lowest, highest + 1):
        found = address_fields(key, version)
        unused -= found
        assert found <= BROKER_ENTITIES | no_brokers
        assert bool(found - no_brokers) == (version in ADDRESS_VERSIONS.get(key, ())), f"version {version}"
    assert not unused


@pytest.mark.parametrize("key", ADDRESS_VERSIONS, ids=lambda key: ApiKey(key).name)
def test_versions_end_where_kios_do(key: int) -> None:
    decoded = supported_versions(key)
    assert decoded is not None
    assert ADDRESS_VERSIONS[key].stop == decoded.stop


# --- every version against an independent rewriting ---------------------------------------------------------


def rewritten_entity(entity: Any, hidden: Callable[[str], bool] = lambda _: False) -> Any:
    """The same on decoded messages: None for what is left out."""
    values = {field.name: getattr(entity, field.name) for field in dataclasses.fields(entity)}
    if (
        type(entity).__name__ == "MetadataResponseTopic"
        and values["name"] is not None
        and hidden(values["name"])
    ):
        return None
    if type(entity).__name__ == "Listener":
        # Of a controller, whom no client reaches.
        return None
    for name, value in values.items():
        if isinstance(value, tuple):
            items = [
                rewritten_entity(item, hidden) if dataclasses.is_dataclass(item) else item for item in value
            ]
            values[name] = tuple(item for item in items if item is not None)
    if "host" in values:
        node = values.get("node_id", values.get("broker_id"))
        assert node is not None
        address = advertised(node)
        if "error_code" in values:
            if values["error_code"] != ErrorCode.none:
                address = None
            elif address is None:
                values["error_code"] = ErrorCode.coordinator_not_available
            if address is None:
                values["node_id"], address = -1, ("", -1)
        if address is None:
            return None
        values["host"], values["port"] = address
    return type(entity)(**values)


def without_errors(entity: Any) -> Any:
    """The same without error codes: a FindCoordinator response with one has no address."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(entity):
        value = getattr(entity, field.name)
        if field.name == "error_code":
            changes[field.name] = ErrorCode.none
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            changes[field.name] = tuple(without_errors(item) for item in value)
    return dataclasses.replace(entity, **changes)


def joined(result: Any) -> bytes:
    return b"".join(result) if isinstance(result, list) else bytes(result)


def body_of(key: int, version: int, frame: bytes) -> bytes:
    return frame[response_body_offset(key, version, frame) :]


@every_version
def test_rewriting_is_that_of_the_decoded_message(key: int, version: int) -> None:
    header = encode_response_header(key, version, 4711)
    dropped = 0
    for seed in range(12):
        body, _ = build(response_class(key, version), seed)
        if key == ApiKey.FIND_COORDINATOR and seed % 2:
            body = encode_response(without_errors(decode_response(key, version, body)))
        frame = bytearray(header + body)
        out = joined(rewrite_addresses(key, version, frame, advertised))
        before, after = (
            decode_response(key, version, body),
            decode_response(key, version, body_of(key, version, out)),
        )
        assert after == rewritten_entity(before)
        assert out.startswith(header)
        assert frame == header + body, "the frame itself stays as it is"
        dropped += len(joined(out)) < len(frame)
    assert dropped


@pytest.mark.parametrize("version", ADDRESS_VERSIONS[ApiKey.METADATA])
@pytest.mark.parametrize("modulo", [1, 2, 3])
def test_hidden_topics(version: int, modulo: int) -> None:
    def hidden(name: str) -> bool:
        return len(name) % modulo == 0

    header = encode_response_header(ApiKey.METADATA, version, 1)
    for seed in range(12):
        body, _ = build(response_class(ApiKey.METADATA, version), seed)
        expected = rewritten_entity(decode_response(ApiKey.METADATA, version, body), hidden)
        if expected.topics and not expected.brokers:
            continue
        out = joined(
            rewrite_addresses(ApiKey.METADATA, version, bytearray(header + body), advertised, hidden)
        )
        assert decode_response(ApiKey.METADATA, version, body_of(ApiKey.METADATA, version, out)) == expected


def test_a_topic_without_a_name_is_not_hidden() -> None:
    made = response_class(ApiKey.METADATA, 13)
    body, _ = build(made, 1)
    response = decode_response(ApiKey.METADATA, 13, body)
    nameless = tuple(dataclasses.replace(topic, name=None) for topic in response.topics)
    frame = b"\x00\x00\x00\x01\x00" + encode_response(dataclasses.replace(response, topics=nameless))
    out = joined(rewrite_addresses(ApiKey.METADATA, 13, frame, lambda _: ("a", 1), lambda _: True))
    assert decode_response(ApiKey.METADATA, 13, out[5:]).topics == nameless


# --- real responses -----------------------------------------------------------------------------------------

REAL = [frame for frame in RESPONSES if frame.version in ADDRESS_VERSIONS.get(frame.api_key, ())]


def test_real_responses_are_of_every_api_and_nearly_every_version() -> None:
    assert {frame.api_key for frame in REAL} == set(ADDRESS_VERSIONS)
    assert {(frame.api_key, frame.version) for frame in REAL} == set(EVERY)


@pytest.mark.parametrize("frame", REAL, ids=str)
def test_real_responses(frame: RealFrame) -> None:
    def gateway(node_id: int) -> tuple[str, int]:
        return "gateway.example", 9092 + node_id

    out = joined(rewrite_addresses(frame.api_key, frame.version, frame.data, gateway))
    assert b"127.0.0.1" not in out
    if b"127.0.0.1" in frame.data:
        assert b"gateway.example" in out or frame.api_key == ApiKey.DESCRIBE_QUORUM
        nowhere = joined(rewrite_addresses(frame.api_key, frame.version, frame.data, lambda _: None))
        assert b"127.0.0.1" not in nowhere
        decode_response(frame.api_key, frame.version, body_of(frame.api_key, frame.version, nowhere))

    def as_it_is(node_id: int) -> tuple[str, int]:
        real = {1: 23101, 2: 23102}.get(node_id)
        return "127.0.0.1", real or 0

    if frame.client.startswith("kafka-cluster"):
        assert rewrite_addresses(frame.api_key, frame.version, frame.data, as_it_is) is frame.data


def test_a_real_rack_survives() -> None:
    frame = next(
        frame for frame in REAL if (frame.api_key, frame.version) == (1, 18) and b"rack-b" in frame.data
    )
    out = joined(rewrite_addresses(1, 18, frame.data, advertised))
    (endpoint,) = decode_response(1, 18, body_of(1, 18, out)).node_endpoints
    assert (endpoint.node_id, endpoint.host, endpoint.rack) == (2, "broker-2.gateway.example", "rack-b")


# --- splicing -----------------------------------------------------------------------------------------------


def fetch_frame(tags: bytes, version: int = 17) -> bytearray:
    made = response_class(ApiKey.FETCH, version)
    body, _ = build(made, 3)
    response = dataclasses.replace(decode_response(ApiKey.FETCH, version, body), node_endpoints=())
    encoded = encode_response(response)
    assert encoded.endswith(b"\x00")
    return bytearray(encode_response_header(ApiKey.FETCH, version, 1) + encoded[:-1] + tags)


ENDPOINT = bytes.fromhex("00000002 05 6b616b61 00002384 02 72 00".replace(" ", ""))


def test_nothing_to_change_gives_the_same_frame() -> None:
    frame = fetch_frame(b"\x00")
    assert rewrite_addresses(ApiKey.FETCH, 17, frame, advertised) is frame
    unknown = fetch_frame(b"\x01\x07\x02zz")
    assert rewrite_addresses(ApiKey.FETCH, 17, unknown, advertised) is unknown


def test_records_are_not_copied_and_unknown_tags_survive() -> None:
    endpoints = b"\x02" + ENDPOINT
    tags = b"\x02\x00" + bytes([len(endpoints)]) + endpoints + b"\x07\x02zz"
    frame = fetch_frame(tags)
    parts = rewrite_addresses(ApiKey.FETCH, 17, frame, lambda _: ("h" * 200, 1))
    assert isinstance(parts, list)
    before, changed, after = parts
    assert isinstance(before, memoryview)
    assert before.obj is frame
    new = b"\x02\x00\x00\x00\x02\xc9\x01" + b"h" * 200 + b"\x00\x00\x00\x01\x02r\x00"
    assert changed == b"\xd6\x01" + new
    assert after == b"\x07\x02zz"


def test_tagged_fields_of_an_endpoint_survive() -> None:
    endpoint = ENDPOINT[:-1] + b"\x01\x09\x01!"
    endpoints = b"\x02" + endpoint
    out = joined(
        rewrite_addresses(
            ApiKey.FETCH, 17, fetch_frame(b"\x01\x00" + bytes([len(endpoints)]) + endpoints), advertised
        )
    )
    assert out.endswith(b"\x02r\x01\x09\x01!")


@pytest.mark.parametrize(
    "tags",
    [
        b"\x01\x00" + bytes([len(ENDPOINT) + 2]) + b"\x02" + ENDPOINT + b"\x00",
        b"\x01\x00" + bytes([len(ENDPOINT)]) + b"\x02" + ENDPOINT,
        b"\x01\x00" + bytes([len(ENDPOINT) + 1]) + b"\x03" + ENDPOINT,
        b"\x02\x00" + bytes([len(ENDPOINT) + 1]) + b"\x02" + ENDPOINT,
        b"\x00\x00",
        b"\x01\x07\x03zz",
        b"\x01\x07\x01zz",
        b"",
    ],
    ids=[
        "size above",
        "size below",
        "count above",
        "tags above",
        "byte too many",
        "cut",
        "left over",
        "no tags",
    ],
)
def test_tagged_fields_that_lie(tags: bytes) -> None:
    with pytest.raises(DecodeError):
        rewrite_addresses(ApiKey.FETCH, 17, fetch_frame(tags), advertised)


@pytest.mark.parametrize("version", range(9, 14))
def test_metadata_tells_topics_and_their_ids(version: int) -> None:
    message = response_class(ApiKey.METADATA, version)
    response = decode_response(ApiKey.METADATA, version, build(message, 3)[0])
    kept, gone = (dataclasses.replace(response.topics[0], name=name) for name in ("kept", "gone"))
    topics = (kept, gone, dataclasses.replace(kept, name=None) if version >= 12 else kept)
    body = encode_response(dataclasses.replace(response, topics=topics))
    seen: list[tuple[str, bytes]] = []
    frame = encode_response_header(ApiKey.METADATA, version, 1) + body
    rewrite_addresses(
        ApiKey.METADATA,
        version,
        frame,
        advertised,
        "gone".__eq__,
        lambda name, topic_id: seen.append((name, topic_id)),
    )
    expected = [(each.name, each.topic_id.bytes) for each in topics if each.name] if version >= 10 else []
    assert seen == expected


@pytest.mark.parametrize("version", range(14))
def test_topics_without_a_broker_are_not_told(version: int) -> None:
    """A client that believed it would have nobody to ask again."""
    body, _ = build(response_class(ApiKey.METADATA, version), 3)
    frame = encode_response_header(ApiKey.METADATA, version, 1) + body
    with pytest.raises(NoBrokers, match="no broker of theirs has a port"):
        rewrite_addresses(ApiKey.METADATA, version, frame, lambda _: None, lambda _: False)
    # Neither is no topic a reason, nor is what nobody looks into.
    for hidden in (lambda _: True, None):
        assert joined(rewrite_addresses(ApiKey.METADATA, version, frame, lambda _: None, hidden))


def test_other_responses_pass() -> None:
    for key, version in ((ApiKey.LIST_OFFSETS, 7), (ApiKey.FETCH, 15), (ApiKey.PRODUCE, 9), (32000, 0)):
        frame = bytearray(b"anything")
        assert rewrite_addresses(key, version, frame, advertised) is frame


@pytest.mark.parametrize("key", ADDRESS_VERSIONS, ids=lambda key: ApiKey(key).name)
def test_a_version_too_new(key: int) -> None:
    with pytest.raises(UnsupportedVersion):
        rewrite_addresses(key, ADDRESS_VERSIONS[key].stop, bytearray(99), advertised)


# --- hostile bytes ------------------------------------------------------------------------------------------


def hides_every_host(key: int, version: int, frame: bytes, hosts: set[bytes]) -> bool:
    """Whether the frame was rewritten without any of the hosts; False if it was refused."""
    try:
        parts = rewrite_addresses(key, version, bytearray(frame), lambda _: None, lambda _: True)
    except DecodeError:
        return False
    out = joined(parts)
    assert not [host for host in hosts if host in out]
    return True


def marked_body(key: int, version: int) -> tuple[bytes, set[bytes]]:
    """A body whose hosts can be found in it."""
    body, _ = build(response_class(key, version), 5)
    response = decode_response(key, version, body)
    if key == ApiKey.FIND_COORDINATOR:
        response = without_errors(response)
    return encode_response(with_hosts(response)), {b"secret-host"}


def with_hosts(entity: Any) -> Any:
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(entity):
        value = getattr(entity, field.name)
        if field.name == "host":
            changes[field.name] = "secret-host"
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            changes[field.name] = tuple(with_hosts(item) for item in value)
    return dataclasses.replace(entity, **changes)


@every_version
def test_truncated_at_every_byte(key: int, version: int) -> None:
    header = encode_response_header(key, version, 1)
    body, hosts = marked_body(key, version)
    frame = header + body
    assert all(host in frame for host in hosts)
    assert hides_every_host(key, version, frame, hosts)
    for end in range(len(frame)):
        rewritten = hides_every_host(key, version, frame[:end], hosts)
        assert not rewritten or key not in TAGGED


@every_version
def test_every_length_and_count_may_lie(key: int, version: int) -> None:
    header = encode_response_header(key, version, 1)
    message = response_class(key, version)
    refused = 0
    _, marks = build(message, 7)
    for hostile in hostile_variants(marks):
        body, _ = build(message, 7, hostile)
        refused += not hides_every_host(key, version, header + body, set())
    assert refused > len(marks)
