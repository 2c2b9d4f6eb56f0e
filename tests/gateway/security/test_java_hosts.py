from __future__ import annotations

import socket

import pytest

from gateway.security.java_hosts import java_host

# What InetAddress.getByName(...).getHostAddress() of OpenJDK 17 writes.
JAVA = {
    "127.0.0.1": "127.0.0.1",
    "10.1.2.3": "10.1.2.3",
    "::1": "0:0:0:0:0:0:0:1",
    "::": "0:0:0:0:0:0:0:0",
    "2001:db8::1": "2001:db8:0:0:0:0:0:1",
    "2001:DB8:0:0:8:800:200C:417A": "2001:db8:0:0:8:800:200c:417a",
    "fe80::1:2": "fe80:0:0:0:0:0:1:2",
    "::ffff:10.0.0.1": "10.0.0.1",
    "::ffff:a00:1": "10.0.0.1",
    "::10.0.0.1": "0:0:0:0:0:0:a00:1",
    "64:ff9b::192.0.2.33": "64:ff9b:0:0:0:0:c000:221",
}


@pytest.mark.parametrize(("address", "expected"), JAVA.items())
def test_as_java_writes_it(address: str, expected: str) -> None:
    assert java_host(address) == expected


def test_zones_are_numbers() -> None:
    index = socket.if_nametoindex("lo")
    assert java_host("fe80::1%lo") == f"fe80:0:0:0:0:0:0:1%{index}"
    assert java_host("fe80::1%7") == "fe80:0:0:0:0:0:0:1%7"
    assert java_host("fe80::1%gone0") == "fe80:0:0:0:0:0:0:1%gone0"


@pytest.mark.parametrize("text", ["", "localhost", "/tmp/socket", "10.0.0.0/8", "1.2.3"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"address"):
        java_host(text)
