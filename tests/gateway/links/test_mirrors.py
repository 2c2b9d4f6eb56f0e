"""Mirror topics: made with their record first, altered, and what becomes of them when something is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from gateway.links.errors import LinkError
from gateway.links.requests import CreateMirror, PartitionLag
from gateway.links.topic_configs import HELD
from gateway.state.records import MirrorStatus, MirrorTopicError
from gateway.state.store import StateUnavailable
from protocol.api_keys import ApiKey
from tests.fakes.kafka import NO_ANSWER, Log
from tests.gateway.links.lab import contents, record, until
from tests.gateway.links.link_lab import IMPATIENT, LINK, LinksLab, be_quick, links_lab, refused

AWAY = StateUnavailable("the state is away")


@pytest.fixture
async def lab(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LinksLab]:
    """A link that dials."""
    be_quick(monkeypatch)
    async with links_lab() as lab:
        await lab.make_link()
        yield lab


def hold(lab: LinksLab, key: int) -> tuple[asyncio.Event, asyncio.Event]:
    """Holds the destination's next request of that kind: set when it came, and to be set to release it."""
    asked, release = asyncio.Event(), asyncio.Event()

    async def wait(*_: Any) -> None:
        asked.set()
        await release.wait()

    lab.own.fault(key, wait)
    return asked, release


def refuse_creation(lab: LinksLab, code: int) -> Any:
    """A fault that answers CreateTopics with an error, the topic not made."""

    def refuse(header: Any, request: Any) -> Any:
        answer = lab.own.usual(header, request)
        lab.own.topics.pop(request.topics[0].name)
        return replace(answer, topics=(replace(answer.topics[0], error_code=ErrorCode(code)),))

    return refuse


def die(lab: LinksLab) -> Any:
    """A fault that ends the connection instead of an answer."""

    def cut(*_: Any) -> Any:
        lab.own.cut()
        return NO_ANSWER

    return cut


async def copied(lab: LinksLab) -> None:
    """Returns when the mirror topic is there, and has what its source has."""
    await until(lambda: "t" in lab.own.topics and lab.own.topics["t"].logs[0].end == 3)


# --- making -------------------------------------------------------------------------------------------


async def test_a_mirror_topic_has_the_shape_of_its_source_and_keeps_everything(lab: LinksLab) -> None:
    configs = {"retention.ms": "1000", "segment.bytes": "1048576"}
    source = lab.other.create("t", 3, configs=configs)
    made = await lab.make_mirror()
    topic = lab.own.topics["t"]
    assert len(topic.logs) == 3
    known = {name: value for name, value in HELD.items() if name in lab.own.defaults}
    assert topic.configs == {**known, "max.message.bytes": "1048588", "segment.bytes": "1048576"}
    assert (made.topic_id, made.source_topic_id) == (topic.topic_id, source.topic_id)
    assert (made.num_partitions, made.configs, made.status) == (3, {"retention.ms": "1000"}, "ACTIVE")
    (request,) = [r for _, r in lab.own.of_kind(ApiKey.CREATE_TOPICS)]
    assert request.topics[0].replication_factor == -1


async def test_what_the_caller_wishes(lab: LinksLab) -> None:
    lab.other.create("t")
    wish = CreateMirror("t", "t", replication_factor=2, configs={"segment.bytes": "77", "retention.ms": "5"})
    await lab.links.create_mirror(LINK, wish)
    (request,) = [r for _, r in lab.own.of_kind(ApiKey.CREATE_TOPICS)]
    assert request.topics[0].replication_factor == 2
    assert lab.own.topics["t"].configs["segment.bytes"] == "77"
    assert lab.own.topics["t"].configs["retention.ms"] == "-1"


async def test_the_record_precedes_the_topic(lab: LinksLab) -> None:
    lab.other.create("t")
    seen = []

    def look(*_: Any) -> None:
        seen.append(lab.store.state.mirrors["t"].topic_id)

    lab.own.fault(ApiKey.CREATE_TOPICS, look)
    await lab.links.create_mirror(LINK, CreateMirror("t"))
    assert seen == [None]


async def test_a_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    be_quick(monkeypatch)
    async with links_lab() as lab:
        await lab.make_link(**{"cluster.link.prefix": "dc1."})
        lab.other.create("t").logs[0].write(3)
        await lab.links.create_mirror(LINK, CreateMirror("t", "dc1.t"))
        await until(lambda: lab.own.topics["dc1.t"].logs[0].end == 3)
        with pytest.raises(LinkError) as error:
            await lab.links.create_mirror(LINK, CreateMirror("t", "t"))
        assert refused(error) == (400, 40035, "Topic renaming for mirroring not yet supported")
        for name in ("_causeway-state", "__consumer_offsets"):
            with pytest.raises(LinkError, match="internal"):
                await lab.links.create_mirror(LINK, CreateMirror(name))
        with pytest.raises(LinkError, match="longer than the max allowed length 249"):
            await lab.links.create_mirror(LINK, CreateMirror("x" * 246))


@pytest.mark.parametrize("name", ["", "a b", "ä", ".", "..", "a/b"])
async def test_names_that_no_topic_can_have(lab: LinksLab, name: str) -> None:
    with pytest.raises(LinkError, match="is not valid") as error:
        await lab.links.create_mirror(LINK, CreateMirror(name))
    assert refused(error)[:2] == (400, 40002)


async def test_what_is_not_at_the_source(lab: LinksLab) -> None:
    with pytest.raises(LinkError, match="Topic 'gone' does not exist at the source") as error:
        await lab.links.create_mirror(LINK, CreateMirror("gone"))
    assert refused(error)[:2] == (400, 40002)
    lab.other.create("hidden", error_code=29)
    with pytest.raises(
        LinkError, match=r"does not show topic 'hidden' \(error 29\); may the link's principal"
    ):
        await lab.links.create_mirror(LINK, CreateMirror("hidden"))


async def test_names_that_are_taken(lab: LinksLab) -> None:
    lab.other.create("t")
    lab.own.create("t")
    with pytest.raises(LinkError) as error:
        await lab.links.create_mirror(LINK, CreateMirror("t"))
    assert refused(error) == (400, 40002, "Topic 't' already exists.")
    lab.own.topics["t"].error_code = 29
    with pytest.raises(LinkError, match=r"does not show whether topic 't' exists \(error 29\)"):
        await lab.links.create_mirror(LINK, CreateMirror("t"))
    await lab.make_mirror("u")
    with pytest.raises(LinkError, match="Topic 'u' already exists"):
        await lab.links.create_mirror(LINK, CreateMirror("u"))


async def test_two_wish_for_one_name(lab: LinksLab) -> None:
    lab.other.create("t").logs[0].write(3)
    results = await asyncio.gather(
        *(lab.links.create_mirror(LINK, CreateMirror("t")) for _ in range(3)), return_exceptions=True
    )
    assert sorted(str(result) for result in results) == ["None", *["Topic 't' already exists."] * 2]
    await copied(lab)


async def test_the_one_that_loses_does_not_disturb_the_other(lab: LinksLab) -> None:
    lab.other.create("t").logs[0].write(3)
    asked, release = hold(lab, ApiKey.CREATE_TOPICS)
    both = [asyncio.create_task(lab.links.create_mirror(LINK, CreateMirror("t"))) for _ in range(2)]
    await asked.wait()
    await asyncio.sleep(0.2)
    assert len(lab.own.of_kind(ApiKey.CREATE_TOPICS)) == 1
    release.set()
    results = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(str(result) for result in results) == ["None", "Topic 't' already exists."]


async def test_no_link_and_no_destination(lab: LinksLab) -> None:
    with pytest.raises(LinkError) as error:
        await lab.links.create_mirror("other", CreateMirror("t"))
    assert refused(error)[0] == 404
    await lab.make_link("outward", **{"link.mode": "SOURCE"})
    with pytest.raises(LinkError, match="'outward' is the source half; mirror topics are made on"):
        await lab.links.create_mirror("outward", CreateMirror("t"))


async def test_a_source_that_is_away(lab: LinksLab) -> None:
    await lab.other.close()
    with pytest.raises(LinkError, match="the source or the destination does not answer") as error:
        await lab.links.create_mirror(LINK, CreateMirror("t"))
    assert refused(error)[:2] == (503, 50003)
    assert not lab.store.state.mirrors


async def test_a_link_that_goes_meanwhile(lab: LinksLab) -> None:
    lab.other.create("t")
    asked, release = hold(lab, ApiKey.INIT_PRODUCER_ID)
    making = asyncio.create_task(lab.links.create_mirror(LINK, CreateMirror("t")))
    await asked.wait()
    await lab.links.delete_link(LINK, force=False, validate_only=False)
    await lab.make_link()
    release.set()
    with pytest.raises(LinkError, match="does not exist"):
        await making
    assert not lab.store.state.mirrors
    assert "t" not in lab.own.topics


async def test_a_mirror_that_is_deleted_while_its_topic_is_made(lab: LinksLab) -> None:
    lab.other.create("t")
    asked, release = hold(lab, ApiKey.CREATE_TOPICS)
    making = asyncio.create_task(lab.links.create_mirror(LINK, CreateMirror("t")))
    await asked.wait()
    await lab.links.delete_link(LINK, force=True, validate_only=False)
    assert not lab.store.state.mirrors
    release.set()
    with pytest.raises(LinkError, match="was deleted, or its cluster link, while it was made"):
        await making


async def test_a_refused_topic_leaves_no_record(lab: LinksLab) -> None:
    lab.other.create("t")
    lab.own.fault(ApiKey.CREATE_TOPICS, refuse_creation(lab, ErrorCode.policy_violation))
    with pytest.raises(LinkError, match="Topic 't' cannot be created: POLICY_VIOLATION"):
        await lab.links.create_mirror(LINK, CreateMirror("t"))
    assert not lab.store.state.mirrors
    await lab.make_mirror()


async def test_a_topic_that_somebody_else_made_first(lab: LinksLab) -> None:
    def make_first(*_: Any) -> None:
        lab.own.create("t")

    lab.other.create("t")
    lab.own.fault(ApiKey.CREATE_TOPICS, make_first)
    with pytest.raises(LinkError, match="Topic 't' already exists"):
        await lab.links.create_mirror(LINK, CreateMirror("t"))
    assert not lab.store.state.mirrors


async def test_a_destination_without_topic_ids(lab: LinksLab) -> None:
    lab.other.create("t")
    lab.own.versions[ApiKey.CREATE_TOPICS] = (2, 5)
    lab.own.versions[ApiKey.METADATA] = (5, 9)
    lab.own.cut()
    with pytest.raises(LinkError, match=r"gives no topic ids; it must be Kafka 2\.8 or later"):
        await lab.links.create_mirror(LINK, CreateMirror("t"))
    assert not lab.store.state.mirrors


async def test_an_id_that_only_metadata_tells(lab: LinksLab) -> None:
    lab.own.versions[ApiKey.CREATE_TOPICS] = (2, 5)
    lab.own.cut()
    made = await lab.make_mirror()
    assert made.topic_id == lab.own.topics["t"].topic_id


@pytest.mark.parametrize("fault", ["lost", "late"])
async def test_a_topic_whose_making_is_uncertain_is_made_in_the_end(lab: LinksLab, fault: str) -> None:
    """The record stays: a topic that comes to be after all must not be taken for an ordinary one."""
    lab.other.create("t").logs[0].write(3)
    lab.own.fault(
        ApiKey.CREATE_TOPICS,
        die(lab) if fault == "lost" else refuse_creation(lab, ErrorCode.request_timed_out),
    )
    with pytest.raises(LinkError, match=r"is not made yet, .* It is tried again until it is made") as error:
        await lab.links.create_mirror(LINK, CreateMirror("t"))
    assert refused(error)[:2] == (503, 50003)
    assert lab.store.state.mirrors["t"].topic_id is None
    await until(lambda: lab.store.state.mirrors["t"].topic_id is not None)
    await until(lambda: contents(lab.own.topics["t"].logs[0]) == contents(lab.other.topics["t"].logs[0]))


async def test_one_that_was_made_is_taken_over(lab: LinksLab) -> None:
    def make_and_die(header: Any, request: Any) -> Any:
        lab.own.usual(header, request)
        lab.own.cut()
        return NO_ANSWER

    lab.other.create("t").logs[0].write(3)
    lab.own.fault(ApiKey.CREATE_TOPICS, make_and_die)
    with pytest.raises(LinkError, match="is not made yet"):
        await lab.links.create_mirror(LINK, CreateMirror("t"))
    await copied(lab)
    assert lab.store.state.mirrors["t"].topic_id == lab.own.topics["t"].topic_id


async def test_a_caller_that_goes_leaves_nothing_half_made(lab: LinksLab) -> None:
    lab.other.create("t").logs[0].write(3)
    asked, release = hold(lab, ApiKey.CREATE_TOPICS)
    making = asyncio.create_task(lab.links.create_mirror(LINK, CreateMirror("t")))
    await asked.wait()
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert lab.store.state.mirrors["t"].topic_id is None
    release.set()
    await copied(lab)


@pytest.mark.parametrize("verb", ["promote", "failover", "pause", "resume"])
async def test_nothing_is_asked_of_a_mirror_in_the_making(lab: LinksLab, verb: Any) -> None:
    lab.other.create("t")
    asked, release = hold(lab, ApiKey.CREATE_TOPICS)
    making = asyncio.create_task(lab.links.create_mirror(LINK, CreateMirror("t")))
    await asked.wait()
    result = await lab.alter(verb)
    assert (result.error_code, result.error_message) == (
        400,
        f"Topic 't' is still being made: {verb} is not possible yet.",
    )
    release.set()
    await making


@pytest.mark.parametrize("partitions", [1, 2])
async def test_a_topic_that_a_client_caused_to_be_made(lab: LinksLab, partitions: int) -> None:
    """Auto-creation between record and topic gives it the cluster's shape and configs."""
    lab.other.create("t", 2)

    def make_another(*_: Any) -> Any:
        lab.own.create("t", partitions, configs={"retention.ms": "1"})
        lab.own.cut()
        return NO_ANSWER

    lab.own.fault(ApiKey.CREATE_TOPICS, make_another)
    with pytest.raises(LinkError, match="is not made yet"):
        await lab.links.create_mirror(LINK, CreateMirror("t"))
    if partitions == 2:
        await until(lambda: lab.store.state.mirrors["t"].topic_id is not None)
        assert lab.own.topics["t"].configs["retention.ms"] == "-1"
        return
    await lab.becomes(MirrorStatus.FAILED)
    assert "made by somebody else, with 1 partitions, not 2" in str(
        lab.store.state.mirrors["t"].error_message
    )


async def test_a_mirror_that_can_never_be_made_fails(lab: LinksLab) -> None:
    lab.other.create("t")
    refusal = refuse_creation(lab, ErrorCode.policy_violation)
    lab.own.fault(ApiKey.CREATE_TOPICS, die(lab), refusal)
    with pytest.raises(LinkError, match="is not made yet"):
        await lab.links.create_mirror(LINK, CreateMirror("t"))
    await lab.becomes(MirrorStatus.FAILED)
    assert "POLICY_VIOLATION" in str(lab.store.state.mirrors["t"].error_message)
    # Its name is free, since it has no topic.
    await lab.make_mirror()
    assert lab.status() is MirrorStatus.ACTIVE


@pytest.mark.parametrize("lost", [False, True])
async def test_a_state_that_cannot_be_written(lab: LinksLab, lost: bool) -> None:
    lab.other.create("t").logs[0].write(3)
    lab.store.lose_answers = lost
    lab.store.failures.append(AWAY)
    with pytest.raises(LinkError, match="the state is away") as error:
        await lab.links.create_mirror(LINK, CreateMirror("t"))
    assert refused(error)[:2] == (503, 50003)
    assert ("t" in lab.store.state.mirrors) == lost
    if lost:
        await copied(lab)


async def test_a_state_that_cannot_be_written_when_the_topic_is_there(lab: LinksLab) -> None:
    lab.other.create("t").logs[0].write(3)
    lab.store.failures.extend([None, AWAY, AWAY])
    with pytest.raises(LinkError, match="the state is away"):
        await lab.links.create_mirror(LINK, CreateMirror("t"))
    await copied(lab)


async def test_a_record_that_another_gateway_left(lab: LinksLab) -> None:
    source = lab.other.create("t")
    source.logs[0].write(3)
    link_id = lab.store.state.links[LINK].cluster_link_id
    lab.store.foresee(record(link_name=LINK, cluster_link_id=link_id, source_topic_id=source.topic_id))
    await lab.store.read_to_end()
    await copied(lab)


async def test_a_name_whose_mirror_ended_and_whose_topic_is_gone_is_free(lab: LinksLab) -> None:
    await lab.make_mirror()
    await lab.alter("failover")
    await lab.becomes(MirrorStatus.STOPPED)
    before = lab.store.state.mirrors["t"]
    with pytest.raises(LinkError, match="already exists"):
        await lab.links.create_mirror(LINK, CreateMirror("t"))
    del lab.own.topics["t"]
    lab.own.fault(ApiKey.CREATE_TOPICS, refuse_creation(lab, ErrorCode.policy_violation))
    with pytest.raises(LinkError, match="POLICY_VIOLATION"):
        await lab.links.create_mirror(LINK, CreateMirror("t"))
    assert lab.store.state.mirrors["t"] == before, "what is known of the old one is kept until it is replaced"
    again = await lab.make_mirror()
    assert again.status is MirrorStatus.ACTIVE
    assert again.producer_id != before.producer_id


# --- altering -----------------------------------------------------------------------------------------


async def test_a_promote(lab: LinksLab) -> None:
    lab.other.create("t", 2, configs={"retention.ms": "1000"})
    for log in lab.other.topics["t"].logs:
        log.write(3)
    await lab.make_mirror()
    result = await lab.alter("promote")
    assert result.error_code is None
    assert [lag.partition for lag in result.lags] == [0, 1]
    await lab.becomes(MirrorStatus.STOPPED)
    stopped = lab.store.state.mirrors["t"]
    assert stopped.stop_offsets == {0: 3, 1: 3}
    assert lab.own.topics["t"].configs["retention.ms"] == "1000"
    assert "cleanup.policy" not in lab.own.topics["t"].configs
    for verb in ("promote", "failover"):
        again = await lab.alter(verb)
        assert (again.error_code, again.error_message) == (
            400,
            "Topic 't' has already stopped its mirror from 'hybrid'",
        )


async def test_clients_may_write_only_when_the_topic_has_its_configs(lab: LinksLab) -> None:
    await lab.make_mirror()
    asked, release = hold(lab, ApiKey.INCREMENTAL_ALTER_CONFIGS)
    await lab.alter("promote")
    await asked.wait()
    assert lab.status() is MirrorStatus.PENDING_STOPPED
    release.set()
    await lab.becomes(MirrorStatus.STOPPED)


async def test_pause_and_resume(lab: LinksLab) -> None:
    await lab.make_mirror()
    assert (await lab.alter("pause")).error_code is None
    assert lab.status() is MirrorStatus.PAUSED
    again = await lab.alter("pause")
    assert (again.error_code, again.error_message) == (400, "Topic 't' is PAUSED: pause is not possible.")
    assert (await lab.alter("resume")).error_code is None
    assert lab.status() is MirrorStatus.ACTIVE


async def test_validation_changes_nothing(lab: LinksLab) -> None:
    await lab.make_mirror()
    before = lab.store.state
    (result,) = await lab.links.alter_mirrors("promote", LINK, ["t"], None, True)
    assert result.error_code is None
    (result,) = await lab.links.alter_mirrors("resume", LINK, ["t"], None, True)
    assert result.error_code == 400
    assert lab.store.state is before


async def test_names_and_patterns(lab: LinksLab) -> None:
    for name in ("orders-1", "orders-2", "other"):
        await lab.make_mirror(name)
    found = await lab.links.alter_mirrors("pause", LINK, None, "orders-.*", False)
    assert [result.mirror_topic_name for result in found] == ["orders-1", "orders-2"]
    assert lab.status("other") is MirrorStatus.ACTIVE
    found = await lab.links.alter_mirrors("resume", LINK, ["orders-1", "nobody"], None, False)
    assert [result.error_code for result in found] == [None, 404]
    assert found[1].error_message == "Cluster link 'hybrid' has no mirror topic 'nobody'."
    assert await lab.links.alter_mirrors("resume", LINK, None, "nothing", False) == []
    with pytest.raises(LinkError, match=r"'\(' is not a regular expression"):
        await lab.links.alter_mirrors("resume", LINK, None, "(", False)
    with pytest.raises(LinkError) as error:
        await lab.links.alter_mirrors("resume", "nobody", ["t"], None, False)
    assert refused(error)[0] == 404


async def test_a_mirror_of_another_link(lab: LinksLab) -> None:
    await lab.make_mirror()
    await lab.make_link("second")
    (result,) = await lab.links.alter_mirrors("pause", "second", ["t"], None, False)
    assert result.error_code == 404
    with pytest.raises(LinkError):
        lab.links.mirror("second", "t")


async def test_what_is_decided_on_is_the_newest_state(lab: LinksLab) -> None:
    made = await lab.make_mirror()
    lab.store.free.clear()
    pausing = asyncio.create_task(lab.alter("pause"))
    await until(lambda: lab.store.waiting)
    stopped = made.model_copy(update={"status": MirrorStatus.STOPPED})
    lab.store.foresee(stopped)
    await lab.store.read_to_end()
    lab.store.free.set()
    assert (await pausing).error_message == "Topic 't' has already stopped its mirror from 'hybrid'"
    assert lab.store.state.mirrors["t"] == stopped


async def test_a_verb_that_the_state_does_not_take(lab: LinksLab) -> None:
    await lab.make_mirror()
    lab.store.failures.append(AWAY)
    with pytest.raises(LinkError, match="the state is away"):
        await lab.alter("pause")
    assert lab.status() is MirrorStatus.ACTIVE


async def test_a_mirror_that_is_gone_when_it_was_altered(
    lab: LinksLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.make_mirror()
    real = lab.store.update

    async def update_and_delete(change: Any) -> Any:
        await real(change)
        del lab.own.topics["t"]
        monkeypatch.setattr(lab.store, "update", real)
        lab.links.forget_mirror("t")
        await until(lambda: "t" not in lab.store.state.mirrors)

    monkeypatch.setattr(lab.store, "update", update_and_delete)
    result = await lab.alter("pause")
    assert (result.error_code, result.lags) == (None, ())


async def test_a_promote_needs_its_source_and_a_failover_does_not(lab: LinksLab) -> None:
    await lab.alter_configs(**IMPATIENT)
    await lab.make_mirror()
    await lab.other.close()
    await until(lambda: lab.status() is MirrorStatus.SOURCE_UNAVAILABLE)
    result = await lab.alter("promote")
    assert result.error_message == (
        "Topic 't' is SOURCE_UNAVAILABLE: promote is not possible. Its source must be reachable for a "
        "promote; failover does not need it."
    )
    assert (await lab.alter("failover")).error_code is None
    await lab.becomes(MirrorStatus.STOPPED)


async def test_a_promote_would_leave_added_partitions_behind(lab: LinksLab) -> None:
    await lab.make_mirror()
    _, grow = hold(lab, ApiKey.CREATE_PARTITIONS)
    lab.other.topics["t"].logs.append(Log(1))
    runtime = lab.links._runtimes[LINK]
    assert runtime.replicator is not None
    replicator = runtime.replicator
    await until(lambda: replicator.mirrors["t"].source_partitions == 2)
    result = await lab.alter("promote")
    assert result.error_message == (
        "Topic 't' has 1 partitions, its source topic 2: what is in the others would be left behind. "
        "Failover stops the mirror without them."
    )
    grow.set()
    assert (await lab.alter("failover")).error_code is None
    await lab.becomes(MirrorStatus.STOPPED)


async def test_a_promote_that_waits_for_ever_becomes_a_failover(lab: LinksLab) -> None:
    await lab.make_mirror(partitions=2)
    lab.other.topics["t"].logs[1].fetch_errors.extend([6] * 1_000)
    lab.other.topics["t"].logs[1].write(5)
    await lab.alter("promote")
    await until(lambda: lab.own.topics["t"].logs[0].end == 4)
    assert lab.store.state.mirrors["t"].stop_offsets == {0: 3, 1: 8}
    assert (await lab.alter("failover")).error_code is None
    await lab.becomes(MirrorStatus.STOPPED)
    assert lab.store.state.mirrors["t"].stop_offsets == {0: 3, 1: 3}


async def test_a_failover_while_the_end_of_a_promote_is_asked_for(lab: LinksLab) -> None:
    """The promote's end comes too late, and would never be reached."""
    await lab.make_mirror()
    asked, release = asyncio.Event(), asyncio.Event()

    async def wait(*_: Any) -> None:
        lab.other.topics["t"].logs[0].fetch_errors.extend([6] * 1_000)
        lab.other.topics["t"].logs[0].write(5)
        asked.set()
        await release.wait()

    lab.other.fault(ApiKey.LIST_OFFSETS, wait)
    await lab.alter("promote")
    await asked.wait()
    await lab.alter("failover")
    release.set()
    await lab.becomes(MirrorStatus.STOPPED)
    assert lab.store.state.mirrors["t"].stop_offsets == {0: 3}


# --- what is reported ---------------------------------------------------------------------------------


async def test_a_failure_is_kept_with_its_reason(lab: LinksLab) -> None:
    lab.other.create("t").logs[0].write_unknown(2)
    await lab.make_mirror(mirrored=False)
    await lab.becomes(MirrorStatus.FAILED)
    failed = lab.store.state.mirrors["t"]
    assert failed.error is MirrorTopicError.UNSUPPORTED_MESSAGE_FORMAT
    assert "codec 7" in str(failed.error_message)
    result = await lab.alter("failover")
    assert str(result.error_message).startswith("Topic 't' is FAILED: failover is not possible. With force")


async def test_a_report_about_an_earlier_mirror_of_the_name_is_dropped(lab: LinksLab) -> None:
    made = await lab.make_mirror()
    mirrors = lab.links._mirrors
    old = made.model_copy(update={"producer_id": 1})
    before = lab.store.state
    await mirrors.failed(old, MirrorTopicError.UNKNOWN, "old")
    await mirrors.stopping_at(old, {0: 1})
    await mirrors.stopped(old, {0: 1})
    assert lab.store.state.mirrors == before.mirrors


@pytest.mark.parametrize("status", [MirrorStatus.STOPPED, MirrorStatus.FAILED])
async def test_a_report_that_is_no_transition_is_dropped(lab: LinksLab, status: MirrorStatus) -> None:
    made = await lab.make_mirror()
    ended = made.model_copy(update={"status": status})
    lab.store.foresee(ended)
    await lab.store.read_to_end()
    mirrors = lab.links._mirrors
    await mirrors.failed(made, MirrorTopicError.UNKNOWN, "late")
    await mirrors.stopped(made, {0: 1})
    await mirrors.stopping_at(made, {0: 1})
    assert lab.store.state.mirrors["t"] == ended


async def test_lags(lab: LinksLab) -> None:
    await lab.make_mirror(partitions=2)
    lab.own.topics["t"].logs[1].leader = -1
    lab.other.topics["t"].logs[1].write(4)
    await until(lambda: PartitionLag(0, 0, 3) in lab.links.mirror(LINK, "t").lags)
    (view,) = lab.links.mirrors(LINK, None)
    assert [lag.partition for lag in view.lags] == [0, 1]
    assert [v.record.mirror_topic_name for v in lab.links.mirrors(None, MirrorStatus.ACTIVE)] == ["t"]
    assert lab.links.mirrors(None, MirrorStatus.FAILED) == []
    with pytest.raises(LinkError):
        lab.links.mirrors("nobody", None)


# --- deleting -----------------------------------------------------------------------------------------


async def test_a_deleted_topic_takes_its_record_along(lab: LinksLab) -> None:
    await lab.make_mirror()
    del lab.own.topics["t"]
    lab.links.forget_mirror("t")
    await until(lambda: "t" not in lab.store.state.mirrors)
    await lab.make_mirror()


async def test_also_if_its_replicator_was_quicker_to_miss_it(
    lab: LinksLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.links.mirrors.TOPIC_SETTLE_S", 5.0)
    made = await lab.make_mirror()
    lab.links.forget_mirror("t")
    await asyncio.sleep(0.05)
    lab.store.foresee(made.model_copy(update={"status": MirrorStatus.FAILED}))
    await lab.store.read_to_end()
    del lab.own.topics["t"]
    await until(lambda: "t" not in lab.store.state.mirrors)


async def test_a_topic_made_anew_meanwhile_is_an_ordinary_one(lab: LinksLab) -> None:
    await lab.make_mirror()
    lab.own.create("t")
    lab.links.forget_mirror("t")
    await until(lambda: "t" not in lab.store.state.mirrors)


async def test_a_topic_that_is_still_there_keeps_its_record(lab: LinksLab) -> None:
    await lab.make_mirror()
    lab.links.forget_mirror("t")
    lab.links.forget_mirror("nobody")
    await asyncio.sleep(0.3)
    assert "t" in lab.store.state.mirrors


async def test_a_state_that_is_away_when_a_topic_is_deleted(
    lab: LinksLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.links.mirrors.TOPIC_SETTLE_S", 5.0)
    await lab.make_mirror()
    lab.store.failures.append(AWAY)
    del lab.own.topics["t"]
    lab.links.forget_mirror("t")
    await until(lambda: "t" not in lab.store.state.mirrors)


async def test_the_topic_is_made_when_all_processes_know_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    be_quick(monkeypatch)
    seen: list[tuple[bool, bool]] = []

    async def all_have_read() -> None:
        seen.append(("t" in made.store.state.mirrors, "t" in made.own.topics))

    async with links_lab(all_have_read=all_have_read) as made:
        await made.make_link()
        await made.make_mirror()
        assert seen == [(True, False)]
        assert "t" in made.own.topics
