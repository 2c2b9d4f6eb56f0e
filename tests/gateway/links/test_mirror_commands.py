"""Every command in every state of a mirror topic: what becomes of it, or why it cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import pytest

from gateway.links.requests import MirrorVerb
from gateway.state.records import MirrorRecord, MirrorStatus, MirrorTopicError
from gateway.state.store import StateUnavailable
from tests.gateway.links.lab import until
from tests.gateway.links.link_lab import IMPATIENT, LINK, LinksLab, be_quick, links_lab

ACCEPTED: Final = ""
DONE: Final = "Topic 't' has already stopped its mirror from 'hybrid'"
STOPPING: Final = "It is being stopped already."
FAILED: Final = "It cannot go on: see its error."
UNPAUSE: Final = "Set cluster.link.paused of its link to false"
BROKEN: Final = "Its link cannot work with its configs"
MAKING: Final = "is still being made"
# By state the answers to promote, failover, forced failover, pause, resume; None: that it is not possible.
MATRIX: Final[dict[str, tuple[str | None, ...]]] = {
    "ACTIVE": (ACCEPTED, ACCEPTED, ACCEPTED, ACCEPTED, None),
    "PAUSED": (ACCEPTED, ACCEPTED, ACCEPTED, None, ACCEPTED),
    "SOURCE_UNAVAILABLE": ("Its source must be reachable", ACCEPTED, ACCEPTED, ACCEPTED, None),
    "LINK_PAUSED": (UNPAUSE, ACCEPTED, ACCEPTED, ACCEPTED, UNPAUSE),
    "LINK_FAILED": (BROKEN, BROKEN, BROKEN, ACCEPTED, BROKEN),
    "PENDING_STOPPED by promote": (STOPPING, ACCEPTED, ACCEPTED, STOPPING, STOPPING),
    "PENDING_STOPPED by failover": (
        STOPPING,
        "it is being failed over already",
        "it is being failed over already",
        STOPPING,
        STOPPING,
    ),
    "FAILED": (FAILED, "With force it becomes an ordinary topic", ACCEPTED, FAILED, FAILED),
    "STOPPED": (DONE, DONE, DONE, DONE, DONE),
    "PENDING_MIRROR": (None, None, None, None, None),
    "being made": (MAKING, MAKING, MAKING, MAKING, MAKING),
}
COMMANDS: Final[tuple[tuple[MirrorVerb, bool], ...]] = (
    ("promote", False),
    ("failover", False),
    ("failover", True),
    ("pause", False),
    ("resume", False),
)
BECOMES: Final = {
    "promote": MirrorStatus.PENDING_STOPPED,
    "failover": MirrorStatus.PENDING_STOPPED,
    "pause": MirrorStatus.PAUSED,
    "resume": MirrorStatus.ACTIVE,
}


@pytest.fixture
async def lab(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LinksLab]:
    """A link that dials."""
    be_quick(monkeypatch)
    async with links_lab() as lab:
        await lab.make_link(**IMPATIENT)
        yield lab


async def put(lab: LinksLab, **changes: object) -> MirrorRecord:
    """The record as if it had come to this."""
    record = lab.store.state.mirrors["t"].model_copy(update=changes)
    await lab.store.update(lambda _: [record])
    if lab.store.failure is None:
        await lab.links._follow()
    return record


async def come_to(lab: LinksLab, state: str) -> None:
    """Have the mirror topic be in that state."""
    status, _, how = state.partition(" by ")
    match status:
        case "SOURCE_UNAVAILABLE":
            await lab.other.close()
            await until(lambda: lab.status() is MirrorStatus.SOURCE_UNAVAILABLE)
            return
        case "LINK_PAUSED":
            await lab.alter_configs(**{"cluster.link.paused": "true"})
        case "being made":
            await put(lab, topic_id=None)
            return
        case "LINK_FAILED":
            await lab.links._runtimes.pop(LINK).close()
            record = lab.store.state.links[LINK]
            broken = {**record.configs, "security.protocol": "TLS"}
            await lab.store.update(lambda _: [record.model_copy(update={"configs": broken})])
        case _:
            await put(lab, status=MirrorStatus(status), failover=how == "failover")
    await until(lambda: lab.status() == status)


@pytest.mark.parametrize("state", MATRIX)
async def test_every_command_in_every_state(
    lab: LinksLab, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.make_mirror()
    # Nothing is to go on by itself while the answers are compared.
    lab.own.fault(0, lambda *_: asyncio.sleep(3600))
    monkeypatch.setattr("gateway.links.replicator.Replicator._settle", lambda _: None)
    await come_to(lab, state)
    stored = lab.store.state.mirrors["t"]
    shown = lab.status()
    for (verb, force), expected in zip(COMMANDS, MATRIX[state], strict=True):
        for validate_only in (True, False):
            (result,) = await lab.links.alter_mirrors(verb, LINK, ["t"], None, validate_only, force=force)
            now = lab.store.state.mirrors["t"]
            if expected == ACCEPTED:
                assert (result.error_code, result.error_message) == (None, None), (verb, force)
                assert (now == stored) if validate_only else (now.status is BECOMES[verb])
                assert validate_only or now.failover == (verb == "failover" or stored.failover)
            else:
                assert result.error_code == 400, (verb, force)
                text = expected or f"Topic 't' is {shown}: {verb} is not possible."
                assert text in str(result.error_message)
                assert now == stored
        await lab.store.update(lambda _: [stored])


def test_the_matrix_has_every_state_that_there_is() -> None:
    assert {MirrorStatus(state.partition(" by ")[0]) for state in MATRIX if state != "being made"} == set(
        MirrorStatus
    )


async def test_several_topics_have_an_answer_each(lab: LinksLab) -> None:
    for name in ("a", "b", "c"):
        await lab.make_mirror(name)
    writes = lab.store.updates
    names = ["a", "none", "b", "a"]
    results = await lab.links.alter_mirrors("pause", LINK, names, None, False)
    assert [(r.mirror_topic_name, r.error_code) for r in results] == [("a", None), ("none", 404), ("b", None)]
    assert lab.store.updates == writes + 1, "one transaction for all of them"
    results = await lab.links.alter_mirrors("pause", LINK, None, "[abc]", False)
    assert [(r.mirror_topic_name, r.error_code) for r in results] == [("a", 400), ("b", 400), ("c", None)]
    assert not await lab.links.alter_mirrors("pause", LINK, None, "nothing", False)
    assert lab.store.updates == writes + 2, "and none where there is nothing to be changed"


async def test_more_topics_than_one_transaction_takes(lab: LinksLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.links.mirror_commands.AT_ONCE", 2)
    for name in ("a", "b", "c"):
        await lab.make_mirror(name)
    writes = lab.store.updates
    results = await lab.links.alter_mirrors("pause", LINK, None, ".*", False)
    assert [r.error_code for r in results] == [None] * 3
    assert lab.store.updates == writes + 2


async def test_one_of_two_commands_at_once_is_late(lab: LinksLab) -> None:
    await lab.make_mirror()
    lab.store.free.clear()
    both = [asyncio.create_task(lab.alter("pause")) for _ in range(2)]
    await until(lambda: lab.store.waiting == 2)
    lab.store.free.set()
    results = await asyncio.gather(*both)
    assert sorted(str(r.error_message) for r in results) == [
        "None",
        "Topic 't' is PAUSED: pause is not possible.",
    ]


async def test_promote_and_failover_at_once_end_in_one_stop(lab: LinksLab) -> None:
    await lab.make_mirror()
    results = await asyncio.gather(
        lab.alter("promote"), lab.alter("failover"), lab.alter("promote"), lab.alter("failover")
    )
    assert results[0].error_code is None
    await lab.becomes(MirrorStatus.STOPPED)
    assert lab.own.topics["t"].logs[0].end == 4, "three records and one barrier"


# --- what the source, or a crash, does to a promote ---------------------------------------------------


async def test_a_source_lost_while_promoting_is_told(lab: LinksLab, monkeypatch: pytest.MonkeyPatch) -> None:
    await lab.make_mirror()
    lab.other.fault(2, lambda *_: lab.other.cut())
    await lab.other.close()
    assert (await lab.alter("promote")).error_code is None
    await until(lambda: lab.links.mirror(LINK, "t").record.error_message)
    shown = lab.links.mirror(LINK, "t").record
    assert shown.status is MirrorStatus.PENDING_STOPPED
    assert str(shown.error_message).startswith("The promote waits: the source cannot be reached: ")
    assert str(shown.error_message).endswith("failover stops the mirror with what is there.")
    assert lab.store.state.mirrors["t"].error_message is None
    assert (await lab.alter("failover")).error_code is None
    await lab.becomes(MirrorStatus.STOPPED)
    assert lab.links.mirror(LINK, "t").record.error_message is None


async def test_a_crash_between_barrier_and_stopped_is_finished_on_restart(lab: LinksLab) -> None:
    await lab.make_mirror()
    away = StateUnavailable("the gateway died here")
    record = await put(lab, status=MirrorStatus.PENDING_STOPPED, stop_offsets={0: 3})
    assert record.status is MirrorStatus.PENDING_STOPPED
    lab.store.failure = away
    await lab.links._follow()
    await until(lambda: lab.own.topics["t"].logs[0].end == 4)
    await lab.links.close()
    assert lab.store.state.mirrors["t"].status is MirrorStatus.PENDING_STOPPED
    lab.store.failure = None
    again = lab.restarted()
    await again.start()
    try:
        await lab.becomes(MirrorStatus.STOPPED)
        assert lab.own.topics["t"].logs[0].end == 4, "no second barrier"
        assert lab.store.state.mirrors["t"].stop_offsets == {0: 3}
    finally:
        await again.close()


# --- FAILED -------------------------------------------------------------------------------------------


async def test_failover_with_force_takes_what_has_failed(lab: LinksLab) -> None:
    await lab.make_mirror()
    lab.other.topics["t"].logs[0].write_unknown(2)
    await lab.becomes(MirrorStatus.FAILED)
    assert (await lab.alter("failover")).error_code == 400
    assert (await lab.alter("failover", force=True)).error_code is None
    await lab.becomes(MirrorStatus.STOPPED)
    ended = lab.store.state.mirrors["t"]
    assert (ended.error, ended.error_message) == (MirrorTopicError.NO_ERROR, None)
    assert lab.own.topics["t"].logs[0].end == 4


async def test_but_not_after_a_foreign_writer(lab: LinksLab) -> None:
    await lab.make_mirror()
    await put(lab, status=MirrorStatus.PAUSED)
    lab.own.topics["t"].logs[0].write(1)
    await put(lab, status=MirrorStatus.FAILED, error=MirrorTopicError.ILLEGAL_STATE)
    assert (await lab.alter("failover", force=True)).error_code is None
    await lab.becomes(MirrorStatus.FAILED)
    assert "foreign writer" in str(lab.store.state.mirrors["t"].error_message)
    assert lab.own.topics["t"].logs[0].end == 4


# --- a source that refuses ----------------------------------------------------------------------------


async def test_a_topic_that_the_source_does_not_show_is_unavailable_for_as_long(lab: LinksLab) -> None:
    await lab.make_mirror()
    await lab.make_mirror("u")
    lab.other.topics["t"].error_code = 29
    await until(lambda: lab.status() is MirrorStatus.SOURCE_UNAVAILABLE)
    assert lab.links.mirror(LINK, "t").record.error_message == (
        "TOPIC_AUTHORIZATION_FAILED (29): Metadata of source topic 't'"
    )
    assert lab.status("u") is MirrorStatus.ACTIVE
    lab.other.topics["t"].error_code = 0
    await until(lambda: lab.status() is MirrorStatus.ACTIVE)


async def test_a_source_is_given_up_when_the_link_says_when(lab: LinksLab) -> None:
    await lab.make_mirror()
    await lab.make_mirror("paused")
    await lab.alter("pause", "paused")
    await lab.alter_configs(**{"cluster.link.retry.timeout.ms": "300"})
    await lab.other.close()
    await lab.becomes(MirrorStatus.FAILED)
    failed = lab.store.state.mirrors["t"]
    assert failed.error is MirrorTopicError.UNKNOWN
    assert "the source was tried for 0.3 s (cluster.link.retry.timeout.ms), in vain" in str(
        failed.error_message
    )
    assert lab.store.state.mirrors["paused"].status is MirrorStatus.PAUSED


async def test_otherwise_it_never_is(lab: LinksLab) -> None:
    await lab.make_mirror()
    await lab.other.close()
    await until(lambda: lab.status() is MirrorStatus.SOURCE_UNAVAILABLE)
    await asyncio.sleep(0.5)
    assert lab.status() is MirrorStatus.SOURCE_UNAVAILABLE
