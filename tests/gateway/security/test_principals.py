from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from gateway.security.principals import ANONYMOUS, certificate_principal, distinguished_name, user

A = x509.NameAttribute

# The texts are what javax.security.auth.x500.X500Principal.getName() of OpenJDK 17 writes for these names.
JAVA_NAMES = [
    (
        x509.Name(
            [
                A(NameOID.COUNTRY_NAME, "AT"),
                A(NameOID.ORGANIZATION_NAME, "Ex, Inc=1"),
                A(NameOID.COMMON_NAME, "alice"),
            ]
        ),
        r"CN=alice,O=Ex\, Inc\=1,C=AT",
    ),
    (
        x509.Name([A(NameOID.COMMON_NAME, ' a#b;c<d>"e\\ü '), A(NameOID.EMAIL_ADDRESS, "x@y.z")]),
        '1.2.840.113549.1.9.1=#16057840792e7a,CN=\\ a\\#b\\;c\\<d\\>\\"e\\\\ü\\ ',
    ),
    (
        x509.Name([x509.RelativeDistinguishedName([A(NameOID.COMMON_NAME, "m"), A(NameOID.USER_ID, "u1")])]),
        "CN=m+UID=u1",
    ),
    (
        x509.Name(
            [
                A(NameOID.DOMAIN_COMPONENT, "org"),
                A(NameOID.STREET_ADDRESS, "S 1"),
                A(NameOID.STATE_OR_PROVINCE_NAME, "x"),
                A(NameOID.LOCALITY_NAME, "l"),
                A(NameOID.SERIAL_NUMBER, "99"),
                A(NameOID.TITLE, "Dr"),
                A(NameOID.ORGANIZATIONAL_UNIT_NAME, "a  b\n#"),
            ]
        ),
        "OU=a  b\n\\#,2.5.4.12=#0c024472,2.5.4.5=#13023939,L=l,ST=x,STREET=S 1,DC=org",
    ),
    (x509.Name([A(NameOID.COMMON_NAME, " ")]), "CN=\\ "),
    (x509.Name([A(ObjectIdentifier("1.2.3.4"), "v" * 300)]), "1.2.3.4=#0c82012c" + "76" * 300),
    (x509.Name([]), ""),
]


@pytest.mark.parametrize(("name", "text"), JAVA_NAMES)
def test_a_subject_is_written_as_java_writes_it(name: x509.Name, text: str) -> None:
    assert distinguished_name(name) == text


def test_a_null_character_is_escaped() -> None:
    assert distinguished_name(x509.Name([A(NameOID.COMMON_NAME, "a\0b")])) == r"CN=a\00b"


def test_the_principal_of_a_certificate_is_its_subject() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([A(NameOID.ORGANIZATION_NAME, "Shop"), A(NameOID.COMMON_NAME, "svc-1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    assert str(certificate_principal(certificate.public_bytes(Encoding.DER))) == "User:CN=svc-1,O=Shop"


def test_what_is_no_certificate_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="pars"):
        certificate_principal(b"\x30\x03abc")


def test_names() -> None:
    assert str(ANONYMOUS) == "User:ANONYMOUS"
    assert str(user("alice")) == "User:alice"
