from collections.abc import Callable
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.state.records import (
    AclRecord,
    ClusterRecord,
    ConnectionMode,
    Delete,
    GroupRecord,
    LinkMode,
    LinkRecord,
    LocalReason,
    MirrorRecord,
    MirrorStatus,
    MirrorTopicError,
    Record,
    ScramKeys,
    State,
    StateFormatError,
    UserRecord,
    decode_change,
    encode_change,
    key_of,
)
from protocol.acls import Acl, Operation, PatternType, Permission, ResourceType

ACL = Acl(
    ResourceType.GROUP, PatternType.PREFIXED, "g\n\u00e9", "User:a", "*", Operation.READ, Permission.DENY
)
KEYS = ScramKeys(salt=b"\x00\xff", iterations=4096, stored_key=b"stored-secret", server_key=b"server-secret")


def link(name: str = "l") -> LinkRecord:
    return LinkRecord(
        link_name=name,
        cluster_link_id="eEBkTffYSESld6EO898x3w",
        link_mode=LinkMode.DESTINATION,
        connection_mode=ConnectionMode.INBOUND,
        source_cluster_id="src",
        configs={"sasl.jaas.config": "hush"},
        filler_key=b"0123456789abcdef",
        created_ms=1,
    )


def mirror(name: str = "t") -> MirrorRecord:
    return MirrorRecord(
        link_name="l",
        cluster_link_id="eEBkTffYSESld6EO898x3w",
        filler_key=b"0123456789abcdef",
        mirror_topic_name=name,
        source_topic_name=name,
        num_partitions=3,
        source_topic_id=uuid4(),
        topic_id=uuid4(),
        producer_id=2**62,
        status=MirrorStatus.FAILED,
        error=MirrorTopicError.UNEXPECTED_TRUNCATION,
        error_message="gone",
        state_time_ms=5,
        stop_offsets={0: 10, 11: 2**53 + 1},
    )


def user(name: str = "u") -> UserRecord:
    return UserRecord(name=name, scram={"SCRAM-SHA-256": KEYS})


def group(name: str = "g") -> GroupRecord:
    return GroupRecord(
        cluster_link_id="",
        group=name.removeprefix("/"),
        reason=LocalReason.COMMITTED,
        since_ms=7,
        offsets={"t": {0: 2**53 + 1}},
    )


@pytest.mark.parametrize(
    "record",
    [
        link(),
        mirror(),
        user(),
        group(),
        AclRecord.of(ACL, admin=True),
        AclRecord.of(ACL, admin=False, link_names=["m", "l"]),
        ClusterRecord(cluster_id="c"),
    ],
)
def test_records_survive_the_topic(record: Record) -> None:
    assert decode_change(*encode_change(record)) == record


MAKERS: list[Callable[[str], Record]] = [link, mirror, user]


@given(st.sampled_from(MAKERS), st.text(st.characters(codec="utf-8"), min_size=1))
def test_any_name_survives_the_topic(make: Callable[[str], Record], name: str) -> None:
    record = make(name)
    assert decode_change(*encode_change(record)) == record
    kind, found = key_of(record)
    assert decode_change(*encode_change(Delete(kind, name))) == Delete(kind, name)
    assert found == name


def test_a_deletion_is_a_null_value_under_the_records_key() -> None:
    assert encode_change(Delete("user", "u")) == (encode_change(user())[0], None)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        (None, b"{}", "names no kind"),
        (b"", b"{}", "names no kind"),
        (b"\xff", b"{}", "names no kind"),
        (b"[" * 100_000, b"{}", "names no kind"),
        (b'{"kind":"quota","name":"a"}', b"{}", "names no kind"),
        (b'{"kind":"user","name":1}', b"{}", "names no kind"),
        (b'{"kind":"user","name":"a","more":1}', b"{}", "names no kind"),
        (b'{"kind":"user","name":"u"}', b"", "user 'u': value: Invalid JSON"),
        (b'{"kind":"user","name":"u"}', b"[]", "user 'u'"),
        (b'{"kind":"user","name":"u"}', b'{"version":2}', "version 2, this gateway knows version 1"),
        (b'{"kind":"user","name":"u"}', b'{"version":1,"name":"u"}', "user 'u': scram: Field required"),
        (b'{"kind":"user","name":"u"}', b'{"version":1,"name":"u","scram":{},"x":0}', "user 'u': x"),
        (b'{"kind":"user","name":"u"}', b'{"version":1,"name":"v","scram":{}}', "is named 'v'"),
    ],
)
def test_what_no_gateway_of_this_version_writes_is_refused(
    key: bytes | None, value: bytes, complaint: str
) -> None:
    with pytest.raises(StateFormatError) as refused:
        decode_change(key, value)
    assert complaint in str(refused.value)


def test_secrets_do_not_format() -> None:
    for record in (link(), mirror(), user()):
        assert "secret" not in repr(record)
        assert "hush" not in repr(record)
        assert "0123456789abcdef" not in repr(record)
    with pytest.raises(StateFormatError) as refused:
        decode_change(encode_change(user())[0], b'{"version":1,"name":"u","scram":"very-secret"}')
    assert "very-secret" not in str(refused.value)


def test_changes_make_a_new_state_and_leave_the_old_one() -> None:
    before = State().with_changes([link("a"), mirror("t"), user("u"), user("v")])
    after = before.with_changes([Delete("user", "u"), Delete("mirror", "t"), Delete("link", "a"), link("b")])
    assert (set(before.links), set(before.mirrors), set(before.users)) == ({"a"}, {"t"}, {"u", "v"})
    assert (set(after.links), set(after.mirrors), set(after.users)) == ({"b"}, set(), {"v"})
    assert after.with_changes([Delete("user", "nobody")]) == after
    kept = after.with_changes([ClusterRecord(cluster_id="c")])
    assert (kept.cluster_id, kept.users) == ("c", after.users)
    assert kept.with_changes([Delete("cluster", "id")]) == after
    local = after.with_changes([group("a"), group("b"), Delete("group", "/a")])
    assert (set(local.groups), local.users) == ({"/b"}, after.users)
    with pytest.raises(TypeError):
        after.users["w"] = user("w")  # type: ignore[index] # that is the point
