"""Looks for a way around the gateway: whether brokers let in somebody who says nothing about himself.

Every broker that the gateway knows of is tried in clear text and with TLS, without a login and without a
certificate, from the machine that this runs on. Whoever gets an answer to Metadata is in.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.config import Config, SecurityProtocol, format_host_port, parse_host_port
from gateway.upstreams.dialer import Security, dial
from gateway.upstreams.errors import DialError
from gateway.upstreams.metadata import ClusterMetadata

_TIMEOUT_S: Final = 5.0
_AT_ONCE: Final = 16

Address = tuple[str, int]


@dataclass(frozen=True)
class Door:
    """One attempt: `open` if the broker answered, else `reason` says why not."""

    address: str
    protocol: str
    open: bool
    reason: str = ""


async def look(config: Config) -> tuple[list[Door], str | None]:
    """All attempts, and why the brokers could not be asked who else is there (None: they were)."""
    bootstrap = [_address(server) for server in config.cluster.bootstrap_servers]
    found, trouble = await _brokers(bootstrap, Security.from_config(config.cluster.security))
    turn = asyncio.Semaphore(_AT_ONCE)

    async def one(address: Address, protocol: SecurityProtocol) -> Door:
        async with turn:
            return await knock(address, protocol)

    addresses = list(dict.fromkeys((*bootstrap, *found)))
    ways = (SecurityProtocol.PLAINTEXT, SecurityProtocol.SSL)
    return list(await asyncio.gather(*(one(each, way) for each in addresses for way in ways))), trouble


async def knock(address: Address, protocol: SecurityProtocol) -> Door:
    """Tries to get in as nobody."""
    where = format_host_port(*address)
    answers: list[ClusterMetadata] = []
    security = Security(protocol=protocol, ssl_context=_any_tls() if protocol.uses_tls else None)
    try:
        connection = await dial(*address, security, connect_timeout_s=_TIMEOUT_S, on_metadata=answers.append)
    except DialError as error:
        return Door(where, protocol.value, open=False, reason=str(error))
    connection.abort()
    return Door(where, protocol.value, open=bool(answers))


async def _brokers(bootstrap: Sequence[Address], security: Security) -> tuple[list[Address], str | None]:
    trouble = None
    for address in bootstrap:
        answers: list[ClusterMetadata] = []
        try:
            connection = await dial(
                *address, security, connect_timeout_s=_TIMEOUT_S, on_metadata=answers.append
            )
        except DialError as error:
            trouble = str(error)
            continue
        connection.abort()
        return [broker for answer in answers for broker in answer.brokers.values()], None
    return [], trouble


def _address(server: str | Address) -> Address:
    return parse_host_port(server) if isinstance(server, str) else server


def _any_tls() -> ssl.SSLContext:
    # Whoever answers is looked at, not trusted: nothing is sent that anybody may not see.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
