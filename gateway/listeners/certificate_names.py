"""Which of the names that clients are told a server certificate lacks: they would refuse it (RFC 9525)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509


def uncovered(certificate_file: Path, hosts: Iterable[str]) -> list[str]:
    """The hosts, names or IP addresses, that the first certificate of the PEM file is not for, in order."""
    certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return list(hosts)
    covered = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    covered |= {name.lower() for name in names.get_values_for_type(x509.DNSName)}
    return [host for host in hosts if covered.isdisjoint(_forms(host))]


def _forms(host: str) -> set[str]:
    try:
        return {str(ipaddress.ip_address(host))}
    except ValueError:
        name = host.lower()
        # A wildcard stands for the first label, all of it.
        return {name, f"*.{name.partition('.')[2]}"}
