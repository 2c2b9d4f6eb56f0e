"""Two clusters, a gateway on each side, and the link between them, as the tests of links need them."""

import base64
import contextlib
import json
import os
import secrets
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.cimpl import KafkaException

from compose.gateway_process import GatewayProcess
from compose.kafka import KafkaCluster
from compose.ports import PortLease, lease_ports
from tests.e2e.raw_log import Difference, RawBroker, compare

LINK_USER = "link"
LINK_PASSWORD = "link-secret"
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
Shape = Literal["reversed", "dialled"]


class Refused(Exception):
    """The REST API answered with an error."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


def rest(gateway: GatewayProcess, method: str, path: str, body: object = None) -> Any:
    """One request to a gateway's REST API, below `/kafka/v3`; Refused for an error."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{gateway.admin_url}/kafka/v3{path}",
        data=data,
        method=method,
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:
        raise Refused(error.code, json.loads(error.read() or b"{}")) from None
    return json.loads(text) if text else None


def until(check: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Return when `check` says yes; AssertionError with `what` after the time."""
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.05)


def two_clusters(
    clusters: Callable[..., KafkaCluster], *, apart: bool = False
) -> tuple[KafkaCluster, KafkaCluster]:
    """A source and a destination that the gateways of other tests are not in front of: they would join in.

    `apart` also from the lab that the tests of a module share.
    """
    first = 168 if apart else 166
    source, destination = (
        clusters("4.3.0", config={"log.retention.hours": str(hours)}) for hours in (first, first + 1)
    )
    return source, destination


class LinkLab:
    """A link from `source` to `destination`; `reversed`: over connections that the source opens.

    `spare`: the source knows the address of a second destination gateway too.
    """

    def __init__(
        self,
        source: KafkaCluster,
        destination: KafkaCluster,
        *,
        shape: Shape = "reversed",
        link: str | None = None,
        configs: Mapping[str, str] | None = None,
        destination_settings: Mapping[str, Any] | None = None,
        spare: bool = False,
    ) -> None:
        self.source = source
        self.destination = destination
        self.shape = shape
        self._configs = dict(configs or {})
        self._spare = spare
        self._destination_settings = dict(destination_settings or {})
        self.link = link or f"lab-{secrets.token_hex(4)}"
        self.gateways: list[GatewayProcess] = []
        self.source_gateway: GatewayProcess | None = None
        self._raws = _Raws()
        self._lease: PortLease = lease_ports(8)
        self._directory = tempfile.TemporaryDirectory(prefix="causeway-lab-")
        key_file = Path(self._directory.name) / "secrets.key"
        key_file.write_bytes(secrets.token_bytes(32))
        self._state = {"secrets_key_file": str(key_file)}
        try:
            self.destination_gateway = self._start(self._destination_config(), "destination")
            if shape == "reversed":
                self.source_gateway = self._start(self._source_config(), "source")
            self._create_link()
        except BaseException:
            self.close(failed=True)
            raise

    def _start(self, config: Mapping[str, Any], name: str) -> GatewayProcess:
        gateway = GatewayProcess(config, name=name)
        self.gateways.append(gateway)
        return gateway

    def second_destination_gateway(self, **cluster: Any) -> GatewayProcess:
        """One more gateway on the destination cluster; `cluster` is how it gets there.

        It has a listener if the source is to know its address.
        """
        config = self._destination_config()
        config |= {"cluster": {**config["cluster"], **cluster}}
        ports = self._lease.ports
        there = [each | {"port": ports[4], "broker_port": ports[5]} for each in config["listeners"]]
        config["listeners"] = there if self._spare else []
        return self._start(config, f"destination-{len(self.gateways) + 1}")

    def _destination_config(self) -> dict[str, Any]:
        ports = self._lease.ports
        return {
            "cluster": self.destination.gateway_config(),
            "listeners": [
                {
                    "name": "clients",
                    "bind": "127.0.0.1",
                    "port": ports[0],
                    "advertised_host": "127.0.0.1",
                    "node_ids": "1-3",
                    "broker_port": ports[1],
                    "insecure": True,
                    "authentication": "sasl_plain",
                }
            ],
            "authorization": "none",
            "super_users": [f"User:{LINK_USER}"],
            "users": [{"name": LINK_USER, "password": LINK_PASSWORD}],
            "state": self._state,
            **self._destination_settings,
        }

    def _source_config(self) -> dict[str, Any]:
        return {
            "cluster": self.source.gateway_config(),
            "listeners": [],
            "authorization": "none",
            "super_users": [],
            "users": [],
            "state": self._state,
        }

    @property
    def client_config(self) -> dict[str, str]:
        """How a librdkafka client reaches the destination gateway."""
        return {
            "bootstrap.servers": f"127.0.0.1:{self._lease[0]}",
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": LINK_USER,
            "sasl.password": LINK_PASSWORD,
        }

    def _create_link(self) -> None:
        source_id, destination_id = self.source.cluster_id, self.destination.cluster_id
        peer = {"source_cluster_id": source_id}
        if self.shape == "dialled":
            configs = {"bootstrap.servers": self.source.internal_bootstrap, **self._configs}
            self._post_link(self.destination_gateway, destination_id, peer, configs)
            return
        configs = {"link.mode": "DESTINATION", "connection.mode": "INBOUND", **self._configs}
        self._post_link(self.destination_gateway, destination_id, peer, configs)
        ports = [self._lease[0], self._lease[4]] if self._spare else [self._lease[0]]
        servers = [f"127.0.0.1:{port}" for port in ports]
        configs = {
            "link.mode": "SOURCE",
            "connection.mode": "OUTBOUND",
            "bootstrap.servers": ",".join(servers),
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.jaas.config": (
                "org.apache.kafka.common.security.plain.PlainLoginModule required "
                f"username='{LINK_USER}' password='{LINK_PASSWORD}';"
            ),
        }
        assert self.source_gateway is not None
        self._post_link(self.source_gateway, source_id, {"destination_cluster_id": destination_id}, configs)

    def _post_link(
        self, gateway: GatewayProcess, cluster_id: str, peer: Mapping[str, str], configs: Mapping[str, str]
    ) -> None:
        pairs = [{"name": name, "value": value} for name, value in configs.items()]
        path = f"/clusters/{cluster_id}/links?link_name={self.link}"
        rest(gateway, "POST", path, {**peer, "configs": pairs})

    # Topics.

    @property
    def _links(self) -> str:
        return f"/clusters/{self.destination.cluster_id}/links/{self.link}"

    def create_mirror(self, topic: str) -> None:
        """Make a mirror topic of a topic of the source."""
        rest(self.destination_gateway, "POST", f"{self._links}/mirrors", {"source_topic_name": topic})

    def configure(self, changes: Mapping[str, str | None], *, source_half: bool = False) -> None:
        """Change configs of the link's destination half, or of the other; None puts one back."""
        gateway, cluster = self.destination_gateway, self.destination
        if source_half:
            assert self.source_gateway is not None
            gateway, cluster = self.source_gateway, self.source
        data = [
            {"name": name, "operation": "DELETE" if value is None else "SET", "value": value}
            for name, value in changes.items()
        ]
        path = f"/clusters/{cluster.cluster_id}/links/{self.link}/configs:alter"
        rest(gateway, "PUT", path, {"data": data})

    def task(self, name: str) -> dict[str, Any]:
        """One task of the link, as the REST API shows it."""
        return next(dict(task) for task in self.describe()["tasks"] if task["task_name"] == name)

    def describe(self) -> dict[str, Any]:
        """The link, as the REST API shows it."""
        return dict(rest(self.destination_gateway, "GET", f"{self._links}?include_tasks=true"))

    def mirror(self, topic: str) -> dict[str, Any]:
        """The mirror topic, as the REST API shows it."""
        return dict(rest(self.destination_gateway, "GET", f"{self._links}/mirrors/{topic}"))

    def status(self, topic: str) -> str:
        """Status of the mirror topic; empty while the gateway does not answer."""
        try:
            return str(self.mirror(topic)["mirror_status"])
        except (OSError, Refused):
            return ""

    def alter(self, verb: str, topic: str, query: str = "") -> dict[str, Any]:
        """Promote, fail over, pause or resume; the result for the topic."""
        path = f"{self._links}/mirrors:{verb}{query}"
        answer = rest(self.destination_gateway, "POST", path, {"mirror_topic_names": [topic]})
        return dict(answer["data"][0])

    def end_of(self, cluster: KafkaCluster, topic: str, partitions: int) -> int:
        """Sum of the last stable offsets of a topic."""
        return sum(self.raw(cluster, topic, p).last_stable_offset(topic, p) for p in range(partitions))

    def raw(self, cluster: KafkaCluster, topic: str, partition: int) -> RawBroker:
        """A raw connection to the partition's leader, closed with the lab."""
        return self._raws.leader(cluster, topic, partition)

    def wait_mirrored(self, topic: str, partitions: int, timeout_s: float = 60) -> None:
        """Return when the mirror's log ends where the source's does; AssertionError if it failed."""
        deadline = time.monotonic() + timeout_s
        wanted = self.end_of(self.source, topic, partitions)
        while True:
            with contextlib.suppress(OSError, EOFError, RuntimeError, KafkaException):
                found = self.end_of(self.destination, topic, partitions)
                if found >= wanted:
                    break
            if self.status(topic) == "FAILED":
                raise AssertionError(f"the mirror failed: {self.failure(topic)}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{topic}: not mirrored within {timeout_s} s: {self._diagnosis(topic)}")
            time.sleep(0.1)

    def failure(self, topic: str) -> str:
        """Why the mirror failed, as its gateway logged it."""
        events = [e for g in self.gateways for e in g.log_events() if e.get("event") == "mirror_failed"]
        return "; ".join(str(e.get("message")) for e in events if e.get("topic") == topic)

    def _diagnosis(self, topic: str) -> str:
        try:
            return json.dumps([self.describe(), self.mirror(topic)])
        except (OSError, Refused) as error:
            return str(error)

    def compare(
        self, topic: str, partitions: int, *, ends: dict[int, int] | None = None, compacted: bool = False
    ) -> int:
        """How many records are equal on both sides; AssertionError with the first differences."""
        equal = 0
        differences: list[Difference] = []
        filler_key = self.filler_key(topic)
        for p in range(partitions):
            same, different = compare(
                self.raw(self.source, topic, p),
                self.raw(self.destination, topic, p),
                topic,
                [p],
                ends=ends,
                filler_key=filler_key,
                compacted=compacted,
            )
            equal += same
            differences += different
        assert not differences, f"{len(differences)} differences: {differences[:5]}"
        return equal

    def state_of(self, topic: str) -> dict[str, Any]:
        """The record of a mirror topic, as its gateway keeps it."""
        found: dict[str, Any] = {}
        key = json.dumps({"kind": "mirror", "name": topic}, separators=(",", ":")).encode()
        records = self.raw(self.destination, "_causeway-state", 0).data("_causeway-state", 0).records
        for record in records.values():
            if record.key == key:
                found = json.loads(record.value or b"{}")
        return found

    def filler_key(self, topic: str) -> bytes:
        """The key of the fillers in a mirror topic."""
        return base64.urlsafe_b64decode(self.state_of(topic)["filler_key"])

    # End.

    def save_logs(self) -> None:
        """Keep the gateways' logs."""
        for gateway in self.gateways:
            gateway.save_log()

    def close(self, *, failed: bool = False) -> None:
        """End the gateways; the clusters belong to others."""
        if failed:
            self.save_logs()
        for gateway in self.gateways:
            gateway.close()
        self._raws.close()
        self._lease.release()
        self._directory.cleanup()


class _Raws:
    """Raw connections by cluster and leader; one that broke is made anew."""

    def __init__(self) -> None:
        self._open: dict[str, RawBroker] = {}

    def leader(self, cluster: KafkaCluster, topic: str, partition: int) -> RawBroker:
        # A topic that is just being made has none yet.
        metadata = cluster.admin.list_topics(topic, timeout=10).topics[topic].partitions.get(partition)
        leader = -1 if metadata is None else metadata.leader
        node = next((n for n in cluster.nodes if n.node_id == leader), None)
        if node is None:
            raise OSError(f"{topic}-{partition} has no leader")
        address = f"{node.host}:{node.internal_port}"
        broker = self._open.get(address)
        if broker is not None and broker.broken:
            broker.close()
            broker = None
        if broker is None:
            broker = self._open[address] = RawBroker(address)
        return broker

    def close(self) -> None:
        for broker in self._open.values():
            broker.close()
        self._open.clear()


def produce(
    cluster: KafkaCluster,
    topic: str,
    count: int,
    partitions: int,
    *,
    codecs: Sequence[str] = ("none",),
    linger_ms: float = 5,
    age_s: float = 0,
    value_bytes: int = 20,
    start: int = 0,
    batch_records: int = 10_000,
    null_keys: bool = True,
) -> None:
    """Produce `count` records round robin, with key, headers and timestamps, a share with each codec."""
    share = -(-count // len(codecs))
    now_ms = int((time.time() - age_s) * 1000)
    filling = os.urandom(max(value_bytes, 1))
    failures: list[object] = []
    for turn, codec in enumerate(codecs):
        producer = Producer(
            {
                "bootstrap.servers": cluster.internal_bootstrap,
                "compression.type": codec,
                "linger.ms": linger_ms,
                "batch.num.messages": batch_records,
                "acks": "all",
                "enable.idempotence": True,
                "message.timeout.ms": 120_000,
            }
        )
        for i in range(start + turn * share, start + min((turn + 1) * share, count)):
            while True:
                try:
                    producer.produce(
                        topic,
                        b"%d:" % i + filling,
                        key=None if null_keys and i % 7 == 0 else b"%d" % i,
                        partition=i % partitions,
                        headers=[("n", b"%d" % i)] if i % 3 == 0 else None,
                        timestamp=now_ms + i,
                        on_delivery=lambda error, _: failures.append(error) if error else None,
                    )
                    break
                except BufferError:
                    producer.poll(0.05)
            if i % 500 == 0:
                producer.poll(0)
        assert producer.flush(120) == 0
        assert not failures, failures[:3]


def delete_records(cluster: KafkaCluster, topic: str, offset: int, partition: int = 0) -> None:
    """DeleteRecords up to this offset."""
    where = TopicPartition(topic, partition, offset)
    cluster.admin.delete_records([where])[where].result(20)
