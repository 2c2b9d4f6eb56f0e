"""A pytest plugin for kafka-python's integration tests: a running cluster instead of brokers of their own.

It runs in that suite's environment, and knows of ours nothing but the variable CAUSEWAY_PLACE, which has the
fields of `client_suites.suite.Place`, and `results`: the file that gets a line of JSON for every test.
"""

import importlib
import json
import os
import shutil
import sys
import tempfile
import types
from pathlib import Path
from typing import Any, ClassVar

import pytest

_place: dict[str, Any] = json.loads(os.environ["CAUSEWAY_PLACE"])


class RunningBroker:
    """What the tests use of their KafkaFixture, for a cluster that runs already."""

    replicas: ClassVar[int] = 1
    zookeeper: ClassVar[None] = None
    broker_user: ClassVar[str] = _place["user"]
    broker_password: ClassVar[str] = _place["password"]

    def __init__(self, transport: str, sasl_mechanism: str | None, partitions: int) -> None:
        self.transport = transport
        self.sasl_mechanism = sasl_mechanism
        self.partitions = partitions
        self.node_id = self.broker_id = _place["broker_ids"][0]
        self.child = self
        way = "sasl" if sasl_mechanism else "tls_only" if transport == "SSL" else "plain"
        self.host, port = _place[way].split(",")[0].rsplit(":", 1)
        self.port = int(port)
        self.ssl_dir = tempfile.mkdtemp(prefix="causeway-kafka-python-")
        if _place["tls"]:
            shutil.copy(_place["tls"]["ca_file"], Path(self.ssl_dir) / "ca-cert")

    @classmethod
    def instance(
        cls,
        _broker_id: int,
        *,
        transport: str = "PLAINTEXT",
        sasl_mechanism: str | None = None,
        partitions: int = 4,
        **_: Any,
    ) -> "RunningBroker":
        """As KafkaFixture.instance; skips what this place does not have."""
        if transport == "SSL" and not _place["tls"]:
            pytest.skip("this way to the cluster has no TLS")
        if sasl_mechanism and sasl_mechanism not in _place["mechanisms"]:
            pytest.skip(f"{sasl_mechanism} is not asked for")
        return cls(transport, sasl_mechanism, partitions)

    def _enrich_client_params(self, params: dict[str, Any], **defaults: Any) -> dict[str, Any]:
        wanted: dict[str, Any] = {
            "bootstrap_servers": f"{self.host}:{self.port}",
            "security_protocol": self.transport,
        }
        if self.sasl_mechanism:
            wanted |= {"sasl_mechanism": self.sasl_mechanism, "sasl_plain_username": self.broker_user}
            wanted["sasl_plain_password"] = self.broker_password
        tls = _place["tls"]
        if tls:
            wanted["security_protocol"] = "SASL_SSL" if self.sasl_mechanism else "SSL"
            wanted["ssl_cafile"] = tls["ca_file"]
            wanted |= {"ssl_certfile": tls["certificate_file"], "ssl_keyfile": tls["key_file"]}
        return wanted | defaults | params

    def get_topic_names(self) -> list[str]:
        """All topics, as an admin client sees them."""
        from kafka import KafkaAdminClient

        with KafkaAdminClient(**self._enrich_client_params({})) as admin:
            return list(admin.list_topics())

    def start(self) -> None:
        """It runs."""

    def dump_logs(self) -> None:
        """They are elsewhere."""

    def close(self) -> None:
        """Takes away what was written for it."""
        shutil.rmtree(self.ssl_dir, ignore_errors=True)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test that errs while it is set up or torn down has failed."""
    if report.when == "call" or report.outcome != "passed":
        with Path(_place["results"]).open("a") as results:
            results.write(json.dumps([report.nodeid, report.outcome]) + "\n")


def _take_their_place() -> None:
    """Before any of their modules, conftest included, gets hold of the class."""
    # The source distribution lacks this module, of which nothing is used but the names.
    service = types.ModuleType("test.service")
    vars(service).update(ExternalService=object, SpawnedService=object)
    sys.modules["test.service"] = service
    # A module of that suite, which our own checks do not see.
    fixtures = importlib.import_module("test.integration.fixtures")
    vars(fixtures)["KafkaFixture"] = RunningBroker


_take_their_place()
