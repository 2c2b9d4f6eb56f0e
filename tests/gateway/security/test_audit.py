"""The lines of the audit, and what is counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway import observe
from gateway.admin.asker import ASKER, Asker
from gateway.admin.audited import AuditedApi
from gateway.config import AuditConfig
from gateway.security.acls import Acls
from gateway.security.audit import Audit, AuditError
from gateway.sessions.judge import RequestJudge
from protocol.acls import Acl, Operation, PatternType, Permission, ResourceType
from protocol.api_keys import ApiKey
from protocol.headers import RequestHeader

Start = Callable[..., Audit]
HEADER = RequestHeader(ApiKey.FETCH, 12, 77, "client", 20)
RULE = Acl(ResourceType.TOPIC, PatternType.PREFIXED, "or", "User:alice", "*", Operation.READ, Permission.DENY)
GRANT = Acl(
    ResourceType.TOPIC, PatternType.LITERAL, "sales", "User:alice", "*", Operation.READ, Permission.ALLOW
)


@pytest.fixture
def start() -> Iterator[Callable[..., Audit]]:
    made: list[Audit] = []

    def make(**options: Any) -> Audit:
        made.append(Audit(**options))
        return made[-1]

    yield make
    for audit in made:
        audit.close()


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def decide(audit: Audit, *topics: str, quiet: bool = False) -> None:
    judge = RequestJudge(
        Acls([RULE, GRANT]),
        "User:alice",
        "10.0.0.1",
        lambda _: None,
        notes_allowed=audit.tells_allowed,
    )
    for topic in topics:
        judge.may(Operation.READ, ResourceType.TOPIC, topic, quiet=quiet)
    audit.decided(HEADER, "people", "User:alice", "10.0.0.1", judge.allowed, judge.noted)


def counted(result: str) -> float:
    labels = {"api": "FETCH", "result": result}
    return observe.registry.get_sample_value("causeway_authorizations_total", labels) or 0.0


def test_refusals_are_told_with_what_refused_them(tmp_path: Path, start: Start) -> None:
    file = tmp_path / "audit.log"
    allowed, denied = counted("allowed"), counted("denied")
    decide(start(file=file, owners=lambda _: ("admin", "link hybrid")), "orders", "sales", "other")
    by_rule, by_default = lines(file)
    for name in ("timestamp", "level"):
        by_default.pop(name)
        assert by_rule.pop(name)
    common = {
        "event": "audit.decision",
        "result": "denied",
        "api": "FETCH",
        "correlation_id": 77,
        "listener": "people",
        "principal": "User:alice",
        "host": "10.0.0.1",
        "operation": "READ",
        "resource_type": "TOPIC",
    }
    assert by_rule == common | {
        "resource": "orders",
        "by": "acl",
        "acl": "DENY User:alice READ on TOPIC:PREFIXED:or from *",
        "owners": ["admin", "link hybrid"],
    }
    assert by_default == common | {"resource": "other", "by": "default"}
    assert (counted("allowed") - allowed, counted("denied") - denied) == (1, 2)


def test_what_is_left_out_of_a_list_is_not_told(tmp_path: Path, start: Start) -> None:
    file = tmp_path / "audit.log"
    decide(start(file=file), "orders", quiet=True)
    assert lines(file) == []


def test_what_is_allowed_is_told_in_full_or_in_part(tmp_path: Path, start: Start) -> None:
    full = tmp_path / "full.log"
    decide(start(file=full, allowed_share=1), *["sales"] * 50)
    assert [line["level"] for line in lines(full)] == ["debug"] * 50
    part = tmp_path / "part.log"
    decide(start(file=part, allowed_share=0.2), *["sales"] * 1000)
    assert 50 < len(lines(part)) < 500


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="cannot be written"):
        Audit.of(AuditConfig(file=tmp_path / "no" / "such" / "directory"), None)


async def test_admin_actions(tmp_path: Path, start: Start) -> None:
    file = tmp_path / "audit.log"

    async def api(scope: Any, _receive: Any, send: Any) -> None:
        if scope["path"] == "/boom":
            raise RuntimeError("boom")
        if scope["type"] == "http":
            scope[ASKER] = Asker("User:admin")
            await send({"type": "http.response.start", "status": scope["status"]})

    async def send(_message: Any) -> None:
        return None

    audited = AuditedApi(api, start(file=file))
    for method, path, status in (
        ("GET", "/links", 200),
        ("POST", "/links", 201),
        ("GET", "/links", 403),
        ("DELETE", "/boom", 0),
    ):
        scope = {"type": "http", "method": method, "path": path, "status": status, "client": ("::1", 5)}
        if path == "/boom":
            with pytest.raises(RuntimeError):
                await audited(scope, None, send)  # type: ignore[arg-type]
        else:
            await audited(scope, None, send)  # type: ignore[arg-type]
    await audited({"type": "lifespan", "path": ""}, None, send)  # type: ignore[arg-type]
    told = [(line["method"], line["path"], line["status"], line["result"]) for line in lines(file)]
    assert told == [
        ("POST", "/links", 201, "allowed"),
        ("GET", "/links", 403, "denied"),
        ("DELETE", "/boom", 500, "allowed"),
    ]
    assert [line["principal"] for line in lines(file)] == ["User:admin", "User:admin", None]


def test_logins(tmp_path: Path, start: Start) -> None:
    file = tmp_path / "audit.log"
    start(file=file).login_refused("people", "10.0.0.1", "wrong password of user 'alice'")
    (line,) = lines(file)
    assert (line["event"], line["result"], line["host"]) == ("audit.login", "denied", "10.0.0.1")
