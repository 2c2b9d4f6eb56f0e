"""Who of a cluster's gateways does what: the decision, as a function of what each of them says.

Work is dealt in 60 slots per link: a mirror partition is in the one that its topic's name and its number
give, so that the partitions of one topic go round. What one gateway holds another gets only after the first
has said that it does not hold it any more, or has left (as KIP-429 has consumers do): nothing is ever held
by two. A gateway that cannot reach a link's source gets none of that link as long as another one can.
"""

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

# Goes evenly into as many parts as there may be gateways.
SLOTS: Final = 60
# Of links that are not named.
OTHER_LINKS: Final = "*"
# Where what a link does once, whatever its partitions, is dealt to.
_TASKS: Final = "tasks of "

Slots = frozenset[int]


class BadPlan(Exception):
    """Bytes that no gateway of this version has written."""


def slot_of(topic: str, partition: int = 0) -> int:
    """The slot of a mirror partition."""
    return (zlib.crc32(topic.encode()) + partition) % SLOTS


def slot_of_tasks(link_id: str) -> int:
    """The slot of what a link does in one place only."""
    return slot_of(_TASKS + link_id)


@dataclass(frozen=True, slots=True)
class Holding:
    """Slots that a gateway holds, by link id."""

    by_link: Mapping[str, Slots] = field(default_factory=dict)

    def of(self, link_id: str) -> Slots:
        """The slots of that link."""
        return self.by_link.get(link_id, self.by_link.get(OTHER_LINKS, frozenset()))

    def __or__(self, other: "Holding") -> "Holding":
        return Holding({link: self.of(link) | other.of(link) for link in _links([self, other])})

    def covers(self, other: "Holding") -> bool:
        """Whether it has everything that the other has."""
        return all(self.of(link) >= other.of(link) for link in _links([self, other]))


NOTHING: Final = Holding()
EVERYTHING: Final = Holding({OTHER_LINKS: frozenset(range(SLOTS))})


@dataclass(frozen=True, slots=True)
class Claim:
    """What a gateway says of itself: what it holds now, and of which links it does not reach the source."""

    instance_id: str
    holding: Holding = NOTHING
    unreachable: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Share:
    """What a gateway gets, and how many there are."""

    holding: Holding = NOTHING
    instances: int = 1


def plan(claims: Mapping[str, Claim]) -> dict[str, Share]:
    """The share of every gateway; the keys tell gateways apart and are in the same order for all."""
    names = sorted(claims)
    links = {OTHER_LINKS, *_links(claim.holding for claim in claims.values())}
    links |= {link for claim in claims.values() for link in claim.unreachable}
    granted: dict[str, dict[str, Slots]] = {name: {} for name in claims}
    for link in links:
        able = [name for name in names if link not in claims[name].unreachable] or names
        held = {slot: name for name in names for slot in claims[name].holding.of(link)}
        for name in names:
            granted[name][link] = frozenset(
                slot
                for slot in range(SLOTS)
                if able[slot % len(able)] == name and held.get(slot, name) == name
            )
    shared = {link: all(slots[link] == slots[OTHER_LINKS] for slots in granted.values()) for link in links}
    return {
        name: Share(
            Holding({link: slots[link] for link in links if link == OTHER_LINKS or not shared[link]}),
            len(names),
        )
        for name, slots in granted.items()
    }


def _links(holdings: Iterable[Holding]) -> set[str]:
    return {OTHER_LINKS}.union(*(holding.by_link for holding in holdings))


def encode_claim(claim: Claim) -> bytes:
    """As it goes to the coordinator."""
    return _encode(
        {
            "instance": claim.instance_id,
            "holds": _listed(claim.holding),
            "unreachable": sorted(claim.unreachable),
        }
    )


def decode_claim(data: bytes) -> Claim:
    """Inverse of `encode_claim`; BadPlan."""
    match _decode(data):
        case {"instance": str(instance_id), "holds": dict(holds), "unreachable": list(unreachable)}:
            return Claim(instance_id, _holding(holds), frozenset(map(str, unreachable)))
    raise BadPlan("a gateway of the group claims work in an unknown form")


def encode_share(share: Share) -> bytes:
    """As it comes from the coordinator."""
    return _encode({"holds": _listed(share.holding), "instances": share.instances})


def decode_share(data: bytes) -> Share:
    """Inverse of `encode_share`; BadPlan."""
    match _decode(data):
        case {"holds": dict(holds), "instances": int(instances)}:
            return Share(_holding(holds), instances)
    raise BadPlan("the work of this gateway is told in an unknown form")


def _listed(holding: Holding) -> dict[str, list[int]]:
    return {link: sorted(slots) for link, slots in sorted(holding.by_link.items())}


def _holding(listed: Mapping[object, object]) -> Holding:
    by_link: dict[str, Slots] = {}
    for link, slots in listed.items():
        if not isinstance(slots, list) or not all(type(slot) is int and 0 <= slot < SLOTS for slot in slots):
            raise BadPlan(f"these are no slots of work: {str(slots)[:80]}")
        by_link[str(link)] = frozenset(slots)
    return Holding(by_link)


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _decode(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadPlan("the group's bytes are no JSON") from error
