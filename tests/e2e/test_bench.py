"""The benchmarks measure every case on every path; a try with tiny numbers, whose figures mean nothing."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bench import client, link
from bench.client import Result, Size, opponents, table, verdicts, write
from bench.link import Measured
from bench.proxies import Proxy, ProxyUnavailable, haproxy, read_proxies
from bench.rig import PATHS

# A proxy that a file of the user's might name: passes bytes on, one connection per thread.
_RELAY = """\
import socket, sys, threading
def pump(source, target):
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)
listening = socket.create_server(("$host", int("$port")))
while True:
    near, _ = listening.accept()
    far = socket.create_connection(("$upstream_host", int("$upstream_port")))
    for pair in ((near, far), (far, near)):
        threading.Thread(target=pump, args=pair, daemon=True).start()
"""
_PROXIES = f"""\
- name: relay
  files: {{relay.py: {json.dumps(_RELAY)}}}
  plaintext: [{sys.executable}, $directory/relay.py]
"""


@pytest.fixture
def _own_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    # The benchmark sets it for its own process.
    monkeypatch.setenv("CAUSEWAY_KAFKA", "local")


# --- links ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_own_provider")
def test_every_link_is_measured(tmp_path: Path) -> None:
    size = link.Size(
        rounds=1,
        warm_up=0,
        megabytes=1,
        small_records=1000,
        single_records=800,
        lag_rate=100,
        lag_warm_up_s=0.5,
        lag_s=0.5,
        idle_partitions=20,
        idle_s=0.4,
        opponents=False,
    )
    results = link.run(size)
    copies = {(case.name, path) for case in size.cases() for path in case.paths}
    assert {(row.case, row.path) for row in results if row.mb_per_s is not None} == copies
    assert {path for _, path in copies} == {"causeway", "causeway-reversed", "librdkafka-copy"}
    assert all(row.records_per_s and row.cpu_s_per_gb for row in results if row.mb_per_s is not None)
    lags = [row for row in results if row.case == "lag-100-per-s"]
    assert [row.path for row in lags] == list(PATHS)
    for row in lags:
        assert row.lag_p50_ms is not None
        assert row.lag_p99_ms is not None
        assert row.lag_p50_ms <= row.lag_p99_ms
    assert results[-1].idle_cpu_percent is not None
    shown = link.table(results)
    assert all(shown.count(f"{case.name} ") == len(case.paths) for case in size.cases())
    file = tmp_path / "bench" / "link.json"
    link.write(results, file)
    assert [row["path"] for row in json.loads(file.read_text())] == [row.path for row in results]


def test_promises_of_links_are_judged_by_the_same_run() -> None:
    ours = Measured("causeway", "1KiB-none", mb_per_s=300.0, records_per_s=300_000, cpu_s_per_gb=2.0)
    theirs = [
        replace(ours, path="mirrormaker2-tuned", mb_per_s=100.0, cpu_s_per_gb=14.0),
        replace(ours, path="mirrormaker2-exactly-once", mb_per_s=30.0),
        replace(ours, path="kafka-follower", mb_per_s=200.0),
        replace(ours, path="librdkafka-copy", mb_per_s=150.0),
    ]
    single = replace(ours, case="100B-none-single")
    idle = Measured("causeway", "idle-2000", idle_cpu_percent=5.0)
    lag = Measured("causeway", "lag", lag_p50_ms=3.0, lag_p99_ms=9.0)
    slow = replace(lag, path="mirrormaker2-tuned", lag_p50_ms=4.0, lag_p99_ms=12.0)
    kept = link.verdicts([ours, *theirs, single, idle, lag, slow])
    assert len(kept) == 9
    assert not [line for line in kept if "MISSED" in line]
    for worse, missed in (
        ([replace(ours, mb_per_s=140.0), *theirs], 4),
        ([replace(ours, cpu_s_per_gb=4.0), *theirs], 1),
        ([replace(single, records_per_s=90_000)], 1),
        ([replace(idle, idle_cpu_percent=11.0)], 1),
        ([replace(lag, lag_p99_ms=13.0), slow], 1),
    ):
        assert sum("MISSED" in line for line in link.verdicts(worse)) == missed
    # What was not measured is not judged.
    assert link.verdicts([ours]) == []


# --- clients ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_own_provider")
@pytest.mark.skipif(
    shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin") is None, reason="haproxy is missing"
)
def test_every_way_to_the_broker_is_measured(tmp_path: Path) -> None:
    named = tmp_path / "proxies.yaml"
    named.write_text(_PROXIES)
    size = Size(rounds=1, warm_up=0, megabytes=1, rpc_s=0.1, connections=5)
    results = client.run(size, opponents(str(named)))
    ways = [(row.path, row.tls) for row in results]
    assert ways == [
        ("direct", False),
        ("direct again", False),
        ("causeway", False),
        ("causeway ACLs", False),
        ("haproxy", False),
        ("relay", False),
        ("causeway", True),
        ("haproxy", True),
    ]
    for row in results:
        has_proxy = not row.path.startswith("direct")
        assert row.rpc_per_s > 0
        assert row.p99_ms >= row.p50_ms > 0
        assert (row.cpu_us_per_rpc is not None) == has_proxy
        assert (row.rss_kib_per_connection is not None) == has_proxy
        assert row.authentication == ("SASL PLAIN" if row.path.startswith("causeway") else "none")
    assert (results[0].produce_ratio, results[0].consume_ratio, results[0].rpc_ratio) == (1, 1, 1)
    shown = table(results)
    assert all(f"\n{path}" in shown for path, _ in ways)
    file = tmp_path / "bench" / "client.json"
    write(results, file)
    written = json.loads(file.read_text())
    assert {"produce_ratio", "consume_ratio", "cpu_s_per_gb_produce", "rounds"} <= written[0].keys()
    assert [(row["path"], row["tls"]) for row in written] == ways


def _result(path: str, *, tls: bool = True) -> Result:
    return Result(
        path=path,
        tls=tls,
        authentication="none",
        produce_ratio=0.9,
        consume_ratio=0.9,
        rpc_ratio=0.9,
        produce_spread=(0.9, 0.9),
        consume_spread=(0.9, 0.9),
        rpc_spread=(0.9, 0.9),
        produce_mb_per_s=100.0,
        consume_mb_per_s=100.0,
        rpc_per_s=1000.0,
        p50_ms=0.1,
        p99_ms=1.0,
        added_p99_ms=0.5,
        cpu_s_per_gb_produce=1.0,
        cpu_s_per_gb_consume=1.0,
        cpu_us_per_rpc=50.0,
        rss_kib_per_connection=30.0,
        rounds=3,
    )


def test_promises_are_judged_by_the_same_run() -> None:
    theirs, ours = _result("haproxy"), _result("causeway")
    assert len(verdicts([ours, theirs])) == 8
    assert not any("MISSED" in line for line in verdicts([ours, theirs]))
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"cpu_s_per_gb_produce": 1.9}, "cpu_s_per_gb_produce"),
        ({"cpu_us_per_rpc": 101.0}, "cpu_us_per_rpc"),
        ({"consume_mb_per_s": 89.0}, "consume_mb_per_s"),
        ({"added_p99_ms": 1.1}, "added p99"),
        ({"rss_kib_per_connection": 65.0}, "idle connection"),
    )
    for worse, about in cases:
        missed = [line for line in verdicts([replace(ours, **worse), theirs]) if "MISSED" in line]
        assert len(missed) == 1
        assert about in missed[0]
    # Only what was measured the same way is compared.
    assert not verdicts([ours, _result("haproxy", tls=False)])


@pytest.mark.parametrize("text", ["- {name: x, comand: [x]}", "- {name: 'two words'}", "name: x"])
def test_a_file_of_proxies_with_a_mistake_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "proxies.yaml"
    file.write_text(text)
    with pytest.raises(ValidationError):
        read_proxies(file)


def test_a_missing_haproxy_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(ProxyUnavailable, match="apt-get install haproxy"):
        haproxy()


def test_a_proxy_may_have_one_side_only() -> None:
    proxy = Proxy(name="x", tls=("x",))
    assert proxy.command(tls=False) is None
    assert proxy.command(tls=True) == ("x",)
