"""akin keys: list, make and revoke API keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.markup import escape
from rich.table import Table
from sqlalchemy.orm import Session

from services.catalog import catalogs
from services.catalog import keys as catalog_keys
from services.catalog.keys import WIDGET_ATTRIBUTES, Scope
from services.catalog.models import Key
from services.cli.terminal import open_console, reporting_errors
from services.config import load_settings


@click.group()
def keys() -> None:
    """List, make and revoke API keys. Works on the configured database, so it needs no key itself."""


@contextmanager
def _reading() -> Iterator[Session]:
    from services.bootstrap import installed

    with installed(load_settings()) as services, services.database.reading() as session:
        yield session


@contextmanager
def _transaction() -> Iterator[Session]:
    from services.bootstrap import installed

    with installed(load_settings()) as services, services.database.transaction() as session:
        yield session


@keys.command("list")
@reporting_errors
def list_keys() -> None:
    """Show keys that are in force."""
    with _reading() as session:
        rows = catalog_keys.all_of(session)
    table = Table("id", "name", "begins with", "scopes", "made")
    for row in rows:
        begins = row.prefix if row.public is None else _told(row)
        table.add_row(
            str(row.id), escape(row.name), escape(begins), ", ".join(row.scopes), f"{row.created_at:%Y-%m-%d %H:%M}"
        )
    open_console().print(table)


def _told(row: Key) -> str:
    """A publishable key, the sites that it is for and what it shows."""
    origins, attributes = ", ".join(row.origins or ()), ", ".join(row.attributes or ()) or "no attribute"
    return f"{row.public}\nfor {origins}\nshows {attributes}"


@keys.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice([scope.value for scope in Scope if scope is not Scope.WIDGET]),
    multiple=True,
    help="Repeatable.",
)
@click.option("--publishable", is_flag=True, help="A key that may stand in the pages of a shop, for similar items.")
@click.option("--origin", "origins", multiple=True, help="A site whose pages may use it: https://shop.example.")
@click.option(
    "--attribute",
    "attributes",
    multiple=True,
    help="An attribute of items that a publishable key shows, and that its pages may filter by; repeatable.  "
    f"[default: {', '.join(WIDGET_ATTRIBUTES)}]",
)
@click.option("--catalog", help="Bind the key to one catalog; a publishable one is bound to the default unless said.")
@reporting_errors
def create(
    name: str,
    *,
    scopes: tuple[str, ...],
    publishable: bool,
    origins: tuple[str, ...],
    attributes: tuple[str, ...],
    catalog: str | None,
) -> None:
    """Make a key and print it, once; `akin keys list` shows publishable ones again."""
    if publishable != bool(origins) or publishable == bool(scopes):
        raise click.UsageError("give either --scope, or --publishable with at least one --origin")
    if attributes and not publishable:
        raise click.UsageError("--attribute goes with --publishable")
    with _transaction() as session:
        if publishable:
            catalog_id = catalogs.by_name(session, catalog or catalogs.DEFAULT).id
            shown = attributes or WIDGET_ATTRIBUTES
            click.echo(catalog_keys.create_publishable(session, name, catalog_id, origins, shown))
            return
        bound_to = catalogs.by_name(session, catalog).id if catalog else None
        click.echo(catalog_keys.create(session, name, [Scope(scope) for scope in scopes], bound_to))


@keys.command()
@click.argument("key_id", type=int)
@reporting_errors
def revoke(key_id: int) -> None:
    """End the key with this id."""
    with _transaction() as session:
        catalog_keys.revoke(session, key_id)
    click.echo(f"key {key_id} is revoked")
