import pytest
from kio.index import load_request_schema, load_response_schema
from kio.schema.index import api_key_map, schema_name_map

from protocol.api_keys import (
    ApiKey,
    is_flexible,
    request_header_version,
    response_header_version,
    supported_versions,
)


def test_the_names_and_keys_are_those_that_kio_knows() -> None:
    ours = {int(key): key.name.lower() for key in ApiKey}
    gone_in_4_0 = {4: "leader_and_isr", 5: "stop_replica", 6: "update_metadata", 7: "controlled_shutdown"}
    private = {32000: "link_attach", 32001: "link_bind"}
    assert ours == {**api_key_map, **gone_in_4_0, **private}


@pytest.mark.parametrize(("key", "name"), api_key_map.items())
def test_flexible_versions_and_headers_are_those_of_the_schemas(key: int, name: str) -> None:
    versions = supported_versions(key)
    assert versions is not None
    assert list(versions) == sorted(schema_name_map[name])
    for version in versions:
        request, response = load_request_schema(key, version), load_response_schema(key, version)
        assert is_flexible(key, version) == request.__flexible__ == response.__flexible__
        assert request_header_version(key, version) == request.__header_schema__.__version__
        assert response_header_version(key, version) == response.__header_schema__.__version__


@pytest.mark.parametrize(
    ("key", "first_flexible"),
    [
        (ApiKey.LEADER_AND_ISR, 4),
        (ApiKey.STOP_REPLICA, 2),
        (ApiKey.UPDATE_METADATA, 6),
        (ApiKey.CONTROLLED_SHUTDOWN, 3),
    ],
)
def test_flexible_versions_that_only_kafka_3_knows(key: ApiKey, first_flexible: int) -> None:
    assert supported_versions(key) is None
    assert not is_flexible(key, first_flexible - 1)
    assert is_flexible(key, first_flexible)


@pytest.mark.parametrize("key", [ApiKey.LINK_ATTACH, ApiKey.LINK_BIND, ApiKey.SASL_HANDSHAKE, 93, -1, 12345])
def test_private_and_unknown_keys_are_never_flexible(key: int) -> None:
    assert not is_flexible(key, 2**15 - 1)
    assert request_header_version(key, 0) == 1
    assert response_header_version(key, 0) == 0


def test_unknown_keys_have_no_versions() -> None:
    assert supported_versions(ApiKey.LINK_ATTACH) is None
    assert supported_versions(93) is None


def test_a_version_too_new_is_flexible_and_a_negative_one_is_not() -> None:
    assert is_flexible(ApiKey.API_VERSIONS, 99)
    assert response_header_version(ApiKey.API_VERSIONS, 99) == 0
    assert not is_flexible(ApiKey.DESCRIBE_CLUSTER, -1)
