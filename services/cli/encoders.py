"""akin encoders: list and register encoders."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from services.catalog import encoders as catalog_encoders
from services.cli.terminal import reporting_errors
from services.config import load_settings
from services.wiring import build


@click.group()
def encoders() -> None:
    """List and register encoders. Works on the configured database, whether or not Akin runs."""


@encoders.command("list")
@reporting_errors
def list_encoders() -> None:
    """Show registered encoders."""
    from services.bootstrap import install

    services = build(load_settings())
    install(services)
    with services.database.reading() as session:
        rows = catalog_encoders.all_of(session)
    table = Table("encoder", "dimension", "SHA-256", "registered")
    for row in rows:
        table.add_row(row.ref, str(row.dimension), row.sha256[:12], f"{row.created_at:%Y-%m-%d %H:%M}")
    Console().print(table)


@encoders.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@reporting_errors
def register(folder: Path) -> None:
    """Make the encoder in FOLDER (manifest.json, weights.safetensors) available to `akin reindex`."""
    register_folder(folder)


def register_folder(folder: Path) -> None:
    """Register a checkpoint folder and say what can be done with it."""
    from services.bootstrap import install
    from services.encoders import checkpoint

    read = checkpoint.read(folder)
    services = build(load_settings())
    install(services)
    services.encoders.register(read)
    click.echo(f"{read.manifest.ref} is registered; `akin reindex {read.manifest.ref}` embeds a catalog with it")
