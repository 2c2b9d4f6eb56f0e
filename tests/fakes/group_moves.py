"""Groups of a link that remember what was asked of them, for the REST API and the command line."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gateway.links import errors
from gateway.links.group_moves import GroupPartition, GroupView, MoveResult
from gateway.state.records import GroupRecord, LocalReason
from gateway.upstreams.groups import GroupMember


def group_view(name: str = "billing", *, members: int = 0, missing: int = 0) -> GroupView:
    """A group with two partitions, the second without a known end."""
    return GroupView(
        name,
        f"eu.{name}",
        "Stable" if members else "Empty",
        [GroupMember(f"{name}-{i}", "app") for i in range(members)],
        bool(members),
        [GroupPartition("t", 0, 100, 130, 100 - missing), GroupPartition("t", 1, 7, None, 9)],
        ["private"],
    )


@dataclass
class FakeGroupMoves:
    """Implements GroupsService; `coming` are what a group goes through while somebody waits for it."""

    views: dict[str, GroupView] = field(default_factory=dict)
    coming: list[GroupView] = field(default_factory=list)
    asked: list[tuple[str, list[str], bool]] = field(default_factory=list)
    refusals: dict[str, tuple[str, bool]] = field(default_factory=dict)
    failure: Exception | None = None

    def add(self, *views: GroupView) -> None:
        """Puts groups there."""
        self.views.update({view.group: view for view in views})

    async def groups(self, link_name: str, names: Sequence[str] | None = None) -> list[GroupView]:
        if self.failure is not None:
            raise self.failure
        if link_name != "hybrid":
            raise errors.link_not_found(link_name)
        found = [view for name, view in sorted(self.views.items()) if names is None or name in names]
        if self.coming:
            self.add(self.coming.pop(0))
        return found

    async def move(self, link_name: str, names: Sequence[str], *, validate_only: bool) -> list[MoveResult]:
        if link_name != "hybrid":
            raise errors.link_not_found(link_name)
        self.asked.append(("move", list(names), validate_only))
        results = []
        for name in names:
            view = self.views.get(name)
            if name in self.refusals or view is None:
                text, retriable = self.refusals.pop(name, (f"Group '{name}' is not at the source.", False))
                results.append(MoveResult(name, f"eu.{name}", 400, text, retriable))
                continue
            if not validate_only:
                record = GroupRecord(
                    cluster_link_id="x", group=name, reason=LocalReason.MOVED, since_ms=1_662_878_304_410
                )
                self.add(replace(view, local=record))
            results.append(MoveResult(name, f"eu.{name}", partitions=view.partitions))
        return results

    async def follow(self, link_name: str, names: Sequence[str]) -> list[MoveResult]:
        if link_name != "hybrid":
            raise errors.link_not_found(link_name)
        self.asked.append(("follow", list(names), False))
        return [
            MoveResult(name, f"eu.{name}")
            if name in self.views and self.views[name].local is not None
            else MoveResult(name, f"eu.{name}", 400, f"Group 'eu.{name}' is not local here.")
            for name in names
        ]
