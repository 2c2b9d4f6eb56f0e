"""The benchmark measures every case on every path; a try with tiny numbers, whose figures mean nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.run import PARTITIONS, WANTED_RATIO, Measured, Rounds, judge, run, show


@pytest.fixture
def _own_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    # The benchmark sets it for its own process.
    monkeypatch.setenv("CAUSEWAY_KAFKA", "local")


@pytest.mark.usefixtures("_own_provider")
def test_every_case_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    results = run(megabytes=1, small_records=10 * PARTITIONS, rounds=Rounds(1, 0))
    found = {(row.case, row.path) for row in results}
    links = {"mirror, 1 KiB records", "mirror, 1-record batches"}
    clients = {"client produces", "client consumes"}
    assert found == {
        (case, path) for case in links for path in ("librdkafka copy", "dialled", "reversed")
    } | {(case, path) for case in clients for path in ("direct", "plaintext", "TLS")}
    for row in results:
        assert row.records_per_s > 0
        assert (row.ratio is None) == (row.path in ("librdkafka copy", "direct"))
        assert (row.cpu_s_per_gb is None) == (row.path == "direct")
    show(results)
    table = capsys.readouterr().out
    assert all(table.count(case) == 3 for case in links | clients)


@pytest.mark.parametrize(("ratio", "code"), [(WANTED_RATIO, 0), (WANTED_RATIO - 0.01, 1)])
def test_a_slow_link_is_an_error(tmp_path: Path, ratio: float, code: int) -> None:
    copy = Measured("librdkafka copy", "mirror", 100.0, 100_000.0, 4.0, None)
    results = [copy, replace(copy, path="dialled", ratio=ratio), replace(copy, path="reversed", ratio=0.5)]
    file = tmp_path / "bench" / "link.json"
    assert judge(results, file) == code
    assert [row["path"] for row in json.loads(file.read_text())] == [row.path for row in results]
