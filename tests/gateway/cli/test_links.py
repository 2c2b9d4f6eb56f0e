import json
from pathlib import Path

import pytest

from gateway.links.requests import CreateLink
from tests.fakes.links import LINK_ID, link_record, mirror_record
from tests.gateway.admin.conftest import Admin
from tests.gateway.cli.conftest import Invoke

DESTINATION = "link.mode=DESTINATION\nconnection.mode=INBOUND\n"
SOURCE = """\
link.mode=SOURCE
connection.mode=OUTBOUND
bootstrap.servers=cloud:9092
security.protocol=SASL_SSL
sasl.mechanism=PLAIN
sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \\
  username='u' password='hush';
"""


@pytest.fixture
def write(tmp_path: Path) -> Path:
    """A directory with link config files."""
    (tmp_path / "dst.config").write_text(DESTINATION)
    (tmp_path / "src.config").write_text(SOURCE)
    return tmp_path


def test_the_destination_half_is_created_from_its_file(admin: Admin, causeway: Invoke, write: Path) -> None:
    result = causeway(
        "link", "create", "hybrid", "--source-cluster", "on-prem", "--config", str(write / "dst.config")
    )
    configs = {"link.mode": "DESTINATION", "connection.mode": "INBOUND"}
    wish = CreateLink("hybrid", source_cluster_id="on-prem", configs=configs)
    assert admin.links.created == [(wish, False, True)]
    assert result.stdout == (
        'Created cluster link "hybrid" with configs:\n'
        '"connection.mode"="INBOUND"\n'
        '"link.mode"="DESTINATION"\n'
    )


def test_the_source_half_is_created_and_its_secrets_not_shown(
    admin: Admin, causeway: Invoke, write: Path
) -> None:
    result = causeway(
        "link", "create", "hybrid", "--destination-cluster", "cloud", "--config", str(write / "src.config")
    )
    request, _, _ = admin.links.created[0]
    assert request.destination_cluster_id == "cloud"
    assert "password='hush'" in request.configs["sasl.jaas.config"]
    assert '"sasl.jaas.config"="[hidden]"' in result.stdout
    assert "hush" not in result.output


def test_a_bootstrap_server_and_single_configs_come_as_options(admin: Admin, causeway: Invoke) -> None:
    bootstrap = ("--source-bootstrap-server", "source:9092")
    create = ("link", "create", "cloud-link", "--source-cluster", "s", *bootstrap)
    causeway(*create, "--config", "acl.sync.ms=1000,acl.sync.enable=true", "--dry-run", "--no-validate")
    configs = {"acl.sync.ms": "1000", "acl.sync.enable": "true", "bootstrap.servers": "source:9092"}
    wish = CreateLink("cloud-link", source_cluster_id="s", configs=configs)
    assert admin.links.created == [(wish, True, False)]


def test_a_destination_makes_it_a_source_half(admin: Admin, causeway: Invoke) -> None:
    causeway("link", "create", "l", "--destination-cluster", "d", "--destination-bootstrap-server", "d:1")
    assert admin.links.created[0][0].configs == {"bootstrap.servers": "d:1", "link.mode": "SOURCE"}


def test_wrong_usage_is_one_line_and_code_2(causeway: Invoke, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("a=\\u12")
    for arguments, text in (
        ((), "one of --source-cluster and --destination-cluster is needed"),
        (("--source-cluster", "s", "--destination-cluster", "d"), "one of --source-cluster"),
        (("--source-cluster", "s", "--config", str(tmp_path / "none")), "No such file"),
        (("--source-cluster", "s", "--config", str(broken)), "line 1: \\u needs four"),
        (("--source-cluster", "s", "--config", "a=b,c"), "key=value"),
    ):
        result = causeway("link", "create", "l", *arguments, code=2)
        assert text in result.stderr
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""


def test_a_refusal_is_shown_with_its_code(admin: Admin, causeway: Invoke) -> None:
    admin.links.add(link_record())
    result = causeway("link", "create", "hybrid", "--source-cluster", "s", code=1)
    assert result.stderr == "Error: 40902: Cluster link 'hybrid' already exists.\n"
    missing = causeway("link", "describe", "none", code=1)
    assert missing.stderr.startswith("Error: 404: The cluster link doesn't exist")


def test_links_are_listed(admin: Admin, causeway: Invoke) -> None:
    assert causeway("link", "list").stdout == "None.\n"
    admin.links.add(link_record())
    shown = causeway("link", "list").stdout
    for text in ("Source Cluster", "hybrid", LINK_ID, "source-id", "UNAVAILABLE", "wrong password"):
        assert text in shown
    listed = json.loads(causeway("link", "list", "-o", "json").stdout)
    assert [each["link_name"] for each in listed] == ["hybrid"]


def test_a_link_is_described_with_tasks_and_configs(admin: Admin, causeway: Invoke) -> None:
    admin.links.add(link_record(), mirror_record("[a]"), mirror_record("b"))
    shown = causeway("link", "describe", "hybrid").stdout
    for text in ("[a], b", 'MISCONFIGURATION_ERROR: "no filter"', "acl.sync.ms", "2000", "[hidden]"):
        assert text in shown
    assert "acl.sync.enable" not in shown
    described = json.loads(causeway("link", "describe", "hybrid", "-o", "json").stdout)
    assert described["link_name"] == "hybrid"
    assert len(described["configs"]) > 50
    assert len(described["tasks"]) == 2


def test_a_link_is_deleted(admin: Admin, causeway: Invoke) -> None:
    admin.links.add(link_record(), mirror_record("a"))
    assert "403: Cluster link 'hybrid' still has" in causeway("link", "delete", "hybrid", code=1).stderr
    causeway("link", "delete", "hybrid", "--force", "--dry-run")
    assert causeway("link", "delete", "hybrid", "--force").stdout == 'Deleted cluster link "hybrid".\n'
    assert admin.links.deleted == [("hybrid", True, True), ("hybrid", True, False)]


def test_configs_are_listed_and_shown(admin: Admin, causeway: Invoke) -> None:
    admin.links.add(link_record())
    listed = causeway("link", "configuration", "list", "hybrid").stdout
    assert "acl.sync.ms" in listed
    assert "[hidden]" in listed
    assert "aes256gcm" not in listed
    assert "consumer.offset.sync.ms" not in listed
    assert "consumer.offset.sync.ms" in causeway("link", "configuration", "list", "hybrid", "--all").stdout
    shown = json.loads(causeway("link", "configuration", "get", "hybrid", "acl.sync.ms", "-o", "json").stdout)
    assert (shown["value"], shown["no_effect"]) == ("2000", None)
    assert "2000" in causeway("link", "configuration", "get", "hybrid", "acl.sync.ms").stdout


def test_configs_are_changed(admin: Admin, causeway: Invoke, tmp_path: Path) -> None:
    admin.links.add(link_record())
    secret = tmp_path / "jaas"
    secret.write_text("hush\n")
    configuration = ("link", "configuration")
    causeway(*configuration, "set", "hybrid", "bootstrap.servers", "a:1,b:2")
    result = causeway(*configuration, "set", "hybrid", "sasl.jaas.config", "--value-file", str(secret))
    assert '"sasl.jaas.config"="[hidden]"' in result.stdout
    causeway(*configuration, "update", "hybrid", "--config", "acl.sync.ms=1000,topic.config.sync.ms=2000")
    result = causeway(*configuration, "delete", "hybrid", "acl.sync.ms", "topic.config.sync.ms", "--dry-run")
    assert 'Could update cluster link "hybrid":\n"acl.sync.ms" back to its default\n' in result.stdout
    assert admin.links.reconfigured == [
        ("hybrid", [("bootstrap.servers", "a:1,b:2")], False),
        ("hybrid", [("sasl.jaas.config", "hush")], False),
        ("hybrid", [("acl.sync.ms", "1000"), ("topic.config.sync.ms", "2000")], False),
        ("hybrid", [("acl.sync.ms", None), ("topic.config.sync.ms", None)], True),
    ]


@pytest.mark.parametrize(
    "words", [("set", "hybrid", "acl.sync.ms"), ("set", "hybrid", "a", "b", "--value-file", "c")]
)
def test_a_value_is_given_once(admin: Admin, causeway: Invoke, words: tuple[str, ...]) -> None:
    result = causeway("link", "configuration", *words, code=2)
    assert "one of VALUE and --value-file is needed" in result.stderr
    assert not admin.links.reconfigured


def test_what_is_without_effect_is_told(admin: Admin, causeway: Invoke) -> None:
    configs = {"client.dns.lookup": "use_all_dns_ips", "acl.sync.ms": "2000"}
    admin.links.add(link_record().model_copy(update={"configs": configs}))
    pairs = ",".join(f"{name}={value}" for name, value in configs.items())
    result = causeway("link", "configuration", "update", "hybrid", "--config", pairs)
    assert result.stderr == (
        "Note: client.dns.lookup changes nothing here: all addresses of a name are tried, always.\n"
    )


def test_a_link_is_paused_and_resumed(admin: Admin, causeway: Invoke) -> None:
    admin.links.add(link_record())
    assert causeway("link", "pause", "hybrid").stdout == 'Paused cluster link "hybrid".\n'
    assert causeway("link", "resume", "hybrid").stdout == 'Resumed cluster link "hybrid".\n'
    assert admin.links.reconfigured == [
        ("hybrid", [("cluster.link.paused", "true")], False),
        ("hybrid", [("cluster.link.paused", "false")], False),
    ]
    assert "does not exist" in causeway("link", "pause", "nobody", code=1).stderr
