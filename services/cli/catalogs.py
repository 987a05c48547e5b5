"""akin catalogs: list, create and delete separate sets of items."""

from __future__ import annotations

import click
from rich.markup import escape
from rich.table import Table

from services.cli.delete import conclude, confirm
from services.cli.target import find_target, target_options
from services.cli.terminal import open_console, reporting_errors
from services.client import AkinClient
from services.config import load_settings
from services.errors import NotFound


@click.group()
def catalogs() -> None:
    """List, create and delete catalogs: separate sets of items."""


@catalogs.command("list")
@target_options
@reporting_errors
def list_catalogs(url: str | None, key: str | None, catalog: str | None) -> None:
    """Show the catalogs that the key may use."""
    with _connect(url, key, catalog) as client:
        found = client.catalogs()
    table = Table("catalog", "items", "pictures", "encoder", "made")
    for row in found:
        size = f"{row.items:,}", f"{row.images:,}"
        table.add_row(escape(row.name), *size, escape(row.live_index.encoder), row.created_at[:16])
    open_console().print(table)


@catalogs.command()
@click.argument("name")
@click.option("--encoder", help="NAME or NAME@VERSION of a registered encoder; the server's default unless given.")
@target_options
@reporting_errors
def create(name: str, encoder: str | None, url: str | None, key: str | None, catalog: str | None) -> None:
    """Make an empty catalog."""
    with _connect(url, key, catalog) as client:
        made = client.create_catalog(name, encoder)
    click.echo(f"{made.name} is there, embedded with {made.live_index.encoder}")


@catalogs.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Delete without asking.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Show progress until it is over.")
@target_options
@reporting_errors
def delete(*, name: str, yes: bool, wait: bool, url: str | None, key: str | None, catalog: str | None) -> None:
    """Delete a catalog with all it holds, and its keys."""
    with _connect(url, key, catalog) as client:
        found = next((row for row in client.catalogs() if row.name == name), None)
        if found is None:
            raise NotFound(f"there is no catalog {name}")
        holds = f"{found.items:,} items and {found.images:,} pictures"
        click.echo(f"{name} holds {holds}")
        confirm(f"Delete the catalog {name} with {holds}, and its keys?", yes=yes)
        conclude(client, client.delete_catalog(name), wait=wait)


@catalogs.command("webhook-secret")
@click.argument("name", default="")
@target_options
@reporting_errors
def webhook_secret(name: str, url: str | None, key: str | None, catalog: str | None) -> None:
    """Print what receivers check signatures of a catalog's webhooks with.

    NAME is a catalog; that of the key, or the default one, unless given.
    """
    with _connect(url, key, name or catalog) as client:
        click.echo(client.webhook_secret())


def _connect(url: str | None, key: str | None, catalog: str | None) -> AkinClient:
    return find_target(load_settings(), url, key, catalog).connect()
