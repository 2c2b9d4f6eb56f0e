"""What somebody who wants in, or wants harm, tries at the ports of a gateway."""

from __future__ import annotations

import errno
import socket
import ssl
import struct
import time
import urllib.request
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from kio.schema.errors import ErrorCode

from certs.make_certs import Identity, TestAuthority
from compose.kafka import KafkaCluster
from protocol.api_keys import ApiKey
from tests.e2e.clients import Librdkafka
from tests.e2e.conftest import Fronts
from tests.e2e.front import Access, Front, Way
from tests.e2e.raw_client import Closed, RawClient, batch, make, produce

# As a MetadataRequest v12 this made a decoder that trusts counts allocate 275 GB.
KILLER = b"\xff\xff\xff\xff\x7f"
LARGEST = struct.pack(">i", 2**31 - 1)
every_way = pytest.mark.parametrize("way", ["sasl", "mtls", "plain"])


@pytest.fixture(autouse=True)
def still_serves(front: Front) -> Any:
    """Whatever was tried, the same process goes on serving, and has not grown."""
    pid, before = front.gateway.pid, resident_bytes(front)
    yield
    assert front.gateway.running
    assert front.gateway.pid == pid
    for way in ("sasl", "mtls", "plain"):
        with front.access(way).connect() as client:
            assert client.call(make(ApiKey.METADATA, 12, topics=[])).brokers
    assert resident_bytes(front) - before < 64 << 20


@pytest.fixture(scope="module")
def hasty(fronts: Fronts, kafka_430: KafkaCluster) -> Front:
    """A gateway that waits for authentication one second only."""
    return fronts(kafka_430, config={"limits": {"authentication_timeout_ms": 1000}}, name="hasty")


def resident_bytes(front: Front) -> int:
    status = Path(f"/proc/{front.gateway.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def refusals(front: Front) -> int:
    """How many connections the gateway has closed for what was asked."""
    with urllib.request.urlopen(f"{front.gateway.admin_url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    wanted = (line for line in lines if line.startswith("causeway_refusals_total{") and '"closed"' in line)
    return sum(int(float(line.split()[-1])) for line in wanted)


def open_files(front: Front) -> int:
    return len(list(Path(f"/proc/{front.gateway.pid}/fd").iterdir()))


def tls_without_login(access: Access) -> RawClient:
    return RawClient((access.host, access.port), tls=access.ssl_context())


# --- passwords and certificates -----------------------------------------------------------------------------


def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(front: Front) -> None:
    answers = []
    for user, password in (
        ("alice", "wrong"),
        ("nobody", "wrong"),
        ("nobody", "alice-secret"),
        ("alice", ""),
    ):
        with tls_without_login(front.access("sasl")) as client:
            began = time.monotonic()
            with pytest.raises(PermissionError) as refused:
                client.log_in(user, password)
            assert time.monotonic() - began > 0.1
            answers.append(str(refused.value))
            assert client.is_closed()
    assert answers[0] == answers[1] == answers[2]
    assert "Invalid username or password" in answers[0]
    assert "SASL_AUTHENTICATION_FAILED" in answers[3].upper()


def test_a_stock_client_is_told_that_its_password_is_wrong(front: Front) -> None:
    access = front.access("sasl")
    errors: list[Any] = []
    producer = Librdkafka(access).producer(**{"sasl.password": "wrong", "error_cb": errors.append})
    deadline = time.monotonic() + 10
    while not errors and time.monotonic() < deadline:
        producer.poll(0.1)
    assert errors[0].name() == "_AUTHENTICATION"
    assert "Invalid username or password" in errors[0].str()


@pytest.mark.parametrize(
    "request_",
    [
        make(ApiKey.METADATA, 9, topics=[]),
        make(ApiKey.INIT_PRODUCER_ID, 3, transaction_timeout=timedelta(seconds=1)),
        produce(9, {"topic": batch(b"x")}),
        make(ApiKey.SASL_AUTHENTICATE, 2, auth_bytes=b"\0alice\0alice-secret"),
    ],
    ids=lambda request: type(request).__name__,
)
def test_nothing_is_answered_before_authentication(request_: Any, front: Front) -> None:
    with tls_without_login(front.access("sasl")) as client:
        client.call(make(ApiKey.API_VERSIONS, 3, client_software_name="x", client_software_version="1"))
        client.send(request_)
        assert client.is_closed()


def test_only_plain_is_offered(front: Front) -> None:
    with tls_without_login(front.access("sasl")) as client:
        with pytest.raises(PermissionError, match=r"unsupported_sasl_mechanism.*\('PLAIN',\)"):
            client.log_in("alice", "alice-secret", "SCRAM-SHA-512")
        assert client.is_closed()


def test_a_second_login_is_not_taken(front: Front) -> None:
    with front.access("sasl").connect() as client:
        answer = client.call(make(ApiKey.SASL_HANDSHAKE, 1, mechanism="PLAIN"))
        assert answer.error_code == ErrorCode.illegal_sasl_state
        # Who it is has not changed, and it may go on.
        assert client.call(make(ApiKey.METADATA, 9, topics=[])).brokers


def bad_certificate(kind: str, authority: TestAuthority, directory: Path) -> Identity | None:
    if kind == "none":
        return None
    if kind == "of another authority":
        return TestAuthority(directory).client("alice")
    if kind == "of a server":
        return authority.server()
    good = authority.client("alice")
    key = load_pem_private_key((authority.directory / "ca.key").read_bytes(), None)
    old = x509.load_pem_x509_certificate(good.certificate_file.read_bytes())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(extensions=list(old.extensions))
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(old.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now - timedelta(seconds=1))
    )
    expired = directory / "expired.pem"
    expired.write_bytes(builder.sign(key, SHA256()).public_bytes(Encoding.PEM))  # type: ignore[arg-type]  # EC
    return Identity(expired, good.key_file, good.keystore_file)


@pytest.mark.parametrize("kind", ["none", "expired", "of another authority", "of a server"])
def test_certificates_that_prove_nothing(
    kind: str, front: Front, authority: TestAuthority, tmp_path: Path
) -> None:
    identity = bad_certificate(kind, authority, tmp_path)
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    if identity is not None:
        context.load_cert_chain(identity.certificate_file, identity.key_file)
    access = front.access("mtls")
    # With TLS 1.3 the client has shaken hands before it is judged.
    with pytest.raises((ssl.SSLError, Closed)), RawClient((access.host, access.port), tls=context) as client:
        client.call(make(ApiKey.METADATA, 9, topics=[]))


# --- bytes --------------------------------------------------------------------------------------------------


# What is left unread when a connection is closed resets it.
_RESET = frozenset({errno.ENOTCONN, errno.ECONNRESET})


@every_way
def test_bytes_of_other_protocols(way: Way, front: Front) -> None:
    access = front.access(way)
    for data in (
        b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01" + bytes(20),
        bytes(4),
    ):
        with socket.create_connection((access.host, access.port), timeout=10) as client:
            client.sendall(data)
            try:
                client.shutdown(socket.SHUT_WR)
                answer = client.recv(100)
            except OSError as error:
                if error.errno not in _RESET:
                    raise
                continue
            # TLS answers with an alert, Kafka with nothing.
            assert answer[:1] in {b"", b"\x15"}


@every_way
@pytest.mark.parametrize("size", [LARGEST, struct.pack(">i", -1), struct.pack(">i", -(2**31))], ids=bytes.hex)
def test_sizes_that_no_frame_has(way: Way, size: bytes, front: Front) -> None:
    access = front.access(way)
    with access.connect() as client:
        client.send_bytes(size)
        assert client.is_closed()
    if way == "sasl":
        with tls_without_login(access) as client:
            client.send_bytes(size)
            assert client.is_closed()


def test_before_authentication_frames_are_small(front: Front) -> None:
    with tls_without_login(front.access("sasl")) as client:
        client.send_bytes(struct.pack(">i", 65_537))
        assert client.is_closed()


def test_a_claimed_size_takes_no_memory(front: Front) -> None:
    before = resident_bytes(front)
    with ExitStack() as stack:
        for _ in range(50):
            client = stack.enter_context(front.access("plain").connect())
            client.send_bytes(struct.pack(">i", 100_000_000) + bytes(1000))
        with front.access("plain").connect() as other:
            other.call(make(ApiKey.METADATA, 12, topics=[]))
        assert resident_bytes(front) - before < 64 << 20


def test_half_a_frame_and_then_silence(hasty: Front) -> None:
    access = hasty.access("sasl")
    with (
        socket.create_connection((access.host, access.port), timeout=10) as without_tls,
        tls_without_login(access) as silent,
        tls_without_login(access) as half,
        tls_without_login(access) as slow,
    ):
        half.send_bytes(struct.pack(">i", 1000) + bytes(10))
        # Each byte is a sign of life, but not of who it is.
        for byte in struct.pack(">i", 1000) + bytes(10):
            slow.send_bytes(bytes([byte]))
            time.sleep(0.1)
        assert slow.is_closed(within_s=3)
        assert half.is_closed(within_s=3)
        assert silent.is_closed(within_s=3)
        without_tls.settimeout(3)
        assert without_tls.recv(1) == b""


def test_idle_connections(front: Front) -> None:
    before = open_files(front)
    with ExitStack() as stack:
        for way in ("plain", "sasl"):
            for _ in range(100):
                access = front.access(way)
                stack.enter_context(access.connect() if way == "plain" else tls_without_login(access))
        began = time.monotonic()
        with front.access("sasl").connect() as client:
            client.call(make(ApiKey.METADATA, 12, topics=[]))
        assert time.monotonic() - began < 3
        assert open_files(front) >= before + 200
    deadline = time.monotonic() + 10
    while open_files(front) > before + 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert open_files(front) <= before + 3


# --- requests -----------------------------------------------------------------------------------------------


def header(api_key: int, version: int, body: bytes = b"") -> bytes:
    return struct.pack(">hhih", api_key, version, 1, -1) + body


@pytest.mark.parametrize(
    ("api_key", "version"),
    [
        (999, 0),
        (-1, 0),
        (32767, 0),
        (ApiKey.METADATA, 99),
        (ApiKey.METADATA, -1),
        (ApiKey.PRODUCE, 2),
        (ApiKey.PRODUCE, 0),
        (ApiKey.PRODUCE, 14),
        (ApiKey.FETCH, 3),
        (ApiKey.SASL_HANDSHAKE, 2),
        (ApiKey.CONSUMER_GROUP_HEARTBEAT, 2),
        (ApiKey.LEADER_AND_ISR, 1),
        (ApiKey.CONTROLLED_SHUTDOWN, 1),
        (ApiKey.WRITE_TXN_MARKERS, 1),
        (ApiKey.ALTER_USER_SCRAM_CREDENTIALS, 1),
        (ApiKey.VOTE, 0),
        (ApiKey.BEGIN_QUORUM_EPOCH, 0),
        (ApiKey.ENVELOPE, 0),
        (ApiKey.UNREGISTER_BROKER, 0),
        (ApiKey.LINK_BIND, 0),
        (ApiKey.LINK_ATTACH, 1),
    ],
)
@pytest.mark.parametrize("way", ["sasl", "plain"])
def test_what_was_not_advertised_ends_the_connection(
    way: Way, api_key: int, version: int, front: Front
) -> None:
    with front.access(way).connect() as client:
        shown = client.call(make(ApiKey.API_VERSIONS, 0)).api_keys
        ranges = {int(row.api_key): range(row.min_version, row.max_version + 1) for row in shown}
        # Produce is shown from 0 on for old librdkafka (KAFKA-18659); Kafka 4 does the same.
        assert version not in ranges.get(api_key, ()) or api_key == ApiKey.PRODUCE
        before = refusals(front)
        client.send_frame(header(api_key, version, bytes(8)))
        assert client.is_closed()
        # A broker would have closed the connection too: it was not asked.
        assert refusals(front) == before + (api_key != ApiKey.LINK_ATTACH)


@every_way
def test_an_api_versions_request_from_the_future(way: Way, front: Front) -> None:
    access = front.access(way)
    with access.connect() as client:
        for version in (5, 99, 32767):
            client.send_frame(header(ApiKey.API_VERSIONS, version, b"\0" + b"unknown"))
            answer = client.receive_frame()
            # Version 0: correlation id, error 35, one row with the versions of ApiVersions itself.
            assert answer == struct.pack(">ihi3h", 1, 35, 1, 18, 0, 4)
        assert client.call(make(ApiKey.METADATA, 9, topics=[])).brokers


@pytest.mark.parametrize(
    ("api_key", "version"),
    [
        (ApiKey.METADATA, 12),
        (ApiKey.PRODUCE, 9),
        (ApiKey.FETCH, 12),
        (ApiKey.CREATE_PARTITIONS, 3),
        (ApiKey.DELETE_RECORDS, 2),
        (ApiKey.ALTER_CONFIGS, 2),
        (ApiKey.INCREMENTAL_ALTER_CONFIGS, 1),
        (ApiKey.ADD_PARTITIONS_TO_TXN, 3),
        (ApiKey.DELETE_TOPICS, 6),
    ],
)
def test_counts_that_no_frame_could_hold(api_key: int, version: int, front: Front) -> None:
    # With a name of ours in it, it has to be decoded by the gateway; without, by the broker.
    for more in (b"", b"_causeway-state"):
        with front.access("plain").connect() as client:
            # A flexible request header ends with its tagged fields.
            client.send_frame(header(api_key, version, b"\0" + KILLER + more))
            assert client.is_closed()


@pytest.mark.parametrize("body", [b"\xff\xff", b"\x7f\xff", b"\0\x05PLAIN\0", b""], ids=bytes.hex)
def test_a_malformed_handshake(body: bytes, front: Front) -> None:
    with tls_without_login(front.access("sasl")) as client:
        client.send_frame(header(ApiKey.SASL_HANDSHAKE, 1, body))
        assert client.is_closed()


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"\0",
        b"\0\0",
        b"alice",
        b"\0alice\0",
        b"bob\0alice\0alice-secret",
        b"\0alice\0alice-secret\0",
        b"\xff" * 99,
    ],
    ids=lambda token: token.hex()[:20],
)
def test_a_malformed_token(token: bytes, front: Front) -> None:
    with tls_without_login(front.access("sasl")) as client:
        client.call(make(ApiKey.SASL_HANDSHAKE, 1, mechanism="PLAIN"))
        answer = client.call(make(ApiKey.SASL_AUTHENTICATE, 2, auth_bytes=token))
        assert answer.error_code == ErrorCode.sasl_authentication_failed
        assert client.is_closed()
