"""Links: made, shown, deleted, followed from the state, and who may attach to which."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from gateway.links.attach import AttachRefused
from gateway.links.errors import LinkError
from gateway.links.lease import Lease
from gateway.links.requests import CreateLink, CreateMirror, LinkErrorKind, LinkState, TaskState
from gateway.links.work_plan import OTHER_LINKS, Holding
from gateway.peers import Worker
from gateway.security.credentials import SCRAM_SHA_256, scram_keys
from gateway.security.principals import Principal
from gateway.state.records import (
    ConnectionMode,
    Delete,
    LinkMode,
    LinkRecord,
    MirrorStatus,
    Record,
    ScramKeys,
    UserRecord,
)
from gateway.state.secrets import Secrets
from gateway.state.store import StateUnavailable
from gateway.upstreams.parked import ParkedPool
from gateway.wire import FrameConnection
from protocol.reverse import DIAL_AGAIN, LinkAttachRequest, LinkAttachResponse
from tests.gateway.links.lab import record, until
from tests.gateway.links.link_lab import IMPATIENT, LINK, LinksLab, be_quick, links_lab, refused

ALICE, BOB = Principal("User", "alice"), Principal("User", "bob")
AWAY = StateUnavailable("the state is away")
JAAS = 'org.apache.kafka.common.security.plain.PlainLoginModule required username="u" password="hunter2";'


@pytest.fixture
async def lab(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LinksLab]:
    """No link yet."""
    be_quick(monkeypatch)
    async with links_lab() as lab:
        yield lab


async def create(lab: LinksLab, name: str = LINK, *, validate_only: bool = False, **given: Any) -> None:
    """With the other side asked."""
    request = CreateLink(name, **{"source_cluster_id": None, **given})
    await lab.links.create_link(request, validate_only=validate_only, validate_link=True)


def record_of(lab: LinksLab, name: str = LINK) -> LinkRecord:
    return lab.store.state.links[name]


# --- making -------------------------------------------------------------------------------------------


async def test_a_link_that_dials(lab: LinksLab) -> None:
    await create(lab, configs=lab.outbound)
    made = record_of(lab)
    assert (made.link_mode, made.connection_mode) == (LinkMode.DESTINATION, ConnectionMode.OUTBOUND)
    assert (made.source_cluster_id, made.destination_cluster_id) == ("other", "own")
    assert len(made.cluster_link_id) == 22
    assert made.owner is None
    shown = lab.links.link(LINK)
    assert (shown.link_state, shown.link_error) == (LinkState.ACTIVE, LinkErrorKind.NO_ERROR)


async def test_two_links_share_nothing(lab: LinksLab) -> None:
    await lab.make_link("a")
    await lab.make_link("b")
    first, second = record_of(lab, "a"), record_of(lab, "b")
    assert first.filler_key != second.filler_key
    assert first.cluster_link_id != second.cluster_link_id
    assert [view.record.link_name for view in lab.links.links()] == ["a", "b"]


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 250, "a/b"])
async def test_names_that_no_link_can_have(lab: LinksLab, name: str) -> None:
    with pytest.raises(LinkError, match="is not valid: letters, digits") as error:
        await create(lab, name, configs=lab.outbound)
    assert refused(error)[:2] == (400, 40002)


async def test_a_name_is_taken_once(lab: LinksLab) -> None:
    await create(lab, configs=lab.outbound)
    with pytest.raises(LinkError) as error:
        await create(lab, configs=lab.outbound)
    assert refused(error) == (409, 40902, "Cluster link 'hybrid' already exists.")


async def test_two_wish_for_one_name(lab: LinksLab) -> None:
    both = await asyncio.gather(
        create(lab, configs=lab.outbound), create(lab, configs=lab.outbound), return_exceptions=True
    )
    assert sorted(str(result) for result in both) == ["Cluster link 'hybrid' already exists.", "None"]


async def test_validation_makes_nothing(lab: LinksLab) -> None:
    await create(lab, validate_only=True, configs=lab.outbound)
    assert not lab.store.state.links
    with pytest.raises(LinkError):
        await create(lab, validate_only=True, configs={"bootstrap.servers": "127.0.0.1:1"})


async def test_the_wrong_source(lab: LinksLab) -> None:
    with pytest.raises(LinkError) as error:
        await create(lab, source_cluster_id="third", configs=lab.outbound)
    assert refused(error) == (
        400,
        40002,
        "The bootstrap servers belong to cluster other, the link is for third.",
    )


async def test_a_link_to_oneself(lab: LinksLab) -> None:
    with pytest.raises(LinkError, match="Source and destination are the same cluster, own"):
        await create(lab, configs={"bootstrap.servers": lab.own.bootstrap})


async def test_a_source_that_is_away(lab: LinksLab) -> None:
    await lab.other.close()
    with pytest.raises(LinkError, match="The source cluster cannot be reached"):
        await create(lab, configs=lab.outbound)
    # Not asked for, it is made all the same, and waits.
    await lab.make_link()
    assert record_of(lab).source_cluster_id == "other"


async def test_an_inbound_link_cannot_ask(lab: LinksLab) -> None:
    with pytest.raises(LinkError, match="An inbound link needs source_cluster_id"):
        await create(lab, configs={"connection.mode": "INBOUND"})
    await lab.make_inbound()
    assert record_of(lab).source_cluster_id == "other"


async def test_secrets_are_kept_as_ciphertext(lab: LinksLab) -> None:
    configs = {
        **lab.outbound,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.jaas.config": JAAS,
    }
    request = CreateLink(LINK, source_cluster_id="other", configs=configs)
    await lab.links.create_link(request, validate_only=False, validate_link=False)
    kept = record_of(lab).configs
    assert kept["bootstrap.servers"] == lab.other.bootstrap
    assert "hunter2" not in repr(lab.store.state)
    assert Secrets(bytes(32)).decrypt(kept["sasl.jaas.config"]) == JAAS
    assert LINK in lab.links._runtimes, "it works with what it has kept"


async def test_secrets_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    be_quick(monkeypatch)
    async with links_lab(secrets=Secrets(None)) as lab:
        configs = {
            **lab.outbound,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.jaas.config": JAAS,
        }
        request = CreateLink(LINK, source_cluster_id="other", configs=configs)
        with pytest.raises(LinkError, match="'hybrid' cannot be kept") as error:
            await lab.links.create_link(request, validate_only=False, validate_link=False)
        assert "hunter2" not in str(error.value)


async def test_a_state_that_cannot_be_written(lab: LinksLab) -> None:
    lab.store.failures.append(AWAY)
    with pytest.raises(LinkError, match="the state is away") as error:
        await lab.make_link()
    assert refused(error)[:2] == (503, 50003)


async def test_a_cluster_that_was_not_reached_yet(lab: LinksLab) -> None:
    lab.cluster.cluster_id = None
    with pytest.raises(LinkError, match="has not been reached yet"):
        await lab.make_link()


# --- the source half ----------------------------------------------------------------------------------


def answer_attach(monkeypatch: pytest.MonkeyPatch, answer: LinkAttachResponse | Exception) -> list[Any]:
    """What the other gateway would say."""
    halves = []

    class Connection:
        aborted = False

        def abort(self) -> None:
            self.aborted = True

    async def attach(self: Any) -> Any:
        halves.append(self)
        if isinstance(answer, Exception):
            raise answer
        connection = Connection()
        halves.append(connection)
        return connection, answer

    monkeypatch.setattr("gateway.links.attach.SourceHalf.attach", attach)

    async def run(self: Any) -> None:
        halves.append(self)
        await asyncio.Event().wait()

    monkeypatch.setattr("gateway.links.attach.SourceHalf.run", run)
    return halves


OUTWARD = {"link.mode": "SOURCE", "bootstrap.servers": "127.0.0.1:1"}


async def test_a_source_half_takes_the_id_of_the_other(
    lab: LinksLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = answer_attach(monkeypatch, LinkAttachResponse(0, None, "link-id", "i", 1))
    await create(lab, destination_cluster_id="dest", configs=OUTWARD)
    made = record_of(lab)
    assert (made.cluster_link_id, made.link_mode) == ("link-id", LinkMode.SOURCE)
    assert (made.source_cluster_id, made.destination_cluster_id) == ("own", "dest")
    await until(lambda: len(halves) == 3)
    asked, connection, runs = halves
    assert connection.aborted, "it was only a question"
    assert asked.link_id is None
    assert runs.link_id == "link-id"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            AttachRefused(91, "no"),
            "The destination cluster does not have a link named hybrid. Create it there",
        ),
        (AttachRefused(31, "belongs to another principal"), "refuses the link: belongs to another principal"),
        (OSError("no route"), "The destination cannot be reached: no route"),
    ],
)
async def test_a_source_half_that_is_not_wanted(
    lab: LinksLab, monkeypatch: pytest.MonkeyPatch, answer: Exception, text: str
) -> None:
    answer_attach(monkeypatch, answer)
    with pytest.raises(LinkError) as error:
        await create(lab, configs=OUTWARD)
    status, code, message = refused(error)
    assert (status, code) == (400, 400)
    assert text in message
    assert not lab.store.state.links


async def test_a_source_half_made_unasked(lab: LinksLab, monkeypatch: pytest.MonkeyPatch) -> None:
    halves = answer_attach(monkeypatch, OSError("unasked"))
    await lab.make_link(**OUTWARD)
    assert record_of(lab).cluster_link_id == ""
    await until(lambda: halves)
    assert halves[0].link_id is None
    shown = lab.links.link(LINK)
    assert (shown.link_state, shown.link_error_message) == (LinkState.UNAVAILABLE, "not attached yet")


async def test_a_source_half_with_credentials_of_its_own(
    lab: LinksLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = answer_attach(monkeypatch, OSError("unasked"))
    local = {
        "local.security.protocol": "SASL_PLAINTEXT",
        "local.sasl.mechanism": "PLAIN",
        "local.sasl.jaas.config": JAAS,
    }
    await lab.make_link(**OUTWARD, **local)
    runtime = lab.links._runtimes[LINK]
    assert runtime.source is not None
    assert runtime.source is not lab.cluster
    assert runtime.source._connector._security.username == "u"  # type: ignore[attr-defined]
    await lab.links.delete_link(LINK, force=False, validate_only=False)
    await lab.make_link("plain", **OUTWARD)
    assert lab.links._runtimes["plain"].source is None, "the gateway's own cluster outlives every link"
    assert halves


# --- following the state ------------------------------------------------------------------------------


async def test_what_another_gateway_makes_and_deletes_is_followed(lab: LinksLab) -> None:
    await lab.make_link()
    record = record_of(lab).model_copy(update={"link_name": "other", "cluster_link_id": "z"})
    lab.store.foresee(record)
    await lab.store.read_to_end()
    await until(lambda: "other" in lab.links._runtimes)
    lab.store.foresee(Delete("link", "other"))
    await lab.store.read_to_end()
    await until(lambda: "other" not in lab.links._runtimes)


async def test_a_link_made_anew_is_another_link(lab: LinksLab) -> None:
    await lab.make_inbound()
    old = lab.links._runtimes[LINK]
    lab.store.foresee(record_of(lab).model_copy(update={"cluster_link_id": "z", "owner": "User:bob"}))
    await lab.store.read_to_end()
    await until(lambda: lab.links._runtimes.get(LINK) not in (None, old))
    assert old.pool is not None
    assert old.pool.refusal(uuid4(), 1) == "the link is going away"


@pytest.mark.parametrize(
    "broken",
    [{"sasl.jaas.config": "aes256gcm:nonsense"}, {"no.such.config": "x"}],
)
async def test_a_link_that_cannot_start_is_shown_and_holds_up_nobody(
    lab: LinksLab, broken: dict[str, str]
) -> None:
    await lab.make_link("fine")
    configs = {**lab.outbound, "security.protocol": "SASL_PLAINTEXT", **broken}
    record = record_of(lab, "fine").model_copy(
        update={"link_name": "broken", "cluster_link_id": "z", "configs": configs}
    )
    lab.store.foresee(record)
    await lab.store.read_to_end()
    await lab.make_link("later")
    assert set(lab.links._runtimes) == {"fine", "later"}
    shown = lab.links.link("broken")
    assert shown.link_state is LinkState.FAILED
    assert "a secret in the state topic cannot be decrypted" in str(shown.link_error_message)
    with pytest.raises(LinkError):
        await lab.links.create_mirror("broken", CreateMirror("t"))


async def test_following_outlives_what_nobody_thought_of(
    lab: LinksLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.make_link()
    record = record_of(lab).model_copy(update={"link_name": "other", "cluster_link_id": "z"})
    real = lab.links._parts.runtime
    calls = []

    def runtime(record: LinkRecord) -> Any:
        calls.append(record)
        if len(calls) == 1:
            raise ZeroDivisionError
        return real(record)

    monkeypatch.setattr(lab.links._parts, "runtime", runtime)
    lab.store.foresee(record)
    await lab.store.read_to_end()
    await until(lambda: "other" in lab.links._runtimes)


async def test_whoever_is_cancelled_while_a_link_ends_leaves_it_to_others(
    lab: LinksLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.make_inbound()
    runtime = lab.links._runtimes[LINK]
    real, entered, calls = runtime.close, asyncio.Event(), []

    async def close() -> None:
        calls.append(asyncio.current_task())
        if len(calls) == 1:
            entered.set()
            await asyncio.Event().wait()
        await real()

    monkeypatch.setattr(runtime, "close", close)
    deleting = asyncio.create_task(lab.links.delete_link(LINK, force=False, validate_only=False))
    await entered.wait()
    if calls[0] is deleting:
        deleting.cancel()
    else:
        pytest.fail("the caller is expected to be first")
    with pytest.raises(asyncio.CancelledError):
        await deleting
    await until(lambda: LINK not in lab.links._runtimes)
    assert runtime.pool is not None
    assert runtime.pool.refusal(uuid4(), 1) is not None


async def test_the_end(lab: LinksLab) -> None:
    await lab.make_link()
    await lab.make_mirror()
    await lab.links.close()
    await lab.links.close()
    await lab.other.wait_for_connections(0)
    # The API may still be served for a moment.
    await lab.make_link("late")
    assert not lab.links._runtimes


# --- deleting -----------------------------------------------------------------------------------------


async def test_a_link_without_mirrors(lab: LinksLab) -> None:
    await lab.make_link()
    await lab.links.delete_link(LINK, force=False, validate_only=True)
    assert LINK in lab.store.state.links
    await lab.links.delete_link(LINK, force=False, validate_only=False)
    assert not lab.store.state.links
    await lab.other.wait_for_connections(0)
    with pytest.raises(LinkError) as error:
        await lab.links.delete_link(LINK, force=False, validate_only=False)
    assert refused(error) == (
        404,
        404,
        "The cluster link doesn't exist: Cluster link 'hybrid' does not exist.",
    )


async def test_live_mirrors_forbid_it(lab: LinksLab) -> None:
    await lab.make_link()
    await lab.make_mirror()
    with pytest.raises(LinkError, match="still has mirror topics that are not stopped: t") as error:
        await lab.links.delete_link(LINK, force=False, validate_only=True)
    assert refused(error)[:2] == (403, 403)


async def test_force_fails_them_over(lab: LinksLab) -> None:
    await lab.make_link()
    for name in ("active", "paused", "promoted"):
        await lab.make_mirror(name)
    lab.other.create("failed").logs[0].write_unknown(1)
    await lab.make_mirror("failed", mirrored=False)
    await lab.becomes(MirrorStatus.FAILED, "failed")
    await lab.alter("pause", "paused")
    await lab.alter("promote", "promoted")
    await lab.becomes(MirrorStatus.STOPPED, "promoted")
    await lab.links.delete_link(LINK, force=True, validate_only=False)
    assert not lab.store.state.links
    kept = {name: mirror.status for name, mirror in lab.store.state.mirrors.items()}
    assert kept == dict.fromkeys(("active", "paused", "promoted"), MirrorStatus.STOPPED), (
        "the barrier of those must stay hidden"
    )
    await lab.other.wait_for_connections(0)


async def test_force_that_takes_too_long(lab: LinksLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.links.link.FORCED_DELETE_TIMEOUT_S", 0.2)
    await lab.make_link()
    await lab.make_mirror()
    lab.own.topics["t"].logs[0].leader = -1
    await lab.alter("pause")
    with pytest.raises(
        LinkError, match=r"could not be failed over in 0 s. Is the destination cluster in order"
    ):
        await lab.links.delete_link(LINK, force=True, validate_only=False)
    assert LINK in lab.store.state.links


async def test_a_mirror_made_meanwhile_is_not_left_behind(lab: LinksLab) -> None:
    """A mirror without its link could never be promoted, nor written to."""
    await lab.make_link()
    mirror = await lab.make_mirror()
    lab.store.foresee(Delete("mirror", "t"))
    await lab.store.read_to_end()
    lab.store.free.clear()
    deleting = asyncio.create_task(lab.links.delete_link(LINK, force=False, validate_only=False))
    await until(lambda: lab.store.waiting)
    lab.store.foresee(mirror)
    await lab.store.read_to_end()
    lab.store.free.set()
    with pytest.raises(LinkError, match="still has mirror topics"):
        await deleting
    assert LINK in lab.store.state.links


async def test_a_link_made_anew_meanwhile_is_not_deleted(lab: LinksLab) -> None:
    await lab.make_link()
    lab.store.free.clear()
    deleting = asyncio.create_task(lab.links.delete_link(LINK, force=False, validate_only=False))
    await until(lambda: lab.store.waiting)
    lab.store.foresee(record_of(lab).model_copy(update={"cluster_link_id": "z"}))
    await lab.store.read_to_end()
    lab.store.free.set()
    with pytest.raises(LinkError, match="does not exist"):
        await deleting
    assert LINK in lab.store.state.links


async def test_a_stopped_mirror_outlives_its_link(lab: LinksLab) -> None:
    await lab.make_link()
    await lab.make_mirror()
    await lab.alter("promote")
    await lab.becomes(MirrorStatus.STOPPED)
    await lab.links.delete_link(LINK, force=False, validate_only=False)
    await lab.make_link()
    assert lab.links.mirrors(LINK, None) == [], "it belonged to the earlier link of the name"
    assert lab.store.state.mirrors["t"].status is MirrorStatus.STOPPED
    with pytest.raises(LinkError, match="already exists"):
        await lab.links.create_mirror(LINK, CreateMirror("t"))


# --- who may attach -----------------------------------------------------------------------------------


def wish(lab: LinksLab, **changes: Any) -> LinkAttachRequest:
    """What the right source half sends."""
    fields = {
        "link_name": LINK,
        "link_id": None,
        "source_cluster_id": "other",
        "agent_id": UUID(int=1),
        "agent_epoch": 5,
        **changes,
    }
    return LinkAttachRequest(**fields)


async def test_the_first_principal_owns_the_link(lab: LinksLab) -> None:
    await lab.make_inbound()
    response = await lab.links.attach(ALICE, wish(lab))
    assert response == LinkAttachResponse(0, None, record_of(lab).cluster_link_id, "instance", 1)
    assert record_of(lab).owner == "User:alice"
    again = await lab.links.attach(ALICE, wish(lab, link_id=record_of(lab).cluster_link_id))
    assert again.error_code == 0
    other = await lab.links.attach(BOB, wish(lab))
    assert (other.error_code, other.error_message, other.link_id) == (
        31,
        "cluster link 'hybrid' belongs to another principal",
        None,
    )


async def test_two_are_first(lab: LinksLab) -> None:
    await lab.make_inbound()
    responses = await asyncio.gather(
        lab.links.attach(ALICE, wish(lab)), lab.links.attach(BOB, wish(lab, agent_id=UUID(int=2)))
    )
    assert sorted(response.error_code for response in responses) == [0, 31]


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"link_name": "nobody"}, 91, "there is no cluster link named 'nobody' here"),
        ({"link_name": "dials"}, 42, "does not wait for its source to dial in"),
        ({"link_id": "another"}, 42, "was recreated: its id is another one"),
        ({"source_cluster_id": "third"}, 104, "is for source cluster other, not for third"),
    ],
)
async def test_who_is_sent_away(lab: LinksLab, changes: dict[str, Any], code: int, text: str) -> None:
    await lab.make_inbound()
    await lab.make_link("dials")
    response = await lab.links.attach(ALICE, wish(lab, **changes))
    assert response.error_code == code
    assert text in str(response.error_message)
    assert record_of(lab).owner is None, "nobody owns it for a wish that was refused"


async def test_only_the_first_of_several_processes_takes_links(lab: LinksLab) -> None:
    await lab.make_inbound()
    async with links_lab(worker=Worker(1, 3), store=lab.store) as second:
        answer = await second.links.attach(ALICE, wish(lab))
        assert (answer.error_code, answer.instance_count) == (DIAL_AGAIN, 3)
        assert "another worker process (3 share this port)" in str(answer.error_message)
        assert record_of(lab).owner is None


async def test_an_empty_id_is_none(lab: LinksLab) -> None:
    await lab.make_inbound()
    assert (await lab.links.attach(ALICE, wish(lab, link_id=""))).error_code == 0


async def test_an_owner_that_cannot_be_written_down(lab: LinksLab) -> None:
    await lab.make_inbound()
    lab.store.failures.append(AWAY)
    response = await lab.links.attach(ALICE, wish(lab))
    assert (response.error_code, response.error_message) == (14, "the state is away")


async def test_a_link_that_is_made_anew_while_it_is_claimed(lab: LinksLab) -> None:
    await lab.make_inbound()
    lab.store.free.clear()
    attaching = asyncio.create_task(lab.links.attach(ALICE, wish(lab)))
    await until(lambda: lab.store.waiting)
    lab.store.foresee(record_of(lab).model_copy(update={"cluster_link_id": "z"}))
    await lab.store.read_to_end()
    lab.store.free.set()
    assert (await attaching).error_code == 31
    assert record_of(lab).owner is None


async def test_a_link_that_goes_while_it_is_claimed(lab: LinksLab) -> None:
    await lab.make_inbound()
    lab.store.free.clear()
    attaching = asyncio.create_task(lab.links.attach(ALICE, wish(lab)))
    await until(lambda: lab.store.waiting)
    lab.store.foresee(Delete("link", LINK))
    await lab.store.read_to_end()
    lab.store.free.set()
    assert (await attaching).error_code == 31


async def wires(lab: LinksLab) -> tuple[FrameConnection, FrameConnection]:
    """Both ends of a connection."""
    accepted: asyncio.Queue[FrameConnection] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: FrameConnection(max_frame_bytes=100, name="here", on_connected=accepted.put_nowait),
        "127.0.0.1",
        0,
    )
    far = FrameConnection(max_frame_bytes=1000, name="far")
    await loop.create_connection(lambda: far, *server.sockets[0].getsockname())
    near = await accepted.get()
    server.close()
    return near, far


async def test_a_parked_connection_goes_to_the_pool_of_its_link(lab: LinksLab) -> None:
    await lab.make_inbound()
    await lab.links.attach(ALICE, wish(lab))
    near, far = await wires(lab)
    lab.links.park(ALICE, wish(lab), near)
    pool = lab.links._runtimes[LINK].pool
    assert pool is not None
    assert pool.count == 1
    older = await lab.links.attach(ALICE, wish(lab, agent_epoch=4))
    assert (older.error_code, older.error_message) == (
        42,
        f"a newer instance of agent {UUID(int=1)} is attached",
    )
    far.abort()
    await lab.links.delete_link(LINK, force=False, validate_only=False)
    assert near.closed
    await near.wait_closed()
    await far.wait_closed()


@pytest.mark.parametrize("change", ["gone", "another's", "dials"])
async def test_a_link_that_changes_before_its_connection_is_parked(lab: LinksLab, change: str) -> None:
    await lab.make_inbound()
    await lab.links.attach(ALICE, wish(lab))
    near, far = await wires(lab)
    await lab.links.delete_link(LINK, force=False, validate_only=False)
    if change == "another's":
        await lab.make_inbound()
        await lab.links.attach(BOB, wish(lab, agent_id=UUID(int=2)))
    if change == "dials":
        await lab.make_link()
    lab.links.park(ALICE, wish(lab), near)
    assert near.closed
    await near.wait_closed()
    far.abort()
    await far.wait_closed()


def alice(password: str) -> UserRecord:
    made = scram_keys(password, SCRAM_SHA_256)
    keys = ScramKeys(
        salt=made.salt, iterations=made.iterations, stored_key=made.stored_key, server_key=made.server_key
    )
    return UserRecord(name="alice", scram={SCRAM_SHA_256: keys})


@pytest.mark.parametrize("change", [Delete("user", "alice"), alice("new")], ids=["deleted", "new password"])
async def test_what_a_user_has_attached_ends_with_its_password(
    lab: LinksLab, change: Record | Delete
) -> None:
    await lab.store.update(lambda _: [alice("old")])
    await lab.make_inbound()
    await lab.links.attach(ALICE, wish(lab))
    near, far = await wires(lab)
    lab.links.park(ALICE, wish(lab), near)
    bob = alice("x").model_copy(update={"name": "bob"})
    await lab.store.update(lambda _: [bob])
    await asyncio.sleep(0.05)
    assert lab.links._runtimes[LINK].pool is not None
    others_matter = near.closed
    assert not others_matter
    await lab.store.update(lambda _: [change])
    async with asyncio.timeout(5):
        while not near.closed:
            await asyncio.sleep(0.01)
    await near.wait_closed()
    far.abort()
    await far.wait_closed()


# --- what is shown ------------------------------------------------------------------------------------


async def test_nobody_attached(lab: LinksLab) -> None:
    await lab.make_inbound(**{"availability.check.ms": "100"})
    assert lab.links.link(LINK).link_state is LinkState.ACTIVE
    await until(lambda: lab.links.link(LINK).link_state is LinkState.UNAVAILABLE)
    shown = lab.links.link(LINK)
    assert shown.link_error is LinkErrorKind.BOOTSTRAP_TCP_CONNECTION_FAILED_ERROR
    assert shown.link_error_message == "no source gateway is attached to this link"


async def test_a_link_that_others_have_is_not_unavailable(lab: LinksLab) -> None:
    await lab.make_inbound(**IMPATIENT)
    await until(lambda: lab.links.link(LINK).link_state is LinkState.UNAVAILABLE)
    link_id = record_of(lab).cluster_link_id
    lab.links._work.holding = Holding({OTHER_LINKS: frozenset({1}), link_id: frozenset()})
    assert lab.links.link(LINK).link_state is LinkState.ACTIVE


async def test_a_gateway_that_has_no_part_in_the_work_says_why(
    lab: LinksLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.links.runtime.NO_SHARE_AFTER_S", 0.05)
    await lab.make_link()
    await until(lambda: lab.links.link(LINK).link_state is LinkState.ACTIVE)
    runtime = lab.links._runtimes[LINK]
    await until(runtime.has_tasks)
    monkeypatch.setattr(lab.links._work, "lease", Lease())
    lab.links._work.trouble = "the group may not be read"
    await until(lambda: lab.links.link(LINK).link_error_message == "the group may not be read")
    assert not runtime.has_tasks()


async def test_sources_that_are_silent_are_told_to_the_others(
    lab: LinksLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.links.link.SILENT_SOURCES_INTERVAL_S", 0.02)
    await lab.make_inbound(**IMPATIENT)
    link_id = record_of(lab).cluster_link_id
    await until(lambda: lab.links._work._unreachable == {link_id})


async def test_who_has_enough_connections_parked_sends_on_to_other_gateways(
    lab: LinksLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.make_inbound()
    lab.links._work.instances = 2
    answer = await lab.links.attach(ALICE, wish(lab))
    assert (answer.error_code, answer.instance_count) == (0, 2)
    monkeypatch.setattr(ParkedPool, "count_of", lambda *_: 2)
    answer = await lab.links.attach(ALICE, wish(lab))
    assert (answer.error_code, answer.instance_count) == (DIAL_AGAIN, 2)
    lab.links._work.instances = 1
    assert (await lab.links.attach(ALICE, wish(lab))).error_code == 0


async def test_stopped_mirrors_do_not_make_a_link_look_attached(lab: LinksLab) -> None:
    await lab.make_inbound(**IMPATIENT)
    link_id = record_of(lab).cluster_link_id
    lab.store.foresee(
        record(link_name=LINK, cluster_link_id=link_id, status=MirrorStatus.PAUSED, topic_id=uuid4())
    )
    await lab.store.read_to_end()
    await until(lambda: lab.links.link(LINK).link_state is LinkState.UNAVAILABLE)


async def test_a_source_that_went_away(lab: LinksLab) -> None:
    await lab.make_link(**IMPATIENT)
    await lab.make_mirror()
    assert lab.links.link(LINK).topic_names == ["t"]
    await lab.other.close()
    await until(lambda: lab.links.link(LINK).link_state is LinkState.UNAVAILABLE)
    assert lab.links.link(LINK).link_error_message
    assert lab.links.mirror(LINK, "t").record.status is MirrorStatus.SOURCE_UNAVAILABLE
    assert lab.store.state.mirrors["t"].status is MirrorStatus.ACTIVE


async def test_tasks(lab: LinksLab) -> None:
    await lab.make_link(**{"consumer.offset.sync.enable": "true"})
    tasks = {task.task_name: task for task in lab.links.link(LINK).tasks}
    assert {name: task.state for name, task in tasks.items()} == {
        "AclSync": TaskState.NOT_CONFIGURED,
        "AutoCreateMirror": TaskState.NOT_CONFIGURED,
        "ConsumerOffsetSync": TaskState.IN_ERROR,
        "TopicConfigsSync": TaskState.ACTIVE,
    }
    (error,) = tasks["ConsumerOffsetSync"].errors
    assert error.error_code == "MISCONFIGURATION_ERROR"
    assert "consumer.offset.sync.enable is set" in error.error_message


async def test_an_unknown_link(lab: LinksLab) -> None:
    for ask in (lab.links.link, lambda name: lab.links.mirror(name, "t")):
        with pytest.raises(LinkError) as error:
            ask("nobody")
        assert refused(error)[0] == 404
