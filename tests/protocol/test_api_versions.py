"""The table is complete and within what kio decodes; no more is advertised; answers are Kafka's bytes."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from protocol.api_keys import ApiKey, supported_versions
from protocol.api_versions import (
    ANSWERED_HERE,
    FORWARDED,
    LINK_APIS,
    NOT_FORWARDED,
    REMARKS,
    Features,
    advertised,
    encode_api_versions,
    encode_api_versions_body,
    is_forwardable,
    link_versions,
    table_markdown,
)
from protocol.headers import peek_correlation_id
from protocol.messages import decode_response
from tests.protocol.real_frames import RESPONSES

API_VERSIONS_4 = next(frame for frame in RESPONSES if (frame.api_key, frame.version) == (18, 4))
BROKER_4_3 = decode_response(18, 4, API_VERSIONS_4.data[4:])


def versions_of(response: Any) -> dict[int, tuple[int, int]]:
    return {int(row.api_key): (int(row.min_version), int(row.max_version)) for row in response.api_keys}


# --- the table ----------------------------------------------------------------------------------------------


def test_every_api_is_in_one_table() -> None:
    tables = [*FORWARDED, *ANSWERED_HERE, *NOT_FORWARDED]
    assert sorted(tables) == sorted(ApiKey)
    assert set(REMARKS) <= {*FORWARDED, *ANSWERED_HERE}


@pytest.mark.parametrize("key", [*FORWARDED, *ANSWERED_HERE])
def test_versions_are_those_that_kio_decodes_or_the_remark_says_why_not(key: int) -> None:
    decoded = supported_versions(key)
    assert decoded is not None
    lowest, highest = FORWARDED.get(key) or ANSWERED_HERE[key]
    assert decoded.start <= lowest <= highest <= decoded[-1]
    if key not in REMARKS:
        assert (lowest, highest) == (decoded.start, decoded[-1])


@pytest.mark.parametrize(
    "key", [4, 5, 6, 7, 27, 34, *range(38, 42), *range(52, 55), *range(56, 60), *range(62, 65), 67, 70, 73]
)
def test_never_forwarded(key: int) -> None:
    assert key in NOT_FORWARDED


@pytest.mark.parametrize("key", [*range(80, 88), 32000, 32001])
def test_never_forwarded_nor_advertised(key: int) -> None:
    assert key in NOT_FORWARDED
    assert key not in advertised(dict.fromkeys(ApiKey, (0, 9)))


def test_the_table_for_the_documentation() -> None:
    lines = table_markdown().splitlines()
    assert len(lines) == 2 + len(ApiKey)
    assert all(line.count("|") == 6 for line in lines)
    assert "| 1 | FETCH | 4–18 | yes |  |" in lines
    assert "| 18 | API_VERSIONS | 0–4 |  | answered by the gateway |" in lines
    assert "| 38 | CREATE_DELEGATION_TOKEN | – |  | not forwarded: " in "\n".join(lines)
    assert "KAFKA-18659" in next(line for line in lines if line.startswith("| 0 | PRODUCE | 3–13 |"))


# --- what is advertised -------------------------------------------------------------------------------------


def test_advertised_of_kafka_4_3() -> None:
    broker = versions_of(BROKER_4_3)
    shown = advertised(broker)
    assert list(shown) == sorted(shown)
    assert shown[ApiKey.PRODUCE] == (0, 13)
    assert shown[ApiKey.FETCH] == (4, 18)
    assert shown[ApiKey.CONSUMER_GROUP_HEARTBEAT] == (0, 1)
    assert shown[ApiKey.ADD_PARTITIONS_TO_TXN] == (0, 3)
    assert shown[ApiKey.API_VERSIONS] == (0, 4)
    assert set(shown) == set(broker) - set(NOT_FORWARDED)


@given(
    st.dictionaries(
        st.integers(0, 100) | st.sampled_from(list(ApiKey)),
        st.tuples(st.integers(0, 20), st.integers(0, 20)).map(lambda two: (min(two), max(two))),
    )
)
def test_never_more_than_the_broker_and_the_table(broker: dict[int, tuple[int, int]]) -> None:
    shown = advertised(broker)
    for key, (lowest, highest) in shown.items():
        if key in ANSWERED_HERE:
            assert (lowest, highest) == ANSWERED_HERE[ApiKey(key)]
            assert not is_forwardable(shown, key, highest)
            continue
        ours, theirs = FORWARDED[ApiKey(key)], broker[key]
        assert highest == min(ours[1], theirs[1])
        assert lowest == (0 if key == ApiKey.PRODUCE else max(ours[0], theirs[0]))
        for version in range(-2, 25):
            assert is_forwardable(shown, key, version) == (max(ours[0], lowest) <= version <= highest)
    for key in broker.keys() - shown.keys():
        assert not any(is_forwardable(shown, key, version) for version in range(-1, 21))


def test_produce_is_shown_from_0_and_refused_below_3() -> None:
    shown = advertised({0: (0, 11)})
    assert shown[0] == (0, 11)
    assert [version for version in range(-1, 14) if is_forwardable(shown, 0, version)] == list(range(3, 12))


def test_a_broker_whose_versions_do_not_meet_ours() -> None:
    assert ApiKey.FETCH not in advertised({1: (0, 3)})
    assert ApiKey.FETCH not in advertised({1: (19, 25)})
    assert set(advertised({})) == set(ANSWERED_HERE)


@pytest.mark.parametrize("key", [-1, 999, 32000])
def test_an_unknown_key_is_refused(key: int) -> None:
    assert not is_forwardable({key: (0, 1)}, key, 0)


# --- what a bound session offers ----------------------------------------------------------------------------


def test_link_apis() -> None:
    names = {ApiKey(key).name for key in LINK_APIS}
    assert names == {
        *(
            "FETCH",
            "LIST_OFFSETS",
            "OFFSET_FOR_LEADER_EPOCH",
            "METADATA",
            "DESCRIBE_CLUSTER",
            "DESCRIBE_CONFIGS",
        ),
        *("DESCRIBE_ACLS", "DESCRIBE_PRODUCERS", "LIST_TRANSACTIONS", "DESCRIBE_TRANSACTIONS", "LIST_GROUPS"),
        *("DESCRIBE_GROUPS", "OFFSET_FETCH", "FIND_COORDINATOR", "DESCRIBE_CONFIGS"),
    }
    assert set(FORWARDED) >= LINK_APIS


def test_link_versions() -> None:
    any_broker = link_versions()
    assert set(any_broker) == LINK_APIS | {ApiKey.API_VERSIONS}
    assert list(any_broker) == sorted(any_broker)
    assert any_broker[ApiKey.FETCH] == (4, 18)
    old_broker = link_versions({1: (0, 11), 0: (0, 8), 15: (7, 9)})
    assert old_broker == {1: (4, 11), 18: (0, 4)}


# --- the answer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [frame for frame in RESPONSES if frame.api_key == 18], ids=str)
def test_the_answer_is_byte_for_byte_kafkas(frame: Any) -> None:
    response = decode_response(18, frame.version, frame.data[4:])
    encoded = encode_api_versions_body(frame.version, versions_of(response), Features.of(response))
    assert encoded == frame.data[4:]


@pytest.mark.parametrize("version", range(5))
def test_the_answer_in_every_version(version: int) -> None:
    features = Features(
        {"group.version": (0, 1), "kraft.version": (1, 1)}, {"group.version": (1, 2)}, 77, True
    )
    shown = advertised(versions_of(BROKER_4_3))
    header, body = encode_api_versions(version, 4711, shown, features)
    assert len(header) == 4
    assert peek_correlation_id(header) == 4711
    response = decode_response(18, version, body)
    assert response.error_code == ErrorCode.none
    assert versions_of(response) == shown
    if version < 3:
        assert Features.of(response) == Features()
    elif version == 3:
        assert Features.of(response) == dataclasses.replace(features, supported={"kraft.version": (1, 1)})
    else:
        assert Features.of(response) == features


@pytest.mark.parametrize("version", [3, 4])
def test_a_broker_without_features(version: int) -> None:
    response = decode_response(18, version, encode_api_versions_body(version, {18: (0, 4)}))
    assert Features.of(response) == Features()
    assert encode_api_versions_body(version, {18: (0, 4)}).endswith(b"\x00" * 5)


@pytest.mark.parametrize("version", [-1, 5, 32767])
def test_too_new_a_request(version: int) -> None:
    header, body = encode_api_versions(version, 1, advertised(versions_of(BROKER_4_3)))
    response = decode_response(18, 0, body)
    assert header == b"\x00\x00\x00\x01"
    assert response.error_code == ErrorCode.unsupported_version
    assert versions_of(response) == {18: (0, 4)}
