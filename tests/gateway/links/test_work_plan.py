"""Who gets what: everything is held by one, nothing by two, and what moves moves in two steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.links.work_plan import (
    EVERYTHING,
    NOTHING,
    OTHER_LINKS,
    SLOTS,
    BadPlan,
    Claim,
    Holding,
    Share,
    decode_claim,
    decode_share,
    encode_claim,
    encode_share,
    plan,
    slot_of,
    slot_of_tasks,
)

ALL = frozenset(range(SLOTS))
LINKS = ("a", "b", "c")


def settled(claims: dict[str, Claim], rounds: int = 4) -> dict[str, Holding]:
    """What everybody has when nobody's share changes any more."""
    for _ in range(rounds):
        shares = plan(claims)
        claims = {
            name: Claim(name, shares[name].holding, claim.unreachable) for name, claim in claims.items()
        }
    assert {name: share.holding for name, share in plan(claims).items()} == {
        name: claim.holding for name, claim in claims.items()
    }
    return {name: claim.holding for name, claim in claims.items()}


def test_the_partitions_of_a_topic_go_round() -> None:
    assert [slot_of("t", i) for i in range(3)] == [(slot_of("t") + i) % SLOTS for i in range(3)]
    assert slot_of("t", SLOTS) == slot_of("t", 0)
    assert 0 <= slot_of_tasks("link") < SLOTS


def test_one_alone_has_everything() -> None:
    assert plan({"m": Claim("m")}) == {"m": Share(EVERYTHING, 1)}


@pytest.mark.parametrize("count", [2, 3, 4])
def test_several_have_as_much_each(count: int) -> None:
    held = settled({f"m{i}": Claim("") for i in range(count)})
    sizes = {len(holding.of("any")) for holding in held.values()}
    assert sizes == {SLOTS // count}
    # Of any topic too, wherever its slots begin and end.
    for name in ("a", "b", "c", "d", "e", "f"):
        slots = {slot_of(name, i) for i in range(12)}
        assert {len(slots & holding.of("any")) for holding in held.values()} == {12 // count}
    assert frozenset().union(*(holding.of("any") for holding in held.values())) == ALL


def test_what_is_held_moves_only_when_it_was_given_up() -> None:
    claims = {"m1": Claim("m1", EVERYTHING), "m2": Claim("m2")}
    shares = plan(claims)
    half = shares["m1"].holding.of("l")
    assert len(half) == SLOTS // 2
    assert shares["m2"].holding == Holding({OTHER_LINKS: frozenset()})
    shares = plan({"m1": Claim("m1", shares["m1"].holding), "m2": Claim("m2")})
    assert shares["m1"].holding.of("l") == half
    assert shares["m2"].holding.of("l") == ALL - half
    assert shares["m2"].instances == 2


def test_a_link_goes_to_those_that_reach_its_source() -> None:
    held = settled(
        {"m1": Claim("m1", EVERYTHING), "m2": Claim("m2", unreachable=frozenset({"a"})), "m3": Claim("m3")}
    )
    assert held["m2"].by_link["a"] == frozenset()
    assert held["m1"].of("a") | held["m3"].of("a") == ALL
    assert len(held["m1"].of("a")) == SLOTS // 2
    # Other links are not touched by it.
    assert held["m1"].of("b") | held["m2"].of("b") | held["m3"].of("b") == ALL
    # When it is reached again all is as before, and the link no exception any more.
    again = settled({name: Claim(name, holding) for name, holding in held.items()})
    assert all(holding.by_link.keys() == {OTHER_LINKS} for holding in again.values())


def test_a_link_whose_source_nobody_reaches_is_shared_as_others_are() -> None:
    lost = frozenset({"a"})
    held = settled({"m1": Claim("m1", unreachable=lost), "m2": Claim("m2", unreachable=lost)})
    assert held["m1"].of("a") | held["m2"].of("a") == ALL
    assert held["m1"].of("a") == held["m1"].of("b")


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, str, frozenset[str]]]:
    """What happens to a group: somebody joins or dies, reaches a source or not, or does as he is told."""
    member = st.sampled_from(["m1", "m2", "m3", "m4"])
    event = st.sampled_from(["join", "die", "reach", "round", "round"])
    return draw(st.lists(st.tuples(event, member, st.frozensets(st.sampled_from(LINKS))), max_size=40))


@given(histories())
def test_whatever_happens_nothing_is_ever_held_by_two(history: list[tuple[str, str, frozenset[str]]]) -> None:
    claims: dict[str, Claim] = {}
    for event, name, links in history:
        if event == "join":
            claims.setdefault(name, Claim(name))
        elif event == "die":
            claims.pop(name, None)
        elif event == "reach" and name in claims:
            claims[name] = Claim(name, claims[name].holding, links)
        elif claims:
            shares = plan(claims)
            for member, claim in claims.items():
                # One that is slow has not let go of anything yet; it may have got something new.
                kept = claim.holding if member == name else NOTHING
                claims[member] = Claim(member, shares[member].holding | kept, claim.unreachable)
        for link in (*LINKS, "other"):
            held = [slot for claim in claims.values() for slot in claim.holding.of(link)]
            assert len(held) == len(set(held))
    if claims:
        for link in (*LINKS, "other"):
            held_now = settled(claims)
            assert frozenset().union(*(holding.of(link) for holding in held_now.values())) == ALL


def test_holdings_cover_and_join() -> None:
    some = Holding({OTHER_LINKS: frozenset({1, 2}), "a": frozenset({3})})
    assert EVERYTHING.covers(some)
    assert not some.covers(Holding({OTHER_LINKS: frozenset({1, 2})}))
    assert (some | Holding({"b": frozenset({9})})).of("b") == {1, 2, 9}
    assert (some | NOTHING).covers(some)
    assert NOTHING.of("a") == frozenset()


def test_claims_and_shares_survive_the_way() -> None:
    claim = Claim("i", Holding({OTHER_LINKS: frozenset({0, 59}), "a": frozenset()}), frozenset({"a", "b"}))
    assert decode_claim(encode_claim(claim)) == claim
    share = Share(claim.holding, 3)
    assert decode_share(encode_share(share)) == share


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"instance":1,"holds":{},"unreachable":[]}',
        b'{"instance":"i","holds":{"*":[60]},"unreachable":[],"instances":1}',
        b'{"instance":"i","holds":{"*":[true]},"unreachable":[],"instances":1}',
        b'{"instance":"i","holds":{"*":{}},"unreachable":[],"instances":1}',
    ],
)
def test_what_no_gateway_has_written_is_refused(data: bytes) -> None:
    with pytest.raises(BadPlan):
        decode_claim(data)
    with pytest.raises(BadPlan):
        decode_share(data)
