"""Configs of a link that is there: what may be changed, and that the running link follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.links.config_changes import changed
from gateway.links.config_effects import no_effect, reconnects
from gateway.links.config_keys import KEYS
from gateway.links.configs import show
from gateway.links.errors import LinkError
from gateway.links.requests import ConfigChange, CreateLink, CreateMirror, LinkState
from gateway.state.records import ConnectionMode, LinkMode, LinkRecord, MirrorStatus
from gateway.state.secrets import Secrets
from tests.gateway.links.lab import until
from tests.gateway.links.link_lab import LINK, LinksLab, be_quick, links_lab, refused

JAAS = "org.apache.kafka.common.security.plain.PlainLoginModule required username='u' password='hush';"
D, S = LinkMode.DESTINATION, LinkMode.SOURCE
IN, OUT = ConnectionMode.INBOUND, ConnectionMode.OUTBOUND


@pytest.fixture
async def lab(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LinksLab]:
    """A link that dials."""
    be_quick(monkeypatch)
    async with links_lab() as lab:
        await lab.make_link()
        yield lab


def record_of(lab: LinksLab) -> LinkRecord:
    return lab.store.state.links[LINK]


# --- which may be changed, and what for ---------------------------------------------------------------


def test_a_switch_that_is_turned_off_takes_its_filters_along() -> None:
    filters = '{"groupFilters":[]}'
    configs = {"consumer.offset.sync.enable": "true", "consumer.offset.group.filters": filters, "x": "1"}
    off = ConfigChange("consumer.offset.sync.enable", "false")
    assert changed(configs, [off]) == {"consumer.offset.sync.enable": "false", "x": "1"}
    assert changed(configs, [ConfigChange("consumer.offset.sync.enable", None)]) == {"x": "1"}
    assert changed(configs, [ConfigChange("consumer.offset.sync.enable", "TRUE")])[
        "consumer.offset.group.filters"
    ]
    assert changed(configs, [ConfigChange("x", None)]) == {k: v for k, v in configs.items() if k != "x"}
    kept = changed(configs, [off, ConfigChange("consumer.offset.group.filters", filters)])
    assert kept["consumer.offset.group.filters"] == filters


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"link.mood": "x"}, "Unknown cluster link config 'link.mood'."),
        ({"link.mode": "SOURCE"}, "Config 'link.mode' cannot be changed once the link exists."),
        ({"connection.mode": None}, "Config 'connection.mode' cannot be changed once the link exists."),
        ({"cluster.link.prefix": "a."}, "Config 'cluster.link.prefix' cannot be changed once"),
        ({"link.prefix": "a."}, "Config 'link.prefix' is read-only."),
        ({"dest.cluster.id": "a"}, "Config 'dest.cluster.id' is read-only."),
        ({"acl.sync.ms": "soon"}, "Config 'acl.sync.ms' must be a whole number"),
        ({"bootstrap.servers": None}, "'bootstrap.servers' is required"),
        ({"acl.sync.ms": "2000", "security.protocol": "TLS"}, "'security.protocol' must be one of"),
    ],
)
async def test_what_cannot_be_changed_is_named_and_nothing_is(
    lab: LinksLab, changes: dict[str, str | None], text: str
) -> None:
    before = record_of(lab)
    for validate_only in (True, False):
        with pytest.raises(LinkError) as error:
            await lab.links.alter_configs(
                LINK, [ConfigChange(*each) for each in changes.items()], validate_only=validate_only
            )
        assert refused(error)[:2] == (400, 40002)
        assert text in refused(error)[2]
    assert record_of(lab) == before


async def test_no_config_is_changed_twice_at_once(lab: LinksLab) -> None:
    twice = [ConfigChange("acl.sync.ms", "2000"), ConfigChange("acl.sync.ms", "3000")]
    with pytest.raises(LinkError, match=r"'acl\.sync\.ms' is given twice"):
        await lab.links.alter_configs(LINK, twice, validate_only=False)
    with pytest.raises(LinkError) as error:
        await lab.links.alter_configs("other", twice[:1], validate_only=False)
    assert refused(error)[0] == 404


async def test_validation_changes_nothing(lab: LinksLab) -> None:
    before = record_of(lab)
    await lab.links.alter_configs(LINK, [ConfigChange("acl.sync.ms", "2000")], validate_only=True)
    assert record_of(lab) == before
    await lab.alter_configs(**{"acl.sync.ms": "2000"})
    assert record_of(lab).configs == {**before.configs, "acl.sync.ms": "2000"}
    await lab.alter_configs(**{"acl.sync.ms": None})
    assert record_of(lab) == before


async def test_of_two_changes_at_once_none_is_lost(lab: LinksLab) -> None:
    await asyncio.gather(
        lab.alter_configs(**{"acl.sync.ms": "2000"}), lab.alter_configs(**{"topic.config.sync.ms": "3000"})
    )
    configs = record_of(lab).configs
    assert (configs["acl.sync.ms"], configs["topic.config.sync.ms"]) == ("2000", "3000")


async def test_secrets_stay_secret_and_untouched_ones_as_they_are(lab: LinksLab) -> None:
    await lab.alter_configs(
        **{
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.jaas.config": JAAS,
        }
    )
    kept = record_of(lab).configs["sasl.jaas.config"]
    assert "hush" not in kept
    assert Secrets(bytes(32)).decrypt(kept) == JAAS
    await lab.alter_configs(**{"acl.sync.ms": "2000"})
    assert record_of(lab).configs["sasl.jaas.config"] == kept
    with pytest.raises(LinkError) as error:
        await lab.alter_configs(**{"sasl.jaas.config": "hush"})
    assert "hush" not in refused(error)[2]
    assert next(view for view in show(record_of(lab)) if view.name == "sasl.jaas.config").value is None


# --- what is without effect ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode", "connection", "text"),
    [
        ("link.mode", D, OUT, None),
        ("bootstrap.servers", D, OUT, None),
        ("bootstrap.servers", D, IN, "this half does not dial"),
        ("sasl.jaas.config", D, IN, "this half does not dial"),
        ("sasl.jaas.config", S, OUT, None),
        ("local.sasl.jaas.config", S, OUT, None),
        ("local.sasl.jaas.config", D, OUT, "only a source half uses the cluster of its own side"),
        ("local.listener.name", S, OUT, "the gateway reaches its own cluster as its"),
        ("local.ssl.cipher.suites", S, OUT, "OpenSSL"),
        ("consumer.offset.sync.ms", S, OUT, "only the destination half uses it"),
        ("consumer.offset.sync.ms", D, IN, None),
        ("cluster.link.paused", S, OUT, "only the destination half uses it"),
        ("link.prefix", D, OUT, "it follows from cluster.link.prefix"),
        ("num.cluster.link.fetchers", D, OUT, "one fetcher for each broker"),
    ],
)
def test_what_changes_nothing_says_so(
    name: str, mode: LinkMode, connection: ConnectionMode, text: str | None
) -> None:
    why = no_effect(name, mode, connection)
    assert (why is None) == (text is None)
    assert text is None or text in str(why)


def test_what_takes_new_connections() -> None:
    def names(mode: LinkMode, connection: ConnectionMode) -> set[str]:
        return {name for name in KEYS if reconnects(name, mode, connection)}

    assert not names(D, IN)
    dialling = names(D, OUT)
    assert {"bootstrap.servers", "sasl.jaas.config", "ssl.truststore.location"} < dialling
    assert not {name for name in dialling if name.startswith(("local.", "acl.", "topic.", "cluster.link."))}
    assert names(S, OUT) > {"local.sasl.jaas.config", "bootstrap.servers"}


async def test_every_key_is_taken_at_creation(lab: LinksLab) -> None:
    special = {
        "bootstrap.servers": lab.other.bootstrap,
        "acl.filters": "",
        "ssl.keystore.location": "",
        "ssl.truststore.location": "",
        "sasl.mechanism": "PLAIN",
        "topic.config.sync.include": "cleanup.policy,max.message.bytes,message.timestamp.type",
    }
    for key in KEYS.values():
        sample = key.choices[0] if key.choices else key.default
        value = special.get(key.name.removeprefix("local."), "1" if sample is None else sample)
        if key.sensitive and "keystore" in key.name:
            continue
        configs = {key.name: value, "bootstrap.servers": lab.other.bootstrap}
        wish = CreateLink("every", source_cluster_id="other", configs=configs)
        await lab.links.create_link(wish, validate_only=True, validate_link=False)


# --- that the link follows ----------------------------------------------------------------------------


async def test_other_bootstrap_servers_are_dialled(lab: LinksLab) -> None:
    await lab.make_mirror()
    before = lab.links._runtimes[LINK]
    await lab.alter_configs(**{"acl.sync.ms": "2000"})
    assert lab.links._runtimes[LINK] is before
    host, port = lab.other.bootstrap.split(":")
    await lab.alter_configs(**{"bootstrap.servers": f"127.0.0.1:1,{host}:{port}"})
    assert lab.links._runtimes[LINK] is not before
    lab.other.topics["t"].logs[0].write(2)
    await until(lambda: lab.own.topics["t"].logs[0].end == 5)


async def test_a_link_with_configs_that_do_not_work_here_says_so(lab: LinksLab) -> None:
    await lab.make_mirror()
    record = record_of(lab)
    configs = {**record.configs, "security.protocol": "SSL", "ssl.truststore.location": "/none"}
    lab.store.foresee(record.model_copy(update={"configs": configs}))
    await lab.store.read_to_end()
    await until(lambda: lab.links.link(LINK).link_state is LinkState.FAILED)
    assert "'ssl.truststore.location' cannot be read" in str(lab.links.link(LINK).link_error_message)
    assert lab.status() is MirrorStatus.LINK_FAILED
    result = await lab.alter("failover")
    assert result.error_message == (
        "Topic 't' is LINK_FAILED: failover is not possible. Its link cannot work with its configs: see the "
        "link's error."
    )
    await lab.alter_configs(**{"security.protocol": None, "ssl.truststore.location": None})
    assert lab.links.link(LINK).link_state is LinkState.ACTIVE
    assert lab.status() is MirrorStatus.ACTIVE


async def test_what_is_fetched_at_once(lab: LinksLab) -> None:
    await lab.make_mirror()
    await lab.alter_configs(
        **{
            "replica.fetch.max.bytes": "111",
            "replica.fetch.response.max.bytes": "222",
            "replica.fetch.wait.max.ms": "7",
        }
    )
    await until(lambda: lab.links._runtimes[LINK].replicator._board.settings.fetch_wait_ms == 7)  # type: ignore[union-attr]

    def asked() -> tuple[int, int, int]:
        request = lab.other.of_kind(1)[-1][1]
        return (
            request.max_bytes,
            request.max_wait.total_seconds() * 1000,
            request.topics[0].partitions[0].partition_max_bytes,
        )

    await until(lambda: asked() == (222, 7, 111))


async def test_prefixes_are_for_one_link_each(lab: LinksLab) -> None:
    await lab.make_link("a", **{"cluster.link.prefix": "w."})
    with pytest.raises(LinkError) as error:
        await lab.make_link("b", **{"cluster.link.prefix": "w."})
    assert refused(error) == (
        400,
        40002,
        "Cluster link prefix 'w.' already exists: cluster link 'a' has it.",
    )
    await lab.make_link("b", **{"cluster.link.prefix": "x."})


# --- pause --------------------------------------------------------------------------------------------


async def test_a_paused_link_copies_nothing_and_says_so(lab: LinksLab) -> None:
    await lab.make_mirror()
    await lab.alter_configs(**{"cluster.link.paused": "true"})
    view = lab.links.link(LINK)
    assert (view.link_state, view.link_error_message) == (LinkState.PAUSED, None)
    assert lab.status() is MirrorStatus.LINK_PAUSED
    assert [m.record.mirror_topic_name for m in lab.links.mirrors(None, MirrorStatus.LINK_PAUSED)] == ["t"]
    assert not lab.links.mirrors(None, MirrorStatus.ACTIVE)
    assert lab.store.state.mirrors["t"].status is MirrorStatus.ACTIVE
    await asyncio.sleep(0.2)
    lab.other.topics["t"].logs[0].write(2)
    await asyncio.sleep(0.5)
    assert lab.own.topics["t"].logs[0].end == 3
    await lab.alter_configs(**{"cluster.link.paused": "false"})
    assert lab.status() is MirrorStatus.ACTIVE
    await until(lambda: lab.own.topics["t"].logs[0].end == 5)


async def test_a_mirror_is_made_and_failed_over_on_a_paused_link(lab: LinksLab) -> None:
    await lab.alter_configs(**{"cluster.link.paused": "true"})
    lab.other.create("t").logs[0].write(3)
    await lab.links.create_mirror(LINK, CreateMirror("t"))
    assert lab.status() is MirrorStatus.LINK_PAUSED
    await lab.other.close()
    await asyncio.sleep(0.1)
    assert lab.links.link(LINK).link_state is LinkState.PAUSED
    assert (await lab.alter("failover")).error_code is None
    await lab.becomes(MirrorStatus.STOPPED)
    assert lab.own.topics["t"].logs[0].end == 1


async def test_a_promote_waits_for_its_paused_link_and_says_so(lab: LinksLab) -> None:
    await lab.make_mirror()
    ending = asyncio.Event()

    async def hold(*_: object) -> None:
        await ending.wait()

    lab.other.fault(2, hold)
    assert (await lab.alter("promote")).error_code is None
    await lab.alter_configs(**{"cluster.link.paused": "true"})
    ending.set()
    seen = lab.links.mirror(LINK, "t").record
    if seen.status is not MirrorStatus.STOPPED:
        assert seen.status is MirrorStatus.PENDING_STOPPED
        assert "The promote waits: its cluster link is paused" in str(seen.error_message)
    await lab.alter_configs(**{"cluster.link.paused": None})
    await lab.becomes(MirrorStatus.STOPPED)
