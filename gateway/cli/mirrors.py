"""`causeway mirror`: mirror topics, from their creation to the promote."""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from gateway.cli.client import Client, CommandError, connected
from gateway.cli.link_configs import parse_pair
from gateway.cli.output import Output, OutputOption, show_json, show_table

app = typer.Typer(no_args_is_help=True, help="Mirror topics.")

_POLL_S: Final = 0.5
# A failed item has no partitions; Confluent's tool shows it so.
_NO_PARTITION: Final = ("-1", "-1", "-1")

Link = Annotated[str, typer.Option("--link", help="Name of the link.")]
Topics = Annotated[list[str], typer.Argument(metavar="TOPIC...", help="Mirror topics.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check only.")]
Wait = Annotated[bool, typer.Option("--wait", help="Until the topics are writable.")]
TimeoutS = Annotated[float, typer.Option("--timeout", help="Seconds to wait.")]


@app.command("create")
@connected
def create(
    client: Client,
    topic: Annotated[str, typer.Argument(help="Source topic; with --source-topic the mirror topic.")],
    link: Link,
    source_topic: Annotated[str | None, typer.Option(help="If it is named otherwise.")] = None,
    replication_factor: Annotated[int | None, typer.Option(min=1)] = None,
    config: Annotated[list[str] | None, typer.Option(metavar="K=V", help="Config of the topic.")] = None,
) -> None:
    """Mirror a topic of the source."""
    body: dict[str, Any] = {
        "source_topic_name": source_topic or topic,
        "configs": [{"name": key, "value": value} for key, value in map(parse_pair, config or [])],
    }
    if source_topic is not None:
        body["mirror_topic_name"] = topic
    if replication_factor is not None:
        body["replication_factor"] = replication_factor
    client.cluster("POST", "links", link, "mirrors", body=body)
    typer.echo(f'Created mirror topic "{topic}".')


@app.command("list")
@connected
def list_(
    client: Client,
    link: Annotated[str, typer.Option("--link", help="Only of this link.")] = "-",
    mirror_status: Annotated[str | None, typer.Option(help="Only in this status.")] = None,
    output: OutputOption = Output.HUMAN,
) -> None:
    """Show mirror topics."""
    query = {"mirror_status": mirror_status.upper()} if mirror_status else None
    mirrors = client.cluster("GET", "links", link, "mirrors", query=query)["data"]
    if output is Output.JSON:
        show_json(mirrors)
        return
    show_table(
        (
            "Link Name",
            "Mirror Topic Name",
            "Source Topic Name",
            "Mirror Status",
            "Status Time (ms)",
            "Num Partition",
            "Max Per Partition Mirror Lag",
        ),
        (
            (
                each["link_name"],
                each["mirror_topic_name"],
                each["source_topic_name"],
                each["mirror_status"],
                each["state_time_ms"],
                each["num_partitions"],
                max((lag["lag"] for lag in each["mirror_lags"]), default=None),
            )
            for each in mirrors
        ),
    )


@app.command("describe")
@connected
def describe(
    client: Client,
    topic: Annotated[str, typer.Argument(help="Mirror topic.")],
    link: Link,
    output: OutputOption = Output.HUMAN,
) -> None:
    """Show a mirror topic by partition."""
    mirror = _get(client, link, topic)
    if output is Output.JSON:
        show_json(mirror)
        return
    show_table(
        (
            "Link Name",
            "Mirror Topic Name",
            "Source Topic Name",
            "Mirror Status",
            "Mirror Topic Error",
            "Status Time (ms)",
            "Partition",
            "Partition Mirror Lag",
            "Last Source Fetch Offset",
        ),
        (
            (
                mirror["link_name"],
                mirror["mirror_topic_name"],
                mirror["source_topic_name"],
                mirror["mirror_status"],
                mirror["mirror_topic_error"],
                mirror["state_time_ms"],
                *partition,
            )
            for partition in _partitions(mirror["mirror_lags"]) or [("", "", "")]
        ),
    )
    for error in mirror["mirror_state_transition_errors"]:
        typer.echo(f"{error['error_code']}: {error['error_message']}")
    for transaction in mirror["open_transactions"]:
        typer.echo(_open_transaction(transaction))


@app.command("promote")
@connected
def promote(
    client: Client,
    topics: Topics,
    link: Link,
    output: OutputOption = Output.HUMAN,
    *,
    dry_run: DryRun = False,
    wait: Wait = False,
    timeout: TimeoutS = 300.0,
) -> None:
    """Make mirror topics ordinary ones, once all of the source is there."""
    _alter(client, "promote", topics, link, output, dry_run=dry_run)
    if wait and not dry_run:
        _wait(client, link, topics, timeout)


@app.command("failover")
@connected
def failover(
    client: Client,
    topics: Topics,
    link: Link,
    output: OutputOption = Output.HUMAN,
    *,
    dry_run: DryRun = False,
    force: Annotated[bool, typer.Option("--force", help="Also what has FAILED.")] = False,
    wait: Wait = False,
    timeout: TimeoutS = 300.0,
) -> None:
    """Make mirror topics ordinary ones with what is there, without the source."""
    _alter(client, "failover", topics, link, output, dry_run=dry_run, force=force)
    if wait and not dry_run:
        _wait(client, link, topics, timeout)
    if output is Output.HUMAN:
        for topic in topics:
            for line in _not_mirrored(_get(client, link, topic)):
                typer.echo(line)


@app.command("pause")
@connected
def pause(
    client: Client,
    topics: Topics,
    link: Link,
    output: OutputOption = Output.HUMAN,
    *,
    dry_run: DryRun = False,
) -> None:
    """Stop copying for a while."""
    _alter(client, "pause", topics, link, output, dry_run=dry_run)


@app.command("resume")
@connected
def resume(
    client: Client,
    topics: Topics,
    link: Link,
    output: OutputOption = Output.HUMAN,
    *,
    dry_run: DryRun = False,
) -> None:
    """Copy again."""
    _alter(client, "resume", topics, link, output, dry_run=dry_run)


def _get(client: Client, link: str, topic: str) -> dict[str, Any]:
    query = {"include_state_transition_errors": True}
    mirror: dict[str, Any] = client.cluster("GET", "links", link, "mirrors", topic, query=query)
    return mirror


def _open_transaction(transaction: Mapping[str, Any]) -> str:
    producer = transaction["producer_id"]
    who = "a producer" if producer is None else f"producer {producer}"
    text = (
        f"Partition {transaction['partition']} waits for {who} at the source: it has had a transaction open "
        f"from offset {transaction['start_offset']} on for {transaction['waiting_ms'] // 1000} s or longer"
    )
    last = transaction["last_write_ms"]
    if last is not None:
        text += f"; its last record is of {datetime.fromtimestamp(last / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return f"{text}. kafka-transactions.sh at the source can find it, and abort it."


def _alter(
    client: Client,
    verb: str,
    topics: Sequence[str],
    link: str,
    output: Output,
    *,
    dry_run: bool,
    force: bool = False,
) -> None:
    query = {"validate_only": dry_run, **({"force": True} if force else {})}
    results = client.cluster(
        "POST",
        "links",
        link,
        f"mirrors:{verb}",
        query=query,
        body={"mirror_topic_names": list(topics)},
    )["data"]
    if output is Output.JSON:
        show_json(results)
    else:
        show_table(
            (
                "Mirror Topic Name",
                "Partition",
                "Partition Mirror Lag",
                "Last Source Fetch Offset",
                "Error Message",
                "Error Code",
            ),
            (
                (each["mirror_topic_name"], *partition, each["error_message"], each["error_code"])
                for each in results
                for partition in _partitions(each["mirror_lags"]) or [_NO_PARTITION]
            ),
        )
    failed = [each["mirror_topic_name"] for each in results if each["error_code"] is not None]
    if failed:
        raise CommandError(f"{verb} was refused for {', '.join(failed)}", 1)


def _not_mirrored(mirror: Mapping[str, Any]) -> list[str]:
    """What a mirror topic lacks of its source, as that was when it was last heard of."""
    name, lines = mirror["mirror_topic_name"], []
    if not mirror["mirror_lags"]:
        return [f"{name}: what is missing of the source is not known."]
    for lag in mirror["mirror_lags"]:
        where, end = f"{name}: partition {lag['partition']}", lag["last_source_fetch_offset"]
        if end < 0:
            lines.append(
                f"{where}: not known, as the source has not been heard of since the gateway started."
            )
        elif lag["lag"]:
            lines.append(
                f"{where}: {lag['lag']} records of the source are not here, offsets {end} to "
                f"{end + lag['lag'] - 1}, as far as it was heard of."
            )
    return lines or [f"{name}: nothing of what is known of the source is missing."]


def _partitions(lags: Iterable[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(str(lag["partition"]), str(lag["lag"]), str(lag["last_source_fetch_offset"])) for lag in lags]


def _wait(client: Client, link: str, topics: Sequence[str], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    console = Console(stderr=True, markup=False, highlight=False)
    with console.status("") as status:
        while True:
            mirrors = [_get(client, link, topic) for topic in topics]
            failed = [each for each in mirrors if each["mirror_status"] == "FAILED"]
            if failed:
                names = ", ".join(each["mirror_topic_name"] for each in failed)
                raise CommandError(f"{names} failed: see causeway mirror describe", 1)
            waiting = [each for each in mirrors if each["mirror_status"] != "STOPPED"]
            if not waiting:
                break
            lag = sum(each["lag"] for mirror in waiting for each in mirror["mirror_lags"])
            names = ", ".join(each["mirror_topic_name"] for each in waiting)
            status.update(f"waiting for {names}: {lag} records behind")
            if time.monotonic() > deadline:
                raise CommandError(f"{names} did not stop within {timeout_s:g} s, {lag} records behind", 1)
            time.sleep(_POLL_S)
    typer.echo(f"{', '.join(topics)}: STOPPED, writable.", err=True)
