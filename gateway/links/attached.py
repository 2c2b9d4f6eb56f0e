"""Source halves that dial in: which may attach, and whose connections they are from then on."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from gateway.links.attach import PARKED_SLOTS
from gateway.links.errors import LinkError
from gateway.links.link_parts import LinkServices
from gateway.links.mirror_notes import Change
from gateway.links.runtime import LinkRuntime
from gateway.security.principals import Principal
from gateway.state.records import Delete, LinkRecord, Record, State
from gateway.wire import FrameConnection
from protocol.reverse import DIAL_AGAIN, LinkAttachRequest, LinkAttachResponse

INCONSISTENT_CLUSTER_ID: Final = 104
RESOURCE_NOT_FOUND: Final = 91
CLUSTER_AUTHORIZATION_FAILED: Final = 31
INVALID_REQUEST: Final = 42
NOT_CONTROLLER_YET: Final = 14


class Attached:
    """Judges them, and hands their connections to the links."""

    def __init__(
        self,
        services: LinkServices,
        runtimes: Mapping[str, LinkRuntime],
        write: Callable[[Change], Awaitable[None]],
        instances: Callable[[], int] = lambda: 1,
    ) -> None:
        self._services = services
        self._store = services.store
        self._runtimes = runtimes
        self._write = write
        # How many gateways share the links.
        self._instances = instances

    async def attach(self, principal: Principal, request: LinkAttachRequest) -> LinkAttachResponse:
        """Judge a LinkAttach; the first principal that attaches a link owns it."""
        name = request.link_name
        worker = self._services.worker
        if not worker.is_first:
            return LinkAttachResponse(
                DIAL_AGAIN,
                f"links run in another worker process ({worker.count} share this port): dial again",
                None,
                self._services.instance_id,
                worker.count,
            )
        record = self._store.state.links.get(name)
        if record is None:
            return self._refused(RESOURCE_NOT_FOUND, f"there is no cluster link named '{name}' here")
        runtime = self._runtimes.get(name)
        if runtime is None or runtime.pool is None:
            return self._refused(
                INVALID_REQUEST, f"cluster link '{name}' does not wait for its source to dial in"
            )
        if request.link_id not in (None, "", record.cluster_link_id):
            return self._refused(
                INVALID_REQUEST, f"cluster link '{name}' was recreated: its id is another one"
            )
        if request.source_cluster_id != record.source_cluster_id:
            return self._refused(
                INCONSISTENT_CLUSTER_ID,
                f"cluster link '{name}' is for source cluster {record.source_cluster_id}, "
                f"not for {request.source_cluster_id}",
            )
        if record.owner is None:
            try:
                record = await self._claim(record, str(principal))
            except LinkError as error:
                return self._refused(NOT_CONTROLLER_YET, error.message)
        if record is None or record.owner != str(principal):
            return self._refused(
                CLUSTER_AUTHORIZATION_FAILED, f"cluster link '{name}' belongs to another principal"
            )
        reason = runtime.pool.refusal(request.agent_id, request.agent_epoch)
        if reason is not None:
            return self._refused(INVALID_REQUEST, reason)
        instances = self._instances()
        if instances > 1 and runtime.pool.count_of(request.agent_id) >= PARKED_SLOTS:
            text = f"enough connections are parked here, {instances} gateways share the link: dial again"
            return self._refused(DIAL_AGAIN, text)
        return LinkAttachResponse(0, None, record.cluster_link_id, self._services.instance_id, instances)

    async def _claim(self, judged: LinkRecord, principal: str) -> LinkRecord | None:
        name = judged.link_name

        def own(state: State) -> list[Record | Delete]:
            return [judged.model_copy(update={"owner": principal})] if state.links.get(name) == judged else []

        await self._write(own)
        return self._store.state.links.get(name)

    def park(
        self,
        principal: Principal,
        request: LinkAttachRequest,
        wire: FrameConnection,
        lifetime_s: float | None = None,
    ) -> None:
        """Take over the connection of a LinkAttach that was answered, for as long as its login holds."""
        runtime = self._runtimes.get(request.link_name)
        # The link may have been deleted, and made again for somebody else, since it was judged.
        if runtime is None or runtime.pool is None or runtime.record.owner != str(principal):
            wire.abort()
            return
        runtime.pool.park(wire, request.agent_id, request.agent_epoch, lifetime_s)

    def _refused(self, code: int, message: str) -> LinkAttachResponse:
        return LinkAttachResponse(code, message, None, self._services.instance_id, self._instances())
