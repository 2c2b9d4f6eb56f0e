"""Decisions about ACLs against Kafka's own StandardAuthorizer; `make acl-differential` runs the long form."""

from __future__ import annotations

import pytest

from tests.e2e import real_authorizer


def test_decides_as_kafka_does() -> None:
    found = real_authorizer.compare(20_000, seed=1, timeout_s=120)
    assert found.differences == []
    assert 4_000 < found.allowed < 16_000


@pytest.mark.soak
def test_decides_as_kafka_does_in_many_cases() -> None:
    found = real_authorizer.compare(200_000, seed=2, timeout_s=500)
    assert found.differences == []
