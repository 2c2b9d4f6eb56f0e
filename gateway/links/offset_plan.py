"""What a link does with the offsets of one group: decided on what source, destination and it itself know.

Offsets of a mirror topic are those of its source; a link never has to translate them. It writes what the
source's group has committed as far as the mirror holds it, and nothing over what a group did here itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.upstreams.groups import Committed, TopicPartition


class Place(NamedTuple):
    """A mirror partition: its name here, and the offsets that it holds, the last one excluded."""

    topic: str
    partition: int
    log_start: int
    log_end: int

    def held(self, offset: int) -> int:
        """The offset nearest to this one that a consumer can go on from here."""
        return max(self.log_start, min(offset, self.log_end))


@dataclass(slots=True)
class GroupPlan:
    """What is to be committed for a group, by mirror partition; `settled` are there already."""

    commits: dict[TopicPartition, Committed] = field(default_factory=dict)
    settled: dict[TopicPartition, int] = field(default_factory=dict)
    # Where it is further here than at the source, and nobody knows why.
    ahead: dict[TopicPartition, Committed] = field(default_factory=dict)
    # What somebody else than a link committed here.
    foreign: dict[TopicPartition, Committed] = field(default_factory=dict)


def wanted_offsets(
    committed: Mapping[TopicPartition, Committed], places: Mapping[TopicPartition, Place]
) -> dict[TopicPartition, Committed]:
    """Of a source group's offsets those of mirrored partitions, as they are to be committed here."""
    wanted = {}
    for source, each in committed.items():
        place = places.get(source)
        if place is not None:
            wanted[place.topic, place.partition] = Committed(place.held(each.offset), each.metadata)
    return wanted


def plan_group(
    wanted: Mapping[TopicPartition, Committed],
    here: Mapping[TopicPartition, Committed],
    written: Mapping[TopicPartition, int],
) -> GroupPlan:
    """`here` is what is committed at the destination, `written` what this link left there."""
    plan = GroupPlan()
    for where, target in wanted.items():
        present, ours = here.get(where), written.get(where)
        if present is None:
            # Never committed, or deleted: deleted offsets come back, as the source still has them.
            plan.commits[where] = target
        elif present.offset == target.offset:
            plan.settled[where] = target.offset
            if ours == target.offset and present.metadata != target.metadata:
                plan.commits[where] = target
        elif present.offset == ours:
            # The source's own commit went on, or back.
            plan.commits[where] = target
        elif ours is not None and present.leader_epoch >= 0:
            # No link commits a leader epoch.
            plan.foreign[where] = present
        elif present.offset < target.offset:
            plan.commits[where] = target
        else:
            plan.ahead[where] = present
    return plan
