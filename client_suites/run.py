"""Runs public test suites of clients straight against Kafka and through a gateway, and compares test by test.

`make client-suites`, or `python -m client_suites.run [SUITE...]`. A test that passes directly and not through
the gateway is run twice more both ways before it counts. Ends with 1 if one is left, with 2 if a suite could
not run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any, Final

from certs.make_certs import Identity, TestAuthority
from client_suites.franz_go import FranzGo
from client_suites.kafka_python import KafkaPython
from client_suites.suite import DIRECTORY, Place, Suite, SuiteFailed, Tls
from client_suites.verdict import Round, Verdict, judge, suspects
from compose.gateway_process import GatewayProcess
from compose.kafka import ROOT, KafkaCluster
from compose.ports import lease_ports

SUITES: Final[Sequence[type[Suite]]] = (KafkaPython, FranzGo)
RESULTS_FILE: Final = DIRECTORY / "results.json"
ATTEMPTS: Final = 3
BROKERS: Final = 3
SASL_MECHANISMS: Final = ("PLAIN",)
_USER: Final = "alice"
_KAFKA_CONFIG: Final = {
    "allow.everyone.if.no.acl.found": "true",
    "auto.create.topics.enable": "true",
    "group.min.session.timeout.ms": "1000",
    "num.partitions": "4",
}


def main() -> int:
    """Runs what the command line asks for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    names = {suite.name: suite for suite in SUITES}
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(names)}; all by default")
    arguments = parser.parse_args()
    unknown = set(arguments.suites) - set(names)
    if unknown:
        parser.error(f"there is no suite {', '.join(sorted(unknown))}")
    chosen = [suite() for name, suite in names.items() if not arguments.suites or name in arguments.suites]
    try:
        for suite in chosen:
            suite.prepare()
        verdicts = _run(chosen)
    except SuiteFailed as error:
        print(f"client-suites: {error}", file=sys.stderr)
        return 2
    print(table(chosen, verdicts))
    RESULTS_FILE.write_text(
        json.dumps(
            [
                {"suite": suite.name, "version": suite.version, **asdict(verdict)}
                for suite, verdict in zip(chosen, verdicts, strict=True)
            ],
            indent=2,
        )
    )
    return 1 if any(verdict.only_direct for verdict in verdicts) else 0


def table(suites: Sequence[Suite], verdicts: Sequence[Verdict]) -> str:
    """One line a suite, and under it the names of the tests that want a look."""
    head = ("suite", "passed direct", "passed through", "only direct", "unsteady", "left out")
    lines = [f"{head[0]:<22}{head[1]:>15}{head[2]:>16}{head[3]:>13}{head[4]:>10}{head[5]:>10}"]
    for suite, verdict in zip(suites, verdicts, strict=True):
        lines.append(
            f"{suite.name + ' ' + suite.version:<22}{verdict.passed_direct:>15}{verdict.passed_through:>16}"
            f"{len(verdict.only_direct):>13}{len(verdict.unsteady):>10}{len(verdict.left_out):>10}"
        )
        lines += [f"  only direct: {name}" for name in verdict.only_direct]
        lines += [f"  unsteady: {name}" for name in verdict.unsteady]
        lines += [f"  left out: {name} ({suite.left_out[name]})" for name in verdict.left_out]
    return "\n".join(lines)


def _run(suites: Sequence[Suite]) -> list[Verdict]:
    with (
        KafkaCluster.start(
            brokers=BROKERS, security="SASL_PLAINTEXT", authorizer=True, config=_KAFKA_CONFIG
        ) as kafka,
        _places(kafka) as (direct, through),
    ):
        for name in (name for suite in suites for name in suite.topics):
            kafka.create_topic(name, 4)
        return [_compare(suite, direct, through) for suite in suites]


def _compare(suite: Suite, direct: Place, through: Place) -> Verdict:
    rounds: list[Round] = []
    for attempt in range(1, ATTEMPTS + 1):
        only = sorted(suspects(rounds) - set(suite.left_out)) if rounds else []
        outcomes = []
        for place in (direct, through):
            log_file = suite.directory / f"{place.name}-{attempt}.log"
            log_file.unlink(missing_ok=True)
            began = time.monotonic()
            outcomes.append(suite.run(place, only, log_file))
            passed = sum(outcome == "passed" for outcome in outcomes[-1].values())
            took_s = time.monotonic() - began
            print(
                f"{suite.name}, {place.name}, attempt {attempt}: {passed} passed, {took_s:.0f} s", flush=True
            )
        rounds.append(Round(*outcomes))
        if suspects(rounds) <= set(suite.left_out):
            break
    return judge(rounds, suite.left_out)


@contextmanager
def _places(kafka: KafkaCluster) -> Iterator[tuple[Place, Place]]:
    authority = TestAuthority(ROOT / "build" / "certs")
    identity = authority.client(_USER)
    broker_ids = [node.node_id for node in kafka.nodes]
    ways = ("open", "plain", "tls_only", "sasl")
    with ExitStack() as stack:
        lease = lease_ports(len(ways) * (1 + BROKERS))
        stack.callback(lease.release)
        ports = dict(zip(ways, lease.ports[:: 1 + BROKERS], strict=True))
        login: dict[str, Any] = {
            "user": _USER,
            "password": kafka.wanted.users[_USER],
            "mechanisms": SASL_MECHANISMS,
            "broker_ids": broker_ids,
        }
        direct = Place(
            "direct",
            open=kafka.internal_bootstrap,
            plain=kafka.internal_bootstrap,
            tls_only="",
            sasl=kafka.bootstrap,
            tls=None,
            **login,
        )
        through = Place(
            "through",
            open=f"localhost:{ports['open']}",
            plain=f"localhost:{ports['plain']}",
            tls_only=f"localhost:{ports['tls_only']}",
            sasl=f"localhost:{ports['sasl']}",
            tls=Tls(authority.ca_file, identity.certificate_file, identity.key_file),
            **login,
        )
        config = _gateway_config(kafka, authority.server(), authority, ports)
        with GatewayProcess(config, name="client-suites", directory=DIRECTORY):
            yield direct, through


def _gateway_config(
    kafka: KafkaCluster, server: Identity, authority: TestAuthority, ports: dict[str, int]
) -> dict[str, Any]:
    tls = {"certificate_file": str(server.certificate_file), "key_file": str(server.key_file)}
    kinds: dict[str, dict[str, Any]] = {
        "open": {"insecure": True, "authentication": "none"},
        "plain": {
            "tls": tls | {"client_ca_file": str(authority.ca_file), "client_auth": "required"},
            "authentication": "mtls",
        },
        "tls_only": {"tls": tls, "authentication": "none"},
        "sasl": {"tls": tls, "authentication": "sasl_plain"},
    }
    return {
        # As somebody who may do everything: the suites ask for ACLs and quotas too.
        "cluster": {"bootstrap_servers": kafka.internal_bootstrap.split(",")},
        "authorization": "none",
        "users": [{"name": _USER, "password": kafka.wanted.users[_USER]}],
        "listeners": [
            {
                "name": way,
                "bind": "127.0.0.1",
                "port": ports[way],
                "advertised_host": "localhost",
                "node_ids": f"1-{BROKERS}",
                **kinds[way],
            }
            for way in kinds
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
