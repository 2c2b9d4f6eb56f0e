"""The cases of the guard one by one; every message and every length in it is `guard_sweep`'s part."""

import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from kio.schema.api_versions.v4 import ApiVersionsResponse
from kio.schema.consumer_group_heartbeat.v0 import ConsumerGroupHeartbeatResponse
from kio.schema.fetch.v16 import FetchRequest, FetchResponse
from kio.schema.heartbeat.v0 import HeartbeatRequest, HeartbeatResponse
from kio.schema.metadata.v0 import MetadataRequest as MetadataRequestV0
from kio.schema.metadata.v8 import MetadataRequest as MetadataRequestV8
from kio.schema.metadata.v12 import MetadataRequest
from kio.schema.offset_fetch.v1 import OffsetFetchRequest
from kio.schema.sasl_authenticate.v1 import SaslAuthenticateRequest

from protocol.errors import DecodeError
from protocol.message_guard import check_message, drop_unknown_tags

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("message", "body"),
    [
        pytest.param(MetadataRequest, "00 01 00 00", id="null array"),
        pytest.param(MetadataRequest, "01 01 00 00", id="empty array"),
        pytest.param(MetadataRequest, "02" + "00" * 16 + "00 00 01 00 00", id="null name"),
        pytest.param(
            MetadataRequest, "02" + "00" * 16 + "81 01" + "61" * 128 + "00 01 00 00", id="long name"
        ),
        pytest.param(MetadataRequest, "82 00" + "00" * 16 + "00 00 01 00 00", id="a count of two bytes"),
        pytest.param(MetadataRequestV8, "ff ff ff ff 01 00 00", id="null array, not compact"),
        pytest.param(
            OffsetFetchRequest, "00 01 67 00 00 00 01 00 01 74 00 00 00 01 00 00 00 07", id="nested"
        ),
        pytest.param(
            ConsumerGroupHeartbeatResponse, "00" * 6 + "00 00" + "00" * 8 + "ff 00", id="null struct"
        ),
        pytest.param(
            ConsumerGroupHeartbeatResponse, "00" * 6 + "00 00" + "00" * 8 + "01 01 00 00", id="a struct"
        ),
    ],
)
def test_whole_messages_pass(message: type, body: str) -> None:
    data = bytes.fromhex(body)
    check_message(message, data)
    assert drop_unknown_tags(message, data) is data


FETCH = "00000000 00000000 00000000 00 00000000 00000000 01 01 01"


@pytest.mark.parametrize(
    ("message", "body", "error"),
    [
        (MetadataRequest, "ff ff ff ff 7f", "a length of 34359738367"),
        (MetadataRequest, "ff ff ff ff 07", "MetadataRequest.topics: 2147483646 elements in 0 bytes"),
        (MetadataRequest, "ff ff ff ff ff 01", "more than 5 bytes"),
        (MetadataRequest, "03" + "00" * 16 + "00 00 00 00", "MetadataRequest.topics: 2 elements in 20 bytes"),
        (MetadataRequest, "02" + "00" * 16 + "09 61 61", "MetadataRequestTopic.name: 8 elements in 2 bytes"),
        (MetadataRequestV0, "ff ff ff ff", "MetadataRequest.topics: null is not allowed"),
        (MetadataRequestV0, "ff ff ff fe", "MetadataRequest.topics: count -2 is negative"),
        (MetadataRequestV0, "80 00 00 00", "MetadataRequest.topics: count -2147483648 is negative"),
        (MetadataRequestV0, "7f ff ff ff", "MetadataRequest.topics: 2147483647 elements in 0 bytes"),
        (MetadataRequestV0, "00 00 00 01 ff ff", "MetadataRequestTopic.name: null is not allowed"),
        (MetadataRequestV0, "00 00 00 01 80 00", "MetadataRequestTopic.name: count -32768 is negative"),
        (MetadataRequestV0, "00 00 00 01 00 02 61", "MetadataRequestTopic.name: 2 elements in 1 bytes"),
        (MetadataRequestV0, "00 00 00 00 00", "MetadataRequest: 1 bytes trail"),
        (MetadataRequestV0, "00 00 00", "MetadataRequest: ends early, after 3 bytes"),
        (MetadataRequest, "", "MetadataRequest: ends early, after 0 bytes"),
        (HeartbeatResponse, "00", "HeartbeatResponse: ends early, after 1 bytes"),
        (HeartbeatRequest, "00 01 67 00 00 00", "HeartbeatRequest: ends early, after 6 bytes"),
        (SaslAuthenticateRequest, "ff ff ff ff", "SaslAuthenticateRequest.auth_bytes: null is not allowed"),
        (
            ConsumerGroupHeartbeatResponse,
            "00" * 6 + "00 00" + "00" * 8 + "02",
            "assignment: 2 marks neither null nor a value",
        ),
        (FetchRequest, FETCH + "01 07 00", "FetchRequest: unknown tag 7"),
        (FetchRequest, FETCH + "02 00 02 02 61 00 02 02 61", "FetchRequest: tag 0 follows tag 0"),
        (FetchRequest, FETCH + "02 01 0d" + "00" * 13 + "00 02 02 61", "FetchRequest: tag 0 follows tag 1"),
        (FetchRequest, FETCH + "01 00 03 02 61", "FetchRequest: tag 0 of 3 bytes in 2 bytes"),
        (FetchRequest, FETCH + "01 00 03 02 61 00", "cluster_id: the tagged field has 3 bytes, its value 2"),
        (FetchRequest, FETCH + "01 00 02 03 61 62", "FetchRequest.cluster_id: 2 elements in 1 bytes"),
        (FetchRequest, FETCH + "01 00 01 00", "FetchRequest.cluster_id: null is not allowed"),
        (
            FetchRequest,
            FETCH + "01 01 0c" + "00" * 13,
            "replica_state: the tagged field has 12 bytes, its value 13",
        ),
        (FetchRequest, FETCH + "ff ff ff ff 07", "FetchRequest: ends early"),
    ],
)
def test_broken_messages_are_refused(message: type, body: str, error: str) -> None:
    with pytest.raises(DecodeError, match=re.escape(error)):
        check_message(message, bytes.fromhex(body))
    if "unknown tag" not in error:
        with pytest.raises(DecodeError, match=re.escape(error)):
            drop_unknown_tags(message, bytes.fromhex(body))


def test_unknown_tags_are_cut_out_at_every_depth() -> None:
    endpoint = "00000007 02 68 00002384 00"
    start = "00000000 0000 00000000 01"
    newer = (
        start
        # node_endpoints is tag 0: its size, its one element with two tags of its own, then tags 3 and 300.
        + ("03 00 12" + "02" + endpoint + "02 05 01 ff 06 00")
        + ("03 02 aa bb ac 02 00")
    )
    plain = start + ("01 00 0d" + "02" + endpoint + "00")
    assert drop_unknown_tags(FetchResponse, bytes.fromhex(newer)).hex(" ") == bytes.fromhex(plain).hex(" ")


def test_a_tagged_field_that_shrinks_gets_a_shorter_size() -> None:
    start = "0000 01 00000000"
    # supported_features is tag 0, of 132 bytes with the 120 of an unknown tag in its element.
    feature = "02 02 66 0000 0001"
    newer = start + "01 00 84 01" + feature + "01 09 7a" + "ee" * 122
    plain = start + "01 00 08" + feature + "00"
    assert drop_unknown_tags(ApiVersionsResponse, bytes.fromhex(newer)) == bytes.fromhex(plain)


def test_many_unknown_tags_take_little_memory() -> None:
    count = 2**16
    tags = b"".join(
        bytes([tag & 0x7F | 0x80, tag >> 7 & 0x7F | 0x80, tag >> 14, 0]) for tag in range(2**14, count)
    )
    total = count - 2**14
    body = bytes.fromhex("00000000 0000 00000000 01")
    data = body + bytes([total & 0x7F | 0x80, total >> 7 & 0x7F | 0x80, total >> 14]) + tags
    tracemalloc.start()
    assert drop_unknown_tags(FetchResponse, data) == body + b"\x00"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * len(data)


@pytest.mark.parametrize("broken", [b"\x00\x00\x00\x01", b""])
def test_a_large_broken_frame_takes_no_memory_of_its_own(broken: bytes) -> None:
    data = (500_000).to_bytes(4) + b"\x00\x01a" * 499_999 + broken
    tracemalloc.start()
    with pytest.raises(DecodeError):
        check_message(MetadataRequestV0, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_every_message_with_hostile_bytes_at_every_length() -> None:
    """In a process of its own, under a limit of memory: one that comes through would end this one."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.protocol.guard_sweep"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    tried = dict(
        re.findall(r"(hostile|truncated|unknown tags|random refused|random decoded)=(\d+)", done.stdout)
    )
    assert int(tried["hostile"]) > 30_000
    assert int(tried["truncated"]) > 40_000
    assert int(tried["unknown tags"]) > 350
    assert int(tried["random refused"]) > 30_000
    assert int(tried["random decoded"]) > 5_000
