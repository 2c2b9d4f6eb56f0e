from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.links.acl_filters import parse_acl_filters
from gateway.links.properties import parse_properties
from protocol.acl_filters import AclFilter
from protocol.acls import Operation, PatternType, Permission, ResourceType

EVERYTHING = {
    "resourceFilter": {"resourceType": "any", "patternType": "any"},
    "accessFilter": {"operation": "any", "permissionType": "any"},
}
# As it stands in the article.
ARTICLE = (
    r"acl.filters=\{ \"aclFilters\": [ \{ \"resourceFilter\": \{ \"resourceType\": \"any\", \"patternType\": "
    r"\"any\" \}, \"accessFilter\": \{ \"operation\": \"any\", \"permissionType\": \"any\" \} \} ] \}"
).replace('\\"', '"')


def parse(*entries: Any) -> tuple[AclFilter, ...]:
    return parse_acl_filters(json.dumps({"aclFilters": entries}))


def entry(resource: dict[str, str], **access: str) -> dict[str, Any]:
    return {"resourceFilter": resource, "accessFilter": access}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (EVERYTHING, AclFilter()),
        (entry({"resourceType": "ANY"}), AclFilter()),
        (entry({"resourceType": "Any", "name": "*"}, principal="*", host="*"), AclFilter()),
        (
            entry(
                {"resourceType": "topic", "patternType": "literal", "name": "orders"},
                principal="User:alice",
                operation="read",
                permissionType="allow",
                host="10.0.0.1",
            ),
            AclFilter(
                ResourceType.TOPIC,
                PatternType.LITERAL,
                "orders",
                "User:alice",
                "10.0.0.1",
                Operation.READ,
                Permission.ALLOW,
            ),
        ),
        (entry({"resourceType": "transactionId"}), AclFilter(ResourceType.TRANSACTIONAL_ID)),
        (entry({"resourceType": "TRANSACTIONAL_ID"}), AclFilter(ResourceType.TRANSACTIONAL_ID)),
        (entry({"resourceType": "transactionalId"}), AclFilter(ResourceType.TRANSACTIONAL_ID)),
        (entry({"resourceType": "delegation-token"}), AclFilter(ResourceType.DELEGATION_TOKEN)),
        (entry({"resourceType": "user"}), AclFilter(ResourceType.USER)),
        (
            entry({"resourceType": "Group", "patternType": "Match", "name": "g"}),
            AclFilter(ResourceType.GROUP, PatternType.MATCH, "g"),
        ),
        (
            entry({"resourceType": "cluster"}, operation="AlterConfigs"),
            AclFilter(ResourceType.CLUSTER, operation=Operation.ALTER_CONFIGS),
        ),
        (
            entry({"resourceType": "cluster"}, operation="idempotent_write", permissionType="DENY"),
            AclFilter(ResourceType.CLUSTER, operation=Operation.IDEMPOTENT_WRITE, permission=Permission.DENY),
        ),
    ],
)
def test_what_is_meant(given: dict[str, Any], meant: AclFilter) -> None:
    assert parse(given) == (meant,)


def test_the_article_as_it_stands() -> None:
    assert parse_acl_filters(parse_properties(ARTICLE)["acl.filters"]) == (AclFilter(),)
    # And where nobody has read it as properties.
    assert parse_acl_filters(ARTICLE.partition("=")[2]) == (AclFilter(),)


def test_several_entries_and_none() -> None:
    assert len(parse(EVERYTHING, entry({"resourceType": "topic"}), EVERYTHING)) == 2
    assert parse() == ()
    assert parse_acl_filters("") == ()
    assert parse_acl_filters(" \n") == ()


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (1, "entry 1 of aclFilters is not an object"),
        ({}, "needs resourceFilter and accessFilter"),
        ({"resourceFilter": {}, "accessFilter": []}, "needs resourceFilter and accessFilter"),
        ({**EVERYTHING, "filterType": "INCLUDE"}, "unknown field filterType"),
        (entry({"patternType": "any"}), "needs a resourceType"),
        (entry({"resourceType": "unknown"}), "needs a resourceType out of any, cluster"),
        (entry({"resourceType": "any", "patternType": "regex"}), "needs a patternType"),
        (entry({"resourceType": "any"}, operation="unknown"), "needs a operation"),
        (entry({"resourceType": "any"}, permissionType="maybe"), "needs a permissionType"),
        (entry({"resourceType": "any", "name": ""}), "empty name"),
        (entry({"resourceType": "any"}, principal=""), "empty principal"),
        (entry({"resourceType": "any", "kind": "x"}), "unknown field resourceFilter.kind"),
        (entry({"resourceType": "any"}, who="x"), "unknown field accessFilter.who"),
        ({"resourceFilter": {"resourceType": 1}, "accessFilter": {}}, "not a text"),
    ],
)
def test_what_is_wrong(given: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(given)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "aclFilters"),
        ('{"aclFilters":{}}', "aclFilters"),
        ('{"groupFilters":[]}', "aclFilters"),
        ('{"aclFilters":[],"more":1}', "nothing else"),
    ],
)
def test_what_is_no_filter_at_all(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_acl_filters(text)
