"""Which tasks a link has on its destination, in the order in which they are shown."""

from collections.abc import Callable, Mapping
from typing import Final

from gateway.links.link_tasks import LinkTask, Work
from gateway.links.requests import TaskState
from gateway.state.records import LinkRecord

AUTO_CREATE: Final = "AutoCreateMirror"
TASK_NAMES: Final = ("AclSync", AUTO_CREATE, "ConsumerOffsetSync", "TopicConfigsSync")


def sync_tasks(
    record: LinkRecord,
    works: Mapping[str, Work],
    held_back: Callable[[], TaskState | None],
    is_ours: Callable[[], bool],
) -> list[LinkTask]:
    """The tasks of a destination half; `works` has by name what they do."""
    return [LinkTask(works[name], record, held_back=held_back, is_ours=is_ours) for name in TASK_NAMES]
