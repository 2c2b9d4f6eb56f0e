from __future__ import annotations

from typing import Any

import pytest

from gateway import complaints
from gateway.complaints import Complaints


def test_of_each_kind_one_line_and_then_a_number() -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    now = [0.0]

    def log(event: str, **fields: Any) -> None:
        said.append((event, fields))

    lines = Complaints(every_s=5, clock=lambda: now[0])
    for peer in range(100):
        lines.say(log, "refused", "a", peer=peer)
    lines.say(log, "refused", "b", peer=1)
    now[0] = 5.0
    lines.say(log, "refused", "a", peer=100)
    now[0] = 10.0
    lines.say(log, "refused", "a", peer=101)
    assert said == [
        ("refused", {"peer": 0}),
        ("refused", {"peer": 1}),
        ("refused", {"peer": 100, "unsaid": 99}),
        ("refused", {"peer": 101}),
    ]


def test_kinds_are_not_collected_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complaints, "_MAX_KINDS", 10)
    said: list[str] = []
    lines = Complaints()
    for number in range(100):
        lines.say(said.append, f"event {number}")
    assert len(said) == 100
    assert len(lines._kinds) <= 10


def test_a_burst_is_said_whole() -> None:
    said: list[tuple[int, int]] = []
    now = [0.0]

    def log(event: str, *, number: int, unsaid: int = 0) -> None:
        said.append((number, unsaid))

    lines = Complaints(burst=3, every_s=5, clock=lambda: now[0])
    for number in range(10):
        lines.say(log, "ended", number=number)
    now[0] = 6.0
    for number in range(10, 12):
        lines.say(log, "ended", number=number)
    now[0] = 12.0
    lines.say(log, "ended", number=12)
    assert said == [(0, 0), (1, 0), (2, 0), (10, 7), (11, 0), (12, 0)]
