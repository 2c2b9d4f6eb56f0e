"""Who an ACL belongs to, and when it goes."""

from __future__ import annotations

from gateway.state.acl_changes import (
    add_for_admin,
    drop_link,
    follow_link,
    keep_for_admin,
    remove_for_admin,
)
from gateway.state.records import (
    AclRecord,
    Delete,
    Record,
    State,
    acl_key,
    decode_change,
    encode_change,
    key_of,
)
from protocol.acls import Acl
from tests.fakes.links import link_record
from tests.gateway.security.acl_cases import acl

ONE = acl("allow read topic literal t User:a *")
TWO = acl("deny all group prefixed g User:b 10.0.0.1")


def _owners(state: State) -> dict[Acl, tuple[bool, tuple[str, ...]]]:
    return {record.acl: (record.admin, record.link_names) for record in state.acls.values()}


def _apply(state: State, changes: list[Record | Delete]) -> State:
    # As they come back from the topic.
    return state.with_changes([decode_change(*encode_change(change)) for change in changes])


def test_an_administrators_acls_come_and_go() -> None:
    state = _apply(State(), add_for_admin(State(), [ONE, TWO, ONE]))
    assert _owners(state) == {ONE: (True, ()), TWO: (True, ())}
    assert add_for_admin(state, [ONE]) == []
    state = _apply(state, remove_for_admin(state, [ONE]))
    assert _owners(state) == {TWO: (True, ())}
    assert remove_for_admin(state, [ONE]) == []


def test_a_link_brings_its_own_and_takes_only_those() -> None:
    state = _apply(State(), add_for_admin(State(), [TWO]))
    state = _apply(state, follow_link(state, "L", [ONE]))
    assert _owners(state) == {ONE: (False, ("L",)), TWO: (True, ())}
    assert follow_link(state, "L", [ONE]) == []
    state = _apply(state, follow_link(state, "L", []))
    assert _owners(state) == {TWO: (True, ())}


def test_an_acl_of_both_stays_when_the_link_lets_go() -> None:
    state = _apply(State(), follow_link(State(), "L", [ONE]))
    state = _apply(state, add_for_admin(state, [ONE]))
    assert _owners(state) == {ONE: (True, ("L",))}
    state = _apply(state, [link_record("L").model_copy(update={"configs": {"acl.sync.enable": "true"}})])
    assert remove_for_admin(state, [ONE]) == []
    state = _apply(state, drop_link(state, "L"))
    assert _owners(state) == {ONE: (True, ())}


def test_an_acl_of_two_links_goes_with_the_last() -> None:
    state = _apply(State(), follow_link(State(), "L", [ONE, TWO]))
    state = _apply(state, follow_link(state, "M", [ONE]))
    assert _owners(state) == {ONE: (False, ("L", "M")), TWO: (False, ("L",))}
    state = _apply(state, drop_link(state, "L"))
    assert _owners(state) == {ONE: (False, ("M",))}
    state = _apply(state, drop_link(state, "M"))
    assert _owners(state) == {}


def test_what_denies_comes_first_and_goes_last() -> None:
    deny, other_deny = acl("deny all topic literal a User:* *"), acl("deny all topic literal b User:* *")
    allow, other_allow = acl("allow all topic literal a User:* *"), acl("allow all topic literal b User:* *")
    state = _apply(State(), follow_link(State(), "L", [deny, allow]))
    changes = follow_link(state, "L", [other_allow, other_deny])
    assert [change.name if isinstance(change, Delete) else key_of(change)[1] for change in changes] == [
        acl_key(other_deny),
        acl_key(allow),
        acl_key(other_allow),
        acl_key(deny),
    ]


def test_what_a_link_leaves_may_become_the_administrators() -> None:
    state = _apply(State(), follow_link(State(), "L", [ONE, TWO]))
    state = _apply(state, follow_link(state, "M", [TWO]))
    state = _apply(state, keep_for_admin(state, "L"))
    assert _owners(state) == {ONE: (True, ()), TWO: (True, ("M",))}


def test_the_acls_are_the_same_object_until_one_changes() -> None:
    state = _apply(State(), add_for_admin(State(), [ONE]))
    assert state.with_changes([Delete("user", "u")]).acls is state.acls
    assert state.with_changes([Delete("acl", acl_key(ONE))]).acls is not state.acls
    assert AclRecord.of(ONE, admin=True).acl == ONE
