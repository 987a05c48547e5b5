"""akin search: find pictures that look like one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from services.answers import Hit, SearchResult
from services.cli.target import find_target, target_options
from services.cli.terminal import open_console, reporting_errors
from services.client import AkinClient
from services.config import load_settings
from services.sheet import SheetHit, SheetRow, contact_sheet


@click.command()
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="Hits at most.")
@click.option("--min-score", type=click.FloatRange(-1, 1), help="Leave out hits that score less.")
@click.option("--sheet", type=click.Path(dir_okay=False, path_type=Path), help="Write a PNG of the hits.")
@click.option("--json", "as_json", is_flag=True, help="Print the hits as JSON.")
@target_options
@reporting_errors
def search(
    *,
    image: Path,
    limit: int,
    min_score: float | None,
    sheet: Path | None,
    as_json: bool,
    url: str | None,
    key: str | None,
    catalog: str | None,
) -> None:
    """Find pictures that look like IMAGE."""
    with find_target(load_settings(), url, key, catalog).connect() as client:
        result = client.search(image, limit=limit, min_score=min_score)
        if sheet is not None:
            write_sheet(sheet, [sheet_row(client, image.read_bytes(), image.name, result)])
    if as_json:
        click.echo(json.dumps(result.model_dump(mode="json"), ensure_ascii=False, indent=2))
        return
    console = open_console()
    console.print(hits_table(image.name, result))
    if sheet is not None:
        console.print(f"Contact sheet: {sheet}", soft_wrap=True, highlight=False)


def hits_table(title: str, result: SearchResult) -> Table:
    """Hits as a table for people."""
    found = f"{len(result.hits)} hits in {result.took_ms:.0f} ms, {result.encoder}"
    table = Table(title=escape(title), caption=escape(found), title_justify="left", caption_justify="left")
    table.add_column("#", justify="right", style="dim")
    table.add_column("Score", justify="right")
    table.add_column("Item", overflow="fold")
    table.add_column("Title")
    table.add_column("Price", justify="right")
    table.add_column("Brand")
    for hit in result.hits:
        attributes = hit.item.attributes
        price = " ".join(str(attributes[name]) for name in ("price", "currency") if name in attributes)
        score = f"[bold green]{hit.score:.4f}[/]" if hit.score >= 0.999 else f"{hit.score:.4f}"
        words = (hit.item.item_id, hit.item.title or "", price, str(attributes.get("brand", "")))
        table.add_row(str(hit.rank), score, *map(escape, words))
    return table


def sheet_row(client: AkinClient, query: bytes, label: str, result: SearchResult) -> SheetRow:
    """A contact sheet's row; fetches the hits' thumbnails."""
    return SheetRow(query, label, [SheetHit(client.thumbnail(h.image.id), h.score, hit_label(h)) for h in result.hits])


def hit_label(hit: Hit) -> str:
    """What to call a hit where there is room for a few words."""
    return hit.item.title or hit.item.item_id


def write_sheet(path: Path, rows: Iterable[SheetRow]) -> None:
    """Draw a contact sheet into a PNG file."""
    picture = contact_sheet(list(rows))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, "PNG", optimize=True)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from error
