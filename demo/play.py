"""The play: what happens on the stage, what is shown of it, and what must be so."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Final

from compose.java_tools import run_tool
from demo import stage
from demo.keep import DIRECTORY
from demo.records import (
    CODECS,
    FIELDS,
    GroupConsumer,
    Log,
    Watcher,
    equal_fields,
    produce_clicks,
    produce_one,
    read_log,
)
from demo.screen import DemoFailed, Progress, Screen, Span, equality_table
from demo.stage import LINK, LINK_USER, MOVING_GROUP, PARTITIONS, TOPIC, Stage, clusters

RECORDS: Final = 100_000
GROUP: Final = "analytics"
MIRROR_WITHIN_S: Final = 60.0
REFUSAL: Final = f"Cannot append records to read-only mirror topic '{TOPIC}'"
_POLL_S: Final = 0.05


def play(screen: Screen, kept: Callable[[], None] | None) -> None:
    """The whole demo; with `kept`, calls that when everything was shown and is still up. DemoFailed."""
    began = time.monotonic()
    screen.title("Causeway: a topic of one Kafka cluster on another, at its own offsets")

    screen.step("Two real Kafka clusters, unmodified: one on-prem, one in the cloud")
    with ExitStack() as running:
        said = io.StringIO()
        with screen.waiting("starting the brokers"), redirect_stdout(said):
            source, destination = running.enter_context(clusters())
            stage.prepare_source(source)
        screen.output(said.getvalue())
        screen.note(f"on-prem {source.cluster_id}: SASL_SSL, SCRAM; the link's user may only read {TOPIC}")
        screen.note(f"cloud   {destination.cluster_id}: PLAINTEXT, for its gateway only")

        screen.step("A gateway in front of each; the on-prem one listens to no client, it only dials out")
        ready = running.enter_context(stage.stage(screen, source, destination))
        screen.note(f"the cloud's listener: {ready.bootstrap}, TLS and SASL PLAIN")

        _make_link(screen, ready)
        spans, size = _produce(screen, ready)
        _mirror(screen, ready, spans, size)
        group = GroupConsumer(ready.cloud_client, TOPIC, GROUP)
        try:
            _consume(screen, ready, group, spans)
            _move(screen, ready)
            _produce_refused(screen, ready)
            _promote(screen, ready, group, spans)
        finally:
            group.close()

        screen.step(f"Everything was as it must be, in {time.monotonic() - began:.0f} s")
        if kept is not None:
            _say_how_to_connect(screen, ready)
            kept()
        screen.note("Ending gateways and brokers.")
    screen.note(f"Nothing is left running. The files and logs of the gateways are in {shown(DIRECTORY)}.")


def _make_link(screen: Screen, ready: Stage) -> None:
    screen.step("A link, made on both sides; the on-prem side dials out")
    cloud, on_prem = ready.cloud.admin_url, ready.on_prem.admin_url
    exported = {**ready.environment, "CAUSEWAY_PASSWORD": "…"}
    screen.command("export " + " ".join(f"{key}={value}" for key, value in exported.items()))
    for user in (LINK_USER, stage.CLIENT_USER):
        ready.causeway(
            "user", "create", user, "--password-stdin", "--url", cloud, stdin_file=f"{user}.password"
        )
    _show_config(screen, ready, stage.DESTINATION_CONFIG)
    ready.causeway(
        *("link", "create", LINK, "--url", cloud, "--source-cluster", ready.source.cluster_id),
        *("--config", stage.DESTINATION_CONFIG),
    )
    _show_config(screen, ready, stage.SOURCE_CONFIG)
    ready.causeway(
        *("link", "create", LINK, "--url", on_prem, "--destination-cluster", ready.destination.cluster_id),
        *("--config", stage.SOURCE_CONFIG),
    )


def _show_config(screen: Screen, ready: Stage, name: str) -> None:
    screen.command(f"cat {name}")
    text = (DIRECTORY / name).read_text()
    for password in (*ready.passwords.values(), *ready.source.wanted.users.values()):
        text = text.replace(password, "…")
    screen.output(text)


def _produce(screen: Screen, ready: Stage) -> tuple[list[Span], int]:
    """Offsets by partition, and the bytes of all records."""
    screen.step(f"{RECORDS:,} keyed records on-prem, by a stock client ({', '.join(CODECS)})")
    began = time.monotonic()
    with screen.waiting("producing"):
        size = produce_clicks(ready.source_client, TOPIC, RECORDS)
    watcher = Watcher(ready.source_client, TOPIC, PARTITIONS)
    spans = watcher.spans()
    watcher.close()
    if spans is None or sum(span.count for span in spans) != RECORDS:
        raise DemoFailed(f"the source topic does not hold {RECORDS} records: {spans}")
    screen.note(f"{size / 1e6:.1f} MB of keys, values and headers in {time.monotonic() - began:.1f} s")
    return spans, size


def _mirror(screen: Screen, ready: Stage, spans: list[Span], size: int) -> None:
    screen.step("Mirrored: the same records at the same offsets")
    watcher = Watcher(ready.cloud_client, TOPIC, PARTITIONS)
    progress = Progress(spans)
    missing_at = time.monotonic()
    deadline = missing_at + MIRROR_WITHIN_S
    create = ("mirror", "create", TOPIC, "--link", LINK, "--url", ready.cloud.admin_url)
    with ThreadPoolExecutor(1) as shell, screen.live(progress):
        created = shell.submit(ready.causeway, *create)
        while not progress.done:
            if created.done():
                # A refusal ends the demo here.
                created.result()
            progress.mirror = watcher.spans() or []
            if not progress.mirror:
                missing_at = time.monotonic()
            progress.seconds = time.monotonic() - missing_at
            if time.monotonic() > deadline:
                raise DemoFailed(f"the mirror is not complete after {MIRROR_WITHIN_S:.0f} s")
            time.sleep(_POLL_S)
        created.result()
    watcher.close()
    seconds = progress.seconds
    screen.good(
        f"{RECORDS:,} records, {size / 1e6:.1f} MB, were there {seconds:.2f} s after the topic:"
        f" {RECORDS / seconds:,.0f} records/s, {size / 1e6 / seconds:.1f} MB/s"
    )


def _consume(screen: Screen, ready: Stage, group: GroupConsumer, spans: list[Span]) -> None:
    screen.step("Consumed in the cloud, through TLS, by a stock consumer group")
    began = time.monotonic()
    with screen.waiting("consuming"):
        mirror = group.read(PARTITIONS, RECORDS)
    screen.note(f"group {GROUP}: {RECORDS:,} records in {time.monotonic() - began:.1f} s, and committed")
    with screen.waiting("reading the source, to compare"):
        source = read_log(ready.source_client, TOPIC, spans)
    compare(screen, source, mirror)


def _move(screen: Screen, ready: Stage) -> None:
    screen.step("A consumer moves: it stops on-prem, and goes on in the cloud with the next record")
    first = RECORDS // 5
    with screen.waiting("consuming on-prem"):
        on_prem = GroupConsumer(ready.source_client, TOPIC, MOVING_GROUP)
        try:
            before = on_prem.read(PARTITIONS, first)
        finally:
            on_prem.close()
    screen.note(f"group {MOVING_GROUP}: {first:,} records on-prem, committed, and stopped")
    ready.causeway("group", "move", MOVING_GROUP, "--link", LINK, "--url", ready.cloud.admin_url)
    with screen.waiting("consuming in the cloud"):
        cloud = GroupConsumer(ready.cloud_client, TOPIC, MOVING_GROUP)
        try:
            after = cloud.read(PARTITIONS, RECORDS - first)
        finally:
            cloud.close()
    for index, records in before.items():
        offsets = [record.offset for record in (*records, *after[index])]
        if offsets != list(range(len(offsets))):
            raise DemoFailed(f"group {MOVING_GROUP} lost or repeated records of partition {index}")
    screen.good(f"the other {RECORDS - first:,} records in the cloud: none lost, none twice")


def compare(screen: Screen, source: Log, mirror: Log) -> None:
    """Shows how many records agree in what. DemoFailed if not all in everything."""
    rows = [
        (str(index), len(records), equal_fields(records, mirror[index])) for index, records in source.items()
    ]
    screen.note("Every record of the source beside that of the mirror; equal in:")
    screen.console.print(equality_table(FIELDS, rows))
    if source != mirror:
        raise DemoFailed("source and mirror differ")
    count = sum(len(records) for records in source.values())
    screen.good(f"offset, key, value, headers and timestamp of all {count:,} records are equal")


def _produce_refused(screen: Screen, ready: Stage) -> None:
    screen.step("A mirror topic is read-only")
    error = produce_one(ready.cloud_client, TOPIC, 0, b"mine").error()
    if error is None:
        raise DemoFailed("a record was accepted by a mirror topic")
    screen.good(f"librdkafka: {error.name()}: {error.str()}")
    # librdkafka has a text of its own for the code; Kafka's own producer shows the gateway's.
    stage.write_client_files(ready)
    arguments = ("--bootstrap-server", ready.bootstrap, "--topic", TOPIC)
    screen.command(
        f"echo mine | kafka-console-producer.sh {' '.join(arguments)} --command-config client.properties"
    )
    with screen.waiting("producing"):
        said = run_tool(
            "kafka-console-producer",
            ready.bootstrap,
            *arguments[2:],
            properties=ready.java_client,
            stdin="mine\n",
        )
    refusal = next((line for line in said.stderr.splitlines() if REFUSAL in line), None)
    if refusal is None:
        raise DemoFailed(f"the producer was not told why: {said.stderr[-500:] or 'no error'}")
    screen.output(refusal)


def _promote(screen: Screen, ready: Stage, group: GroupConsumer, spans: list[Span]) -> None:
    screen.step("Promoted: first the source's last record, then the topic is an ordinary one")
    ready.causeway("mirror", "promote", TOPIC, "--link", LINK, "--wait", "--url", ready.cloud.admin_url)
    for partition, span in enumerate(spans):
        message = produce_one(ready.cloud_client, TOPIC, partition, b"from the cloud")
        if message.error() is not None:
            raise DemoFailed(f"partition {partition} refused a record after the promote: {message.error()}")
        # The barrier, which keeps late writes of the link out, has the offset in between.
        if message.offset() != span.end + 1:
            raise DemoFailed(f"partition {partition}: offset {message.offset()}, expected {span.end + 1}")
    new = group.read(PARTITIONS, PARTITIONS)
    offsets = [[record.offset for record in new[index]] for index in range(PARTITIONS)]
    if offsets != [[span.end + 1] for span in spans]:
        raise DemoFailed(f"group {GROUP} got {offsets} after the promote")
    screen.good("a record per partition produced in the cloud: accepted, at the offset after the barrier")
    screen.note(
        f"(partition 0: mirrored up to {spans[0].end - 1:,}, then the barrier, then {offsets[0][0]:,})"
    )
    screen.good(f"consumed by group {GROUP}, which went on where it was")
    ready.causeway("mirror", "list", "--link", LINK, "--url", ready.cloud.admin_url)


def _say_how_to_connect(screen: Screen, ready: Stage) -> None:
    exports = " ".join(f"{key}={value}" for key, value in ready.environment.items())
    screen.note(f"KEEP=1: everything stays up. In {shown(DIRECTORY)}:")
    screen.command(f"kcat -F kcat.config -C -t {TOPIC} -p 0 -o beginning -c 3 -f '%o %k %s\\n'")
    screen.command(
        f"kafka-console-consumer.sh --bootstrap-server {ready.bootstrap} --command-config client.properties"
        f" --topic {TOPIC} --from-beginning --max-messages 3"
    )
    screen.command(f"export {exports}")
    screen.command(f"{os.path.relpath(stage.CAUSEWAY, DIRECTORY)} mirror list --url {ready.cloud.admin_url}")
    screen.note("To stop it: make demo-stop")


def shown(path: Path) -> str:
    """A path as it is typed here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
