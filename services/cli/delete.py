"""akin delete: delete items with their pictures, by their ids or by what they are."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from services.cli.describing import describe
from services.cli.following import follow
from services.cli.target import find_target, target_options
from services.cli.terminal import reporting_errors
from services.client import AkinClient
from services.config import load_settings


@click.command()
@click.option("--item", "item_ids", metavar="ID", multiple=True, help="Id of an item. Repeatable.")
@click.option("--filter", "condition", metavar="JSON", help='Such as \'{"field": "price", "lt": 5}\'.')
@click.option("--dry-run", is_flag=True, help="Only say how many items there are.")
@click.option("--yes", is_flag=True, help="Delete without asking.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Show progress until it is over.")
@target_options
@reporting_errors
def delete(
    *,
    item_ids: Sequence[str],
    condition: str | None,
    dry_run: bool,
    yes: bool,
    wait: bool,
    url: str | None,
    key: str | None,
    catalog: str | None,
) -> None:
    """Delete items with their pictures: those of ids, or those that a filter finds.

    How many there are is said first. A filter is {"field": NAME, "eq": VALUE}, where NAME is an attribute or one of
    item_id, title, url, created_at and updated_at, and instead of eq there may be in, gt, gte, lt, lte or exists;
    filters are joined by {"and": [...]}, {"or": [...]} and {"not": ...}.
    """
    chosen = _chosen(item_ids, condition)
    with find_target(load_settings(), url, key, catalog).connect() as client:
        matched = client.delete_items(chosen, dry_run=True).matched
        missing = len(set(item_ids)) - matched if item_ids else 0
        click.echo(f"{matched:,} items{f'; {missing:,} ids are not there' if missing else ''}")
        if dry_run or not matched:
            return
        confirm(f"Delete {matched:,} items with their pictures?", yes=yes)
        job_id = client.delete_items(chosen).job_id
        if job_id is not None:
            conclude(client, job_id, wait=wait)


def conclude(client: AkinClient, job_id: str, *, wait: bool) -> None:
    """Follow a deletion to its end and say what became of it, or only which job it is."""
    if not wait:
        click.echo(job_id)
        return
    job = follow(client, job_id, "deleting")
    for line in describe(job):
        click.echo(line)
    if job.state == "failed":
        sys.exit(1)


def confirm(question: str, *, yes: bool) -> None:
    """Go on if somebody at the terminal says so, or has said so by --yes.

    Raises:
        ClickException: nobody can be asked.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.ClickException("nobody can be asked here: give --yes to go on without")
    click.confirm(question, abort=True)


def _chosen(item_ids: Sequence[str], condition: str | None) -> Mapping[str, Any]:
    if bool(item_ids) == (condition is not None):
        raise click.UsageError("give either --item, once or more often, or --filter")
    if condition is None:
        return {"item_ids": list(dict.fromkeys(item_ids))}
    try:
        parsed = json.loads(condition)
    except ValueError as error:
        raise click.BadParameter(f"is not JSON: {error}", param_hint="--filter") from error
    if not isinstance(parsed, dict):
        raise click.BadParameter("must be a JSON object", param_hint="--filter")
    return {"filter": parsed}
