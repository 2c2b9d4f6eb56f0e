"""The consumer groups of a link, under a path of our own: how they stand, and moving them here."""

from collections.abc import Sequence

from fastapi import APIRouter
from pydantic import BaseModel

from gateway.admin.bodies import Request
from gateway.admin.services import Services
from gateway.links.group_moves import GroupPartition, GroupView, MoveResult
from gateway.state.records import LocalReason

router = APIRouter(prefix="/causeway/v1/links/{link_name}")


class GroupNamesBody(Request):
    """The groups that are meant, by their names at the source."""

    group_names: list[str]


class GroupPartitionData(BaseModel):
    """A group's position in a mirrored partition, in offsets; lags are None where they are not known."""

    topic: str
    partition: int
    source_offset: int
    mirror_end_offset: int
    lag: int | None
    not_mirrored: int


class GroupMemberData(BaseModel):
    """A member of the group at the source."""

    member_id: str
    client_id: str


class GroupData(BaseModel):
    """A group of a link's source."""

    group_name: str
    mirror_group_name: str
    source_state: str
    has_source_members: bool
    source_members: list[GroupMemberData]
    partitions: list[GroupPartitionData]
    other_topics: list[str]
    included: bool
    local_reason: LocalReason | None
    local_since_ms: int | None


class GroupDataList(BaseModel):
    """Groups."""

    data: list[GroupData]
    # Where consumers reach this gateway, one for each listener.
    bootstrap_servers: list[str]


class MovedGroupData(BaseModel):
    """What became of a wish for one group; no error code means done. `retriable`: time may mend it."""

    group_name: str
    mirror_group_name: str
    error_code: int | None
    error_message: str | None
    retriable: bool
    partitions: list[GroupPartitionData]


class MovedGroupDataList(BaseModel):
    """What became of a wish, group by group."""

    data: list[MovedGroupData]
    bootstrap_servers: list[str]


@router.get("/groups")
async def list_groups(services: Services, link_name: str) -> GroupDataList:
    """The groups of the link's filters that have positions in mirrored topics."""
    return _group_list(services, await services.groups.groups(link_name))


@router.post("/groups:describe")
async def describe_groups(services: Services, link_name: str, body: GroupNamesBody) -> GroupDataList:
    """These groups, whatever the filters say; groups that the source does not show are left out."""
    return _group_list(services, await services.groups.groups(link_name, body.group_names))


@router.post("/groups:move")
async def move_groups(
    services: Services, link_name: str, body: GroupNamesBody, *, validate_only: bool = False
) -> MovedGroupDataList:
    """Take over what they committed last, and leave them to themselves here from now on."""
    moved = await services.groups.move(link_name, body.group_names, validate_only=validate_only)
    return _moved_list(services, moved)


@router.post("/groups:follow")
async def follow_groups(services: Services, link_name: str, body: GroupNamesBody) -> MovedGroupDataList:
    """Have the link take over what they commit at the source again."""
    return _moved_list(services, await services.groups.follow(link_name, body.group_names))


def _group_list(services: Services, groups: Sequence[GroupView]) -> GroupDataList:
    return GroupDataList(data=[_group(each) for each in groups], bootstrap_servers=[*services.bootstrap])


def _moved_list(services: Services, moved: Sequence[MoveResult]) -> MovedGroupDataList:
    data = [
        MovedGroupData(
            group_name=each.group,
            mirror_group_name=each.mirror_group,
            error_code=each.error_code,
            error_message=each.error_message,
            retriable=each.retriable,
            partitions=_partitions(each.partitions),
        )
        for each in moved
    ]
    return MovedGroupDataList(data=data, bootstrap_servers=[*services.bootstrap])


def _group(view: GroupView) -> GroupData:
    return GroupData(
        group_name=view.group,
        mirror_group_name=view.mirror_group,
        source_state=view.source_state,
        has_source_members=view.has_source_members,
        source_members=[
            GroupMemberData(member_id=each.member_id, client_id=each.client_id)
            for each in view.source_members
        ],
        partitions=_partitions(view.partitions),
        other_topics=list(view.other_topics),
        included=view.included,
        local_reason=None if view.local is None else view.local.reason,
        local_since_ms=None if view.local is None else view.local.since_ms,
    )


def _partitions(partitions: Sequence[GroupPartition]) -> list[GroupPartitionData]:
    return [
        GroupPartitionData(
            topic=each.topic,
            partition=each.partition,
            source_offset=each.source_offset,
            mirror_end_offset=each.mirror_end,
            lag=each.lag,
            not_mirrored=each.missing,
        )
        for each in partitions
    ]
