"""Logs with fillers of every shape, read by every client library, at every version, in pieces of any size."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from compose.gateway_process import GatewayProcess
from compose.kafka import DEFAULT_VERSION, ROOT, KafkaCluster
from compose.local import FAST_START, java_command
from compose.ports import lease_ports
from protocol.api_keys import ApiKey
from protocol.codecs import Codec
from protocol.record_batches import DELETE_HORIZON, BatchView, read_batches
from protocol.records import Record, iterate_records
from tests.conftest import Clusters
from tests.e2e.filler_log import KEY, FillerLog, register
from tests.e2e.raw_client import RawClient, make
from tests.e2e.raw_log import RawBroker

READERS = Path(__file__).with_name("readers")
NAMES = ("shapes", "tail", "emptied", "thinned")
ISOLATIONS = ("read_uncommitted", "read_committed")
# A client that waits at the end of a log fetches some times a second, each time for a hundred bytes or two.
IDLE_S = 3.0
MOST_IDLE_BYTES = 60_000
READ_WITHIN_S = 90.0

Line = tuple[str, int, str, str]


@dataclass
class Log:
    """A topic, and what clients see of it."""

    topic: str
    end: int
    committed: list[Record]
    uncommitted: list[Record]
    start: int = 0

    def lines(self, isolation: str) -> list[Line]:
        """What a reader prints."""
        records = self.committed if isolation == "read_committed" else self.uncommitted
        return [
            (self.topic, r.offset, _text(r.key), _text(r.value)) for r in records if r.offset >= self.start
        ]


@dataclass
class Mirrored:
    """A cluster with mirrors of every shape, and a gateway with a listener for every reader."""

    kafka: KafkaCluster
    gateway: GatewayProcess
    ports: dict[str, int]
    logs: dict[str, Log]
    stack: ExitStack = field(default_factory=ExitStack)

    def connect(self) -> RawClient:
        """A raw connection to the broker, through the gateway."""
        return RawClient(("localhost", self.ports["raw"] + 1))

    def listener_bytes(self) -> dict[str, float]:
        """Bytes of requests and responses of every listener so far."""
        with urllib.request.urlopen(f"{self.gateway.admin_url}/metrics", timeout=10) as answer:
            page = answer.read().decode()
        found = dict.fromkeys(self.ports, 0.0)
        for line in page.splitlines():
            for name in ("causeway_request_bytes_total", "causeway_response_bytes_total"):
                if line.startswith(f'{name}{{listener="'):
                    listener = line.split('"')[1]
                    found[listener] += float(line.rpartition(" ")[2])
        return found


def _text(value: bytes | None) -> str:
    return "-" if value is None else "x" + value.hex()


# --- the logs -----------------------------------------------------------------------------------------


def every_shape(log: FillerLog) -> int:
    """Fillers of every shape, between data; where the mirror ends."""
    log.fillers(3)
    log.data(5)
    log.fillers(1)
    # The codec that every library has without more.
    log.data(2, Codec.GZIP)
    log.fillers(1)
    log.fillers(1)
    log.data(1)
    log.fillers(1000, fixed=False)
    log.data(3, Codec.GZIP)
    log.mixed([0, 2, 3, 7], 8)
    log.mixed([3], 5)
    log.mixed([0], 3)
    for _ in range(20):
        log.data(1)
        log.fillers(1)
    log.fillers(1000)
    log.data(1, Codec.GZIP)
    log.fillers(20_000)
    log.data(2, size=40_000)
    log.fillers(2345)
    log.data(300, Codec.GZIP)
    log.fillers(7)
    stop = log.end
    log.barrier()
    return stop


def transactions(kafka: KafkaCluster, topic: str) -> None:
    """Some of each outcome."""
    producer = Producer({"bootstrap.servers": kafka.internal_bootstrap, "transactional.id": f"tx-{topic}"})
    producer.init_transactions(20)
    for number, commit in enumerate((True, False, True, False)):
        producer.begin_transaction()
        for value in (b"one", b"two"):
            producer.produce(topic, b"%s of %d" % (value, number), key=b"aborted" if not commit else None)
        producer.flush(20)
        (producer.commit_transaction if commit else producer.abort_transaction)(20)


def raw_records(kafka: KafkaCluster, topic: str) -> tuple[int, list[Record]]:
    """The end and the records of a log, as they are stored, without fillers and transaction markers."""
    with RawBroker(kafka.internal_bootstrap) as broker:
        found = []
        for batch in broker.batches(topic, 0):
            if not batch.is_control:
                found += list(iterate_records(batch))
        return broker.high_watermark(topic, 0), found


COMPACTED = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01"}


def compacted(log: FillerLog, done: Callable[[Sequence[BatchView]], bool]) -> int:
    """Write fillers and data; where the mirror ends. A local producer goes on until the cleaner is `done`."""
    for _ in range(3):
        log.data(3)
        log.fillers(2)
        log.mixed([1, 3], 6)
        log.fillers(900)
        time.sleep(0.15)
    stop = log.end
    log.barrier()
    deadline = time.monotonic() + 60
    while True:
        time.sleep(0.15)
        log.local(1)
        with RawBroker(log.kafka.internal_bootstrap) as broker:
            if done(list(broker.batches(log.topic, 0))):
                return stop
        assert time.monotonic() < deadline, f"{log.topic}: the cleaner did nothing"


def emptied(batches: Sequence[BatchView]) -> bool:
    """Whether there is a batch without a record. The last one of a producer is kept like that."""
    return not all(batch.count for batch in batches)


def thinned(batches: Sequence[BatchView]) -> bool:
    """Whether there are batches with holes, and fillers that are to be deleted later (KIP-534)."""
    holed = [batch for batch in batches if batch.count <= batch.last_offset_delta]
    stamped = [batch for batch in batches if batch.attributes & DELETE_HORIZON]
    return bool(holed) and any(KEY in bytes(batch.records) for batch in stamped)


@pytest.fixture(scope="module")
def mirrored(clusters: Clusters) -> Iterator[Mirrored]:
    """The logs are written past the gateway, and registered, before it starts."""
    kafka = clusters(
        "4.3.0", config={"log.cleaner.backoff.ms": "200", "group.share.partition.max.record.locks": "100"}
    )
    logs: dict[str, Log] = {}
    records = []
    with ExitStack() as stack:

        def written(name: str, **configs: str) -> FillerLog:
            log = FillerLog(kafka, f"readers-{name}", **configs)
            stack.callback(log.close)
            return log

        shapes = written("shapes")
        stop = every_shape(shapes)
        records.append(shapes.mirror(shapes.topic_id(), stop))
        shapes.local(1, key=KEY)
        transactions(kafka, shapes.topic)
        end, stored = raw_records(kafka, shapes.topic)
        later = [record for record in stored if record.offset > shapes.records[-1].offset]
        committed = [record for record in later if record.key is None]
        logs["shapes"] = Log(shapes.topic, end, shapes.records + committed, shapes.records + later)

        tail = written("tail")
        tail.fillers(20_000)
        tail.data(4)
        tail.mixed([0, 5], 9)
        tail.fillers(11_007)
        records.append(tail.mirror(tail.topic_id(), None))
        # A fetch that starts inside a run of fillers.
        logs["tail"] = Log(tail.topic, tail.end, tail.records, tail.records, start=5_000)

        hidden = written("hidden")
        hidden.fillers(12_000)
        hidden.data(6)
        records.append(hidden.mirror(hidden.topic_id(), None, log_starts={0: 12_000}))
        logs["hidden"] = Log(hidden.topic, hidden.end, hidden.records, hidden.records)

        for name, done, kept_ms in (("emptied", emptied, "0"), ("thinned", thinned, "600000")):
            cleaned = written(name, **COMPACTED, **{"delete.retention.ms": kept_ms})
            records.append(cleaned.mirror(cleaned.topic_id(), compacted(cleaned, done)))
            # No more segments are rolled without an append, and what there is soon is clean.
            time.sleep(2)
            end, stored = raw_records(kafka, cleaned.topic)
            left = [record for record in stored if record.key != KEY]
            logs[name] = Log(cleaned.topic, end, left, left)

        register(kafka, records)
        names = [
            "raw",
            "share",
            *(f"{reader}-{isolation}" for reader in COMMANDS for isolation in ISOLATIONS),
        ]
        listeners, ports = [], {}
        for name in names:
            lease = lease_ports(2)
            stack.callback(lease.release)
            ports[name] = lease.ports[0]
            listeners.append(
                {
                    "name": name, "bind": "127.0.0.1", "insecure": True, "authentication": "none",
                    "port": lease.ports[0], "broker_port": lease.ports[1],
                    "advertised_host": "localhost", "node_ids": "1-1",
                }
            )  # fmt: skip
        config = {"cluster": kafka.gateway_config(), "authorization": "none", "listeners": listeners}
        gateway = GatewayProcess(config, name="readers")
        stack.callback(gateway.close)
        yield Mirrored(kafka, gateway, ports, logs)


# --- client libraries ---------------------------------------------------------------------------------


def python(library: str) -> Callable[[], list[str]]:
    return lambda: [sys.executable, str(READERS / "read.py"), library]


def java() -> list[str]:
    return java_command(DEFAULT_VERSION, str(READERS / "Read.java"), options=("-Xmx192m", *FAST_START))


def go(library: str) -> Callable[[], list[str]]:
    def built() -> list[str]:
        if shutil.which("go") is None:
            pytest.skip("no Go: franz-go and sarama are not tried")
        target = ROOT / "build" / "readers" / "go"
        target.mkdir(parents=True, exist_ok=True)
        source = READERS / "go"
        fetched = _run(["go", "mod", "download"], source)
        if fetched.returncode:
            pytest.skip(f"Go modules cannot be had: {fetched.stderr.strip().splitlines()[-1]}")
        made = _run(["go", "build", "-o", str(target / "reader"), "."], source)
        assert not made.returncode, made.stderr
        return [str(target / "reader"), library]

    return built


def node() -> list[str]:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no Node.js: kafkajs is not tried")
    target = ROOT / "build" / "readers" / "node"
    target.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "kafkajs.js"):
        shutil.copy(READERS / "node" / name, target)
    if not (target / "node_modules" / "kafkajs").exists():
        fetched = _run(["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"], target)
        if fetched.returncode:
            pytest.skip(f"kafkajs cannot be had: {fetched.stderr.strip().splitlines()[-1]}")
    return ["node", str(target / "kafkajs.js")]


def _run(command: Sequence[str], directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=400, check=False)


COMMANDS: dict[str, Callable[[], list[str]]] = {
    "java": java,
    "librdkafka": python("librdkafka"),
    "aiokafka": python("aiokafka"),
    "kafka-python": python("kafka-python"),
    "franz-go": go("franz-go"),
    "sarama": go("sarama"),
    "kafkajs": node,
}


class Reader:
    """A client library that reads, in a process of its own."""

    def __init__(self, command: Sequence[str], directory: Path, name: str) -> None:
        self.name = name
        self._out = directory / f"{name}.out"
        self._err = directory / f"{name}.err"
        with self._out.open("w") as out, self._err.open("w") as err:
            self._process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL)

    def lines(self) -> list[Line]:
        """What it has read so far."""
        whole = self._out.read_text().rpartition("\n")[0].splitlines()
        return [(topic, int(offset), key, value) for topic, offset, key, value in map(str.split, whole)]

    def check(self) -> None:
        """AssertionError if it has ended."""
        assert self._process.poll() is None, f"{self.name}: {self._err.read_text()[-2000:]}"

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


@pytest.mark.parametrize("library", COMMANDS)
def test_client_libraries(mirrored: Mirrored, library: str) -> None:
    """All records at their offsets, once; the end is reached, and there is nothing to do there."""
    command = COMMANDS[library]()
    logs = [mirrored.logs[name] for name in NAMES]
    expected = {
        isolation: sorted(line for log in logs for line in log.lines(isolation)) for isolation in ISOLATIONS
    }
    with tempfile.TemporaryDirectory(prefix="causeway-readers-") as directory, ExitStack() as stack:
        readers = {}
        for isolation in ISOLATIONS:
            bootstrap = f"localhost:{mirrored.ports[f'{library}-{isolation}']}"
            topics = [f"{log.topic}:{log.start}" for log in logs]
            reader = Reader([*command, bootstrap, isolation, *topics], Path(directory), isolation)
            stack.callback(reader.close)
            readers[isolation] = reader
        deadline = time.monotonic() + READ_WITHIN_S
        while not all(len(readers[each].lines()) >= len(expected[each]) for each in ISOLATIONS):
            for reader in readers.values():
                reader.check()
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        time.sleep(1)
        before = mirrored.listener_bytes()
        time.sleep(IDLE_S)
        after = mirrored.listener_bytes()
        for isolation, reader in readers.items():
            reader.check()
            assert sorted(reader.lines()) == expected[isolation], f"{library}, {isolation}"
            moved = after[f"{library}-{isolation}"] - before[f"{library}-{isolation}"]
            # Nothing at all is what franz-go and kafkajs do, which wait for 5 s at a time.
            assert moved < MOST_IDLE_BYTES, f"{library}, {isolation}: {moved} bytes in {IDLE_S} s"


def test_a_share_group(mirrored: Mirrored) -> None:
    """Of 20,000 fillers no share consumer may hold more than 100 at a time, and yet it gets past them."""
    log = mirrored.logs["shapes"]
    group = f"share-{time.time_ns()}"
    with mirrored.connect() as client:
        configs = [{"name": "share.auto.offset.reset", "value": "earliest", "config_operation": 0}]
        resource = {"resource_type": 32, "resource_name": group, "configs": configs}
        answer = client.call(make(ApiKey.INCREMENTAL_ALTER_CONFIGS, 1, resources=[resource]))
        assert answer.responses[0].error_code == 0, answer
    bootstrap = f"localhost:{mirrored.ports['share']}"
    expected = log.lines("read_uncommitted")
    with tempfile.TemporaryDirectory(prefix="causeway-readers-") as directory:
        reader = Reader([*java(), bootstrap, "share", group, log.topic], Path(directory), "share")
        try:
            deadline = time.monotonic() + READ_WITHIN_S
            while len(reader.lines()) < len(expected) and time.monotonic() < deadline:
                reader.check()
                time.sleep(0.2)
            time.sleep(1)
            assert sorted(reader.lines()) == sorted(expected)
        finally:
            reader.close()


# --- every version, pieces of any size ----------------------------------------------------------------


def fetch(client: RawClient, version: int, log: Log, offset: int, max_bytes: int, **more: Any) -> Any:
    """The one partition of the answer."""
    topic = {"topic_id": log_ids(client, log)} if version >= 13 else {"topic": log.topic}
    partition = {"partition": 0, "fetch_offset": offset, "partition_max_bytes": max_bytes}
    request = make(
        ApiKey.FETCH,
        version,
        **({"replica_id": -1} if version < 15 else {}),
        **({"session_id": 0, "session_epoch": -1} if version >= 7 else {}),
        max_wait=timedelta(0),
        max_bytes=max_bytes,
        topics=[topic | {"partitions": [partition]}],
        **more,
    )
    return client.call(request).responses[0].partitions[0]


def log_ids(client: RawClient, log: Log) -> Any:
    """The id of a log's topic."""
    answer = client.call(make(ApiKey.METADATA, 12, topics=[{"topic_id": None, "name": log.topic}]))
    return answer.topics[0].topic_id


def read_all(client: RawClient, version: int, log: Log, max_bytes: int) -> list[Record]:
    """Fetch as a client does that skips control batches, until the high watermark."""
    found: list[Record] = []
    offset = log.start
    while True:
        answer = fetch(client, version, log, offset, max_bytes)
        assert answer.error_code == 0, answer
        before = offset
        for batch in read_batches(answer.records):
            assert batch.verify_crc()
            assert batch.count, "a batch without a record"
            assert KEY not in bytes(batch.raw) or batch.base_offset >= log.uncommitted[-9].offset
            if not batch.is_control:
                found += [record for record in iterate_records(batch) if record.offset >= offset]
            offset = max(offset, batch.next_offset)
        if offset >= answer.high_watermark:
            assert offset == log.end
            return found
        assert offset > before, "a fetch that does not go on"


def plain(records: Sequence[Record]) -> list[tuple[int, bytes | None, bytes | None]]:
    return [(record.offset, record.key, record.value) for record in records]


def test_every_version_of_fetch(mirrored: Mirrored) -> None:
    with mirrored.connect() as client:
        for version in range(4, 19):
            for name in NAMES:
                log = mirrored.logs[name]
                expected = plain([record for record in log.uncommitted if record.offset >= log.start])
                assert plain(read_all(client, version, log, 1 << 20)) == expected, f"{name}, v{version}"


@pytest.mark.parametrize("max_bytes", [1, 100, 1000, 9100, 30_000])
def test_responses_that_are_cut(mirrored: Mirrored, max_bytes: int) -> None:
    with mirrored.connect() as client:
        for name in NAMES:
            log = mirrored.logs[name]
            expected = plain([record for record in log.uncommitted if record.offset >= log.start])
            assert plain(read_all(client, 12, log, max_bytes)) == expected, name


def test_a_fetch_session(mirrored: Mirrored) -> None:
    log = mirrored.logs["tail"]
    with mirrored.connect() as client:
        session_id, found, offset = 0, list[Record](), 0
        for epoch in range(60):
            partition = {"partition": 0, "fetch_offset": offset, "partition_max_bytes": 5000}
            answer = client.call(
                make(
                    ApiKey.FETCH, 11, replica_id=-1, session_id=session_id, session_epoch=epoch,
                    max_wait=timedelta(0), max_bytes=1 << 20,
                    topics=[{"topic": log.topic, "partitions": [partition]}], rack_id="",
                )
            )  # fmt: skip
            session_id = answer.session_id
            assert session_id
            for topic in answer.responses:
                for batch in read_batches(topic.partitions[0].records):
                    if not batch.is_control:
                        found += [record for record in iterate_records(batch) if record.offset >= offset]
                    offset = max(offset, batch.next_offset)
            if offset == log.end:
                break
        assert plain(found) == plain(log.uncommitted)


# --- a log start that the broker forgot ---------------------------------------------------------------


def test_what_is_below_the_log_start_does_not_exist(mirrored: Mirrored) -> None:
    log = mirrored.logs["hidden"]
    start = log.uncommitted[0].offset
    with mirrored.connect() as client:
        for version in range(4, 19):
            for offset in (0, 10_500, start - 1):
                answer = fetch(client, version, log, offset, 1 << 20)
                assert answer.error_code == 1, (version, offset, answer)
                assert answer.records == b""
            answer = fetch(client, version, log, start, 1 << 20)
            assert answer.error_code == 0
            assert getattr(answer, "log_start_offset", start) == start
        for version in range(1, 12):
            for timestamp in (-2, 0, log.uncommitted[0].timestamp):
                partition = {"partition_index": 0, "timestamp": timestamp}
                more = {"current_leader_epoch": -1} if version >= 4 else {}
                request = make(
                    ApiKey.LIST_OFFSETS,
                    version,
                    replica_id=-1,
                    topics=[{"name": log.topic, "partitions": [partition | more]}],
                )
                answer = client.call(request).topics[0].partitions[0]
                assert (answer.error_code, answer.offset) == (0, start), (version, timestamp)
        for version in range(2, 5):
            partition = {"partition": 0, "current_leader_epoch": -1, "leader_epoch": 0}
            more = {"replica_id": -1} if version >= 3 else {}
            request = make(
                ApiKey.OFFSET_FOR_LEADER_EPOCH,
                version,
                topics=[{"topic": log.topic, "partitions": [partition]}],
                **more,
            )
            answer = client.call(request).topics[0].partitions[0]
            assert answer.end_offset == log.end


def test_a_consumer_that_starts_below_the_log_start(mirrored: Mirrored) -> None:
    log = mirrored.logs["hidden"]
    consumer = Consumer(
        {
            "bootstrap.servers": f"localhost:{mirrored.ports['raw']}",
            "group.id": "none",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    try:
        consumer.assign([TopicPartition(log.topic, 0, 0)])
        found: list[Any] = []
        deadline = time.monotonic() + 30
        while len(found) < len(log.committed) and time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is not None:
                assert not message.error(), message.error()
                found.append((message.offset(), message.key(), message.value()))
        assert found == plain(log.committed)
    finally:
        consumer.close()
