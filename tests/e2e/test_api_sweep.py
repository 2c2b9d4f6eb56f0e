"""Every API key in every version, with a valid body, none, and junk, against a real broker.

Each is forwarded, answered as Kafka would, or ends the connection; nothing hangs, and what was not advertised
never reaches the broker: a relay in between notes all that does.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from kio.schema.errors import ErrorCode

from compose.kafka import KafkaCluster
from protocol.api_keys import ApiKey, supported_versions
from protocol.api_versions import ANSWERED_HERE, FORWARDED, NOT_FORWARDED
from protocol.errors import ProtocolError, UnsupportedVersion
from protocol.headers import encode_request_header, peek_correlation_id, response_body_offset
from protocol.messages import decode_response, encode_request, request_class
from tests.e2e.conftest import Fronts
from tests.e2e.front import Front
from tests.e2e.raw_client import Address, Closed, RawClient, make
from tests.e2e.upstream_relay import UpstreamRelay
from tests.protocol.schema_bytes import build

CLIENT: Final = "sweep"
# Longer than anything of this takes, far shorter than what a client waits.
WITHIN_S: Final = 10.0
# Vendors have keys of their own above 10,000.
KEYS: Final = [*range(128), -1, 10_001, 20_000, ApiKey.LINK_BIND]
# A valid request without content; where zeros would mean something, this.
MINIMAL: Final[dict[int, dict[str, Any]]] = {ApiKey.PRODUCE: {"acks": -1}}


@pytest.fixture(scope="module")
def relay(kafka_430: KafkaCluster) -> Iterator[UpstreamRelay]:
    node = kafka_430.nodes[0]
    with UpstreamRelay((node.host, node.port)) as running:
        yield running


@pytest.fixture(scope="module")
def behind(fronts: Fronts, kafka_430: KafkaCluster, relay: UpstreamRelay) -> Front:
    """A gateway that reaches its broker through the relay only."""
    cluster = {"bootstrap_servers": ["{}:{}".format(*relay.address)]}
    return fronts(kafka_430, ways=("plain",), config={"cluster": cluster}, name="behind-relay")


def versions(key: int) -> range:
    known = supported_versions(key)
    return range(-1, known[-1] + 3) if known else range(-1, 3)


class Peer:
    """Whoever is asked, by a connection that is made anew when it was closed."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._client: RawClient | None = None

    def ask(self, key: int, version: int, body: bytes) -> bytes | None:
        """The answering frame; None if the connection was closed instead. TimeoutError."""
        if self._client is None:
            self._client = RawClient(self._address, timeout_s=WITHIN_S)
        client = self._client
        try:
            client.send_frame(encode_request_header(key, version, 77, CLIENT) + body)
            frame = client.receive_frame()
        except Closed:
            self.close()
            return None
        assert peek_correlation_id(frame) == 77
        return frame

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def valid_body(key: int, version: int) -> bytes | None:
    """A request about nothing; with content made up if it is none that may get anywhere."""
    if key in FORWARDED:
        lowest, highest = FORWARDED[key]
        if lowest <= version <= highest:
            return encode_request(make(key, version, **MINIMAL.get(key, {})))
    try:
        return build(request_class(key, version), 1)[0]
    except UnsupportedVersion:
        return None


def bodies(key: int, version: int) -> dict[str, bytes]:
    junk = random.Random(f"{key} {version}")
    made: dict[str, bytes] = {"empty": b"", "ones": b"\xff" * 20, "junk": junk.randbytes(40)}
    if (valid := valid_body(key, version)) is not None:
        made |= {"valid": valid, "long": valid + b"\x00"}
    return made


def told_versions(client: RawClient) -> dict[int, tuple[int, int]]:
    names = {"client_software_name": "sweep", "client_software_version": "1"}
    answer = client.call(make(ApiKey.API_VERSIONS, 4, **names))
    return {int(row.api_key): (int(row.min_version), int(row.max_version)) for row in answer.api_keys}


def is_advertised(shown: dict[int, tuple[int, int]], key: int, version: int) -> bool:
    lowest, highest = shown.get(key, (0, -1))
    return lowest <= version <= highest and not (key == ApiKey.PRODUCE and version < 3)


def error_codes(key: int, version: int, frame: bytes | None) -> set[ErrorCode] | None:
    """All that an answer holds, at whatever depth; None for no answer."""
    if frame is None:
        return None
    found: set[ErrorCode] = set()

    def look(part: Any) -> None:
        if isinstance(part, ErrorCode):
            found.add(part)
        elif isinstance(part, tuple):
            for each in part:
                look(each)
        elif dataclasses.is_dataclass(part):
            for field in dataclasses.fields(part):
                look(getattr(part, field.name))

    look(decode_response(key, version, frame[response_body_offset(key, version, frame) :]))
    return found


def sweep(front: Front, shown: dict[int, tuple[int, int]], keys: list[int]) -> list[str]:
    """What went wrong."""
    access = front.access("plain", 1)
    node = front.kafka.nodes[0]
    gateway, broker = Peer((access.host, access.port)), Peer((node.host, node.port))
    wrong = []
    for key in keys:
        for version in versions(key):
            for kind, body in bodies(key, version).items():
                what = f"{key} v{version} {kind}"
                try:
                    answer = gateway.ask(key, version, body)
                    if key in ANSWERED_HERE:
                        fits = answered_here(key, version, answer)
                    elif not is_advertised(shown, key, version):
                        fits = answer is None
                    elif kind == "valid":
                        ours = error_codes(key, version, answer)
                        direct = error_codes(key, version, broker.ask(key, version, body))
                        # A coordinator has to be loaded first.
                        deadline = time.monotonic() + WITHIN_S
                        while ours != direct and time.monotonic() < deadline:
                            time.sleep(0.2)
                            ours = error_codes(key, version, gateway.ask(key, version, body))
                            direct = error_codes(key, version, broker.ask(key, version, body))
                        fits = ours == direct
                        what += f": {ours}, a broker says {direct}"
                    else:
                        fits = True
                except (TimeoutError, ProtocolError) as error:
                    wrong.append(f"{what}: {error!r}")
                    gateway.close()
                    broker.close()
                else:
                    if not fits:
                        wrong.append(f"{what}, answered {answer!r}")
    gateway.close()
    broker.close()
    return wrong


def answered_here(key: int, version: int, answer: bytes | None) -> bool:
    if key == ApiKey.API_VERSIONS:
        # Whatever is asked, and in whatever version (KIP-511).
        known = 0 <= version <= ANSWERED_HERE[key][1]
        body = None if answer is None else answer[4:]
        return body is not None and (body[:2] == b"\x00\x00" if known else body[:2] == b"\x00\x23")
    return answer is None or 0 <= version <= ANSWERED_HERE[key][1]


def test_every_key_in_every_version(
    behind: Front, relay: UpstreamRelay, kafka_430: KafkaCluster, unique_name: Callable[[], str]
) -> None:
    # A list of all topics is not empty, though ours are not in it.
    kafka_430.create_topic(unique_name())
    with behind.access("plain", 1).connect() as client:
        answer = client.call(
            make(ApiKey.API_VERSIONS, 4, client_software_name="s", client_software_version="1")
        )
    shown = {int(row.api_key): (int(row.min_version), int(row.max_version)) for row in answer.api_keys}
    parts = [KEYS[index::4] for index in range(4)]
    with ThreadPoolExecutor(len(parts)) as pool:
        wrong = [each for found in pool.map(lambda keys: sweep(behind, shown, keys), parts) for each in found]
    assert not wrong, "\n".join(wrong)
    reached = relay.of(CLIENT)
    # The relay sees what a client sends at all.
    assert len({key for key, _ in reached}) > 50
    assert not {each for each in reached if not is_advertised(shown, *each)}
    # Nor what could not be read as a request.
    assert not [each for each in relay.arrived if each.client_id is None]
    assert behind.gateway.is_ready()
    with behind.access("plain", 1).connect() as client:
        assert client.call(make(ApiKey.METADATA, 12, topics=[])).brokers


def test_what_is_shown_is_what_the_broker_has_and_we_can_do(behind: Front, kafka_430: KafkaCluster) -> None:
    """Nothing that Kafka 4.3 has is left out without a reason."""
    node = kafka_430.nodes[0]
    with RawClient((node.host, node.port)) as broker, behind.access("plain").connect() as client:
        has, shown = told_versions(broker), told_versions(client)
    expected = {}
    for key, (lowest, highest) in has.items():
        if key in FORWARDED:
            ours = FORWARDED[key]
            expected[key] = (0 if key == ApiKey.PRODUCE else max(lowest, ours[0]), min(highest, ours[1]))
        else:
            assert key in NOT_FORWARDED or key in ANSWERED_HERE
    assert shown == dict(sorted((expected | ANSWERED_HERE).items()))
    # Telemetry (KIP-714) is there for brokers with a plug-in for it.
    assert set(FORWARDED) - set(has) == {ApiKey.GET_TELEMETRY_SUBSCRIPTIONS, ApiKey.PUSH_TELEMETRY}


def test_a_broker_that_knows_no_new_api_versions_request(own_front: Fronts, kafka_430: KafkaCluster) -> None:
    """It answers in version 0 to a request of version 3 or 4."""
    node = kafka_430.nodes[0]
    with UpstreamRelay((node.host, node.port), api_versions_up_to=2) as relay:
        cluster = {"bootstrap_servers": ["{}:{}".format(*relay.address)]}
        front = own_front(kafka_430, ways=("plain",), config={"cluster": cluster})
        asked = {each.version for each in relay.arrived if each.api_key == ApiKey.API_VERSIONS}
        assert {4, 2} <= asked
        for version in range(5):
            names = {"client_software_name": "s", "client_software_version": "1"} if version >= 3 else {}
            with front.access("plain", 1).connect() as client:
                answer = client.call(make(ApiKey.API_VERSIONS, version, **names))
                assert answer.error_code == ErrorCode.none
                assert len(answer.api_keys) > 50
                assert client.call(make(ApiKey.METADATA, 12, topics=[])).brokers
