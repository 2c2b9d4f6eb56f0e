"""How a half of a link comes to be: its configs, who is on the other side, and what is kept of it."""

import base64
import re
import secrets as random_source
import time
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.links import errors
from gateway.links.attach import AttachRefused
from gateway.links.board import TRANSPORT_ERRORS
from gateway.links.configs import PREFIX, LinkConfig, is_sensitive, validate
from gateway.links.errors import LinkError
from gateway.links.link_parts import LinkParts, LinkServices
from gateway.links.mirror_notes import Change
from gateway.links.mirror_topics import MAX_TOPIC_NAME
from gateway.links.requests import CreateLink
from gateway.state.records import ConnectionMode, Delete, LinkMode, LinkRecord, Record, State
from gateway.state.secrets import SecretsError
from gateway.upstreams.cluster import Cluster, DialConnector
from gateway.upstreams.dialer import Security
from gateway.upstreams.errors import DialError, KafkaError

LINK_NAME: Final = re.compile(r"[a-zA-Z0-9._-]+")
RESOURCE_NOT_FOUND: Final = 91


class LinkMaker:
    """Makes links."""

    def __init__(
        self, services: LinkServices, parts: LinkParts, write: Callable[[Change], Awaitable[None]]
    ) -> None:
        self._cluster = services.cluster
        self._store = services.store
        self._services = services
        self._parts = parts
        self._write = write

    async def create(self, request: CreateLink, *, validate_only: bool, validate_link: bool) -> None:
        """Make a half of a link. With `validate_link` the other side must be there and agree."""
        config = validate(request.configs)
        name = request.link_name
        if not LINK_NAME.fullmatch(name) or len(name) > MAX_TOPIC_NAME:
            raise errors.invalid_request(
                f"Cluster link name '{name}' is not valid: letters, digits, '.', '_' and '-', at most 249."
            )
        if name in self._store.state.links:
            raise errors.link_exists(name)
        _check_prefix_is_free(self._store.state, config.prefix)
        own = self._parts.cluster_id()
        source_id: str | None = own
        destination_id = request.destination_cluster_id
        link_id = _kafka_uuid()
        if config.link_mode is LinkMode.SOURCE:
            if validate_link:
                link_id = await self._validate_destination(name, config)
            else:
                link_id = ""
        else:
            destination_id = own
            source_id = request.source_cluster_id
            if config.connection_mode is ConnectionMode.INBOUND:
                if source_id is None:
                    raise errors.invalid_request(
                        "An inbound link needs source_cluster_id: it cannot ask the source."
                    )
            elif validate_link or source_id is None:
                source_id = await self._validate_source(config, source_id)
            if source_id == own:
                raise errors.invalid_request(f"Source and destination are the same cluster, {own}.")
        if validate_only:
            return
        secrets = self._services.secrets
        try:
            configs = {k: secrets.encrypt(v) if is_sensitive(k) else v for k, v in request.configs.items()}
        except SecretsError as error:
            raise errors.invalid_request(f"Cluster link '{name}' cannot be kept: {error}.") from error
        record = LinkRecord(
            link_name=name,
            cluster_link_id=link_id,
            link_mode=config.link_mode,
            connection_mode=config.connection_mode,
            source_cluster_id=source_id,
            destination_cluster_id=destination_id,
            configs=configs,
            filler_key=random_source.token_bytes(16),
            created_ms=_now_ms(),
        )

        def add(state: State) -> list[Record | Delete]:
            if name in state.links:
                raise errors.link_exists(name)
            _check_prefix_is_free(state, config.prefix)
            return [record]

        await self._write(add)

    async def _validate_destination(self, name: str, config: LinkConfig) -> str:
        half = self._parts.source_half(name, None, config, self._cluster)
        try:
            connection, response = await half.attach()
        except AttachRefused as error:
            if error.code == RESOURCE_NOT_FOUND:
                message = f"The destination cluster does not have a link named {name}. Create it there first."
                raise LinkError(400, 400, message) from error
            raise LinkError(400, 400, f"The destination refuses the link: {error}") from error
        except (DialError, *TRANSPORT_ERRORS) as error:
            raise LinkError(400, 400, f"The destination cannot be reached: {error}") from error
        connection.abort()
        return response.link_id or ""

    async def _validate_source(self, config: LinkConfig, expected: str | None) -> str:
        source = Cluster(DialConnector(config.bootstrap_servers, config.security or Security()))
        try:
            found = (await source.metadata([])).cluster_id
        except (DialError, KafkaError, *TRANSPORT_ERRORS) as error:
            raise errors.invalid_request(f"The source cluster cannot be reached: {error}") from error
        finally:
            await source.close()
        if found is None or (expected is not None and found != expected):
            raise errors.invalid_request(
                f"The bootstrap servers belong to cluster {found}, the link is for {expected}."
            )
        return found


def _check_prefix_is_free(state: State, prefix: str) -> None:
    others = [name for name, link in state.links.items() if prefix and link.configs.get(PREFIX) == prefix]
    if others:
        raise errors.invalid_request(
            f"Cluster link prefix '{prefix}' already exists: cluster link '{others[0]}' has it."
        )


def _kafka_uuid() -> str:
    return base64.urlsafe_b64encode(random_source.token_bytes(16)).decode().rstrip("=")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
