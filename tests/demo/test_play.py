"""The demo says so when anything differs."""

from typing import Any

import pytest

from demo.play import compare
from demo.records import Log, Record, clicks
from demo.screen import DemoFailed, Progress, Screen, Span

RECORD = Record(7, b"key", b"value", (("name", b"value"),), (1, 1_700_000_000_000))


def log(*records: Record) -> Log:
    return {0: list(records), 1: []}


def test_equal_logs_are_shown_as_equal(capsys: pytest.CaptureFixture[str]) -> None:
    compare(Screen(), log(RECORD), log(RECORD))
    shown = capsys.readouterr().out
    assert "all 1 records are equal" in shown
    assert "✘" not in shown


@pytest.mark.parametrize(
    "changed",
    [
        {"offset": 8},
        {"key": b"other"},
        {"value": None},
        {"headers": ()},
        {"timestamp": (1, 1_700_000_000_001)},
    ],
)
def test_a_difference_in_any_field_is_shown_and_fails(
    changed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DemoFailed, match="differ"):
        compare(Screen(), log(RECORD), log(RECORD._replace(**changed)))
    shown = capsys.readouterr().out
    # In the partition and in the sum, and nowhere else.
    assert shown.count("0 ✘") == 2
    assert shown.count("1 ✔") == 8


@pytest.mark.parametrize("mirror", [log(), log(RECORD, RECORD._replace(offset=8))])
def test_a_missing_or_additional_record_fails(mirror: Log) -> None:
    with pytest.raises(DemoFailed, match="differ"):
        compare(Screen(), log(RECORD), mirror)


def test_a_record_in_another_partition_fails() -> None:
    with pytest.raises(DemoFailed, match="differ"):
        compare(Screen(), {0: [RECORD], 1: []}, {0: [], 1: [RECORD]})


def test_the_mirror_is_done_with_the_last_offset_of_every_partition() -> None:
    progress = Progress([Span(0, 3), Span(5, 9)])
    assert not progress.done
    progress.mirror = [Span(0, 3), Span(5, 8)]
    assert not progress.done
    progress.mirror = [Span(0, 3), Span(0, 9)]
    assert not progress.done
    progress.mirror = [Span(0, 3), Span(5, 9)]
    assert progress.done


def test_the_records_have_what_must_be_copied() -> None:
    made = list(clicks(4_000, lambda number: "zstd"))
    assert len(made) == 4_000
    assert {type(click.value) for click in made} == {bytes, type(None)}
    assert b"" in {click.value for click in made}
    assert len({click.timestamp_ms for click in made}) > 3_000
    assert any(value is None for click in made for _, value in click.headers)
