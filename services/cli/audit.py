"""akin audit: compare database, vectors and stored bytes, and heal what does not agree."""

from __future__ import annotations

import json
import sys

import click
from rich.table import Table

from services.answers import Job
from services.cli.following import follow
from services.cli.target import find_target, target_options
from services.cli.terminal import open_console, reporting_errors
from services.config import load_settings

DISAGREES = 3


@click.command()
@click.option("--repair", is_flag=True, help="Heal what can be healed, instead of only listing it.")
@click.option("--deep", is_flag=True, help="Read every stored picture in full and compare its SHA-256.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Show progress until it is over.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON object.")
@target_options
@reporting_errors
def audit(
    *, repair: bool, deep: bool, wait: bool, as_json: bool, url: str | None, key: str | None, catalog: str | None
) -> None:
    """Compare database, vectors and stored bytes of all catalogs.

    Ends with exit code 3 if something does not agree and was not repaired.
    """
    with find_target(load_settings(), url, key, catalog).connect() as client:
        job_id = client.audit(repair=repair, deep=deep)
        if not wait:
            click.echo(json.dumps({"job": job_id}) if as_json else job_id)
            return
        job = follow(client, job_id, "auditing")
    if job.error is not None and job.state == "failed":
        raise click.ClickException(f"the audit failed: {job.error.detail} [{job.error.code}]")
    click.echo(json.dumps({"job": job.id, "state": job.state, **job.result})) if as_json else _print(job)
    if job.state != "finished":
        sys.exit(DISAGREES)


def _print(job: Job) -> None:
    found, repaired = job.result["found"], job.result["repaired"]
    if found:
        table = Table("kind", "found", "repaired")
        for kind, count in sorted(found.items()):
            table.add_row(kind, f"{count:,}", f"{repaired.get(kind, 0):,}")
        open_console().print(table)
        for error in job.errors:
            click.echo(f"{error.ref}: {error.detail}")
        if sum(found.values()) > len(job.errors):
            click.echo(f"akin jobs errors {job.id} lists more")
    click.echo(job.result["summary"])
