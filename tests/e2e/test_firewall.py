"""A source behind a firewall that lets nothing in: the link forms outward, and survives cuts and restarts.

Two network namespaces with a wire between them. The on-prem one drops every new inbound connection by
connection tracking, its broker listens on an address to which the cloud has a route.
"""

import contextlib
import itertools
import re
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import pytest
from confluent_kafka import Producer

from certs.make_certs import TestAuthority
from compose.gateway_process import GatewayProcess
from compose.kafka import KafkaCluster
from tests.e2e.link_lab import LINK_PASSWORD, LINK_USER, produce, rest, until
from tests.e2e.namespaces import Namespace, NoNamespaces
from tests.e2e.raw_log import RawBroker, compare

Cut = Literal["silence", "unplugged"]

DEVICE = "wan"
CLOUD, ONPREM, ONPREM_LAN = "10.77.0.1", "10.77.0.2", "192.168.77.1"
# In namespaces of our own every port is free.
CLOUD_PORT, CLOUD_BROKER_PORT, ADMIN_PORT = 9092, 9100, 8090
LINK, TOPIC, PARTITIONS = "onprem-to-cloud", "orders", 6
BACK_WITHIN_S = 15.0

FIREWALL = """
table inet firewall {
    counter refused { }
    chain input {
        type filter hook input priority filter; policy drop;
        iifname "lo" accept
        ct state established,related accept
        ct state new tcp flags & (syn | ack) == syn counter name refused
    }
}
"""
# Before everything else, on its way in: whoever sends notices nothing.
SILENCE = f"""
table inet cut {{
    chain prerouting {{ type filter hook prerouting priority raw; policy accept; iifname "{DEVICE}" drop; }}
}}
"""


class Premises:
    """A namespace with a broker and a gateway in it."""

    def __init__(self, namespace: Namespace, host: str) -> None:
        self.namespace = namespace
        with namespace.entered():
            self.cluster = KafkaCluster.start(host=host)
        self.gateway: GatewayProcess | None = None

    def start_gateway(self, name: str, config: Mapping[str, Any], directory: Path) -> None:
        base = {
            "cluster": self.cluster.gateway_config(),
            "authorization": "none",
            "admin": {"bind": "127.0.0.1", "port": ADMIN_PORT, "insecure": True},
            "state": {"secrets_key_file": str(directory / "secrets.key")},
        }
        with self.namespace.entered():
            self.gateway = GatewayProcess({**base, **config}, name=name, directory=directory)

    def rest(self, method: str, path: str, body: object = None) -> Any:
        assert self.gateway is not None
        with self.namespace.entered():
            return rest(self.gateway, method, f"/clusters/{self.cluster.cluster_id}{path}", body)

    def raw(self) -> RawBroker:
        node = self.cluster.nodes[0]
        with self.namespace.entered():
            return RawBroker(f"{node.host}:{node.internal_port}")

    def end(self) -> int:
        """Sum of the high watermarks; -1 while a leader is not ready, as those of a new topic."""
        with contextlib.closing(self.raw()) as raw, contextlib.suppress(RuntimeError):
            return sum(raw.high_watermark(TOPIC, partition) for partition in range(PARTITIONS))
        return -1

    def listening(self) -> list[tuple[str, int, int]]:
        """Address, port and process of every TCP socket that listens in the namespace."""
        found = []
        for line in self.namespace.run("ss", "-ltnpH").splitlines():
            host, _, port = line.split()[3].rpartition(":")
            process = re.search(r"pid=(\d+)", line)
            # The JVM's are written as IPv4 addresses mapped into IPv6.
            host = host.strip("[]").removeprefix("::ffff:")
            found.append((host, int(port), int(process[1]) if process else 0))
        return found

    def close(self, *, failed: bool) -> None:
        if self.gateway is not None:
            if failed:
                self.gateway.save_log()
            self.gateway.close()
        if failed:
            self.cluster.save_logs()
        self.cluster.close()


class Sites:
    """The two of them, linked."""

    def __init__(self, cloud: Premises, onprem: Premises, directory: Path, authority: TestAuthority) -> None:
        self.cloud = cloud
        self.onprem = onprem
        for name in ("cloud", "onprem"):
            (directory / name).mkdir()
            (directory / name / "secrets.key").write_bytes(secrets.token_bytes(32))
        identity = authority.server(f"gateway-{CLOUD}", [CLOUD])
        files = {"certificate_file": str(identity.certificate_file), "key_file": str(identity.key_file)}
        listener = {
            "name": "clients",
            "bind": CLOUD,
            "port": CLOUD_PORT,
            "advertised_host": CLOUD,
            "node_ids": "1-3",
            "broker_port": CLOUD_BROKER_PORT,
            "tls": files,
            "authentication": "sasl_plain",
        }
        users = [{"name": LINK_USER, "password": LINK_PASSWORD}]
        config = {"listeners": [listener], "super_users": [f"User:{LINK_USER}"], "users": users}
        cloud.start_gateway("cloud", config, directory / "cloud")
        onprem.start_gateway("onprem", {"listeners": []}, directory / "onprem")
        self._create_link(authority)

    def _create_link(self, authority: TestAuthority) -> None:
        configs = {"link.mode": "DESTINATION", "connection.mode": "INBOUND"}
        ids = {"source_cluster_id": self.onprem.cluster.cluster_id}
        self.cloud.rest("POST", f"/links?link_name={LINK}", {**ids, "configs": _pairs(configs)})
        configs = {
            "link.mode": "SOURCE",
            "connection.mode": "OUTBOUND",
            "bootstrap.servers": f"{CLOUD}:{CLOUD_PORT}",
            "security.protocol": "SASL_SSL",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(authority.ca_file),
            "sasl.mechanism": "PLAIN",
            "sasl.jaas.config": (
                "org.apache.kafka.common.security.plain.PlainLoginModule required "
                f"username='{LINK_USER}' password='{LINK_PASSWORD}';"
            ),
        }
        ids = {"destination_cluster_id": self.cloud.cluster.cluster_id}
        self.onprem.rest("POST", f"/links?link_name={LINK}", {**ids, "configs": _pairs(configs)})

    def wait_caught_up(self, since: float, timeout_s: float, what: str) -> None:
        """Waits until both logs end at the same offsets and says how long that took."""
        wanted = self.onprem.end()
        until(lambda: self.cloud.end() >= wanted, since + timeout_s - time.monotonic(), f"caught up {what}")
        assert self.cloud.end() == wanted
        print(f"caught up {what}: {time.monotonic() - since:.1f} s")

    def refused_packets(self) -> int:
        """How many connections towards the on-prem side its firewall has dropped, retries included."""
        text = self.onprem.namespace.run("nft", "list", "counter", "inet", "firewall", "refused")
        found = re.search(r"packets (\d+)", text)
        assert found is not None, text
        return int(found[1])

    def cut(self, form: Cut) -> None:
        if form == "unplugged":
            self.cloud.namespace.run("ip", "link", "set", DEVICE, "down")
            return
        for premises in (self.cloud, self.onprem):
            premises.namespace.run("nft", SILENCE)

    def mend(self, form: Cut) -> None:
        if form == "unplugged":
            self.cloud.namespace.run("ip", "link", "set", DEVICE, "up")
            self.cloud.namespace.run("ip", "route", "replace", f"{ONPREM_LAN}/32", "via", ONPREM)
            return
        for premises in (self.cloud, self.onprem):
            premises.namespace.run("nft", "delete table inet cut")


def _pairs(configs: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in configs.items()]


@pytest.fixture
def sites(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, authority: TestAuthority
) -> Iterator[Sites]:
    """The link, formed through the firewall."""
    # Containers would be in namespaces of their own.
    monkeypatch.setenv("CAUSEWAY_KAFKA", "local")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="causeway-firewall-")))
        try:
            cloud, onprem = stack.enter_context(Namespace()), stack.enter_context(Namespace())
            cloud.wire_to(onprem, DEVICE, f"{CLOUD}/30", f"{ONPREM}/30")
            onprem.run("ip", "address", "add", f"{ONPREM_LAN}/32", "dev", "lo")
            cloud.run("ip", "route", "add", f"{ONPREM_LAN}/32", "via", ONPREM)
            onprem.run("nft", "list", "ruleset")
        except NoNamespaces as error:
            pytest.skip(f"needs root, ip, nft and network namespaces: {error}")
        premises = []
        for namespace, host in ((cloud, "127.0.0.1"), (onprem, ONPREM_LAN)):
            premises.append(Premises(namespace, host))
            stack.push(lambda kind, *_, one=premises[-1]: one.close(failed=_failed(request, kind)))
        port = premises[1].cluster.nodes[0].internal_port
        assert connects(cloud, ONPREM_LAN, port), "without the firewall the cloud reaches the broker"
        onprem.run("nft", FIREWALL)
        yield Sites(premises[0], premises[1], directory, authority)


def _failed(request: pytest.FixtureRequest, kind: object) -> bool:
    return kind is not None or request.session.testsfailed > 0


def connects(namespace: Namespace, host: str, port: int) -> bool:
    """Whether a TCP connection can be made from there."""
    with namespace.entered(), contextlib.suppress(OSError):
        socket.create_connection((host, port), timeout=0.5).close()
        return True
    return False


@contextlib.contextmanager
def flowing(site: Premises) -> Iterator[None]:
    """Records are produced there meanwhile, some 2,500 in a second; all have been acknowledged at the end."""
    stop = threading.Event()
    failures: list[object] = []
    with site.namespace.entered():
        producer = Producer({"bootstrap.servers": site.cluster.internal_bootstrap, "linger.ms": 5})

    def flow() -> None:
        numbers = itertools.count()
        while not stop.wait(0.02):
            for number in itertools.islice(numbers, 50):
                producer.produce(
                    TOPIC,
                    b"flowing %d" % number,
                    key=b"%d" % number,
                    partition=number % PARTITIONS,
                    on_delivery=lambda error, _: failures.append(error) if error else None,
                )
            producer.poll(0)

    thread = threading.Thread(target=flow)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        unsent = producer.flush(30)
    assert unsent == 0
    assert not failures, failures[:3]


def produce_at(site: Premises, count: int, **settings: Any) -> None:
    with site.namespace.entered():
        produce(site.cluster, TOPIC, count, PARTITIONS, **settings)


def mirror_all(sites: Sites, count: int) -> None:
    with sites.onprem.namespace.entered():
        sites.onprem.cluster.create_topic(TOPIC, PARTITIONS)
    produce_at(sites.onprem, count, codecs=("none", "zstd"))
    started = time.monotonic()
    sites.cloud.rest("POST", f"/links/{LINK}/mirrors", {"source_topic_name": TOPIC})
    sites.wait_caught_up(started, 30, f"with {count} records")


def cut_and_mend(sites: Sites, form: Cut, seconds: float) -> None:
    with flowing(sites.onprem):
        time.sleep(1)
        sites.cut(form)
        time.sleep(0.5)
        before = sites.cloud.end()
        time.sleep(seconds - 0.5)
    assert sites.cloud.end() == before, "the path is cut"
    assert sites.onprem.end() > before
    sites.mend(form)
    sites.wait_caught_up(time.monotonic(), BACK_WITHIN_S, f"after {seconds:.0f} s cut ({form})")


def restart_cloud(sites: Sites, how: Literal["SIGTERM", "SIGKILL"], down_s: float) -> None:
    gateway = sites.cloud.gateway
    assert gateway is not None
    with flowing(sites.onprem):
        time.sleep(0.5)
        gateway.kill() if how == "SIGKILL" else gateway.terminate()
        time.sleep(down_s)
    assert sites.onprem.end() > sites.cloud.end()
    started = time.monotonic()
    with sites.cloud.namespace.entered():
        gateway.start()
    sites.wait_caught_up(started, BACK_WITHIN_S, f"after a restart by {how}, {down_s} s down")


def assert_equal(sites: Sites, at_least: int) -> None:
    with contextlib.closing(sites.onprem.raw()) as source, contextlib.closing(sites.cloud.raw()) as mirror:
        equal, differences = compare(source, mirror, TOPIC, range(PARTITIONS))
    assert not differences
    assert equal >= at_least
    print(f"{equal} records are equal")


def assert_nothing_listens(sites: Sites, ports: Sequence[tuple[str, int, int]]) -> None:
    """The on-prem gateway serves only its own machine; the brokers' ports are closed to the cloud."""
    assert sites.onprem.gateway is not None
    own = [(host, port) for host, port, pid in ports if pid == sites.onprem.gateway.pid]
    assert own == [("127.0.0.1", ADMIN_PORT)]
    brokers = {(host, port) for host, port, pid in ports if pid != sites.onprem.gateway.pid}
    node = sites.onprem.cluster.nodes[0]
    assert {(ONPREM_LAN, node.port), (ONPREM_LAN, node.internal_port)} <= brokers
    for _, port in sorted({(host, port) for host, port, _ in ports}):
        for host in (ONPREM, ONPREM_LAN):
            assert not connects(sites.cloud.namespace, host, port), (host, port)


def test_a_link_through_a_firewall(sites: Sites) -> None:
    mirror_all(sites, 50_000)
    assert sites.refused_packets() == 0, "the cloud never tried to connect"
    assert_nothing_listens(sites, sites.onprem.listening())
    refused = sites.refused_packets()
    assert refused > 0
    cut_and_mend(sites, "silence", 30)
    restart_cloud(sites, "SIGTERM", 5)
    restart_cloud(sites, "SIGKILL", 1)
    assert_equal(sites, 50_000)
    assert sites.refused_packets() == refused, "the cloud never tried to connect"


@pytest.mark.soak
@pytest.mark.parametrize("form", ["silence", "unplugged"])
def test_a_path_that_is_cut_again_and_again(sites: Sites, form: Cut) -> None:
    mirror_all(sites, 50_000)
    for seconds in (2, 5, 9, 12, 17, 61):
        cut_and_mend(sites, form, seconds)
    for down_s in (0, 3, 20):
        restart_cloud(sites, "SIGKILL", down_s)
        restart_cloud(sites, "SIGTERM", down_s)
    assert_equal(sites, 50_000)
