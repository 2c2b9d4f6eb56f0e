"""A bound connection of a source-initiated link: requests come in from the destination, answers go out.

A session like any other, one connection and one upstream connection to one broker, behind the strict gate of
`link_gate`. The broker is found here by its node id, with this side's credentials.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import structlog

from gateway import observe
from gateway.sessions.acl_requests import AclRequests
from gateway.sessions.link_gate import MAX_REQUEST_BYTES, LinkGate, TopicCatalog
from gateway.sessions.presentation import ShownNow, no_mirrors
from gateway.sessions.request_path import Forward, Reply, RequestPath
from gateway.upstreams.connection import BrokerConnection
from gateway.upstreams.errors import DialError, KafkaError
from gateway.wire import ConnectionClosed, FrameConnection
from protocol.api_versions import link_versions
from protocol.errors import ProtocolError
from protocol.headers import peek_request_header

log = structlog.get_logger(__name__)

_MAX_IN_FLIGHT: Final = 16
_MAX_IN_FLIGHT_BYTES: Final = 4 << 20
# What counts its bytes, where those of clients have the name of their listener.
_NO_LISTENER: Final = "(link)"
# Kafka's connections.max.idle.ms.
_IDLE_S: Final = 600.0


class SourceBroker(Protocol):
    """The cluster that the requests go to."""

    async def connect(self, node_id: int | None) -> BrokerConnection: ...


class BoundSession:
    """Serves the bound connection `wire` for source broker `node_id` (None: any). `run` ends with it."""

    def __init__(
        self,
        wire: FrameConnection,
        cluster: SourceBroker,
        node_id: int | None,
        catalog: TopicCatalog,
        *,
        shown: ShownNow = no_mirrors,
        allowed: Callable[[str], bool] | None = None,
        acls: AclRequests | None = None,
        link: str = "",
    ) -> None:
        self._wire = wire
        self._cluster = cluster
        self._node_id = node_id
        self._catalog = catalog
        self._shown = shown
        self._allowed = allowed
        self._acls = acls
        self._path = RequestPath(
            wire,
            self._dial,
            max_in_flight=_MAX_IN_FLIGHT,
            max_in_flight_bytes=_MAX_IN_FLIGHT_BYTES,
            listener=_NO_LISTENER,
            on_upstream_end=self._upstream_ended,
        )
        self._upstream: BrokerConnection | None = None
        self._log = log.bind(link=link, peer=wire.peer, node_id=node_id)
        wire.max_frame_bytes = MAX_REQUEST_BYTES

    async def run(self) -> None:
        """Serves until either side ends the connection, or the other side asks for what it may not."""
        try:
            self._upstream = await self._cluster.connect(self._node_id)
            await self._serve(self._upstream)
        except ConnectionClosed as end:
            self._log.debug("bound_session.ended", reason=end.reason)
        except TimeoutError:
            self._log.info("bound_session.ended", reason=f"silent for {_IDLE_S} s")
        except ProtocolError as error:
            observe.bound_refusals.labels("UNKNOWN", "malformed").inc()
            self._log.warning("bound_session.malformed_request", error=str(error))
        except (DialError, KafkaError) as error:
            self._log.warning("bound_session.source_unreachable", error=str(error))
        finally:
            self._wire.close()
            if self._upstream is not None:
                self._upstream.abort()
            self._path.abort()
            await self._wire.wait_closed()

    async def _serve(self, upstream: BrokerConnection) -> None:
        gate = LinkGate(
            link_versions(upstream.api_versions),
            self._catalog,
            shown=self._shown,
            allowed=self._allowed,
            acls=self._acls,
        )
        wire, path = self._wire, self._path
        while True:
            frame = await wire.read_frame(_IDLE_S)
            header = peek_request_header(frame)
            await path.admit(len(frame))
            decision = await gate.decide(header, frame)
            if isinstance(decision, Forward):
                await path.forward(header, decision)
            elif isinstance(decision, Reply):
                path.reply(header, decision.body)
            else:
                observe.bound_refusals.labels(observe.api_name(header.api_key), "not_allowed").inc()
                self._log.warning("bound_session.refused", reason=decision.reason)
                return

    async def _dial(self) -> BrokerConnection:
        if self._upstream is None:
            raise ConnectionClosed("no upstream")
        return self._upstream

    def _upstream_ended(self, error: Exception) -> None:
        if isinstance(error, ConnectionClosed):
            self._log.debug("bound_session.upstream_ended", reason=error.reason)
        elif isinstance(error, ProtocolError):
            self._log.warning("bound_session.upstream_error", error=str(error))
        else:
            self._log.error("bound_session.response_failed", error=repr(error), exc_info=error)
        self._wire.close()
        self._path.wake()
