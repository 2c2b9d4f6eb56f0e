from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from gateway.listeners.descriptors import allow_descriptors


@pytest.fixture(autouse=True)
def own_limit() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_is_raised_as_far_as_is_useful() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    with capture_logs() as logs:
        allow_descriptors(500)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (2000, hard)
    allow_descriptors(10)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (2000, hard)
    assert logs == []


def test_where_that_is_not_enough_the_operator_is_told() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with capture_logs() as logs:
        allow_descriptors(10 * hard)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    assert [(line["event"], line["limit"]) for line in logs] == [("gateway.few_descriptors", hard)]
