from __future__ import annotations

from pathlib import Path

import pytest
import structlog
import yaml

from gateway.config import load
from gateway.security.acls import Operation, Reason, ResourceType
from gateway.sessions.current_acls import CurrentAcls, current_acls
from gateway.state.acl_changes import add_for_admin, follow_link, remove_for_admin
from tests.fakes.store import FakeStore
from tests.gateway.security.acl_cases import acl

ONE = acl("allow read topic literal t User:a *")
ASKED = ("User:a", "10.0.0.1", Operation.READ, ResourceType.TOPIC, "t")


def make(store: FakeStore) -> CurrentAcls:
    return CurrentAcls(store, super_users=frozenset({"User:root"}), allow_everyone=False, max_staleness_s=30)


def test_a_change_counts_at_once() -> None:
    store = FakeStore()
    current = make(store)
    acls = current.now()
    assert acls is not None
    assert not acls.allows(*ASKED)
    assert acls.decide("User:root", *ASKED[1:]).reason is Reason.SUPER_USER
    store._apply(add_for_admin(store.state, [ONE]))
    after = current.now()
    assert after is not None
    assert after.allows(*ASKED)
    assert current.now() is after
    store._apply(remove_for_admin(store.state, [ONE]))
    again = current.now()
    assert again is not None
    assert not again.allows(*ASKED)


def test_what_was_read_too_long_ago_is_not_known() -> None:
    store = FakeStore()
    store._apply(add_for_admin(store.state, [ONE]))
    current = make(store)
    store.staleness_s = 29.9
    assert current.now() is not None
    store.staleness_s = 30.1
    assert current.now() is None
    store.staleness_s = float("inf")
    assert current.now() is None


def test_owners() -> None:
    store = FakeStore()
    current = make(store)
    assert current.owners(ONE) == ()
    store._apply(follow_link(store.state, "L", [ONE]))
    store._apply(add_for_admin(store.state, [ONE]))
    assert current.owners(ONE) == ("admin", "link L")


@pytest.mark.parametrize(("word", "there"), [("acls", True), ("none", False)])
def test_by_the_configuration(tmp_path: Path, word: str, there: bool) -> None:
    path = tmp_path / "gateway.yaml"
    text = {
        "cluster": {"bootstrap_servers": ["127.0.0.1:1"]},
        "authorization": word,
        "super_users": ["User:root"],
        "allow_everyone_if_no_acl_found": True,
        "state": {"max_staleness_ms": 2000},
    }
    path.write_text(yaml.safe_dump(text))
    store = FakeStore()
    with structlog.testing.capture_logs() as logs:
        current = current_acls(load(path), store)
    assert (current is not None) is there
    assert [line["event"] for line in logs] == ([] if there else ["authorization.off"])
    if current is not None:
        acls = current.now()
        assert acls is not None
        assert acls.allows(*ASKED)
        assert acls.decide("User:root", *ASKED[1:]).reason is Reason.SUPER_USER
        store.staleness_s = 2.1
        assert current.now() is None
