import json

import pytest

from gateway.cli import mirrors
from gateway.links.requests import CreateMirror
from gateway.state.records import MirrorStatus
from tests.fakes.links import link_record, mirror_record
from tests.gateway.admin.conftest import Admin
from tests.gateway.cli.conftest import Invoke


@pytest.fixture(autouse=True)
def _one_link(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    admin.links.add(link_record(), mirror_record("a"))
    monkeypatch.setattr(mirrors, "_POLL_S", 0.01)


def test_a_topic_is_mirrored(admin: Admin, causeway: Invoke) -> None:
    assert causeway("mirror", "create", "clickstream", "--link", "hybrid").stdout == (
        'Created mirror topic "clickstream".\n'
    )
    more = ("--replication-factor", "3", "--config", "a=b=c", "--config", "d=")
    causeway("mirror", "create", "west.t", "--link", "hybrid", "--source-topic", "t", *more)
    assert admin.links.mirrored == [
        ("hybrid", CreateMirror("clickstream")),
        ("hybrid", CreateMirror("t", "west.t", 3, {"a": "b=c", "d": ""})),
    ]
    assert (
        "key=value" in causeway("mirror", "create", "t", "--link", "hybrid", "--config", "a", code=2).stderr
    )


def test_mirror_topics_are_listed(admin: Admin, causeway: Invoke) -> None:
    admin.links.add(mirror_record("b", MirrorStatus.STOPPED), link_record("o"), mirror_record("c", link="o"))
    shown = causeway("mirror", "list").stdout
    for text in ("Max Per Partition Mirror Lag", "source-a", "ACTIVE", "1662878304410", "7"):
        assert text in shown

    def names(*arguments: str) -> list[str]:
        listed = json.loads(causeway("mirror", "list", "-o", "json", *arguments).stdout)
        return [each["mirror_topic_name"] for each in listed]

    assert names() == ["a", "b", "c"]
    assert names("--link", "hybrid") == ["a", "b"]
    assert names("--mirror-status", "stopped") == ["b"]
    assert "400: mirror_status" in causeway("mirror", "list", "--mirror-status", "odd", code=1).stderr


def test_a_mirror_topic_is_described_by_partition(admin: Admin, causeway: Invoke) -> None:
    admin.links.add(mirror_record("f", MirrorStatus.FAILED, error="truncated at 7"))
    shown = causeway("mirror", "describe", "f", "--link", "hybrid").stdout
    for text in ("Partition Mirror Lag", "UNEXPECTED_TRUNCATION: truncated at 7", "FAILED", "100", "-1"):
        assert text in shown
    assert (
        "Partition 1 waits for producer 4711 at the source: it has had a transaction open from offset 7 on "
        "for 83 s or longer; its last record is of 2022-09-11 06:38:24 UTC. kafka-transactions.sh"
    ) in shown
    assert (
        "Partition 0 waits for a producer at the source: it has had a transaction open from offset 9 on for "
        "12 s or longer. kafka-transactions.sh"
    ) in shown
    described = json.loads(causeway("mirror", "describe", "a", "--link", "hybrid", "-o", "json").stdout)
    assert described["mirror_lags"][0]["lag"] == 7


@pytest.mark.parametrize("verb", ["promote", "failover", "pause", "resume"])
def test_verbs_are_passed_on(admin: Admin, causeway: Invoke, verb: str) -> None:
    admin.links.add(mirror_record("b"))
    shown = causeway("mirror", verb, "a", "b", "--link", "hybrid").stdout
    assert "Last Source Fetch Offset" in shown
    results = json.loads(causeway("mirror", verb, "a", "--link", "hybrid", "--dry-run", "-o", "json").stdout)
    assert [each["mirror_topic_name"] for each in results] == ["a"]
    assert admin.links.altered == [
        (verb, "hybrid", ["a", "b"], None, False),
        (verb, "hybrid", ["a"], None, True),
    ]


def test_one_refused_topic_fails_the_command(causeway: Invoke) -> None:
    result = causeway("mirror", "promote", "a", "x", "--link", "hybrid", "--wait", code=1)
    assert "Topic 'x' is no mirror topic." in result.stdout
    assert "promote was refused for x" in result.stderr


@pytest.mark.parametrize("verb", ["promote", "failover"])
def test_waiting_ends_when_the_topic_is_writable(admin: Admin, causeway: Invoke, verb: str) -> None:
    admin.links.coming = [MirrorStatus.PENDING_STOPPED, MirrorStatus.PENDING_STOPPED, MirrorStatus.STOPPED]
    result = causeway("mirror", verb, "a", "--link", "hybrid", "--wait")
    assert "a: STOPPED" in result.stderr
    assert admin.links.coming == []


def test_waiting_ends_when_it_cannot_succeed(admin: Admin, causeway: Invoke) -> None:
    admin.links.coming = [MirrorStatus.PENDING_STOPPED, MirrorStatus.FAILED]
    result = causeway("mirror", "promote", "a", "--link", "hybrid", "--wait", code=1)
    assert "a failed: see causeway mirror describe" in result.stderr
    admin.links.coming = [MirrorStatus.PENDING_STOPPED] * 1000
    result = causeway("mirror", "promote", "a", "--link", "hybrid", "--wait", "--timeout", "0.1", code=1)
    assert "a did not stop within 0.1 s, 7 records behind" in result.stderr


def test_a_dry_run_waits_for_nothing(admin: Admin, causeway: Invoke) -> None:
    causeway("mirror", "promote", "a", "--link", "hybrid", "--wait", "--dry-run")
    assert admin.links.altered[-1][-1] is True


def test_a_failover_names_what_is_not_here(admin: Admin, causeway: Invoke) -> None:
    shown = causeway("mirror", "failover", "a", "--link", "hybrid").stdout
    assert "a: partition 0: 7 records of the source are not here, offsets 100 to 106" in shown
    assert "a: partition 1: not known, as the source has not been heard of" in shown
    listed = causeway("mirror", "failover", "a", "--link", "hybrid", "-o", "json").stdout
    assert len(json.loads(listed)) == 1


def test_a_failover_may_be_forced(admin: Admin, causeway: Invoke) -> None:
    causeway("mirror", "failover", "a", "--link", "hybrid")
    causeway("mirror", "failover", "a", "--link", "hybrid", "--force")
    assert admin.links.forced == [False, True]
