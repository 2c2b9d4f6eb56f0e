"""TopicConfigsSync: what changes at the source changes here, and what is the link's stays as it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.links.requests import CreateMirror, TaskState, TaskView
from gateway.links.topic_configs import ALWAYS_SYNCED
from gateway.state.records import MirrorStatus
from protocol.api_keys import ApiKey
from tests.gateway.links.lab import until
from tests.gateway.links.link_lab import LINK, LinksLab, be_quick, links_lab


@pytest.fixture
async def lab(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LinksLab]:
    """A link that dials, and a mirror topic whose source has configs of its own."""
    be_quick(monkeypatch)
    async with links_lab() as lab:
        await lab.make_link()
        lab.other.create("t", configs={"retention.ms": "1000", "segment.bytes": "1048576"})
        await lab.links.create_mirror(LINK, CreateMirror("t"))
        yield lab


def task(lab: LinksLab, name: str = "TopicConfigsSync") -> TaskView:
    return next(view for view in lab.links.link(LINK).tasks if view.task_name == name)


async def sync(lab: LinksLab) -> None:
    """One run, now."""
    (found,) = [each for each in lab.links._runtimes[LINK].link_tasks if each.name == "TopicConfigsSync"]
    await found.run_once()


async def test_it_is_always_on(lab: LinksLab) -> None:
    await sync(lab)
    assert task(lab) == TaskView("TopicConfigsSync", TaskState.ACTIVE, [])
    writes = lab.store.updates
    alterations = len(lab.own.of_kind(ApiKey.INCREMENTAL_ALTER_CONFIGS))
    await sync(lab)
    assert lab.store.updates == writes, "nothing has changed, so nothing is written"
    assert len(lab.own.of_kind(ApiKey.INCREMENTAL_ALTER_CONFIGS)) == alterations


async def test_changes_at_the_source_are_taken_over(lab: LinksLab) -> None:
    source, mirror = lab.other.topics["t"], lab.own.topics["t"]
    source.configs.update({"segment.bytes": "2097152", "max.message.bytes": "99", "retention.ms": "7"})
    await sync(lab)
    assert (mirror.configs["segment.bytes"], mirror.configs["max.message.bytes"]) == ("2097152", "99")
    assert mirror.configs["retention.ms"] == "-1"
    record = lab.store.state.mirrors["t"]
    assert record.configs == {"retention.ms": "7"}
    assert record.shown_configs["retention.ms"] == "7"
    assert record.shown_configs["cleanup.policy"] == "delete"
    del source.configs["segment.bytes"]
    await sync(lab)
    assert "segment.bytes" not in mirror.configs


async def test_what_was_changed_here_stays_until_the_source_changes(lab: LinksLab) -> None:
    source, mirror = lab.other.topics["t"], lab.own.topics["t"]
    mirror.configs["segment.bytes"] = "77"
    mirror.configs["min.insync.replicas"] = "2"
    source.configs["min.insync.replicas"] = "3"
    await sync(lab)
    assert (mirror.configs["segment.bytes"], mirror.configs["min.insync.replicas"]) == ("77", "2")
    source.configs["segment.bytes"] = "4194304"
    await sync(lab)
    assert (mirror.configs["segment.bytes"], mirror.configs["min.insync.replicas"]) == ("4194304", "2")


async def test_what_is_fixed_is_put_right(lab: LinksLab) -> None:
    mirror = lab.own.topics["t"]
    mirror.configs.update({"retention.ms": "5", "max.message.bytes": "1", "cleanup.policy": "compact"})
    await sync(lab)
    assert mirror.configs["retention.ms"] == "-1"
    assert mirror.configs["cleanup.policy"] == "delete"
    assert mirror.configs["max.message.bytes"] == lab.other.defaults["max.message.bytes"]


async def test_a_list_of_ones_own(lab: LinksLab) -> None:
    source, mirror = lab.other.topics["t"], lab.own.topics["t"]
    source.configs["min.insync.replicas"] = "3"
    include = ",".join([*ALWAYS_SYNCED, "min.insync.replicas"])
    await lab.alter_configs(**{"topic.config.sync.include": include})
    await until(lambda: mirror.configs.get("min.insync.replicas") == "3")
    await until(lambda: lab.store.state.mirrors["t"].configs == {})
    source.configs["segment.bytes"] = "4194304"
    await sync(lab)
    assert mirror.configs.get("segment.bytes") != "4194304"


async def test_a_promote_writes_what_was_synced_last(lab: LinksLab) -> None:
    await sync(lab)
    lab.other.topics["t"].configs.update({"retention.ms": "7", "cleanup.policy": "compact"})
    assert (await lab.alter("promote")).error_code is None
    await lab.becomes(MirrorStatus.STOPPED)
    configs = lab.own.topics["t"].configs
    assert (configs["retention.ms"], configs["cleanup.policy"]) == ("7", "compact")
    assert "compression.type" not in configs
    lab.other.topics["t"].configs["retention.ms"] = "8"
    lab.other.topics["t"].configs["max.message.bytes"] = "8"
    await sync(lab)
    assert (configs["retention.ms"], configs["max.message.bytes"]) == ("7", "1048588")


async def test_a_source_that_is_not_compacted_any_more(lab: LinksLab) -> None:
    source, mirror = lab.other.topics["t"], lab.own.topics["t"]
    source.configs["cleanup.policy"] = "compact"
    await sync(lab)
    await until(lambda: mirror.configs["cleanup.policy"] == "compact,delete")
    assert lab.store.state.mirrors["t"].compacted
    source.configs["cleanup.policy"] = "delete"
    await sync(lab)
    assert mirror.configs["cleanup.policy"] == "delete"
    assert not lab.store.state.mirrors["t"].compacted


async def test_one_topic_that_is_not_shown_does_not_hold_up_the_others(lab: LinksLab) -> None:
    lab.other.create("u")
    await lab.links.create_mirror(LINK, CreateMirror("u"))
    lab.other.config_errors["t"] = 29
    lab.other.topics["u"].configs["segment.bytes"] = "77"
    await sync(lab)
    shown = task(lab)
    assert (shown.state, shown.errors[0].error_code) == (TaskState.IN_ERROR, "AUTHORIZATION_ERROR")
    assert shown.errors[0].error_message == (
        "TOPIC_AUTHORIZATION_FAILED (29): DescribeConfigs of topic t; the link's principal needs "
        "DESCRIBE_CONFIGS on the topic"
    )
    assert lab.own.topics["u"].configs["segment.bytes"] == "77"
    lab.other.config_errors.clear()
    await sync(lab)
    assert task(lab).state is TaskState.ACTIVE


async def test_many_topics_are_asked_for_together(lab: LinksLab) -> None:
    for name in ("a", "b", "c"):
        lab.other.create(name)
        await lab.links.create_mirror(LINK, CreateMirror(name))
    asked = len(lab.other.of_kind(ApiKey.DESCRIBE_CONFIGS))
    await sync(lab)
    requests = [request for _, request in lab.other.of_kind(ApiKey.DESCRIBE_CONFIGS)[asked:]]
    assert [len(request.resources) for request in requests] == [4]


async def test_a_paused_link_syncs_nothing(lab: LinksLab) -> None:
    await lab.alter_configs(**{"cluster.link.paused": "true", "topic.config.sync.ms": "1000"})
    assert task(lab).state is TaskState.LINK_PAUSED
    lab.other.topics["t"].configs["segment.bytes"] = "77"
    await asyncio.sleep(1.3)
    assert lab.own.topics["t"].configs["segment.bytes"] == "1048576"
    await lab.alter_configs(**{"cluster.link.paused": "false"})
    await until(lambda: lab.own.topics["t"].configs["segment.bytes"] == "77")
