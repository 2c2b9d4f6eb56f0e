from __future__ import annotations

import json

import pytest

from gateway.state.acl_changes import follow_link
from protocol.acls import Acl
from tests.fakes.links import link_record
from tests.gateway.admin.conftest import Admin
from tests.gateway.cli.conftest import Invoke
from tests.gateway.links.test_acl_sync import Source
from tests.gateway.security.acl_cases import acl


@pytest.fixture
def admin() -> Admin:
    return Admin(has_acls=True, cluster=Source())


def known(admin: Admin) -> set[Acl]:
    return {record.acl for record in admin.store.state.acls.values()}


def test_as_the_worked_example_has_it(admin: Admin, causeway: Invoke) -> None:
    words = ("--principal", "User:CP-and-CC-Linking", "--operation", "alter", "--cluster-scope")
    done = causeway("acl", "create", "--allow", *words)
    assert known(admin) == {acl("allow alter cluster literal kafka-cluster User:CP-and-CC-Linking *")}
    for word in ("CLUSTER", "kafka-cluster", "LITERAL", "User:CP-and-CC-Linking", "ALTER", "ALLOW"):
        assert word in done.stdout


def test_created_listed_and_deleted(admin: Admin, causeway: Invoke) -> None:
    causeway(
        *("acl", "create", "--deny", "--principal", "User:a", "--operation", "read", "--operation"),
        *("describe-configs", "--topic", "team.", "--prefix", "--host", "10.0.0.1"),
    )
    assert known(admin) == {
        acl("deny read topic prefixed team. User:a 10.0.0.1"),
        acl("deny describe_configs topic prefixed team. User:a 10.0.0.1"),
    }
    causeway(
        *("acl", "create", "--allow", "--principal", "User:b", "--operation", "all"), "--consumer-group", "*"
    )
    causeway(
        *("acl", "create", "--allow", "--principal", "User:b", "--operation", "write"),
        "--transactional-id",
        "x",
    )
    admin.store._apply(follow_link(admin.store.state, "L", [acl("allow all group literal * User:b *")]))
    listed = json.loads(causeway("acl", "list", "-o", "json").stdout)
    assert len(listed) == 4
    shown = causeway("acl", "list", "--consumer-group", "*").stdout
    assert "admin, link L" in shown
    assert "team." not in shown
    assert "None." in causeway("acl", "list", "--topic", "team.").stdout
    assert "team." in causeway("acl", "list", "--topic", "team.", "--prefix", "--deny").stdout
    assert "None." in causeway("acl", "list", "--allow", "--principal", "User:a").stdout
    assert causeway("acl", "list", "--operation", "write", "--operation", "read").stdout.count("User:") == 2
    causeway("acl", "delete", "--principal", "User:a", "--operation", "read")
    assert len(known(admin)) == 3
    causeway("acl", "delete", "--transactional-id", "x")
    assert len(known(admin)) == 2
    assert "everybody" in causeway("acl", "delete", code=2).stderr
    causeway("acl", "delete", "--force")
    assert known(admin) == set()


def test_what_a_link_keeps_is_named(admin: Admin, causeway: Invoke) -> None:
    link = link_record("L").model_copy(update={"configs": {"acl.sync.enable": "true"}})
    admin.store._apply(
        [link, *follow_link(admin.store.state, "L", [acl("allow read topic literal t User:a *")])]
    )
    assert "cluster link 'L'" in causeway("acl", "delete", "--topic", "t", code=1).stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--principal", "User:a", "--operation", "read", "--topic", "t"], "--allow and --deny"),
        (
            ["--allow", "--deny", "--principal", "User:a", "--operation", "read", "--topic", "t"],
            "--allow and",
        ),
        (["--allow", "--operation", "read", "--topic", "t"], "--principal"),
        (["--allow", "--principal", "User:a", "--topic", "t"], "--operation"),
        (["--allow", "--principal", "User:a", "--operation", "read"], "--topic"),
        (
            ["--allow", "--principal", "User:a", "--operation", "read", "--topic", "t", "--cluster-scope"],
            "only one",
        ),
    ],
)
def test_usage(causeway: Invoke, words: list[str], complaint: str) -> None:
    assert complaint in causeway("acl", "create", *words, code=2).stderr


def test_what_the_gateway_refuses(causeway: Invoke) -> None:
    words = ("--principal", "User:a", "--operation", "fly", "--topic", "t")
    assert "operation is none of" in causeway("acl", "create", "--allow", *words, code=1).stderr


def test_import(admin: Admin, causeway: Invoke) -> None:
    admin.cluster.acls = {acl("allow read topic literal t User:a *")}
    assert "Could import 1 ACLs." in causeway("acl", "import", "--dry-run").stdout
    assert known(admin) == set()
    assert "Imported 1 ACLs." in causeway("acl", "import").stdout
    assert known(admin) == admin.cluster.acls


@pytest.mark.parametrize(
    ("option", "dropped"), [((), False), (("--drop-acls",), True), (("--keep-acls",), False)]
)
def test_deleting_a_link_says_what_becomes_of_its_acls(
    admin: Admin, causeway: Invoke, option: tuple[str, ...], dropped: bool
) -> None:
    admin.links.add(link_record())
    causeway("link", "delete", "hybrid", *option)
    assert admin.links.dropped_acls == [dropped]
