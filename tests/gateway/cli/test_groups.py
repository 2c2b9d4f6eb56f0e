import json

import pytest

from gateway.cli import groups
from tests.fakes.group_moves import group_view
from tests.gateway.admin.conftest import Admin
from tests.gateway.cli.conftest import Invoke


def test_groups_are_listed_with_what_they_miss(admin: Admin, causeway: Invoke) -> None:
    assert causeway("group", "list", "--link", "hybrid").stdout.strip() == "None."
    admin.groups.add(group_view(members=2, missing=5))
    shown = causeway("group", "list", "--link", "hybrid").stdout
    row = next(line for line in shown.splitlines() if "billing" in line).split()
    assert row == ["billing", "eu.billing", "Stable", "2", "5", "the", "source"]
    (listed,) = json.loads(causeway("group", "list", "--link", "hybrid", "-o", "json").stdout)
    assert listed["partitions"][0] == {
        "topic": "t",
        "partition": 0,
        "source_offset": 100,
        "mirror_end_offset": 95,
        "lag": 30,
        "not_mirrored": 5,
    }


def test_a_move_shows_where_the_group_is_and_what_to_change(admin: Admin, causeway: Invoke) -> None:
    admin.groups.add(group_view())
    result = causeway("group", "move", "billing", "--link", "hybrid")
    assert "has positions too in what is not mirrored: private" in result.stdout
    assert "eu.billing: goes on here at t-0 100, t-1 7" in result.stdout
    assert "  group.id=eu.billing" in result.stdout
    assert "  bootstrap.servers=cloud:9092" in result.stdout
    assert admin.groups.asked == [("move", ["billing"], False)]
    assert "MOVED" in causeway("group", "list", "--link", "hybrid").stdout


def test_a_move_waits_for_what_time_mends(
    admin: Admin, causeway: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_POLL_S", 0.01)
    admin.groups.add(group_view(members=1))
    admin.groups.refusals["billing"] = ("Group 'billing' still has 1 member(s) at the source", True)
    result = causeway("group", "move", "billing", "--link", "hybrid")
    assert "billing: member billing-0 of client app" in result.stdout
    assert "goes on here" in result.stdout
    assert len(admin.groups.asked) == 2


def test_a_move_gives_up_in_the_end(admin: Admin, causeway: Invoke) -> None:
    admin.groups.add(group_view(members=1))
    admin.groups.refusals["billing"] = ("Group 'billing' still has 1 member(s) at the source", True)
    result = causeway("group", "move", "billing", "--link", "hybrid", "--timeout", "0", code=1)
    assert "still has 1 member(s)" in result.stdout
    assert "1 of 1 groups were not moved" in result.stderr
    assert "bootstrap.servers" not in result.stdout


def test_what_time_does_not_mend_ends_a_move(admin: Admin, causeway: Invoke) -> None:
    admin.groups.add(group_view("a"), group_view("b"))
    admin.groups.refusals["a"] = ("Group 'a' goes on here already: it has committed offsets here.", False)
    result = causeway("group", "move", "--all", "--link", "hybrid", code=1)
    assert "a: Group 'a' goes on here already" in result.stdout
    assert "eu.b: goes on here at" in result.stdout
    assert "1 of 2 groups" in result.stderr


def test_a_dry_run_changes_nothing(admin: Admin, causeway: Invoke) -> None:
    admin.groups.add(group_view())
    result = causeway("group", "move", "billing", "--link", "hybrid", "--dry-run")
    assert "billing: can be moved now" in result.stdout
    assert "bootstrap.servers" not in result.stdout
    assert admin.groups.asked == [("move", ["billing"], True)]


def test_groups_that_are_not_there(admin: Admin, causeway: Invoke) -> None:
    assert (
        "nobody: not at the source" in causeway("group", "move", "nobody", "--link", "hybrid", code=1).stderr
    )
    assert "no group to move" in causeway("group", "move", "--all", "--link", "hybrid", code=1).stderr
    assert "404" in causeway("group", "list", "--link", "other", code=1).stderr
    causeway("group", "move", "--link", "hybrid", code=2)
    causeway("group", "move", "g", "--all", "--link", "hybrid", code=2)
    assert not admin.groups.asked


def test_a_group_can_be_given_back_to_the_link(admin: Admin, causeway: Invoke) -> None:
    admin.groups.add(group_view())
    assert "is not local here" in causeway("group", "follow", "billing", "--link", "hybrid", code=1).stdout
    causeway("group", "move", "billing", "--link", "hybrid")
    shown = causeway("group", "follow", "billing", "--link", "hybrid").stdout
    assert shown == "eu.billing: follows the source's billing again\n"


def test_json_is_what_the_api_gave(admin: Admin, causeway: Invoke) -> None:
    admin.groups.add(group_view("a/b c"))
    result = causeway("group", "move", "a/b c", "--link", "hybrid", "-o", "json")
    (moved,) = json.loads(result.stdout)
    assert (moved["group_name"], moved["error_code"]) == ("a/b c", None)
