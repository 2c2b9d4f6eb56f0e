"""Several gateways of one cluster share its links: each mirror partition is copied by one of them.

Whatever becomes of a gateway, another one goes on with its partitions, and no record is lost, repeated or
moved: it is drained, killed, stopped for longer than its lease and let go on, or cut off. The short forms run
by default, many faults with `make soak`.
"""

import itertools
import random
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Self

import pytest
from confluent_kafka import Producer

from compose.gateway_process import GatewayProcess
from protocol.api_keys import ApiKey
from tests.conftest import Clusters, has_failed
from tests.e2e.link_lab import CODECS, LinkLab, produce, rest, two_clusters, until
from tests.e2e.test_link_faults import THREE_DAYS_S, in_background
from tests.e2e.upstream_relay import UpstreamRelay

PARTITIONS = 6
FORGETFUL = {"producer.id.expiration.check.interval.ms": "2000"}
Names = Callable[[], str]


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, clusters: Clusters) -> Iterator[LinkLab]:
    """A link that is dialled by whoever works on it."""
    source, _ = two_clusters(clusters)
    made = LinkLab(source, clusters("4.3.0", config=FORGETFUL), shape="dialled")
    yield made
    made.close(failed=request.session.testsfailed > 0)


def held(lab: LinkLab, gateway: GatewayProcess) -> int:
    """How many partitions of the link's running mirrors a gateway works on."""
    with urllib.request.urlopen(f"{gateway.admin_url}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    found = re.search(f'^causeway_link_partitions_held{{link="{lab.link}"}} (.*)$', page, re.MULTILINE)
    return int(float(found[1])) if found else 0


@contextmanager
def second(lab: LinkLab, **cluster: object) -> Iterator[GatewayProcess]:
    """A second gateway, that has got its share."""
    gateway = lab.second_destination_gateway(**cluster)
    try:
        until(lambda: held(lab, gateway) > 0, 30, "the second gateway has no share")
        yield gateway
    except BaseException:
        gateway.save_log()
        raise
    finally:
        gateway.close()
        lab.gateways.remove(gateway)


class Stream:
    """Records that are written to every partition of a topic all the time, and when they were mirrored."""

    def __init__(self, lab: LinkLab, topic: str, rate: float = 20) -> None:
        self._lab = lab
        self._topic = topic
        self._interval_s = 1 / rate
        self._producer = Producer({"bootstrap.servers": lab.source.internal_bootstrap, "linger.ms": 0})
        self._ending = threading.Event()
        # For each partition, when its mirror was seen to have grown.
        self._seen: list[list[float]] = [[] for _ in range(PARTITIONS)]
        self._threads = [threading.Thread(target=work) for work in (self._write, self._watch)]
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        try:
            self.flows()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def _write(self) -> None:
        count = 0
        while not self._ending.wait(self._interval_s):
            for partition in range(PARTITIONS):
                self._producer.produce(self._topic, b"%d" % count, key=b"k", partition=partition)
                count += 1
            self._producer.poll(0)
        assert self._producer.flush(30) == 0

    def _watch(self) -> None:
        try:
            raws = [self._lab.raw(self._lab.destination, self._topic, p) for p in range(PARTITIONS)]
            ends = [0] * PARTITIONS
            while not self._ending.wait(0.02):
                for p, raw in enumerate(raws):
                    # A leader is announced before it is ready.
                    with suppress(RuntimeError):
                        end = raw.last_stable_offset(self._topic, p)
                        if end > ends[p]:
                            ends[p] = end
                            self._seen[p].append(time.monotonic())
        except BaseException as error:
            self._failure = error

    def flows(self, timeout_s: float = 15) -> None:
        """Returns when every partition has grown since now."""
        now = time.monotonic()

        def grown() -> bool:
            return self._failure is not None or all(seen and seen[-1] > now for seen in self._seen)

        until(grown, timeout_s, "a mirror does not grow")

    def longest_pause_s(self, since: float) -> float:
        """The longest time in which one of the partitions did not grow, from then on."""
        pauses = []
        for seen in self._seen:
            times = [since, *(at for at in list(seen) if at > since)]
            pauses += [b - a for a, b in itertools.pairwise(times)]
        return max(pauses)


@contextmanager
def relayed(lab: LinkLab) -> Iterator[tuple[UpstreamRelay, dict[str, object]]]:
    """A relay before the destination's broker, and how a gateway gets there by it."""
    (node,) = lab.destination.nodes
    with UpstreamRelay((node.host, node.internal_port)) as relay:
        host, port = relay.address
        yield relay, {"bootstrap_servers": [f"{host}:{port}"]}


def make_mirror(lab: LinkLab, topic: str) -> None:
    """A new mirror topic."""
    lab.source.create_topic(topic, PARTITIONS)
    lab.create_mirror(topic)


@pytest.fixture
def topic(lab: LinkLab, unique_name: Names) -> Iterator[str]:
    """A mirror topic, the only one that is worked on."""
    name = unique_name()
    make_mirror(lab, name)
    yield name
    lab.alter("pause", name)


def compare(lab: LinkLab, topic: str) -> None:
    """Everything there is, at its place."""
    lab.wait_mirrored(topic, PARTITIONS)
    # A late append of somebody who should not would come now.
    time.sleep(0.5)
    assert lab.compare(topic, PARTITIONS) > 0
    assert lab.status(topic) == "ACTIVE"


def shown(lab: LinkLab, gateway: GatewayProcess, topic: str) -> dict[str, object]:
    """A mirror topic as one of the gateways shows it."""
    path = f"/clusters/{lab.destination.cluster_id}/links/{lab.link}/mirrors/{topic}"
    return dict(rest(gateway, "GET", path))


def test_partitions_are_split_and_a_drain_hands_them_over(lab: LinkLab, topic: str) -> None:
    with Stream(lab, topic) as stream:
        with second(lab) as other:
            until(lambda: held(lab, other) == PARTITIONS // 2, 10, "half of the partitions")
            until(lambda: held(lab, lab.destination_gateway) == PARTITIONS // 2, 10, "the other half")
            stream.flows()
            # Either gateway shows what both do.
            for gateway in (other, lab.destination_gateway):
                until(
                    lambda gateway=gateway: (
                        [  # type: ignore[misc]
                            lag["last_source_fetch_offset"] > 0 and lag["lag"] < 1_000
                            for lag in shown(lab, gateway, topic)["mirror_lags"]  # type: ignore[attr-defined]
                        ]
                        == [True] * PARTITIONS
                    ),
                    10,
                    "the lags of all partitions",
                )
            began = time.monotonic()
            assert other.terminate() == 0
            until(lambda: held(lab, lab.destination_gateway) == PARTITIONS, 5, "all partitions")
            stream.flows()
        assert stream.longest_pause_s(began) < 2
    compare(lab, topic)


def test_gateways_that_are_stopped_or_cut_off_do_no_harm(lab: LinkLab, topic: str) -> None:
    main = lab.destination_gateway
    with relayed(lab) as (relay, way), Stream(lab, topic, rate=100) as stream:
        with second(lab) as stopped, second(lab, **way) as cut_off:
            gateways = (main, stopped, cut_off)
            until(lambda: [held(lab, g) for g in gateways] == [PARTITIONS // 3] * 3, 10, "a third each")
            stopped.pause()
            try:
                relay.hold(ApiKey.HEARTBEAT, ApiKey.JOIN_GROUP)
                until(lambda: held(lab, main) == PARTITIONS, 15, "all partitions")
                # Who can look knows by itself that it may not go on.
                assert held(lab, cut_off) == 0
                stream.flows()
            finally:
                stopped.resume()
            relay.let_go()
            until(lambda: [held(lab, g) for g in gateways] == [PARTITIONS // 3] * 3, 20, "a third again")
            stream.flows()
        stream.flows()
    compare(lab, topic)


@pytest.mark.soak
@pytest.mark.parametrize("age_s", [0, THREE_DAYS_S])
def test_many_faults_of_gateways_that_share_a_link(lab: LinkLab, topic: str, age_s: float) -> None:
    striking = threading.Event()
    striking.set()
    join = in_background(lambda: flow_on(lab, topic, age_s, striking))
    with relayed(lab) as (relay, way), ExitStack() as stack:
        stack.callback(striking.clear)
        for turn in range(12):
            gateways = stack.enter_context(ExitStack())
            other = gateways.enter_context(second(lab, **way))
            time.sleep(random.uniform(0, 3))
            match turn % 4:
                case 0:
                    other.kill()
                case 1:
                    other.terminate()
                case 2:
                    other.pause()
                    time.sleep(12)
                    other.resume()
                case 3:
                    relay.hold()
                    time.sleep(12)
                    relay.let_go()
            time.sleep(random.uniform(0, 3))
            gateways.close()
    join()
    compare(lab, topic)


def flow_on(lab: LinkLab, topic: str, age_s: float, go_on: threading.Event) -> None:
    """Batches of every size and codec, for as long as there are faults."""
    while go_on.is_set():
        produce(
            lab.source,
            topic,
            2_500,
            PARTITIONS,
            codecs=[random.choice(CODECS)],
            batch_records=random.choice([1, 5, 100, 1_000]),
            value_bytes=random.choice([20, 2_000]),
            age_s=age_s,
        )


@pytest.mark.usefixtures("topic")
def test_a_promote_ends_the_partitions_of_all(lab: LinkLab, unique_name: Names) -> None:
    with second(lab) as other:
        for verb in ("promote", "failover"):
            topic = f"{unique_name()}-{verb}"
            make_mirror(lab, topic)
            with Stream(lab, topic):
                pass
            lab.wait_mirrored(topic, PARTITIONS)
            raws = [lab.raw(lab.source, topic, p) for p in range(PARTITIONS)]
            ends = {p: raw.last_stable_offset(topic, p) for p, raw in enumerate(raws)}
            assert lab.alter(verb, topic).get("error_code") is None
            until(lambda topic=topic: lab.status(topic) == "STOPPED", 20, f"the end of a {verb}")  # type: ignore[misc]
            until(
                lambda topic=topic: shown(lab, other, topic)["mirror_status"] == "STOPPED",  # type: ignore[misc]
                5,
                "the other gateway knows",
            )
            assert lab.compare(topic, PARTITIONS, ends=ends) > 0


def test_a_source_half_parks_at_all_gateways_and_one_is_killed(
    request: pytest.FixtureRequest, clusters: Clusters, unique_name: Names
) -> None:
    lab = LinkLab(two_clusters(clusters)[0], clusters("4.3.0", config=FORGETFUL), spare=True)
    try:
        name = unique_name()
        make_mirror(lab, name)
        with Stream(lab, name) as stream:
            with second(lab) as other:
                until(lambda: held(lab, other) == PARTITIONS // 2, 20, "half of the partitions")
                stream.flows(20)
                assert held(lab, other) == PARTITIONS // 2
                began = time.monotonic()
                other.kill()
                stream.flows(15)
            assert stream.longest_pause_s(began) < 15
        compare(lab, name)
    finally:
        lab.close(failed=has_failed(request))
