"""What counts as a fault of the gateway, and what does not."""

import pytest

from client_suites.verdict import Outcome, Round, judge, suspects


def test_a_test_that_passes_both_ways_is_counted_and_not_named() -> None:
    verdict = judge([Round({"a": "passed"}, {"a": "passed"})])
    assert (verdict.passed_direct, verdict.passed_through) == (1, 1)
    assert (verdict.only_direct, verdict.unsteady) == ((), ())


@pytest.mark.parametrize("through", [{"a": "failed"}, {"a": "skipped"}, {}])
def test_whatever_is_not_passed_through_the_gateway_counts_against_it(through: dict[str, Outcome]) -> None:
    rounds = [Round({"a": "passed"}, through)] * 3
    assert judge(rounds).only_direct == ("a",)
    assert judge(rounds).passed_through == 0


@pytest.mark.parametrize("direct", ["failed", "skipped"])
def test_what_fails_directly_does_not_count(direct: Outcome) -> None:
    verdict = judge([Round({"a": direct, "b": "passed"}, {"a": "failed", "b": "passed"})])
    assert verdict.only_direct == ()
    assert verdict.passed_direct == 1


def test_a_test_that_passes_when_run_again_is_unsteady() -> None:
    rounds = [Round({"a": "passed", "b": "passed"}, {"a": "failed", "b": "passed"})]
    assert suspects(rounds) == {"a"}
    rounds.append(Round({"a": "failed"}, {"a": "passed"}))
    assert suspects(rounds) == set()
    verdict = judge(rounds)
    assert verdict.unsteady == ("a",)
    assert (verdict.passed_direct, verdict.passed_through) == (2, 2)


def test_a_test_that_passes_directly_only_when_run_again_still_counts() -> None:
    rounds = [Round({"a": "passed", "b": "passed"}, {"a": "failed", "b": "failed"})]
    rounds.append(Round({"a": "failed", "b": "passed"}, {"a": "failed", "b": "failed"}))
    assert judge(rounds).only_direct == ("a", "b")


def test_nothing_run_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="nothing was run"):
        judge([])


def test_what_is_left_out_on_purpose_is_named_apart() -> None:
    verdict = judge([Round({"a": "passed", "b": "passed"}, {"a": "failed", "b": "failed"})], left_out={"b"})
    assert (verdict.only_direct, verdict.left_out) == (("a",), ("b",))


def test_what_is_left_out_and_passes_is_not_named() -> None:
    assert judge([Round({"a": "passed"}, {"a": "passed"})], left_out={"a"}).left_out == ()
