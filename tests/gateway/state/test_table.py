import pytest

from gateway.state.records import (
    ClusterRecord,
    Delete,
    ScramKeys,
    StateFormatError,
    UserRecord,
    encode_change,
)
from gateway.state.table import Table


def user(iterations: int) -> UserRecord:
    keys = ScramKeys(salt=b"", iterations=iterations, stored_key=b"", server_key=b"")
    return UserRecord(name="u", scram={"m": keys})


def test_the_newest_record_of_a_key_counts() -> None:
    table = Table("t")
    assert table.state().users == {}
    table.apply(0, *encode_change(user(1)))
    table.apply(5, *encode_change(user(2)))
    assert table.state().users == {"u": user(2)}
    table.apply(6, *encode_change(Delete("user", "u")))
    assert table.state().users == {}


def test_nothing_new_is_the_same_object() -> None:
    table = Table("t")
    table.apply(0, *encode_change(user(1)))
    assert table.state() is table.state()


def test_one_foreign_record_makes_all_unusable_until_it_is_replaced() -> None:
    table = Table("state-topic")
    table.apply(0, *encode_change(user(1)))
    table.apply(7, b"foreign", b"x")
    table.apply(8, encode_change(user(1))[0], b"{}")
    with pytest.raises(StateFormatError, match=r"topic state-topic, offset 7: .*\(and 1 more\)"):
        table.state()
    table.apply(9, b"foreign", None)
    with pytest.raises(StateFormatError, match="offset 8"):
        table.state()
    table.apply(10, *encode_change(user(3)))
    assert table.state().users == {"u": user(3)}


def test_a_foreign_deletion_is_nobodys_business() -> None:
    table = Table("t")
    table.apply(0, b"foreign", None)
    assert table.state().users == {}


def test_the_state_of_another_cluster_is_not_taken() -> None:
    present: list[str | None] = [None]
    table = Table("t", lambda: present[0])
    table.apply(0, *encode_change(user(1)))
    table.apply(1, *encode_change(ClusterRecord(cluster_id="ours")))
    # Before the cluster was reached nobody knows.
    assert table.state().cluster_id == "ours"
    present[0] = "ours"
    assert table.state().users == {"u": user(1)}
    present[0] = "theirs"
    with pytest.raises(StateFormatError, match="t is the state of cluster ours, and this is cluster theirs"):
        table.state()
    table.apply(2, *encode_change(Delete("cluster", "id")))
    assert table.state().cluster_id is None
