"""What is committed for a group, decided on what source, destination and link know."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.links.offset_plan import Place, plan_group, wanted_offsets
from gateway.upstreams.groups import Committed

T0 = ("t", 0)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 200))
def test_an_offset_is_within_what_the_mirror_holds(start: int, length: int, offset: int) -> None:
    place = Place("t", 0, start, start + length)
    held = place.held(offset)
    assert start <= held <= start + length
    assert held == offset or not start <= offset <= start + length


def test_only_mirrored_partitions_are_wanted_under_the_mirrors_name() -> None:
    places = {("s", 0): Place("p.s", 0, 10, 100), ("s", 2): Place("p.s", 2, 0, 0)}
    committed = {
        ("s", 0): Committed(5, "m"),
        ("s", 1): Committed(7),
        ("s", 2): Committed(3),
        ("other", 0): Committed(1),
    }
    assert wanted_offsets(committed, places) == {
        ("p.s", 0): Committed(10, "m"),
        ("p.s", 2): Committed(0),
    }


@pytest.mark.parametrize(
    ("here", "written", "target", "verdict"),
    [
        # Never committed here, or deleted here.
        (None, None, 50, "commits"),
        (None, 50, 50, "commits"),
        # Ours: on, and back.
        (Committed(40), 40, 50, "commits"),
        (Committed(60), 60, 50, "commits"),
        (Committed(50), 50, 50, "settled"),
        (Committed(50), None, 50, "settled"),
        (Committed(50, leader_epoch=3), 20, 50, "settled"),
        # Somebody else's, surely.
        (Committed(45, leader_epoch=3), 40, 50, "foreign"),
        (Committed(45, leader_epoch=0), 60, 50, "foreign"),
        # Ours from before a restart, or somebody's: never backwards.
        (Committed(40), None, 50, "commits"),
        (Committed(40, leader_epoch=3), None, 50, "commits"),
        (Committed(60), None, 50, "ahead"),
        (Committed(60, leader_epoch=3), None, 50, "ahead"),
        (Committed(60), 40, 50, "ahead"),
        (Committed(45), 40, 50, "commits"),
    ],
)
def test_one_partition(here: Committed | None, written: int | None, target: int, verdict: str) -> None:
    plan = plan_group(
        {T0: Committed(target)},
        {} if here is None else {T0: here},
        {} if written is None else {T0: written},
    )
    found = [name for name in ("commits", "settled", "ahead", "foreign") if getattr(plan, name)]
    assert found == [verdict]


def test_new_metadata_of_an_old_offset_is_taken_over() -> None:
    plan = plan_group({T0: Committed(5, "new")}, {T0: Committed(5, "old")}, {T0: 5})
    assert plan.commits == {T0: Committed(5, "new")}
    assert not plan_group({T0: Committed(5, "new")}, {T0: Committed(5, "old")}, {}).commits
