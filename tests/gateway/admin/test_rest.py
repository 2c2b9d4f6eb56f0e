import logging
from typing import Any

import httpx
import pytest

from gateway.links.errors import unsupported
from gateway.links.requests import CreateLink, CreateMirror
from gateway.state.records import LinkMode, MirrorStatus
from gateway.state.secrets import SecretsError
from gateway.state.store import StateUnavailable
from tests.fakes.links import LINK_ID, LINK_UUID, link_record, mirror_record
from tests.gateway.admin.conftest import BASE, CLUSTER, LINKS, Admin

PASSWORD = "correct horse"


def error(response: httpx.Response) -> tuple[int, int, str]:
    body = response.json()
    assert body.keys() == {"error_code", "message"}
    return response.status_code, body["error_code"], body["message"]


async def test_the_cluster_is_discovered(admin: Admin, http: httpx.AsyncClient) -> None:
    listed = (await http.get("/kafka/v3/clusters")).json()
    assert listed["kind"] == "KafkaClusterList"
    assert listed["metadata"] == {"self": f"{BASE}/kafka/v3/clusters", "next": None}
    assert [each["cluster_id"] for each in listed["data"]] == [CLUSTER]
    assert (await http.get(f"/kafka/v3/clusters/{CLUSTER}")).json() == listed["data"][0]
    admin.cluster_id = None
    assert error(await http.get("/kafka/v3/clusters"))[:2] == (503, 50003)
    assert error(await http.get(LINKS))[:2] == (503, 50003)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/links"),
        ("POST", "/links?link_name=l"),
        ("GET", "/links/hybrid"),
        ("DELETE", "/links/hybrid"),
        ("GET", "/links/hybrid/configs"),
        ("PUT", "/links/hybrid/configs:alter"),
        ("GET", "/links/-/mirrors"),
        ("POST", "/links/hybrid/mirrors"),
        ("POST", "/links/hybrid/mirrors:promote"),
    ],
)
async def test_another_cluster_is_not_here(
    admin: Admin, http: httpx.AsyncClient, method: str, path: str
) -> None:
    admin.links.add(link_record())
    body = {"source_topic_name": "t", "mirror_topic_names": ["t"]} if method == "POST" else None
    status, code, text = error(await http.request(method, f"/kafka/v3/clusters/other{path}", json=body))
    assert (status, code) == (404, 404)
    assert "other" in text
    assert (admin.links.created, admin.links.deleted, admin.links.mirrored, admin.links.altered) == ([],) * 4


# --- links -------------------------------------------------------------------------------------------


async def test_a_link_is_created_without_an_answer(admin: Admin, http: httpx.AsyncClient) -> None:
    body = {
        "source_cluster_id": "src",
        "configs": [
            {"name": "link.mode", "value": "DESTINATION"},
            {"name": "connection.mode", "value": "INBOUND"},
        ],
    }
    # The trailing slash is what Confluent's migration tool sends.
    response = await http.post(f"{LINKS}/?link_name=hybrid", json=body)
    assert (response.status_code, response.content) == (204, b"")
    configs = {"link.mode": "DESTINATION", "connection.mode": "INBOUND"}
    assert admin.links.created == [
        (CreateLink("hybrid", source_cluster_id="src", configs=configs), False, True)
    ]


async def test_every_field_of_a_wish_arrives(admin: Admin, http: httpx.AsyncClient) -> None:
    ids = {
        "source_cluster_id": "a",
        "destination_cluster_id": "b",
        "remote_cluster_id": "c",
        "cluster_link_id": "d",
    }
    query = {"link_name": "l", "validate_only": "true", "validate_link": "false"}
    assert (await http.post(LINKS, params=query, json=ids)).status_code == 204
    assert admin.links.created == [(CreateLink("l", "a", "b", "c", "d", {}), True, False)]


@pytest.mark.parametrize(
    ("query", "content", "code", "text"),
    [
        ("link_name=l", b"{", 400, "JSON decode error"),
        ("link_name=l", b"", 400, "body: Field required"),
        ("link_name=l", b"[]", 400, "Cannot deserialize"),
        ("link_name=l", b'{"source_cluster_id":1}', 400, "body.source_cluster_id: "),
        ("link_name=l", b'{"configs":[{"name":"a"}]}', 400, "body.configs.0.value: Field required"),
        ("link_name=l", b'{"configs":[{"name":"a","value":null}]}', 40002, "Config 'a' has no value"),
        (
            "link_name=l",
            b'{"configs":[{"name":"a","value":"1"},{"name":"a","value":"2"}]}',
            40002,
            "'a' is given twice",
        ),
        ("", b"{}", 400, "query.link_name: Field required"),
        ("link_name=", b"{}", 400, "query.link_name"),
        ("link_name=l&validate_only=perhaps", b"{}", 400, "query.validate_only"),
    ],
)
async def test_a_malformed_wish_is_refused(
    admin: Admin, http: httpx.AsyncClient, query: str, content: bytes, code: int, text: str
) -> None:
    headers = {"content-type": "application/json"}
    response = await http.post(f"{LINKS}?{query}", content=content, headers=headers)
    assert error(response)[:2] == (400, code)
    assert text in error(response)[2]
    assert admin.links.created == []


async def test_refusals_keep_their_codes(admin: Admin, http: httpx.AsyncClient) -> None:
    admin.links.add(link_record())
    exists = await http.post(f"{LINKS}?link_name=hybrid", json={})
    assert error(exists) == (409, 40902, "Cluster link 'hybrid' already exists.")
    for failure, status, code in (
        (unsupported("not yet"), 400, 40035),
        (StateUnavailable("no leader"), 503, 50003),
        (SecretsError("no key"), 400, 40002),
        (ValueError("secret details"), 500, 500),
    ):
        admin.links.failure = failure
        response = await http.post(f"{LINKS}?link_name=l", json={})
        assert error(response)[:2] == (status, code)
        assert "secret details" not in response.text


async def test_a_link_is_shown(admin: Admin, http: httpx.AsyncClient) -> None:
    admin.links.add(
        link_record(),
        mirror_record("a"),
        mirror_record("b", MirrorStatus.PAUSED),
        mirror_record("c"),
        mirror_record("d", MirrorStatus.STOPPED),
    )
    link = (await http.get(f"{LINKS}/hybrid")).json()
    assert link == {
        "kind": "KafkaLinkData",
        "metadata": {"self": f"{BASE}{LINKS}/hybrid", "resource_name": None},
        "source_cluster_id": "source-id",
        "destination_cluster_id": None,
        "remote_cluster_id": None,
        "link_name": "hybrid",
        "link_id": LINK_UUID,
        "cluster_link_id": LINK_ID,
        "topic_names": ["a", "b", "c", "d"],
        "link_error": "AUTHENTICATION_ERROR",
        "link_error_message": "wrong password",
        "link_state": "UNAVAILABLE",
        "tasks": None,
        "category_counts": [
            {"state_category": "ACTIVE", "count": 2},
            {"state_category": "NOT_APPLICABLE", "count": 1},
            {"state_category": "PAUSED", "count": 1},
        ],
    }
    with_tasks = (await http.get(f"{LINKS}/hybrid?include_tasks=true")).json()
    assert with_tasks["tasks"] == [
        {
            "task_name": "AclSync",
            "state": "IN_ERROR",
            "errors": [{"error_code": "MISCONFIGURATION_ERROR", "error_message": "no filter"}],
        },
        {"task_name": "TopicConfigsSync", "state": "ACTIVE", "errors": []},
    ]
    assert (await http.get(LINKS)).json() == {
        "kind": "KafkaLinkDataList",
        "metadata": {"self": f"{BASE}{LINKS}", "next": None},
        "data": [link],
    }


async def test_a_source_half_names_its_destination(admin: Admin, http: httpx.AsyncClient) -> None:
    admin.links.add(link_record(mode=LinkMode.SOURCE))
    link = (await http.get(f"{LINKS}/hybrid")).json()
    assert (link["source_cluster_id"], link["destination_cluster_id"]) == (None, "destination-id")


async def test_an_unknown_link_has_confluents_text(http: httpx.AsyncClient) -> None:
    wanted = (404, 404, "The cluster link doesn't exist: Cluster link 'lk' does not exist.")
    promote = {"mirror_topic_names": ["t"]}
    assert error(await http.get(f"{LINKS}/lk")) == wanted
    assert error(await http.delete(f"{LINKS}/lk")) == wanted
    assert error(await http.get(f"{LINKS}/lk/configs")) == wanted
    assert error(await http.get(f"{LINKS}/lk/mirrors")) == wanted
    assert error(await http.put(f"{LINKS}/lk/configs:alter", json={"data": []})) == wanted
    assert error(await http.post(f"{LINKS}/lk/mirrors", json={"source_topic_name": "t"})) == wanted
    assert error(await http.post(f"{LINKS}/lk/mirrors:promote", json=promote)) == wanted


async def test_a_link_is_deleted(admin: Admin, http: httpx.AsyncClient) -> None:
    admin.links.add(link_record(), mirror_record("a"))
    assert error(await http.delete(f"{LINKS}/hybrid"))[:2] == (403, 403)
    response = await http.delete(f"{LINKS}/hybrid?force=true")
    assert (response.status_code, response.content) == (200, b"")
    await http.delete(f"{LINKS}/hybrid?force=true&validate_only=true")
    assert admin.links.deleted == [("hybrid", True, False), ("hybrid", True, True)]


async def test_configs_are_shown_without_secrets(admin: Admin, http: httpx.AsyncClient) -> None:
    admin.links.add(link_record())
    listed = (await http.get(f"{LINKS}/hybrid/configs")).json()
    assert listed["kind"] == "KafkaLinkConfigDataList"
    by_name = {each["name"]: each for each in listed["data"]}
    assert by_name["acl.sync.ms"] == {
        "kind": "KafkaLinkConfigData",
        "metadata": {"self": f"{BASE}{LINKS}/hybrid/configs/acl.sync.ms", "resource_name": None},
        "cluster_id": CLUSTER,
        "name": "acl.sync.ms",
        "value": "2000",
        "is_default": False,
        "is_read_only": False,
        "is_sensitive": False,
        "source": "DYNAMIC_CLUSTER_LINK_CONFIG",
        "synonyms": [],
        "link_name": "hybrid",
        "no_effect": None,
    }
    jaas = by_name["sasl.jaas.config"]
    assert (jaas["value"], jaas["is_sensitive"], jaas["is_default"]) == (None, True, False)
    assert by_name["acl.sync.enable"]["source"] == "DEFAULT_CONFIG"
    assert "aes256gcm" not in str(listed)
    assert (await http.get(f"{LINKS}/hybrid/configs/acl.sync.ms")).json() == by_name["acl.sync.ms"]
    assert error(await http.get(f"{LINKS}/hybrid/configs/none"))[:2] == (404, 404)


async def test_configs_are_changed_one_by_one(admin: Admin, http: httpx.AsyncClient) -> None:
    admin.links.add(link_record())
    path = f"{LINKS}/hybrid/configs"
    response = await http.put(f"{path}/acl.sync.ms", json={"value": "1000"})
    assert (response.status_code, response.content) == (204, b"")
    response = await http.delete(f"{path}/acl.sync.ms")
    assert (response.status_code, response.content) == (204, b"")
    assert admin.links.reconfigured == [
        ("hybrid", [("acl.sync.ms", "1000")], False),
        ("hybrid", [("acl.sync.ms", None)], False),
    ]
    assert error(await http.put(f"{path}/acl.sync.ms", json={}))[:2] == (400, 400)
    assert error(await http.put(f"{path}/acl.sync.ms", json={"value": None}))[:2] == (400, 400)
    assert error(await http.put(f"{path}/none", json={"value": "x"}))[1] == 40002
    assert error(await http.put(f"{LINKS}/other/configs/acl.sync.ms", json={"value": "1"}))[:2] == (404, 404)


@pytest.mark.parametrize("way", ["query", "body", "no"])
async def test_configs_are_changed_together(admin: Admin, http: httpx.AsyncClient, way: str) -> None:
    admin.links.add(link_record())
    data = [
        {"name": "acl.sync.ms", "operation": "DELETE", "value": "ignored"},
        {"name": "consumer.offset.sync.ms", "value": "10000", "operation": None},
        {"name": "topic.config.sync.ms", "value": "", "operation": "SET"},
    ]
    query = "?validate_only=true" if way == "query" else ""
    response = await http.put(
        f"{LINKS}/hybrid/configs:alter{query}", json={"data": data, "validate_only": way == "body"}
    )
    assert (response.status_code, response.content) == (204, b"")
    pairs = [("acl.sync.ms", None), ("consumer.offset.sync.ms", "10000"), ("topic.config.sync.ms", "")]
    assert admin.links.reconfigured == [("hybrid", pairs, way != "no")]


@pytest.mark.parametrize(
    ("entry", "code", "text"),
    [
        ({"name": "acl.sync.ms"}, 40002, "has no value; operation DELETE resets it"),
        ({"name": "acl.sync.ms", "value": "1", "operation": "APPEND"}, 400, "operation"),
        ({"value": "hush"}, 400, "name"),
        ({"name": "dest.cluster.id", "value": "hush"}, 40002, "Config 'dest.cluster.id' is read-only"),
        ({"name": "link.mode", "value": "hush"}, 40002, "'link.mode' cannot be changed once the link exists"),
    ],
)
async def test_changes_that_cannot_be(
    admin: Admin, http: httpx.AsyncClient, entry: dict[str, Any], code: int, text: str
) -> None:
    admin.links.add(link_record())
    refusal = error(await http.put(f"{LINKS}/hybrid/configs:alter", json={"data": [entry]}))
    assert refusal[:2] == (400, code)
    assert text in refusal[2]
    assert "hush" not in refusal[2]
    assert not admin.links.reconfigured
    assert error(await http.post(f"{LINKS}/hybrid/configs:alter", json={"data": []}))[:2] == (405, 405)


# --- mirror topics -----------------------------------------------------------------------------------


async def test_a_mirror_topic_is_created(admin: Admin, http: httpx.AsyncClient) -> None:
    admin.links.add(link_record())
    body: dict[str, Any] = {"source_topic_name": "t"}
    response = await http.post(f"{LINKS}/hybrid/mirrors", json=body)
    assert (response.status_code, response.content) == (204, b"")
    body |= {
        "mirror_topic_name": "m",
        "replication_factor": 3,
        "configs": [{"name": "unclean.leader.election.enable", "value": "true"}],
    }
    assert (await http.post(f"{LINKS}/hybrid/mirrors", json=body)).status_code == 204
    assert admin.links.mirrored == [
        ("hybrid", CreateMirror("t")),
        ("hybrid", CreateMirror("t", "m", 3, {"unclean.leader.election.enable": "true"})),
    ]
    for wrong in ({}, {"source_topic_name": "t", "replication_factor": "A"}):
        assert error(await http.post(f"{LINKS}/hybrid/mirrors", json=wrong))[:2] == (400, 400)


async def test_mirror_topics_are_shown(admin: Admin, http: httpx.AsyncClient) -> None:
    admin.links.add(
        link_record(),
        link_record("other"),
        mirror_record("a"),
        mirror_record("b", MirrorStatus.FAILED, error="truncated at 7"),
        mirror_record("c", link="other"),
    )
    mirror = (await http.get(f"{LINKS}/hybrid/mirrors/a")).json()
    assert mirror == {
        "kind": "KafkaMirrorData",
        "metadata": {"self": f"{BASE}{LINKS}/hybrid/mirrors/a", "resource_name": None},
        "link_name": "hybrid",
        "mirror_topic_name": "a",
        "source_topic_name": "source-a",
        "num_partitions": 2,
        "mirror_lags": [
            {"partition": 0, "lag": 7, "last_source_fetch_offset": 100},
            {"partition": 1, "lag": 0, "last_source_fetch_offset": -1},
        ],
        "mirror_status": "ACTIVE",
        "mirror_topic_error": "NO_ERROR",
        "state_time_ms": 1662878304410,
        "mirror_state_transition_errors": [],
        "open_transactions": [
            {
                "partition": 1,
                "start_offset": 7,
                "producer_id": 4711,
                "last_write_ms": 1662878304000,
                "waiting_ms": 83000,
            },
            {
                "partition": 0,
                "start_offset": 9,
                "producer_id": None,
                "last_write_ms": None,
                "waiting_ms": 12000,
            },
        ],
    }

    async def names(path: str) -> list[str]:
        listed = (await http.get(f"{LINKS}/{path}")).json()
        assert listed["kind"] == "KafkaMirrorDataList"
        assert listed["metadata"]["next"] is None
        return [each["mirror_topic_name"] for each in listed["data"]]

    assert await names("hybrid/mirrors") == ["a", "b"]
    assert await names("hybrid/mirrors?mirror_status=FAILED") == ["b"]
    assert await names("-/mirrors") == ["a", "b", "c"]
    assert await names("-/mirrors?mirror_status=ACTIVE") == ["a", "c"]
    assert await names("-/mirrors?mirror_status=PENDING_RESTORE") == []
    assert error(await http.get(f"{LINKS}/-/mirrors?mirror_status=ODD"))[:2] == (400, 400)
    assert error(await http.get(f"{LINKS}/hybrid/mirrors/none"))[:2] == (404, 404)
    failed = f"{LINKS}/hybrid/mirrors/b"
    assert (await http.get(failed)).json()["mirror_state_transition_errors"] == []
    shown = (await http.get(f"{failed}?include_state_transition_errors=true")).json()
    assert shown["mirror_topic_error"] == "UNEXPECTED_TRUNCATION"
    assert shown["mirror_state_transition_errors"] == [
        {"error_code": "UNEXPECTED_TRUNCATION", "error_message": "truncated at 7"}
    ]


@pytest.mark.parametrize("verb", ["promote", "failover", "pause", "resume"])
async def test_verbs_answer_topic_by_topic(admin: Admin, http: httpx.AsyncClient, verb: str) -> None:
    admin.links.add(link_record(), mirror_record("a"))
    response = await http.post(f"{LINKS}/hybrid/mirrors:{verb}", json={"mirror_topic_names": ["a", "x"]})
    assert response.status_code == 200
    body = response.json()
    assert (body["kind"], body["metadata"]) == (
        "KafkaPromoteMirror",
        {"self": f"{BASE}{LINKS}/hybrid/mirrors", "next": None},
    )
    done, refused = body["data"]
    assert done == {
        "kind": "AlterMirrorsData",
        "metadata": {"self": f"{BASE}{LINKS}/hybrid/mirrors/a", "resource_name": None},
        "mirror_topic_name": "a",
        "error_code": None,
        "error_message": None,
        "mirror_lags": [
            {"partition": 0, "lag": 7, "last_source_fetch_offset": 100},
            {"partition": 1, "lag": 0, "last_source_fetch_offset": -1},
        ],
        "messages_truncated": None,
        "partition_level_truncation_data": [],
    }
    assert (refused["error_code"], refused["error_message"]) == (400, "Topic 'x' is no mirror topic.")
    by_pattern = {"mirror_topic_name_pattern": ".*"}
    await http.post(f"{LINKS}/hybrid/mirrors:{verb}?validate_only=true", json=by_pattern)
    assert admin.links.altered == [
        (verb, "hybrid", ["a", "x"], None, False),
        (verb, "hybrid", None, ".*", True),
    ]


async def test_wrong_verbs_and_bodies_are_refused(admin: Admin, http: httpx.AsyncClient) -> None:
    admin.links.add(link_record())
    path = f"{LINKS}/hybrid/mirrors"
    names = {"mirror_topic_names": ["a"]}
    for body in ({}, {**names, "mirror_topic_name_pattern": "a"}):
        assert error(await http.post(f"{path}:promote", json=body))[:2] == (400, 40002)
    for verb in ("reverse-and-start-mirror", "reverse-and-pause-mirror", "truncate-and-restore"):
        assert error(await http.post(f"{path}:{verb}", json=names))[:2] == (400, 40035)
    assert error(await http.post(f"{path}:explode", json=names))[:2] == (404, 404)
    assert admin.links.altered == []


async def test_names_in_urls_are_escaped(admin: Admin, http: httpx.AsyncClient) -> None:
    admin.links.add(link_record("a b"), mirror_record("t%", link="a b"))
    response = await http.get(f"{LINKS}/a%20b/mirrors/t%25")
    assert response.json()["metadata"]["self"] == f"{BASE}{LINKS}/a%20b/mirrors/t%25"


# --- users, health -----------------------------------------------------------------------------------


async def test_users_are_managed_without_showing_passwords(
    admin: Admin, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    body = {"name": "CP-and-CC-Linking", "password": PASSWORD}
    response = await http.post("/causeway/v1/users", json=body)
    assert response.status_code == 201
    assert response.json() == {
        "kind": "CausewayUser",
        "metadata": {"self": f"{BASE}/causeway/v1/users/CP-and-CC-Linking", "resource_name": None},
        "name": "CP-and-CC-Linking",
        "mechanisms": ["SCRAM-SHA-256", "SCRAM-SHA-512"],
    }
    listed = await http.get("/causeway/v1/users")
    assert listed.json()["data"] == [response.json()]
    again = await http.post("/causeway/v1/users", json=body)
    assert error(again)[:2] == (409, 40902)
    wrong = await http.post("/causeway/v1/users", json={"name": 1, "password": PASSWORD, "x": PASSWORD})
    assert error(wrong)[:2] == (400, 400)
    assert (await http.delete("/causeway/v1/users/CP-and-CC-Linking")).status_code == 204
    assert error(await http.delete("/causeway/v1/users/CP-and-CC-Linking"))[:2] == (404, 404)
    for text in (response.text, listed.text, again.text, wrong.text, caplog.text):
        assert PASSWORD not in text


async def test_health_needs_no_login(admin: Admin, http: httpx.AsyncClient) -> None:
    http.auth = None  # type: ignore[assignment] # httpx takes it, its annotation of the setter does not
    assert (await http.get("/livez")).status_code == 200
    ready = await http.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "waiting_for": []})
    admin.waiting_for = ["the cluster"]
    ready = await http.get("/readyz")
    assert (ready.status_code, ready.json()) == (503, {"ready": False, "waiting_for": ["the cluster"]})
    metrics = await http.get("/metrics")
    assert "tests_total 1.0" in metrics.text
    assert metrics.headers["content-type"].startswith("text/plain")


async def test_there_is_nothing_else(http: httpx.AsyncClient) -> None:
    for path in ("/", "/docs", "/openapi.json", "/kafka/v3", "//", f"{LINKS}/a/b/c/d"):
        assert error(await http.get(path))[:2] == (404, 404)
    assert error(await http.patch(LINKS))[:2] == (405, 405)
