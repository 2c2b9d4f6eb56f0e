"""`causeway link`: the halves of cluster links."""

import sys
from typing import Annotated, Any, Final

import typer

from gateway.cli import link_configs
from gateway.cli.client import Client, CommandError, connected
from gateway.cli.link_configs import configs_of, hidden, read_configs, show_configs, warn_of_no_effect
from gateway.cli.output import Output, OutputOption, show_fields, show_json, show_table

app = typer.Typer(no_args_is_help=True, help="Cluster links.")
app.add_typer(link_configs.app, name="configuration")

_BOOTSTRAP: Final = "bootstrap.servers"
_PAUSED: Final = "cluster.link.paused"

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
    configs = read_configs(config)
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
        typer.echo(f'"{key}"="{hidden(key, configs[key])}"')
    if not dry_run:
        warn_of_no_effect(client, name, configs)


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
    configs = configs_of(client, name)
    if output is Output.JSON:
        show_json({**link, "configs": configs})
        return
    show_fields([*zip(_COLUMNS, _row(link), strict=True), ("Topics", ", ".join(link["topic_names"]))])
    show_table(("Task Name", "State", "Errors"), map(_task_row, link["tasks"] or []))
    show_configs([each for each in configs if not each["is_default"]])


@app.command("pause")
@connected
def pause(client: Client, name: Name) -> None:
    """Stop all of a link's work for a while: mirror topics, and what follows them."""
    _set_paused(client, name, value="true")


@app.command("resume")
@connected
def resume(client: Client, name: Name) -> None:
    """Have a paused link work again."""
    _set_paused(client, name, value="false")


def _set_paused(client: Client, name: str, *, value: str) -> None:
    client.cluster("PUT", "links", name, "configs", _PAUSED, body={"value": value})
    typer.echo(f'{"Paused" if value == "true" else "Resumed"} cluster link "{name}".')
    warn_of_no_effect(client, name, {_PAUSED: value})


@app.command("delete")
@connected
def delete(
    client: Client,
    name: Name,
    *,
    force: Annotated[bool, typer.Option("--force", help="Even if mirror topics are not stopped.")] = False,
    drop_acls: Annotated[
        bool | None,
        typer.Option(
            "--drop-acls/--keep-acls",
            help="Whether the ACLs that the link has brought go with it; kept, they are the administrator's.",
            show_default="asked for on a terminal, else --keep-acls",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only.")] = False,
) -> None:
    """Delete a half of a link; mirror topics stay."""
    if drop_acls is None:
        drop_acls = not dry_run and _asked_to_drop_acls(client, name)
    query = {"force": force, "validate_only": dry_run, "drop_acls": drop_acls}
    client.cluster("DELETE", "links", name, query=query)
    typer.echo(f'{"Could delete" if dry_run else "Deleted"} cluster link "{name}".')


def _asked_to_drop_acls(client: Client, name: str) -> bool:
    if not sys.stdin.isatty():
        return False
    configs = client.cluster("GET", "links", name, "configs")["data"]
    if not any(each["name"] == "acl.sync.enable" and each["value"] == "true" for each in configs):
        return False
    owned = [each for each in client.cluster("GET", "acls")["data"] if f"link {name}" in each["owners"]]
    return bool(owned) and typer.confirm(
        f"The link has brought {len(owned)} ACLs. Delete them too? Kept, they are the administrator's.",
        default=False,
        err=True,
    )


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
