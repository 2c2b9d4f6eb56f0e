"""The users in the state topic, as an administrator manages them."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Final

from gateway.links.errors import LinkError, invalid_request
from gateway.security.credentials import SCRAM_SHA_256, SCRAM_SHA_512, scram_keys
from gateway.security.user_names import name_refusal
from gateway.state.records import Delete, Record, ScramKeys, State, UserRecord
from gateway.state.store import Store

_MAX_PASSWORD_CHARS: Final = 1024


class UserService:
    """Users by name. `static_names` are those of the configuration, which win over users of the state."""

    def __init__(self, store: Store, static_names: Collection[str] = ()) -> None:
        self._store = store
        self._static_names = frozenset(static_names)

    def users(self) -> list[UserRecord]:
        """All users in the state, by name."""
        return [record for _, record in sorted(self._store.state.users.items())]

    async def create(self, name: str, password: str) -> UserRecord:
        """Adds a user. LinkError 40002 for a name or password that cannot be, 40902 if it exists."""
        if (refusal := name_refusal(name)) is not None:
            raise invalid_request(refusal)
        if not password or len(password) > _MAX_PASSWORD_CHARS or "\0" in password:
            raise invalid_request(f"The password must have 1 to {_MAX_PASSWORD_CHARS} characters and no NUL.")
        if name in self._static_names:
            raise LinkError(409, 40902, f"User '{name}' is in the gateway's configuration.")
        record = UserRecord(name=name, scram=await asyncio.to_thread(_keys, password))

        def add(state: State) -> Sequence[Record | Delete]:
            if name in state.users:
                raise LinkError(409, 40902, f"User '{name}' already exists.")
            return [record]

        await self._store.update(add)
        return record

    async def delete(self, name: str) -> None:
        """Removes a user. LinkError 404 if there is none."""

        def remove(state: State) -> Sequence[Record | Delete]:
            if name not in state.users:
                raise LinkError(404, 404, f"User '{name}' does not exist.")
            return [Delete("user", name)]

        await self._store.update(remove)


def _keys(password: str) -> dict[str, ScramKeys]:
    keys = {}
    for mechanism in (SCRAM_SHA_256, SCRAM_SHA_512):
        made = scram_keys(password, mechanism)
        keys[mechanism] = ScramKeys(
            salt=made.salt, iterations=made.iterations, stored_key=made.stored_key, server_key=made.server_key
        )
    return keys
