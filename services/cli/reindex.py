"""akin reindex: embed a catalog anew with another encoder."""

from __future__ import annotations

import click

from services.cli.following import follow
from services.cli.target import find_target, target_options
from services.cli.terminal import reporting_errors
from services.config import load_settings


@click.command()
@click.argument("encoder")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Show progress until it is live.")
@target_options
@reporting_errors
def reindex(encoder: str, wait: bool, url: str | None, key: str | None, catalog: str | None) -> None:
    """Embed a catalog anew with ENCODER (name or name@version), beside its live index.

    Searches and uploads go on meanwhile; the new index goes live in one step when it is complete.
    """
    with find_target(load_settings(), url, key, catalog).connect() as client:
        job_id = client.reindex(encoder)
        if not wait:
            click.echo(job_id)
            return
        job = follow(client, job_id, "reindexing")
    if job.state == "failed":
        reason = f"{job.error.detail} [{job.error.code}]" if job.error else "unknown"
        raise click.ClickException(f"the reindex failed: {reason}")
    click.echo(f"{encoder} is live: {job.indexed} pictures, {job.failed} failed")
