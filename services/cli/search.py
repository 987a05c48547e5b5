"""akin search: find pictures that look like one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import click
from rich.markup import escape
from rich.table import Table

from services.answers import Explanation, Hit, SearchResult
from services.cli.search_terms import crop_of_picture, json_object, label, weighted
from services.cli.target import find_target, target_options
from services.cli.terminal import open_console, reporting_errors
from services.client import AkinClient
from services.config import load_settings
from services.queries import Crop, Part, Wanted
from services.sheet import SheetHit, SheetRow, contact_sheet


@click.command()
@click.argument("images", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--picture-url", "urls", multiple=True, help="Search with the picture at this address.")
@click.option("--item", "item_ids", multiple=True, help="Search with the pictures of this item.")
@click.option("--image-id", "image_ids", type=click.IntRange(min=1), multiple=True, help="Search with this picture.")
@click.option("--text", "texts", multiple=True, help="Search with words, where the encoder embeds them.")
@click.option(
    "--weight",
    "weights",
    type=click.FloatRange(-10, 10),
    multiple=True,
    help="How much each counts, below 0 to find what is unlike it: given once for each, in the order of IMAGES, "
    "--picture-url, --item, --image-id, --text. Those left out count 1.",
)
@click.option(
    "--crop",
    metavar="X,Y,WIDTH,HEIGHT",
    callback=crop_of_picture,
    help="Search with this part of the one picture, in shares of its sides.",
)
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="Hits at most.")
@click.option("--min-score", type=click.FloatRange(-1, 1), help="Leave out hits that score less.")
@click.option(
    "--filter",
    "filter_",
    metavar="JSON",
    callback=json_object,
    help='Only such items: {"field": "brand", "eq": "Acme"}.',
)
@click.option("--every-picture", is_flag=True, help="Every picture of an item instead of its best.")
@click.option("--collapse", type=click.Choice(["none", "identical", "near"]), help="Which pictures count as one.")
@click.option("--diversity", type=click.FloatRange(0, 1), help="How much hits are to be unlike those before.")
@click.option("--explain", is_flag=True, help="Say how the answer came about.")
@click.option("--sheet", type=click.Path(dir_okay=False, path_type=Path), help="Write a PNG of the hits.")
@click.option("--json", "as_json", is_flag=True, help="Print the hits as JSON.")
@target_options
@reporting_errors
def search(
    *,
    images: tuple[Path, ...],
    urls: tuple[str, ...],
    item_ids: tuple[str, ...],
    image_ids: tuple[int, ...],
    texts: tuple[str, ...],
    weights: tuple[float, ...],
    crop: Crop | None,
    limit: int,
    min_score: float | None,
    filter_: dict[str, Any] | None,
    every_picture: bool,
    collapse: Literal["none", "identical", "near"] | None,
    diversity: float | None,
    explain: bool,
    sheet: Path | None,
    as_json: bool,
    url: str | None,
    key: str | None,
    catalog: str | None,
) -> None:
    """Find pictures that look like IMAGES, or like what the options name; several are searched with together."""
    parts = [
        *(Part(image=image) for image in images),
        *(Part(url=address) for address in urls),
        *(Part(item_id=item_id) for item_id in item_ids),
        *(Part(image_id=image_id) for image_id in image_ids),
        *(Part(text=text) for text in texts),
    ]
    query = weighted(parts, weights, crop)
    if sheet is not None and len(images) != 1:
        raise click.UsageError("--sheet shows one picture file and its hits")
    wanted: Wanted = {"limit": limit, "group": not every_picture, "explain": explain}
    if min_score is not None:
        wanted["min_score"] = min_score
    if filter_ is not None:
        wanted["filter"] = filter_
    if collapse is not None:
        wanted["collapse"] = collapse
    if diversity is not None:
        wanted["diversity"] = diversity
    with find_target(load_settings(), url, key, catalog).connect() as client:
        result = client.search(images[0] if query == [Part(image=path) for path in images[:1]] else query, **wanted)
        if sheet is not None:
            write_sheet(sheet, [sheet_row(client, images[0].read_bytes(), images[0].name, result)])
    if as_json:
        click.echo(json.dumps(result.model_dump(mode="json"), ensure_ascii=False, indent=2))
        return
    console = open_console()
    console.print(hits_table(" + ".join(map(label, query)), result))
    if result.explain is not None:
        console.print(_explained(result.explain), soft_wrap=True, highlight=False)
    if sheet is not None:
        console.print(f"Contact sheet: {sheet}", soft_wrap=True, highlight=False)


def _explained(explanation: Explanation) -> str:
    stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in explanation.timings_ms.items())
    lines = [
        f"milliseconds: {stages}",
        f"{explanation.candidates} candidates of {explanation.collection}, filtered by {explanation.filtered_by}",
        *([f"no regions: {explanation.no_regions}"] if explanation.no_regions else []),
    ]
    return "\n".join(lines)


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
    called = any(hit.likeness for hit in result.hits)
    if called:
        table.add_column("Likeness")
    for hit in result.hits:
        attributes = hit.item.attributes
        price = " ".join(str(attributes[name]) for name in ("price", "currency") if name in attributes)
        score = f"[bold green]{hit.score:.4f}[/]" if hit.score >= 0.999 else f"{hit.score:.4f}"
        words = [hit.item.item_id, hit.item.title or "", price, str(attributes.get("brand", ""))]
        if called:
            words.append(f"{hit.likeness.kind} {hit.likeness.probability:.0%}" if hit.likeness else "")
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
