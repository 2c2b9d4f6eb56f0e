"""Who a client is: `User:<name>` as Kafka's KafkaPrincipal, and the DEFAULT name of a certificate.

The name of a certificate's owner is its subject as RFC 2253 text, exactly as Java's `X500Principal.getName()`
writes it, because ACLs of existing clusters contain that text.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

from protocol.principal_rules import PrincipalMapper

# The keywords of RFC 2253 §2.3; every other attribute type is written as OID=#<hex of its DER value>.
_KEYWORDS = {
    NameOID.COMMON_NAME: "CN",
    NameOID.COUNTRY_NAME: "C",
    NameOID.LOCALITY_NAME: "L",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.STREET_ADDRESS: "STREET",
    NameOID.DOMAIN_COMPONENT: "DC",
    NameOID.USER_ID: "UID",
}
_ESCAPED = ',=+<>#;"\\'
_BLANKS = " \r"


@dataclass(frozen=True, slots=True)
class Principal:
    """A client's identity; `str()` gives the form that ACLs and `super_users` use."""

    type: str
    name: str

    def __str__(self) -> str:
        return f"{self.type}:{self.name}"


ANONYMOUS = Principal("User", "ANONYMOUS")


def user(name: str) -> Principal:
    """The principal of a SASL user."""
    return Principal("User", name)


def certificate_principal(certificate_der: bytes, mapper: PrincipalMapper | None = None) -> Principal:
    """The principal of a client certificate, by the DEFAULT rule unless told; ValueError if none."""
    name = distinguished_name(x509.load_der_x509_certificate(certificate_der).subject)
    return Principal("User", name if mapper is None else mapper.name(name))


def distinguished_name(name: x509.Name) -> str:
    """RFC 2253 text of `name`, last RDN first, as Java writes it."""
    return ",".join("+".join(map(_attribute, rdn)) for rdn in reversed(list(name.rdns)))


def _attribute(attribute: x509.NameAttribute[str | bytes]) -> str:
    keyword = _KEYWORDS.get(attribute.oid)
    if keyword is None or not isinstance(attribute.value, str):
        return f"{attribute.oid.dotted_string}=#{_der_value(attribute).hex()}"
    return f"{keyword}={_escape(attribute.value)}"


def _escape(text: str) -> str:
    lead = len(text) - len(text.lstrip(_BLANKS))
    trail = len(text.rstrip(_BLANKS))
    out = []
    for index, character in enumerate(text):
        if character == "\0":
            out.append("\\00")
        elif character in _ESCAPED or index < lead or index >= trail:
            out.append("\\" + character)
        else:
            out.append(character)
    return "".join(out)


def _der_value(attribute: x509.NameAttribute[str | bytes]) -> bytes:
    # Name ::= SEQUENCE { SET { SEQUENCE { OID, value } } }: step into three, over one, the rest is the value.
    der = x509.Name([attribute]).public_bytes()
    for _ in range(3):
        _, der = _der_split(der)
    content_length, rest = _der_split(der)
    return rest[content_length:]


def _der_split(der: bytes) -> tuple[int, bytes]:
    """Content length of the first element, and what follows its tag and length."""
    length = der[1]
    if length < 0x80:
        return length, der[2:]
    size = length & 0x7F
    return int.from_bytes(der[2 : 2 + size], "big"), der[2 + size :]
