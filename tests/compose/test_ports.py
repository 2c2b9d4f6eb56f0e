"""Port leases: neighbouring, exclusive, and free when they are handed out."""

import socket

import pytest

from compose import ports
from compose.ports import NoFreePorts, lease_ports


def test_ports_are_neighbours_outside_the_ephemeral_range() -> None:
    lease = lease_ports(5)

    assert list(lease.ports) == list(range(lease[0], lease[0] + 5))
    assert lease[4] < 32768
    lease.release()


def test_a_leased_port_is_not_leased_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lease = lease_ports()
    monkeypatch.setattr(ports, "_LOWEST", lease[0])
    monkeypatch.setattr(ports, "_HIGHEST", lease[0] + 2)

    with pytest.raises(NoFreePorts):
        lease_ports()

    lease.release()
    lease.release()
    again = lease_ports()
    assert again.ports == lease.ports
    again.release()


def test_a_port_somebody_listens_on_is_not_leased(monkeypatch: pytest.MonkeyPatch) -> None:
    lease = lease_ports()
    with socket.create_server(("127.0.0.1", lease[0])):
        lease.release()
        monkeypatch.setattr(ports, "_LOWEST", lease[0])
        monkeypatch.setattr(ports, "_HIGHEST", lease[0] + 2)

        with pytest.raises(NoFreePorts):
            lease_ports()
