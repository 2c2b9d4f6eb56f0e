"""AutoCreateMirror: which topics of a source become mirror topics by themselves."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence

import pytest

from gateway.links.requests import TaskError, TaskState, TaskView
from gateway.state.records import MirrorStatus
from tests.gateway.links.lab import until
from tests.gateway.links.link_lab import LINK, LinksLab, be_quick, links_lab


def filters(*include: str, exclude: Sequence[str] = ()) -> str:
    """A name that ends in `*` is a prefix."""
    entries = [("INCLUDE", name) for name in include] + [("EXCLUDE", name) for name in exclude]
    return json.dumps(
        {
            "topicFilters": [
                {
                    "name": name.removesuffix("*") or "*",
                    "patternType": "PREFIXED" if name.endswith("*") and name != "*" else "LITERAL",
                    "filterType": kind,
                }
                for kind, name in entries
            ]
        }
    )


def on(*include: str, exclude: Sequence[str] = ()) -> dict[str, str]:
    return {
        "auto.create.mirror.topics.enable": "true",
        "auto.create.mirror.topics.filters": filters(*include, exclude=exclude),
    }


@pytest.fixture
async def lab(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LinksLab]:
    """Two clusters, and no link yet."""
    be_quick(monkeypatch)
    async with links_lab() as lab:
        yield lab


def task(lab: LinksLab) -> TaskView:
    return next(view for view in lab.links.link(LINK).tasks if view.task_name == "AutoCreateMirror")


async def run(lab: LinksLab) -> Sequence[TaskError]:
    """One run, now."""
    (found,) = [each for each in lab.links._runtimes[LINK].link_tasks if each.name == "AutoCreateMirror"]
    return await found.run_once()


def mirrors(lab: LinksLab) -> list[str]:
    return sorted(lab.store.state.mirrors)


async def test_it_is_off_unless_asked_for(lab: LinksLab) -> None:
    await lab.make_link()
    assert task(lab).state is TaskState.NOT_CONFIGURED


@pytest.mark.parametrize("text", ["", filters(exclude=["a"])])
async def test_without_a_filter_it_says_so_at_once(lab: LinksLab, text: str) -> None:
    await lab.make_link(
        **{"auto.create.mirror.topics.enable": "true", "auto.create.mirror.topics.filters": text}
    )
    shown = task(lab)
    assert (shown.state, shown.errors[0].error_code) == (TaskState.IN_ERROR, "MISCONFIGURATION_ERROR")
    assert "auto.create.mirror.topics.filters includes no topic" in shown.errors[0].error_message


async def test_what_the_filters_include_is_made(lab: LinksLab) -> None:
    for name in ("a", "ab", "ac", "b", "__consumer_offsets", "_confluent-x", "_causeway-state"):
        lab.other.create(name).logs[0].write(1)
    await lab.make_link(**on("a*", "_*", exclude=["ac"]))
    await until(lambda: mirrors(lab) == ["a", "ab"])
    await until(lambda: task(lab).state is TaskState.ACTIVE)
    await until(lambda: "ab" in lab.own.topics and lab.own.topics["ab"].logs[0].end == 1)
    assert await run(lab) == []
    assert mirrors(lab) == ["a", "ab"]


async def test_new_topics_are_found_within_their_time(lab: LinksLab) -> None:
    await lab.make_link(**on("*"), **{"metadata.max.age.ms": "100"})
    lab.other.create("late")
    await until(lambda: mirrors(lab) == ["late"])


async def test_names_are_those_at_the_source(lab: LinksLab) -> None:
    for name in ("t", "dc1.t"):
        lab.other.create(name)
    await lab.make_link(**on("t"), **{"cluster.link.prefix": "dc1."})
    await until(lambda: mirrors(lab) == ["dc1.t"])
    assert await run(lab) == []


async def test_a_topic_of_the_name_is_left_alone_and_told(lab: LinksLab) -> None:
    lab.other.create("t")
    lab.other.create("u")
    lab.own.create("t").logs[0].write(5)
    await lab.make_link(**on("*"))
    await until(lambda: mirrors(lab) == ["u"])
    (error,) = await run(lab)
    assert error.error_code == "MISCONFIGURATION_ERROR"
    assert error.error_message.startswith("Topic 't' is there already, and no mirror topic of this link")
    assert lab.own.topics["t"].logs[0].end == 5


async def test_one_that_cannot_be_made_does_not_hold_up_the_others(lab: LinksLab) -> None:
    lab.other.create("x" * 249)
    lab.other.create("u")
    await lab.make_link(**on("*"), **{"cluster.link.prefix": "p."})
    await until(lambda: mirrors(lab) == ["p.u"])
    (error,) = await run(lab)
    assert "longer than the max allowed length 249" in error.error_message


async def test_other_filters_stop_no_mirror(lab: LinksLab) -> None:
    lab.other.create("t").logs[0].write(1)
    await lab.make_link(**on("t"))
    await until(lambda: "t" in lab.own.topics and lab.own.topics["t"].logs[0].end == 1)
    await lab.alter_configs(**on("u"))
    lab.other.topics["t"].logs[0].write(1)
    await until(lambda: lab.own.topics["t"].logs[0].end == 2)
    assert lab.status() is MirrorStatus.ACTIVE


async def test_a_stopped_mirror_is_not_made_again(lab: LinksLab) -> None:
    lab.other.create("t").logs[0].write(1)
    await lab.make_link(**on("*"))
    await until(lambda: "t" in lab.own.topics and lab.own.topics["t"].logs[0].end == 1)
    await lab.alter("failover")
    await lab.becomes(MirrorStatus.STOPPED)
    assert await run(lab) == []
    assert lab.status() is MirrorStatus.STOPPED
