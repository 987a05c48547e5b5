"""akin duplicates: find the pictures that a catalog has more than once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import click
from rich.markup import escape
from rich.table import Column, Table

from services.answers import DuplicateCluster, Duplicates
from services.cli.following import follow
from services.cli.target import find_target, target_options
from services.cli.terminal import open_console, reporting_errors
from services.client import AkinClient
from services.config import load_settings

NAMED: Final = 4  # pictures of each cluster that the table names


@click.command()
@click.option(
    "--threshold", type=click.FloatRange(0.5, 1), help="Cosine from which on two count; else the encoder's own."
)
@click.option("--across-items", is_flag=True, help="Leave out clusters whose pictures all belong to one item.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many clusters to show.")
@click.option("--last", is_flag=True, help="Show what was found last, without looking again.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON object.")
@target_options
@reporting_errors
def duplicates(
    *,
    threshold: float | None,
    across_items: bool,
    limit: int,
    last: bool,
    as_json: bool,
    url: str | None,
    key: str | None,
    catalog: str | None,
) -> None:
    """Find the pictures that a catalog has more than once: the same bytes, or near-identical to the live encoder.

    The largest clusters are shown first, and of each its largest pictures. Nothing is deleted.
    """
    if last and threshold is not None:
        raise click.UsageError("--last shows what was found with the threshold of then: leave --threshold out")
    with find_target(load_settings(), url, key, catalog).connect() as client:
        job_id = None if last else _look(client, threshold)
        found = client.duplicates(job_id, across_items=across_items, limit=limit)
    click.echo(json.dumps(found.model_dump(), ensure_ascii=False)) if as_json else _print(found)


def _look(client: AkinClient, threshold: float | None) -> str:
    job = follow(client, client.find_duplicates(threshold), "comparing")
    if job.error is not None:
        raise click.ClickException(f"the search failed: {job.error.detail} [{job.error.code}]")
    if job.state != "finished":
        raise click.ClickException(f"the search was {job.state}")
    return job.id


def _print(found: Duplicates) -> None:
    if found.data:
        table = Table(
            Column("pictures", justify="right"),
            Column("bytes that could go", justify="right"),
            "item #image (score), …",
        )
        for cluster in found.data:
            table.add_row(f"{cluster.count:,}", f"{cluster.wasted_bytes:,}", escape(_names(cluster)))
        open_console().print(table)
    more = found.clusters - len(found.data)
    if more > 0:
        click.echo(f"and {more:,} smaller clusters (--limit)")
    click.echo(f"{found.clusters:,} clusters, {found.count:,} pictures, {found.wasted_bytes:,} bytes could go")


def _names(cluster: DuplicateCluster) -> str:
    named: Sequence[str] = [f"{one.item.item_id} #{one.image.id} ({one.score:.3f})" for one in cluster.images[:NAMED]]
    more = cluster.count - len(named)
    return ", ".join(named) + (f" and {more:,} more" if more else "")
