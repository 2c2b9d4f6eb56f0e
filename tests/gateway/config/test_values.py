"""Values that have a syntax of their own."""

from __future__ import annotations

import pytest

from gateway.config import parse_host_port


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("kafka:9092", ("kafka", 9092)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("a.b-c_d:80", ("a.b-c_d", 80)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_host_port(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "kafka", "kafka:", ":9092", "::1:9092", "kafka:0", "kafka:65536", "kafka:x", "kafka:-1", "k:٣"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="port"):
        parse_host_port(text)
