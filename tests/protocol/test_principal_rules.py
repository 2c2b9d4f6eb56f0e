"""Principal mapping rules; what Kafka's SslPrincipalMapper says of each was noted from Kafka 4.3.0."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.principal_rules import NoMatchingRule, PrincipalMapper

# KIP-371's example, and the names of Kafka's documentation.
RULES = (
    "RULE:^CN=(.*?),OU=ServiceUsers.*$/$1/L, "
    "RULE:^CN=(.*?),OU=(.*?),O=(.*?),L=(.*?),ST=(.*?),C=(.*?)$/$1@$2/L, "
    "RULE:^cn=(.*?),ou=(.*?),dc=(.*?),dc=(.*?)$/$1@$2/U, "
    "RULE:^.*[Cc][Nn]=([a-zA-Z0-9.]*).*$/$1/U, "
    "DEFAULT"
)


@pytest.mark.parametrize(
    ("distinguished_name", "name"),
    [
        ("CN=Duke,OU=ServiceUsers,O=Org,C=US", "duke"),
        ("CN=Duke,OU=SME,O=mycp,L=Fulton,ST=MD,C=US", "duke@sme"),
        ("cn=duke,ou=sme,dc=mycp,dc=com", "DUKE@SME"),
        ("cN=duke,OU=JavaSoft,O=Sun Microsystems", "DUKE"),
        ("OU=JavaSoft,O=Sun Microsystems,C=US", "OU=JavaSoft,O=Sun Microsystems,C=US"),
    ],
)
def test_the_first_rule_that_matches_gives_the_name(distinguished_name: str, name: str) -> None:
    assert PrincipalMapper(RULES).name(distinguished_name) == name


@pytest.mark.parametrize(
    ("rules", "distinguished_name", "name"),
    [
        ("DEFAULT", "CN=ABC", "CN=ABC"),
        (",DEFAULT", "CN=ABC", "CN=ABC"),
        ("DEFAULT,,DEFAULT", "CN=A", "CN=A"),
        ("RULE:CN=(.*)/$1@$4/L,DEFAULT", "CN=ABC", "abc@$4"),
        ("RULE:CN=(.*)/$12/", "CN=ABC", "ABC2"),
        ("RULE:CN=(.*)/$01/", "CN=ABC", "ABC"),
        ("RULE:CN=(.*)/$0/", "CN=ABC", "CN=ABC"),
        ("RULE:CN=(.*)/$012/", "CN=ABC", "ABC2"),
        ("RULE:CN=(.)(.)(.*)/$11-$1/", "CN=abcdefghijkl", "a1-a"),
        ("RULE:CN=(.)(.)(.)(.)(.)(.)(.)(.)(.)(.)(.*)/$11-$1/", "CN=abcdefghijkl", "kl-a"),
        ("RULE:(.*)/$1!/", "CN=ABC", "CN=ABC!!"),
        (r"RULE:CN=(.*)/\$1/", "CN=ABC", "$1"),
        (r"RULE:CN=(.*)/\\$1/", "CN=ABC", "\\ABC"),
        (r"RULE:CN=(.*)/a\/b/", "CN=A", "a/b"),
        (r"RULE:CN=a\/b/x/", "CN=a/b", "x"),
        ("RULE:CN=(A)?(.*)/$1.$2/", "CN=B", ".B"),
        ("RULE:CN=(.*)//", "CN=A", ""),
        ("RULE:CN=(.*),OU=x/$1/ , DEFAULT", "CN=A,OU=x", "A"),
        ("RULE:CN=(.*)/$1/L,RULE:CN=(.*)/$1/U", "CN=Ab", "ab"),
        ("RULE:CN=X(.*)/$1/L,RULE:CN=(.*)/$1/U", "CN=Ab", "AB"),
        ("RULE:CN=(.*+)/$1/", "CN=ab", "ab"),
        (r"RULE:CN=(a)\1/x/", "CN=aa", "x"),
        ("RULE:CN=[^]a]/x/", "CN=b", "x"),
    ],
)
def test_rules_mean_what_they_mean_to_kafka(rules: str, distinguished_name: str, name: str) -> None:
    assert PrincipalMapper(rules).name(distinguished_name) == name


@pytest.mark.parametrize(
    ("rules", "distinguished_name"),
    [
        ("", "CN=ABC"),
        ("RULE:CN=X/x/L", "CN=Ab"),
        ("RULE:CN=X(.*)/$1/L", "a CN=X"),
        (r"RULE:CN=\w+/x/", "CN=ä"),
        ("RULE:(?i)cn=Ä/x/", "CN=ä"),
    ],
)
def test_without_a_rule_that_matches_there_is_no_name(rules: str, distinguished_name: str) -> None:
    with pytest.raises(NoMatchingRule, match="no principal mapping rule applies"):
        PrincipalMapper(rules).name(distinguished_name)


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ("default", "unmatched substring"),
        ("DEFAUL", "unmatched substring"),
        ("DEFAULT/L", "unmatched substring"),
        ("DEFAULT,DEFAUL", "unmatched substring"),
        ("RULE:CN=(.*)/$1", "unmatched substring"),
        ("RULE:CN=(.*)/$1/X", "unmatched substring: 'X'"),
        ("RULE:CN=(.*)/$1/LU", "unmatched substring: 'U'"),
        ("RULE:CN=([", "unmatched substring"),
        ("RULE:CN=([/x/", "its pattern is not supported"),
        ("RULE:CN=.*/$1/", "has no group 1"),
        ("RULE:CN=(.*)/a$/", "followed by no group number"),
        ("RULE:CN=(.*)/a$b/", "followed by no group number"),
        ("RULE:CN=(?<n>.*)/${n}/L", "its pattern is not supported"),
        (r"RULE:CN=\p{Alpha}+/x/", "its pattern is not supported"),
        (r"RULE:CN=\Qa\E/x/", "its pattern is not supported"),
        (r"RULE:CN=a\Z/x/", "instead of"),
        ("RULE:CN=[a-z&&[^b]]+/x/", "its pattern is not supported"),
        ("RULE:CN=[[:alpha:]]/x/", "its pattern is not supported"),
    ],
)
def test_rules_that_cannot_be_used_are_refused(rules: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        PrincipalMapper(rules)


@pytest.mark.parametrize("character", ["\n", "\r", "\u0085", "\u2028", "\u2029"])
def test_a_name_of_several_lines_gets_no_name_from_a_pattern(character: str) -> None:
    # Java and Python differ in where `.` and `$` stop.
    name = f"CN=admin,OU=x{character}y"
    with pytest.raises(NoMatchingRule):
        PrincipalMapper("RULE:CN=(.*?),.*$/$1/, DEFAULT").name(name)
    assert PrincipalMapper("DEFAULT").name(name) == name


@given(st.text(st.sampled_from(r"RULE:DEFAULT/\$1,()[].*^LU ab"), max_size=40), st.text(max_size=20))
def test_no_rules_do_anything_but_raise_value_errors(rules: str, name: str) -> None:
    try:
        assert isinstance(PrincipalMapper(rules).name(name), str)
    except ValueError:
        return
