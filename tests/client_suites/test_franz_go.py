"""How franz-go's tests are chosen and their results read."""

import json

from client_suites.franz_go import find_tests, read_events

_SOURCE = """package kgo

func helper() { newTestClient() }

func TestWithCluster(t *testing.T) {
\ttopic, cleanup := tmpTopicPartitions(t, 3)
}

func TestWithItsOwnDialer(t *testing.T) {
\tcl, _ := newTestClient(
\t\tDialer(new(slowDialer).DialContext),
\t)
}

func TestOfAUnit(t *testing.T) {
\tring.push(1)
}

func BenchmarkWithCluster(b *testing.B) {
\tnewTestClient()
}
"""


def test_tests_that_need_a_cluster_are_found_and_parted_by_what_they_can_do() -> None:
    assert find_tests(_SOURCE) == (["TestWithCluster"], ["TestWithItsOwnDialer"])


def test_events_become_outcomes_and_what_was_cut_off_has_failed() -> None:
    events = [
        {"Action": "start"},
        {"Action": "run", "Test": "TestA"},
        {"Action": "output", "Test": "TestA", "Output": "text"},
        {"Action": "run", "Test": "TestA/sub"},
        {"Action": "pass", "Test": "TestA/sub"},
        {"Action": "pass", "Test": "TestA"},
        {"Action": "run", "Test": "TestB"},
        {"Action": "skip", "Test": "TestB"},
        {"Action": "run", "Test": "TestC"},
        {"Action": "fail"},
    ]
    assert read_events(map(json.dumps, events)) == {
        "TestA": "passed",
        "TestA/sub": "passed",
        "TestB": "skipped",
        "TestC": "failed",
    }
