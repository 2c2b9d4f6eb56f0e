from typing import Any

import pytest

from gateway.admin.users import UserService
from gateway.links.errors import LinkError
from gateway.security.credentials import Credentials
from gateway.state.records import UserRecord
from gateway.state.store import StateUnavailable
from tests.fakes.store import FakeStore


def service(store: Any) -> UserService:
    return UserService(store, ["configured"])


async def test_a_created_user_can_log_in_until_it_is_deleted() -> None:
    store = FakeStore()
    users = service(store)

    def lookup(name: str) -> UserRecord | None:
        return store.state.users.get(name)

    credentials = Credentials({}, lookup)
    await users.create("alice", "pä$s:word")
    assert [record.name for record in users.users()] == ["alice"]
    assert str(await credentials.verify_plain("alice", "pä$s:word")) == "User:alice"
    assert await credentials.verify_plain("alice", "wrong") is None
    await users.delete("alice")
    assert await credentials.verify_plain("alice", "pä$s:word") is None


@pytest.mark.parametrize(
    "name", ["", "a:b", "a\0", "a\nb", "x" * 256, "_causeway", "_causeway-x", "ANONYMOUS"]
)
async def test_names_that_cannot_log_in_are_refused(name: str) -> None:
    with pytest.raises(LinkError) as refused:
        await service(FakeStore()).create(name, "password")
    assert refused.value.error_code == 40002


@pytest.mark.parametrize("password", ["", "a\0b", "x" * 1025])
async def test_passwords_that_cannot_be_sent_are_refused(password: str) -> None:
    with pytest.raises(LinkError) as refused:
        await service(FakeStore()).create("alice", password)
    assert refused.value.error_code == 40002
    assert not password or password not in refused.value.message


async def test_a_name_is_taken_once() -> None:
    users = service(FakeStore())
    await users.create("alice", "one")
    for name in ("alice", "configured"):
        with pytest.raises(LinkError) as refused:
            await users.create(name, "two")
        assert (refused.value.status, refused.value.error_code) == (409, 40902)
    with pytest.raises(LinkError) as missing:
        await users.delete("bob")
    assert missing.value.status == 404


async def test_a_store_that_is_away_is_no_mistake_of_ours() -> None:
    store = FakeStore()
    store.failure = StateUnavailable("away")
    with pytest.raises(StateUnavailable):
        await service(store).create("alice", "one")
