"""Limits of a gateway process: what one client, one address and all clients together may take from it."""

from __future__ import annotations

import json
import resource
import socket
import ssl
import struct
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from compose.gateway_process import GatewayProcess
from compose.kafka import KafkaCluster
from protocol.api_keys import ApiKey
from tests.e2e.conftest import Fronts
from tests.e2e.front import PASSWORD, USER, Access, Front
from tests.e2e.raw_client import Closed, RawClient, batch, make, produce

MIB = 1 << 20
# TCP_REPAIR: a socket in this mode is closed without a word to the other side.
TCP_REPAIR = 19


def status(front: Front, field: str) -> int:
    text = Path(f"/proc/{front.gateway.pid}/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0])


def resident_bytes(front: Front) -> int:
    return status(front, "VmRSS") * 1024


def open_files(front: Front) -> int:
    return len(list(Path(f"/proc/{front.gateway.pid}/fd").iterdir()))


def metric(gateway: GatewayProcess, series: str) -> float:
    with urllib.request.urlopen(f"{gateway.admin_url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(series))


def eventually(condition: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def serves(access: Access) -> None:
    with access.connect() as client:
        assert client.call(make(ApiKey.METADATA, 12, topics=[])).brokers


def ends(client: RawClient, within_s: float) -> bool:
    """Whether the connection ends in that time, whatever comes before."""
    deadline = time.monotonic() + within_s
    while (left := deadline - time.monotonic()) > 0:
        client.socket.settimeout(left)
        try:
            if not client.socket.recv(1 << 16):
                return True
        except TimeoutError:
            return False
        except (ConnectionError, ssl.SSLError):
            return True
    return False


def fetch(topic: str, max_bytes: int, wait: timedelta = timedelta(seconds=1), min_bytes: int = 1) -> Any:
    partition = {"partition": 0, "fetch_offset": 0, "partition_max_bytes": max_bytes}
    return make(
        ApiKey.FETCH,
        11,
        replica_id=-1,
        max_wait=wait,
        min_bytes=min_bytes,
        max_bytes=max_bytes,
        session_epoch=-1,
        topics=[{"topic": topic, "partitions": [partition]}],
    )


@pytest.fixture(scope="module")
def strict(fronts: Fronts, kafka_430: KafkaCluster) -> Front:
    """A gateway of little patience and little memory."""
    limits = {
        "frame_timeout_ms": 1500,
        "idle_timeout_ms": 3000,
        "authentication_timeout_ms": 1000,
        "max_buffered_bytes": 8 * MIB,
    }
    return fronts(kafka_430, config={"limits": limits}, name="strict")


@pytest.fixture(scope="module")
def full_topic(kafka_430: KafkaCluster, front: Front) -> str:
    """A topic with 12 MiB in its one partition."""
    topic = f"full-{time.monotonic_ns()}"
    kafka_430.create_topic(topic)

    def is_written() -> bool:
        answer = client.call(produce(9, {topic: batch(bytes(750_000))}))
        return bool(answer.responses[0].partition_responses[0].error_code == ErrorCode.none)

    with front.access("plain", 1).connect() as client:
        # The broker may not know it yet.
        eventually(is_written)
        assert all(is_written() for _ in range(15))
    return topic


# --- connections ---------------------------------------------------------------------------------------


def test_a_client_that_connects_too_often_is_refused_and_the_log_stays_readable(
    kafka_430: KafkaCluster, own_front: Fronts
) -> None:
    limits = {"connections_per_second_per_ip": 1, "connection_burst_per_ip": 20, "max_connections_per_ip": 10}
    front = own_front(kafka_430, ways=("plain",), config={"limits": limits})
    address = (front.access("plain").host, front.access("plain").port)
    with ExitStack() as stack:
        held = [stack.enter_context(RawClient(address)) for _ in range(10)]
        for client in held:
            client.call(make(ApiKey.API_VERSIONS, 0))
        for _ in range(50):
            with RawClient(address) as surplus:
                assert surplus.is_closed()
        refused = 'causeway_connections_refused_total{listener="plain",reason="max_connections_per_ip"}'
        assert metric(front.gateway, refused) == 50
    refused = 'causeway_connections_refused_total{listener="plain",reason="connections_per_second_per_ip"}'
    while not metric(front.gateway, refused):
        with suppress(Closed, OSError), RawClient(address) as client:
            client.call(make(ApiKey.API_VERSIONS, 0))
    lines = [event for event in front.gateway.log_events() if event["event"] == "connection.refused"]
    assert {line["limit"] for line in lines} == {"max_connections_per_ip", "connections_per_second_per_ip"}
    # One of each kind in five seconds, however many there are.
    assert len(lines) < 8


def test_without_file_descriptors_it_goes_on_with_those_it_has(
    kafka_430: KafkaCluster, own_front: Fronts
) -> None:
    front = own_front(kafka_430, ways=("plain",))
    before = open_files(front)
    pid = front.gateway.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    # Set from outside: at its own start it would have said that this is too little.
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (before + 60, hard))
    access = front.access("plain")
    with ExitStack() as stack:
        first = stack.enter_context(access.connect())
        assert first.call(make(ApiKey.METADATA, 12, topics=[])).brokers
        waiting = [stack.enter_context(access.connect()) for _ in range(200)]
        eventually(lambda: "listener.cannot_accept" in front.gateway.log())
        # Whoever is in is served.
        for _ in range(50):
            assert first.call(make(ApiKey.METADATA, 12, topics=[])).brokers
        for client in waiting[:100]:
            client.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        # Those that had to wait come in now.
        for client in waiting[100:]:
            assert client.call(make(ApiKey.API_VERSIONS, 0)).api_keys
        assert len([e for e in front.gateway.log_events() if e["event"] == "listener.cannot_accept"]) < 5
    eventually(lambda: open_files(front) <= before + 3)
    serves(access)


def test_too_few_file_descriptors_are_told_at_the_start(kafka_430: KafkaCluster, tmp_path: Path) -> None:
    config = {"cluster": kafka_430.gateway_config(), "authorization": "none"}
    with GatewayProcess(config, prefix=["prlimit", "--nofile=512:512"]) as gateway:
        (line,) = [event for event in gateway.log_events() if event["event"] == "gateway.few_descriptors"]
        assert (line["limit"], line["wanted"]) == (512, 21_000)


# --- deadlines -----------------------------------------------------------------------------------------


def test_a_request_that_never_ends_is_not_waited_for(strict: Front) -> None:
    with strict.access("sasl", 1).connect() as slow, strict.access("plain", 1).connect() as busy:
        slow.call(make(ApiKey.METADATA, 12, topics=[]))
        slow.send_bytes(struct.pack(">i", 100_000_000))
        began = time.monotonic()
        while not slow.is_closed(within_s=0.1):
            slow.send_bytes(b"x")
            busy.call(make(ApiKey.API_VERSIONS, 0))
            assert time.monotonic() < began + 10
        assert 1 < time.monotonic() - began < 5
        busy.call(make(ApiKey.METADATA, 12, topics=[]))
    assert metric(strict.gateway, 'causeway_disconnects_total{cause="slow",listener="sasl"}') == 1


def test_a_client_that_takes_no_responses_is_closed_and_costs_little(strict: Front, full_topic: str) -> None:
    before = resident_bytes(strict)
    with strict.access("plain", 1).connect() as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(40):
            client.send(fetch(full_topic, 2 * MIB))
        eventually(
            lambda: metric(strict.gateway, 'causeway_disconnects_total{cause="slow",listener="plain"}') == 1
        )
    assert resident_bytes(strict) - before < 32 * MIB


def test_a_handshake_byte_by_byte_has_no_more_time_than_another(strict: Front) -> None:
    access = strict.access("sasl", 1)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = access.ssl_context().wrap_bio(incoming, outgoing, server_hostname=access.host)
    with suppress(ssl.SSLWantReadError):
        hello.do_handshake()
    began = time.monotonic()
    with socket.create_connection((access.host, access.port), timeout=5) as client:
        with suppress(ConnectionError):
            for byte in outgoing.read():
                client.sendall(bytes([byte]))
                time.sleep(0.05)
                assert time.monotonic() - began < 5
        with suppress(ConnectionError):
            assert client.recv(1) in {b"", b"\x15"}
    assert time.monotonic() - began < 3


def test_the_handshake_takes_of_the_time_to_log_in(strict: Front) -> None:
    access = strict.access("sasl", 1)
    began = time.monotonic()
    with socket.create_connection((access.host, access.port), timeout=5) as plain:
        time.sleep(0.7)
        with access.ssl_context().wrap_socket(plain, server_hostname=access.host) as client:
            client.settimeout(5)
            with suppress(ConnectionError, ssl.SSLError):
                assert client.recv(1) == b""
    assert time.monotonic() - began < 1.6


def test_a_peer_that_vanished_is_forgotten(strict: Front) -> None:
    opened = "causeway_connections_open"
    # Those of earlier tests are on their way out.
    eventually(lambda: metric(strict.gateway, opened) == 0)
    before = open_files(strict)
    with ExitStack() as stack:
        ways = [strict.access("plain", 1), strict.access("sasl", 1)]
        gone = [stack.enter_context(access.connect()) for access in ways * 5]
        for client in gone:
            client.call(make(ApiKey.METADATA, 12, topics=[]))
        assert metric(strict.gateway, opened) == 10
        for client in gone:
            raw = socket.socket(fileno=client.socket.detach())
            raw.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
            raw.close()
    eventually(lambda: metric(strict.gateway, opened) == 0, within_s=12)
    eventually(lambda: open_files(strict) <= before + 3)


@pytest.mark.parametrize("way", ["plain", "sasl"])
def test_a_reset_at_any_point_leaves_nothing(way: Any, front: Front) -> None:
    access = front.access(way, 1)
    request = struct.pack(">hhihB", ApiKey.METADATA, 9, 1, -1, 0) + b"\x01\0\0\0\0"
    data = struct.pack(">i", len(request)) + request
    before, errors = open_files(front), front.gateway.log().count("task.failed")
    for cut in range(0, 2 * len(data), 1 if way == "plain" else 4):
        with socket.create_connection((access.host, access.port), timeout=5) as client:
            if way == "sasl":
                # Within the handshake, and just after it.
                hello = struct.pack(">BHH", 22, 0x301, 200) + bytes(200)
                client.sendall(hello[: cut * 4])
            else:
                client.sendall((data * 2)[:cut])
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for _ in range(20 if way == "sasl" else 0):
        logged_in = access.connect()
        logged_in.send(make(ApiKey.METADATA, 9, topics=[]))
        raw = socket.socket(fileno=logged_in.socket.detach())
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()
    eventually(lambda: open_files(front) <= before + 3)
    assert front.gateway.log().count("task.failed") == errors


# --- memory --------------------------------------------------------------------------------------------


@contextmanager
def slow_readers(front: Front, topic: str, count: int) -> Iterator[list[RawClient]]:
    """Clients that have asked for 6 MiB each and take nothing yet."""
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = stack.enter_context(front.access("plain", 1).connect())
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            clients.append(client)
        for client in clients:
            client.send(fetch(topic, 6 * MIB, min_bytes=1))
        yield clients


def test_slow_readers_cannot_take_all_memory_and_all_get_everything(
    kafka_430: KafkaCluster, own_front: Fronts, full_topic: str
) -> None:
    front = own_front(
        kafka_430, ways=("plain",), config={"limits": {"max_buffered_bytes": 16 * MIB}}, name="tight"
    )
    before = resident_bytes(front)
    with slow_readers(front, full_topic, 30) as clients:
        eventually(lambda: metric(front.gateway, "causeway_sessions_held_back") > 0)
        # Those who want little are served as ever.
        began = time.monotonic()
        with front.access("plain", 1).connect() as other:
            for _ in range(20):
                assert other.call(make(ApiKey.METADATA, 12, topics=[])).brokers
        assert time.monotonic() - began < 5
        time.sleep(1)
        # 30 responses are 180 MiB. Freed memory is not always given back.
        assert resident_bytes(front) - before < 90 * MIB
        assert metric(front.gateway, "causeway_buffered_bytes") < 32 * MIB
        sizes: list[int] = []

        def take(client: RawClient) -> None:
            answer = client.receive()
            sizes.append(len(answer.responses[0].partitions[0].records))

        threads = [threading.Thread(target=take, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(sizes) == 30
    assert min(sizes) > 5 * MIB
    eventually(lambda: metric(front.gateway, "causeway_buffered_bytes") == 0)
    events = [event["event"] for event in front.gateway.log_events()]
    assert 1 <= events.count("gateway.buffers_full") < 20


def test_requests_that_hang_in_the_air_are_held_back_and_then_closed(strict: Front) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(strict.access("plain", 1).connect()) for _ in range(8)]
        for client in clients:
            client.call(make(ApiKey.API_VERSIONS, 0))
            client.socket.settimeout(0.2)
            with suppress(TimeoutError):
                client.socket.sendall(struct.pack(">i", 90_000_000) + bytes(3 * MIB))
        began = time.monotonic()
        serves(strict.access("sasl", 1))
        assert time.monotonic() - began < 3
        assert metric(strict.gateway, "causeway_buffered_bytes") < 24 * MIB
        # One after the other has its turn, and its deadline.
        assert all(ends(client, 40) for client in clients)
    eventually(lambda: metric(strict.gateway, "causeway_buffered_bytes") == 0)


# --- many connections ----------------------------------------------------------------------------------


def churn(front: Front, cycles: int, threads: int = 8) -> None:
    """Connects, logs in over TLS, asks once and leaves, so many times."""
    access = front.access("sasl", 1)
    context = access.ssl_context()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(cycles // threads):
                with RawClient(
                    (access.host, access.port), tls=context, user=USER, password=PASSWORD, timeout_s=30
                ) as client:
                    client.call(make(ApiKey.METADATA, 12, topics=[]))
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []


def idle(front: Front, count: int) -> None:
    """Holds so many TLS connections that are logged in, and closes them."""
    access = front.access("sasl", 1)
    context = access.ssl_context()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 2000)), hard))
    with ExitStack() as stack:
        clients = [
            stack.enter_context(
                RawClient((access.host, access.port), tls=context, user=USER, password=PASSWORD, timeout_s=30)
            )
            for _ in range(count)
        ]
        assert metric(front.gateway, 'causeway_connections_open{listener="sasl"}') >= count
        began = time.monotonic()
        serves(access)
        assert time.monotonic() - began < 3
        for client in clients[:: max(count // 20, 1)]:
            client.call(make(ApiKey.METADATA, 12, topics=[]))


def flat_after(
    front: Front, rounds: int, work: Callable[[], None], allowed_bytes: int, settled_after_s: float = 0
) -> None:
    """Does the work once, to fill what is filled once, then again: no more may be held afterwards."""
    work()
    time.sleep(settled_after_s)
    eventually(lambda: metric(front.gateway, 'causeway_connections_open{listener="sasl"}') == 0)
    files, memory = open_files(front), resident_bytes(front)
    sizes = []
    for _ in range(rounds):
        work()
        sizes.append(resident_bytes(front) - memory)
    eventually(lambda: metric(front.gateway, 'causeway_connections_open{listener="sasl"}') == 0)
    eventually(lambda: open_files(front) <= files + 3)
    time.sleep(settled_after_s)
    growth = resident_bytes(front) - memory
    print(json.dumps({"files": open_files(front) - files, "rss_growth_bytes": growth, "after_rounds": sizes}))
    assert growth < allowed_bytes
    if rounds >= 6:
        # What is cached and what lies between allocations comes to an end; a leak does not.
        assert sizes[-1] - sizes[-rounds // 3 - 1] < allowed_bytes / 4


def test_coming_and_going_leaves_nothing(kafka_430: KafkaCluster, own_front: Fronts) -> None:
    front = own_front(kafka_430, ways=("sasl",))
    flat_after(front, 2, lambda: churn(front, 160), 8 * MIB)
    flat_after(front, 1, lambda: idle(front, 150), 8 * MIB)


@pytest.mark.soak
def test_ten_thousand_logins_and_two_thousand_idle_connections_leave_nothing(
    kafka_430: KafkaCluster, own_front: Fronts
) -> None:
    front = own_front(kafka_430, ways=("sasl",))
    flat_after(front, 9, lambda: churn(front, 1000), 12 * MIB)
    # Memory of those that have gone is given back after five seconds.
    flat_after(front, 2, lambda: idle(front, 2000), 12 * MIB, settled_after_s=8)


# --- the end -------------------------------------------------------------------------------------------


def test_a_stop_waits_for_nobody_longer_than_it_must(
    kafka_430: KafkaCluster, own_front: Fronts, full_topic: str, unique_name: Callable[[], str]
) -> None:
    empty = unique_name()
    kafka_430.create_topic(empty)
    front = own_front(kafka_430, config={"drain_timeout_ms": 3000})
    access = front.access("plain", 1)
    with ExitStack() as stack:
        polling, slow, forever, silent = (stack.enter_context(access.connect()) for _ in range(4))
        for client in (polling, slow, forever):
            client.call(make(ApiKey.API_VERSIONS, 0))
        # One is answered meanwhile, one takes nothing, one asks for more than there is time for.
        polling.send(fetch(empty, MIB, timedelta(seconds=1)))
        forever.send(fetch(empty, MIB, timedelta(seconds=60), min_bytes=1000))
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.send(fetch(full_topic, 10 * MIB))
        tls = front.access("sasl", 1)
        shaking = stack.enter_context(socket.create_connection((tls.host, tls.port), timeout=5))
        shaking.sendall(b"\x16\x03\x01")
        time.sleep(0.5)
        codes: list[int] = []
        stopping = threading.Thread(target=lambda: codes.append(front.gateway.terminate()))
        began = time.monotonic()
        stopping.start()
        # Those with nothing in flight go first.
        assert silent.is_closed(within_s=2)
        with suppress(ConnectionError):
            assert shaking.recv(1) == b""
        assert time.monotonic() - began < 2
        assert polling.receive().error_code == ErrorCode.none
        stopping.join()
        took_s = time.monotonic() - began
    assert codes == [0]
    assert 2.5 < took_s < 8
    assert "listener.drain_incomplete" in front.gateway.log()
    assert "task.failed" not in front.gateway.log()
