"""Changing a link's configs: which changes are possible, and what they make of the configs there are.

A change is decided on the newest state, so that of two at once neither is lost.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from gateway.links import errors
from gateway.links.config_keys import KEYS
from gateway.links.configs import is_sensitive, validate
from gateway.links.mirror_notes import Change
from gateway.links.requests import ConfigChange
from gateway.state.records import Delete, LinkRecord, Record, State
from gateway.state.secrets import Secrets, SecretsError
from gateway.state.store import Store

# Switched off, the sync forgets its filters (Confluent's documentation of these keys).
_CLEARED: Final[Mapping[str, str]] = {
    "acl.sync.enable": "acl.filters",
    "auto.create.mirror.topics.enable": "auto.create.mirror.topics.filters",
    "consumer.offset.sync.enable": "consumer.offset.group.filters",
}


class ConfigChanges:
    """Alters the configs of links. LinkError where that cannot be."""

    def __init__(self, store: Store, secrets: Secrets, write: Callable[[Change], Awaitable[None]]) -> None:
        self._store = store
        self._secrets = secrets
        self._write = write

    async def alter(self, link_name: str, changes: Sequence[ConfigChange], *, validate_only: bool) -> None:
        """All of these changes, or none. Returns when this gateway's link follows them."""
        check_changes(changes)

        def apply(state: State) -> list[Record | Delete]:
            record = state.links.get(link_name)
            if record is None:
                raise errors.link_not_found(link_name)
            altered = record.model_copy(update={"configs": self._altered(record, changes)})
            return [] if altered == record else [altered]

        if validate_only:
            apply(self._store.state)
        else:
            await self._write(apply)

    def _altered(self, record: LinkRecord, changes: Sequence[ConfigChange]) -> dict[str, str]:
        configs = changed(record.configs, changes)
        given = {change.name for change in changes}
        try:
            plain = {
                name: self._secrets.decrypt(value) if is_sensitive(name) and name not in given else value
                for name, value in configs.items()
            }
            validate(plain)
            return {
                name: self._secrets.encrypt(value) if is_sensitive(name) and name in given else value
                for name, value in configs.items()
            }
        except SecretsError as error:
            raise errors.invalid_request(f"Cluster link '{record.link_name}': {error}") from error


def check_changes(changes: Sequence[ConfigChange]) -> None:
    """Whether these configs may be changed at all; LinkError 40002 names the first that may not."""
    seen: set[str] = set()
    for change in changes:
        key = KEYS.get(change.name)
        shown = f"'{change.name[:200]}'"
        if key is None:
            raise errors.invalid_request(f"Unknown cluster link config {shown}.")
        if key.read_only:
            raise errors.invalid_request(f"Config {shown} is read-only.")
        if key.immutable:
            raise errors.invalid_request(f"Config {shown} cannot be changed once the link exists.")
        if change.name in seen:
            raise errors.invalid_request(f"Config {shown} is given twice.")
        seen.add(change.name)


def changed(configs: Mapping[str, str], changes: Sequence[ConfigChange]) -> dict[str, str]:
    """The configs after the changes."""
    after = dict(configs)
    for change in changes:
        if change.value is None:
            after.pop(change.name, None)
        else:
            after[change.name] = change.value
    given = {change.name for change in changes}
    for switch, filters in _CLEARED.items():
        if switch in given and filters not in given and after.get(switch, "false").lower() != "true":
            after.pop(filters, None)
    return after
