from __future__ import annotations

from dataclasses import dataclass

import pytest

from gateway.config import LimitsConfig
from gateway.listeners import admission
from gateway.listeners.admission import Admission, Refusal, client_group


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def test_all_listeners_together_have_a_limit_and_each_may_have_its_own() -> None:
    doors = Admission(LimitsConfig(max_connections=3))
    assert doors.enter("a", 2) is None
    assert doors.enter("a", 2) is None
    assert doors.enter("a", 2) == Refusal("max_connections_of_listener", 2)
    assert doors.enter("b") is None
    assert doors.enter("b") == Refusal("max_connections", 3)
    assert len(doors) == 3
    doors.leave("a")
    assert doors.enter("a", 2) is None


def test_one_address_cannot_take_every_place() -> None:
    doors = Admission(LimitsConfig(max_connections_per_ip=2))
    assert doors.claim("192.0.2.1") is None
    assert doors.claim("192.0.2.1") is None
    assert doors.claim("192.0.2.1") == Refusal("max_connections_per_ip", 2)
    assert doors.claim("192.0.2.2") is None
    doors.unclaim("192.0.2.1")
    assert doors.claim("192.0.2.1") is None


def test_nothing_is_remembered_of_clients_that_have_left() -> None:
    doors = Admission(LimitsConfig())
    for _ in range(2):
        doors.claim("192.0.2.1")
    doors.unclaim("192.0.2.1")
    assert doors._by_client == {"192.0.2.1": 1}
    doors.unclaim("192.0.2.1")
    assert not doors._by_client


def test_a_rate_takes_a_burst_and_then_so_many_per_second() -> None:
    clock = Clock()
    doors = Admission(LimitsConfig(connections_per_second_per_ip=2, connection_burst_per_ip=3), clock)
    refused = Refusal("connections_per_second_per_ip", 2)
    assert [doors.claim("a") for _ in range(4)] == [None, None, None, refused]
    assert doors.claim("b") is None
    clock.now += 0.5
    assert [doors.claim("a") for _ in range(2)] == [None, refused]
    # What is refused costs nothing: a client that goes on trying gets its rate.
    for _ in range(10):
        clock.now += 0.125
        doors.claim("a")
    clock.now += 1000
    assert [doors.claim("a") for _ in range(4)] == [None, None, None, refused]


def test_the_table_of_rates_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_MAX_BUCKETS", 10)
    doors = Admission(LimitsConfig(connections_per_second_per_ip=1, connection_burst_per_ip=1), Clock())
    for number in range(100):
        doors.claim(f"192.0.2.{number}")
    assert len(doors._buckets) == 10
    assert doors.claim("192.0.2.99") is not None
    assert doors.claim("192.0.2.1") is None


@pytest.mark.parametrize(
    ("host", "bits", "group"),
    [
        ("192.0.2.1", 64, "192.0.2.1"),
        ("::ffff:192.0.2.1", 64, "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", 64, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:3:4:5:6", 48, "2001:db8:1::/48"),
        ("2001:db8::1", 128, "2001:db8::1/128"),
        ("fe80::1%eth0", 64, "fe80::/64"),
        ("::1", 64, "::/64"),
        ("", 64, ""),
        ("not:an:address", 64, "not:an:address"),
    ],
)
def test_what_an_address_counts_as(host: str, bits: int, group: str) -> None:
    assert client_group(host, bits) == group
    assert Admission(LimitsConfig(ipv6_prefix_bits=bits)).client_group(host) == group
