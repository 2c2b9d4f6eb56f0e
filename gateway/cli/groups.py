"""`causeway group`: consumer groups of a link, and moving them from its source to the cluster here."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer
from rich.console import Console

from gateway.cli.client import Client, CommandError, connected
from gateway.cli.output import Output, OutputOption, show_json, show_table

app = typer.Typer(no_args_is_help=True, help="Consumer groups of a link.")

_POLL_S: Final = 1.0

Link = Annotated[str, typer.Option("--link", help="Name of the link.")]
Groups = Annotated[list[str], typer.Argument(metavar="GROUP...", help="Groups, named as at the source.")]


@app.command("list")
@connected
def list_(client: Client, link: Link, output: OutputOption = Output.HUMAN) -> None:
    """Show the groups that the link takes over, and those that go on here."""
    groups = _ask(client, link)["data"]
    if output is Output.JSON:
        show_json(groups)
        return
    show_table(
        ("Group", "Group Here", "State At Source", "Members", "Lag", "Not Mirrored", "Follows"),
        (
            (
                each["group_name"],
                each["mirror_group_name"],
                each["source_state"],
                len(each["source_members"]) or ("yes" if each["has_source_members"] else 0),
                _total(each, "lag"),
                _total(each, "not_mirrored"),
                _follows(each),
            )
            for each in groups
        ),
    )


@app.command("move")
@connected
def move(
    client: Client,
    link: Link,
    groups: Annotated[
        list[str] | None, typer.Argument(metavar="GROUP...", help="Groups, named as at the source.")
    ] = None,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Every group that the link takes over.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only, and do not wait.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 3600.0,
    output: OutputOption = Output.HUMAN,
) -> None:
    """Have groups go on here: wait until they have stopped at the source, sync once, leave them alone."""
    if bool(groups) == all_:
        raise CommandError("give the groups to move, or --all")
    if all_:
        views = [each for each in _ask(client, link)["data"] if each["local_reason"] is None]
    else:
        views = _ask(client, link, groups)["data"]
        missing = [name for name in groups or () if name not in {each["group_name"] for each in views}]
        if missing:
            raise CommandError(
                f"{', '.join(missing)}: not at the source, or its principal may not DESCRIBE it", 1
            )
    if not views:
        raise CommandError("there is no group to move: see causeway group list", 1)
    if output is Output.HUMAN:
        _show_before(views)
    names = [each["group_name"] for each in views]
    moved = _check(client, link, names) if dry_run else _move(client, link, names, timeout)
    failed = [each for each in moved if each["error_code"] is not None]
    if output is Output.JSON:
        show_json(moved)
    else:
        _show_after(moved, _ask(client, link, names)["bootstrap_servers"], dry_run=dry_run)
    if failed:
        raise CommandError(f"{len(failed)} of {len(moved)} groups were not moved", 1)


@app.command("follow")
@connected
def follow(client: Client, link: Link, groups: Groups) -> None:
    """Have the link take over what these groups commit at the source again."""
    answer = _post(client, link, "follow", groups)
    for each in answer["data"]:
        done = f"follows the source's {each['group_name']} again"
        typer.echo(f"{each['mirror_group_name']}: {each['error_message'] or done}")
    if any(each["error_code"] is not None for each in answer["data"]):
        raise CommandError("not all of them were changed", 1)


def _path(link: str, end: str) -> str:
    return f"/causeway/v1/links/{quote(link, safe='')}/groups{end}"


def _ask(client: Client, link: str, names: Sequence[str] | None = None) -> dict[str, Any]:
    if names is None:
        return dict(client.call("GET", _path(link, "")))
    return dict(client.call("POST", _path(link, ":describe"), body={"group_names": list(names)}))


def _post(
    client: Client, link: str, verb: str, names: Sequence[str], query: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    body = {"group_names": list(names)}
    return dict(client.call("POST", _path(link, f":{verb}"), query=dict(query or {}), body=body))


def _check(client: Client, link: str, names: Sequence[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _post(client, link, "move", names, {"validate_only": True})["data"]
    return found


def _move(client: Client, link: str, names: Sequence[str], timeout_s: float) -> list[dict[str, Any]]:
    """Move each as soon as it can be; what became of all of them, in the order given."""
    done: dict[str, dict[str, Any]] = {}
    deadline = time.monotonic() + timeout_s
    console = Console(stderr=True, markup=False, highlight=False)
    with console.status("") as status:
        while True:
            left = [name for name in names if name not in done or done[name]["retriable"]]
            for each in _post(client, link, "move", left)["data"]:
                done[each["group_name"]] = each
                if each["error_code"] is None:
                    console.print(f"{each['group_name']}: moved")
            waiting = [each for each in done.values() if each["retriable"]]
            if not waiting or time.monotonic() > deadline:
                return [done[name] for name in names]
            moved = len(done) - len(waiting)
            status.update(f"{moved} of {len(names)} moved; {waiting[0]['error_message']}")
            time.sleep(_POLL_S)


def _show_before(views: Sequence[Mapping[str, Any]]) -> None:
    show_table(
        ("Group", "Topic", "Partition", "Offset At Source", "Lag", "Not Mirrored"),
        (
            (
                view["group_name"],
                p["topic"],
                p["partition"],
                p["source_offset"],
                "unknown" if p["lag"] is None else p["lag"],
                p["not_mirrored"],
            )
            for view in views
            for p in view["partitions"]
        ),
    )
    for view in views:
        for member in view["source_members"]:
            typer.echo(f"{view['group_name']}: member {member['member_id']} of client {member['client_id']}")
        if view["other_topics"]:
            topics = ", ".join(view["other_topics"])
            typer.echo(f"{view['group_name']}: has positions too in what is not mirrored: {topics}")


def _show_after(moved: Sequence[Mapping[str, Any]], bootstrap: Sequence[str], *, dry_run: bool) -> None:
    for each in moved:
        if each["error_code"] is not None:
            typer.echo(f"{each['group_name']}: {each['error_message']}")
            continue
        if dry_run:
            typer.echo(f"{each['group_name']}: can be moved now")
            continue
        positions = ", ".join(
            f"{p['topic']}-{p['partition']} {p['source_offset']}" for p in each["partitions"]
        )
        typer.echo(f"{each['mirror_group_name']}: goes on here at {positions}")
        if each["mirror_group_name"] != each["group_name"]:
            typer.echo(f"  group.id={each['mirror_group_name']}")
    if not dry_run and any(each["error_code"] is None for each in moved):
        typer.echo("Start the consumers with this, and nothing else changed:")
        for address in bootstrap or ["(this gateway has no listener for clients)"]:
            typer.echo(f"  bootstrap.servers={address}")


def _total(view: Mapping[str, Any], name: str) -> int | None:
    values = [p[name] for p in view["partitions"]]
    return None if any(value is None for value in values) else sum(values)


def _follows(view: Mapping[str, Any]) -> str:
    if view["local_reason"] is None:
        return "the source" if view["included"] else "nobody: not in the link's filters"
    since = datetime.fromtimestamp(view["local_since_ms"] / 1000, UTC)
    return f"nobody since {since:%Y-%m-%d %H:%M:%S} UTC: {view['local_reason']}"
