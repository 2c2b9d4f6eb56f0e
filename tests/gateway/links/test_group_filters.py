"""Which groups a link's filters include."""

import json

import pytest

from gateway.links.group_filters import NameFilters


def filters(*entries: tuple[str, str, str]) -> NameFilters:
    """Name, pattern type, filter type."""
    listed = [{"name": n, "patternType": p, "filterType": f} for n, p, f in entries]
    return NameFilters.parse(json.dumps({"groupFilters": listed}))


@pytest.mark.parametrize("text", ["", "  ", '{"groupFilters": []}'])
def test_without_an_include_nothing_is_included(text: str) -> None:
    parsed = NameFilters.parse(text)
    assert parsed.includes_nothing
    assert not parsed.includes("g")
    assert not parsed.includes("")


def test_only_excludes_include_nothing() -> None:
    parsed = filters(("a", "LITERAL", "EXCLUDE"))
    assert parsed.includes_nothing
    assert not parsed.includes("b")


def test_names_and_prefixes() -> None:
    parsed = filters(("in-", "prefixed", "include"), ("alone", "Literal", "Include"))
    assert [n for n in ("in-", "in-1", "alone", "alone2", "in", "", "IN-1") if parsed.includes(n)] == [
        "in-",
        "in-1",
        "alone",
    ]


def test_a_star_means_all_only_as_a_literal() -> None:
    assert filters(("*", "LITERAL", "INCLUDE")).includes("anything")
    parsed = filters(("*", "PREFIXED", "INCLUDE"))
    assert (parsed.includes("*x"), parsed.includes("x")) == (True, False)


def test_exclude_wins_whatever_the_order() -> None:
    for order in (1, -1):
        entries = [
            ("*", "LITERAL", "INCLUDE"),
            ("some", "LITERAL", "EXCLUDE"),
            ("tmp-", "PREFIXED", "EXCLUDE"),
        ][::order]
        parsed = filters(*entries)
        assert [n for n in ("some", "someone", "tmp-1", "tmp") if parsed.includes(n)] == ["someone", "tmp"]
    nothing = filters(("*", "LITERAL", "INCLUDE"), ("*", "LITERAL", "EXCLUDE"))
    assert not nothing.includes("g")
