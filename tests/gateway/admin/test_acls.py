"""The ACL resources of the REST API, and what each route asks of who asks."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest
from kio.schema.errors import ErrorCode

from gateway.admin import views
from gateway.admin.authorize import NEEDS
from gateway.state.acl_changes import add_for_admin, follow_link
from gateway.upstreams.errors import ConnectFailed
from protocol.acls import Acl
from tests.fakes.links import link_record, mirror_record
from tests.gateway.admin.conftest import BASE, CLUSTER, LINKS, Admin
from tests.gateway.links.test_acl_sync import Source
from tests.gateway.security.acl_cases import acl

ACLS = f"/kafka/v3/clusters/{CLUSTER}/acls"
ONE = acl("allow read topic literal t User:a *")
TWO = acl("deny all group prefixed g User:b 10.0.0.1")
BODY = {
    "resource_type": "TOPIC",
    "resource_name": "t",
    "pattern_type": "LITERAL",
    "principal": "User:a",
    "host": "*",
    "operation": "READ",
    "permission": "ALLOW",
}
ALL = {"resource_type": "ANY", "pattern_type": "ANY", "operation": "ANY", "permission": "ANY"}


@pytest.fixture
def admin() -> Admin:
    return Admin(has_acls=True, cluster=Source())


def known(admin: Admin) -> set[Acl]:
    return {record.acl for record in admin.store.state.acls.values()}


def give(admin: Admin, *texts: str) -> None:
    admin.store._apply(add_for_admin(admin.store.state, map(acl, texts)))


async def test_created_listed_and_deleted(admin: Admin, http: httpx.AsyncClient) -> None:
    created = await http.post(ACLS, json=BODY)
    assert (created.status_code, created.content) == (201, b"")
    admin.store._apply(follow_link(admin.store.state, "L", [ONE, TWO]))
    listed = (await http.get(ACLS)).json()
    assert listed["kind"] == "KafkaAclList"
    assert listed["metadata"] == {"self": f"{BASE}{ACLS}", "next": None}
    first, second = listed["data"]
    assert first == {
        "kind": "KafkaAcl",
        "metadata": {
            "self": f"{BASE}{ACLS}?resource_type=TOPIC&resource_name=t&pattern_type=LITERAL"
            "&principal=User%3Aa&host=%2A&operation=READ&permission=ALLOW",
            "resource_name": None,
        },
        "cluster_id": CLUSTER,
        **BODY,
        "owners": ["admin", "link L"],
    }
    assert (second["resource_type"], second["owners"]) == ("GROUP", ["link L"])
    assert (await http.get(first["metadata"]["self"])).json()["data"] == [first]
    assert (await http.get(ACLS, params={"principal": "User:b"})).json()["data"] == [second]
    assert (await http.get(ACLS, params={"resource_name": "no"})).json()["data"] == []


async def test_what_a_link_keeps_stays(admin: Admin, http: httpx.AsyncClient) -> None:
    link = link_record("L").model_copy(update={"configs": {"acl.sync.enable": "true"}})
    admin.store._apply([link, *follow_link(admin.store.state, "L", [TWO])])
    give(admin, "allow read topic literal t User:a *")
    gone = await http.delete(ACLS, params=ALL)
    assert [each["principal"] for each in gone.json()["data"]] == ["User:a"]
    assert known(admin) == {TWO}
    refused = await http.delete(ACLS, params=ALL)
    assert refused.status_code == 400
    assert "kept by cluster link 'L'" in refused.json()["message"]
    assert (await http.delete(ACLS, params=ALL | {"principal": "User:z"})).json()["data"] == []


async def test_a_batch_is_all_or_nothing(admin: Admin, http: httpx.AsyncClient) -> None:
    batch = {"data": [BODY, BODY | {"operation": "describe-configs"}]}
    assert (await http.post(f"{ACLS}:batch", json=batch)).status_code == 201
    assert len(known(admin)) == 2
    batch = {"data": [BODY | {"principal": "User:new"}, BODY | {"operation": "fly"}]}
    assert (await http.post(f"{ACLS}:batch", json=batch)).status_code == 400
    assert len(known(admin)) == 2
    too_many = {"data": [BODY] * 10_001}
    response = await http.post(f"{ACLS}:batch", json=too_many)
    assert response.status_code in {400, 413}


@pytest.mark.parametrize(
    "change",
    [
        {"resource_type": "ANY"},
        {"resource_type": "TABLE"},
        {"pattern_type": "MATCH"},
        {"operation": "UNKNOWN"},
        {"permission": "ANY"},
        {"principal": "alice"},
        {"resource_name": ""},
        {"resource_type": "CLUSTER"},
    ],
)
async def test_what_is_no_acl(admin: Admin, http: httpx.AsyncClient, change: dict[str, str]) -> None:
    response = await http.post(ACLS, json=BODY | change)
    assert (response.status_code, response.json()["error_code"]) == (400, 40002)
    assert known(admin) == set()


async def test_filters_are_checked(http: httpx.AsyncClient) -> None:
    assert (await http.get(ACLS, params={"operation": "fly"})).status_code == 400
    assert (await http.delete(ACLS, params={"resource_type": "ANY"})).status_code == 400


async def test_without_authorization_there_are_none() -> None:
    admin = Admin(has_acls=False)
    transport = httpx.ASGITransport(app=admin.build(), raise_app_exceptions=False)
    login = ("admin", "open sesame")
    async with httpx.AsyncClient(transport=transport, base_url=BASE, auth=login) as http:
        response = await http.get(ACLS)
        assert (response.status_code, response.json()["error_code"]) == (400, 40035)
        assert "authorization: none" in response.json()["message"]
        assert (await http.post(f"{ACLS}:import")).status_code == 400


# --- import ------------------------------------------------------------------------------------------


async def test_the_clusters_own_acls_are_imported_once(admin: Admin, http: httpx.AsyncClient) -> None:
    admin.cluster.acls = {ONE, TWO}
    seen = await http.post(f"{ACLS}:import", params={"validate_only": True})
    assert (len(seen.json()["data"]), known(admin)) == (2, set())
    done = await http.post(f"{ACLS}:import")
    assert {each["principal"] for each in done.json()["data"]} == {"User:a", "User:b"}
    assert known(admin) == {ONE, TWO}
    assert (await http.post(f"{ACLS}:import")).json()["data"] == []


async def test_an_import_that_cannot_be(admin: Admin, http: httpx.AsyncClient) -> None:
    source = admin.cluster
    source.acls = {ONE}
    source.error = (ErrorCode.security_disabled, None)
    response = await http.post(f"{ACLS}:import")
    assert response.status_code == 400
    assert "SECURITY_DISABLED" in response.json()["message"]
    source.error = (ErrorCode.none, None)
    source.strange = [(99, 3, "t", "User:a", "*", 3, 3)]
    assert (await http.post(f"{ACLS}:import")).status_code == 400
    source.failure = ConnectFailed("away")
    assert (await http.post(f"{ACLS}:import")).status_code == 503
    assert known(admin) == set()


# --- who may -----------------------------------------------------------------------------------------


async def ask(admin: Admin, method: str, path: str, **options: Any) -> httpx.Response:
    """As bob, from 127.0.0.1."""
    token = base64.b64encode(b"bob:bobs:pass").decode()
    transport = httpx.ASGITransport(app=admin.build(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=BASE) as http:
        return await http.request(method, path, headers={"authorization": f"Basic {token}"}, **options)


LINK_BODY = {"json": {"source_cluster_id": "s", "configs": []}}
GROUPS = "/causeway/v1/links/hybrid/groups"
ROUTES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("GET", LINKS, "describe", {}),
    ("POST", f"{LINKS}?link_name=n", "alter", LINK_BODY),
    ("GET", f"{LINKS}/hybrid", "describe", {}),
    ("DELETE", f"{LINKS}/hybrid", "alter", {"params": {"force": True}}),
    ("GET", f"{LINKS}/hybrid/configs", "describe_configs", {}),
    ("GET", f"{LINKS}/hybrid/configs/acl.sync.ms", "describe_configs", {}),
    ("PUT", f"{LINKS}/hybrid/configs/acl.sync.ms", "alter_configs", {"json": {"value": "2000"}}),
    ("DELETE", f"{LINKS}/hybrid/configs/acl.sync.ms", "alter_configs", {}),
    ("PUT", f"{LINKS}/hybrid/configs:alter", "alter_configs", {"json": {"data": []}}),
    ("GET", f"{LINKS}/-/mirrors", "describe", {}),
    ("GET", f"{LINKS}/hybrid/mirrors", "describe", {}),
    ("GET", f"{LINKS}/hybrid/mirrors/t", "describe", {}),
    ("GET", GROUPS, "describe", {}),
    ("POST", f"{GROUPS}:describe", "describe", {"json": {"group_names": ["g"]}}),
    ("POST", f"{GROUPS}:move", "alter", {"json": {"group_names": ["g"]}}),
    ("POST", f"{GROUPS}:follow", "alter", {"json": {"group_names": ["g"]}}),
    ("GET", ACLS, "describe", {}),
    ("POST", ACLS, "alter", {"json": BODY}),
    ("POST", f"{ACLS}:batch", "alter", {"json": {"data": [BODY]}}),
    ("DELETE", ACLS, "alter", {"params": ALL}),
    ("POST", f"{ACLS}:import", "alter", {}),
    ("GET", "/causeway/v1/users", "describe", {}),
    ("POST", "/causeway/v1/users", "alter", {"json": {"name": "n", "password": "p"}}),
    ("DELETE", "/causeway/v1/users/n", "alter", {}),
]
OPERATIONS = ("describe", "alter", "describe_configs", "alter_configs", "create", "cluster_action")


@pytest.mark.parametrize(("method", "path", "needed", "options"), ROUTES)
async def test_each_route_asks_for_one_permission_on_the_cluster(
    admin: Admin, method: str, path: str, needed: str, options: dict[str, Any]
) -> None:
    admin.links.add(link_record(), mirror_record("t"))
    # What implies what is needed would be enough as well.
    wrong = [each for each in OPERATIONS if each != needed and not _implies(each, needed)]
    give(admin, *(f"allow {each} cluster literal kafka-cluster User:bob *" for each in wrong))
    give(admin, "allow all topic literal * User:bob *", "allow all cluster literal kafka-cluster User:eve *")
    before = (list(admin.links.created), list(admin.links.deleted), admin.store.state)
    response = await ask(admin, method, path, **options)
    assert response.status_code == 403
    assert response.json() == {
        "error_code": 40301,
        "message": f"User:bob may not do this: it needs {needed.upper()} on the cluster.",
    }
    assert (admin.links.created, admin.links.deleted, admin.store.state) == before
    give(admin, f"allow {needed} cluster literal kafka-cluster User:bob 127.0.0.1")
    assert (await ask(admin, method, path, **options)).status_code not in {401, 403}


def _implies(operation: str, needed: str) -> bool:
    return (operation, needed) in {("alter", "describe"), ("alter_configs", "describe_configs")}


def test_every_route_with_a_permission_is_asked() -> None:
    # Those without one either tell only the cluster's id, or ask about topics, below.
    asked = {(method, needed) for method, _, needed, _ in ROUTES}
    assert {(method, need.name.lower()) for (method, _), need in NEEDS.items() if need is not None} == asked
    assert sum(need is not None for need in NEEDS.values()) == len(ROUTES)
    assert {path for (_, path), need in NEEDS.items() if need is None} == {
        views.API,
        f"{views.API}/{{cluster_id}}",
        f"{views.API}/{{cluster_id}}/links/{{link_name}}/mirrors",
        f"{views.API}/{{cluster_id}}/links/{{link_name}}/mirrors:{{verb}}",
    }


async def test_whoever_is_known_finds_the_cluster(admin: Admin) -> None:
    assert (await ask(admin, "GET", views.API)).status_code == 200
    assert (await ask(admin, "GET", f"{views.API}/{CLUSTER}")).status_code == 200


async def test_a_mirror_topic_needs_create_and_alter_on_the_topic(admin: Admin) -> None:
    admin.links.add(link_record())
    body = {"json": {"source_topic_name": "t"}}
    path = f"{LINKS}/hybrid/mirrors"
    give(admin, "allow alter cluster literal kafka-cluster User:bob *")
    assert (await ask(admin, "POST", path, **body)).json()["message"].endswith("it needs CREATE on topic t.")
    give(admin, "allow create topic prefixed t User:bob *")
    assert (await ask(admin, "POST", path, **body)).json()["message"].endswith("it needs ALTER on topic t.")
    assert admin.links.mirrored == []
    give(admin, "allow alter topic literal t User:bob *")
    assert (await ask(admin, "POST", path, **body)).status_code == 204
    assert len(admin.links.mirrored) == 1
    # CREATE on the cluster will do, as with CreateTopics.
    give(
        admin,
        "allow create cluster literal kafka-cluster User:bob *",
        "allow alter topic literal u User:bob *",
    )
    assert (await ask(admin, "POST", path, json={"source_topic_name": "u"})).status_code == 204


async def test_the_name_with_the_prefix_counts(admin: Admin) -> None:
    admin.links.add(link_record().model_copy(update={"configs": {"cluster.link.prefix": "p-"}}))
    path = f"{LINKS}/hybrid/mirrors"
    give(admin, "allow all topic literal t User:bob *")
    assert (await ask(admin, "POST", path, json={"source_topic_name": "t"})).status_code == 403
    body = {"source_topic_name": "t", "mirror_topic_name": "t"}
    assert (await ask(admin, "POST", path, json=body)).status_code == 403
    give(admin, "allow all topic literal p-t User:bob *")
    assert (await ask(admin, "POST", path, json={"source_topic_name": "t"})).status_code == 204


@pytest.mark.parametrize("verb", ["promote", "failover", "pause", "resume"])
async def test_verbs_need_alter_on_each_topic(admin: Admin, verb: str) -> None:
    admin.links.add(link_record(), mirror_record("mine"), mirror_record("theirs"))
    path = f"{LINKS}/hybrid/mirrors:{verb}"
    give(
        admin,
        "allow alter topic literal mine User:bob *",
        "allow alter cluster literal kafka-cluster User:bob *",
    )
    answer = await ask(admin, "POST", path, json={"mirror_topic_names": ["mine", "theirs"]})
    results = {each["mirror_topic_name"]: each["error_code"] for each in answer.json()["data"]}
    assert (answer.status_code, results["theirs"]) == (200, 403)
    assert [each[2] for each in admin.links.altered] == [["mine"]]
    admin.links.altered.clear()
    await ask(admin, "POST", path, json={"mirror_topic_name_pattern": ".*"})
    assert [(each[2], each[3]) for each in admin.links.altered] == [(["mine"], None)]
    response = await ask(admin, "POST", path, json={"mirror_topic_name_pattern": "("})
    assert response.status_code == 400


async def test_unknown_routes_and_stale_acls_let_nobody_in(admin: Admin) -> None:
    give(admin, "allow all cluster literal kafka-cluster User:bob *")
    assert (await ask(admin, "GET", LINKS)).status_code == 200
    admin.store.staleness_s = 31
    assert (await ask(admin, "GET", LINKS)).status_code == 503
