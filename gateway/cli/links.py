"""`causeway link`: the halves of cluster links."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from gateway.cli.client import Client, CommandError, connected
from gateway.cli.output import Output, OutputOption, show_fields, show_json, show_table
from gateway.links.configs import is_sensitive
from gateway.links.properties import PropertiesError, parse_properties

app = typer.Typer(no_args_is_help=True, help="Cluster links.")

_HIDDEN: Final = "[hidden]"
_BOOTSTRAP: Final = "bootstrap.servers"

Name = Annotated[str, typer.Argument(metavar="LINK", help="Name of the link, the same on both sides.")]


@app.command("create")
@connected
def create(
    client: Client,
    name: Name,
    source_cluster: Annotated[
        str | None, typer.Option(help="Id of the source: this is its destination.")
    ] = None,
    destination_cluster: Annotated[
        str | None, typer.Option(help="Id of the destination: this is its source.")
    ] = None,
    source_bootstrap_server: Annotated[str | None, typer.Option(help="Where to dial the source.")] = None,
    destination_bootstrap_server: Annotated[
        str | None, typer.Option(help="Where to dial the destination.")
    ] = None,
    config: Annotated[str, typer.Option(help="Properties file with the link's configs, or k=v,k=v.")] = "",
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only.")] = False,
    no_validate: Annotated[
        bool, typer.Option("--no-validate", help="Do not contact the other side.")
    ] = False,
) -> None:
    """Create a half of a link."""
    if (source_cluster is None) == (destination_cluster is None):
        raise CommandError("one of --source-cluster and --destination-cluster is needed")
    configs = _read_configs(config)
    for bootstrap in (source_bootstrap_server, destination_bootstrap_server):
        if bootstrap is not None:
            configs[_BOOTSTRAP] = bootstrap
    if destination_cluster is not None:
        configs.setdefault("link.mode", "SOURCE")
    client.cluster(
        "POST",
        "links",
        query={"link_name": name, "validate_only": dry_run, "validate_link": not no_validate},
        body={
            "source_cluster_id": source_cluster,
            "destination_cluster_id": destination_cluster,
            "configs": [{"name": key, "value": value} for key, value in configs.items()],
        },
    )
    done = "Could create" if dry_run else "Created"
    typer.echo(f'{done} cluster link "{name}"' + (" with configs:" if configs else "."))
    for key in sorted(configs):
        typer.echo(f'"{key}"="{_HIDDEN if is_sensitive(key) else configs[key]}"')


@app.command("list")
@connected
def list_(client: Client, output: OutputOption = Output.HUMAN) -> None:
    """Show all links."""
    links = client.cluster("GET", "links")["data"]
    if output is Output.JSON:
        show_json(links)
        return
    show_table(_COLUMNS, map(_row, links))


@app.command("describe")
@connected
def describe(client: Client, name: Name, output: OutputOption = Output.HUMAN) -> None:
    """Show a link with its tasks and configs."""
    link = client.cluster("GET", "links", name, query={"include_tasks": True})
    configs = client.cluster("GET", "links", name, "configs")["data"]
    if output is Output.JSON:
        show_json({**link, "configs": configs})
        return
    show_fields([*zip(_COLUMNS, _row(link), strict=True), ("Topics", ", ".join(link["topic_names"]))])
    show_table(("Task Name", "State", "Errors"), map(_task_row, link["tasks"] or []))
    show_table(
        ("Config Name", "Config Value", "Read-Only", "Sensitive", "Source"),
        (
            (
                each["name"],
                _HIDDEN if each["is_sensitive"] and not each["is_default"] else each["value"],
                each["is_read_only"],
                each["is_sensitive"],
                each["source"],
            )
            for each in configs
            if not each["is_default"]
        ),
    )


@app.command("delete")
@connected
def delete(
    client: Client,
    name: Name,
    *,
    force: Annotated[bool, typer.Option("--force", help="Even if mirror topics are not stopped.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only.")] = False,
) -> None:
    """Delete a half of a link; mirror topics stay."""
    client.cluster("DELETE", "links", name, query={"force": force, "validate_only": dry_run})
    typer.echo(f'{"Could delete" if dry_run else "Deleted"} cluster link "{name}".')


_COLUMNS: Final = (
    "Name",
    "ID",
    "Source Cluster",
    "Destination Cluster",
    "Remote Cluster",
    "State",
    "Error",
    "Error Message",
)


def _row(link: dict[str, Any]) -> tuple[object, ...]:
    return (
        link["link_name"],
        link["cluster_link_id"],
        link["source_cluster_id"],
        link["destination_cluster_id"],
        link["remote_cluster_id"],
        link["link_state"],
        link["link_error"],
        link["link_error_message"],
    )


def _task_row(task: dict[str, Any]) -> tuple[object, ...]:
    errors = ", ".join(f'{each["error_code"]}: "{each["error_message"]}"' for each in task["errors"])
    return task["task_name"], task["state"], errors


def _read_configs(text: str) -> dict[str, str]:
    if not text:
        return {}
    path = Path(text)
    if "=" in text and not path.exists():
        return dict(parse_pair(pair) for pair in text.split(","))
    try:
        return parse_properties(path.read_text())
    except (OSError, UnicodeDecodeError, PropertiesError) as error:
        raise CommandError(f"cannot read {path}: {error}") from error


def parse_pair(text: str) -> tuple[str, str]:
    """Key and value of `key=value`. CommandError."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise CommandError("a config has the form key=value")
    return key.strip(), value
