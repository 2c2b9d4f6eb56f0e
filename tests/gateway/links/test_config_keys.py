import json

import pytest

from gateway.links.config_keys import KEYS, check_value

ACL_ENTRY = {
    "resourceFilter": {"resourceType": "topic", "patternType": "literal", "name": "orders"},
    "accessFilter": {"principal": "User:a", "operation": "read", "permissionType": "allow", "host": "*"},
}


def test_every_default_is_a_right_value() -> None:
    for key in KEYS.values():
        assert key.default is None or check_value(key, key.default) is None, key.name


def test_secrets_have_no_default() -> None:
    for key in KEYS.values():
        if key.sensitive:
            assert key.default is None


def test_local_keys_mirror_the_others() -> None:
    for name, key in KEYS.items():
        if name.startswith(("ssl.", "sasl.", "security.")):
            local = KEYS[f"local.{name}"]
            assert (local.type, local.default, local.sensitive) == (key.type, key.default, key.sensitive)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("acl.sync.ms", "1000", None),
        ("acl.sync.ms", "999", "at least 1000"),
        ("acl.sync.ms", "1e3", "whole number"),
        ("acl.sync.ms", "9" * 5000, "whole number"),
        ("acl.sync.enable", "TRUE", None),
        ("acl.sync.enable", "yes", "true or false"),
        ("link.mode", "SINK", "one of 'DESTINATION', 'SOURCE', 'BIDIRECTIONAL'"),
        ("ssl.endpoint.identification.algorithm", "", None),
        ("ssl.endpoint.identification.algorithm", "ldaps", "one of"),
        ("acl.filters", "", None),
        ("acl.filters", "{", "not JSON"),
        ("acl.filters", "[" * 100_000, "not JSON"),
        ("acl.filters", "[]", '"aclFilters"'),
        ("acl.filters", '{"aclFilters":[],"more":1}', '"aclFilters"'),
        ("acl.filters", '{"aclFilters":[1]}', "entry 1 of aclFilters is not an object"),
        ("acl.filters", '{"aclFilters":[{}]}', "needs resourceFilter"),
        ("acl.filters", json.dumps({"aclFilters": [ACL_ENTRY]}), None),
        ("acl.filters", json.dumps({"aclFilters": [ACL_ENTRY, {**ACL_ENTRY, "x": 1}]}), "entry 2"),
        (
            "acl.filters",
            '{"aclFilters":[{"resourceFilter":{"resourceType":"ANY"},"accessFilter":{"operation":"DESCRIBE_CONFIGS"}}]}',
            None,
        ),
        (
            "acl.filters",
            '{"aclFilters":[{"resourceFilter":{"resourceType":"table"},"accessFilter":{}}]}',
            "needs a resourceType",
        ),
        (
            "acl.filters",
            '{"aclFilters":[{"resourceFilter":{"resourceType":"any","kind":"x"},"accessFilter":{}}]}',
            "resourceFilter.kind",
        ),
        (
            "acl.filters",
            '{"aclFilters":[{"resourceFilter":{"resourceType":"any"},"accessFilter":{"who":"x"}}]}',
            "accessFilter.who",
        ),
        (
            "acl.filters",
            '{"aclFilters":[{"resourceFilter":{"resourceType":"any","name":1},"accessFilter":{}}]}',
            "not a text",
        ),
        (
            "consumer.offset.group.filters",
            '{"groupFilters":[{"name":"*","patternType":"LITERAL","filterType":"INCLUDE"}]}',
            None,
        ),
        (
            "consumer.offset.group.filters",
            '{"groupFilters":[{"name":"*","patternType":"REGEX","filterType":"INCLUDE"}]}',
            "patternType",
        ),
        ("consumer.offset.group.filters", '{"groupFilters":[{"name":""}]}', "has no name"),
        ("consumer.offset.group.filters", '{"groupFilters":[{"nome":"a"}]}', "unknown field nome"),
        ("consumer.offset.group.filters", '{"topicFilters":[]}', '"groupFilters"'),
        ("auto.create.mirror.topics.filters", '{"topicFilters":[]}', None),
    ],
)
def test_values_are_checked(name: str, value: str, problem: str | None) -> None:
    found = check_value(KEYS[name], value)
    if problem is None:
        assert found is None
    else:
        assert found is not None
        assert problem in found
