"""akin jobs: look at imports, deletions, reindexes and audits, cancel and retry them."""

from __future__ import annotations

import json

import click
from rich.markup import escape
from rich.table import Column, Table

from services.answers import Job
from services.cli.describing import describe, source_of
from services.cli.following import follow
from services.cli.target import find_target, target_options
from services.cli.terminal import open_console, reporting_errors
from services.client import AkinClient
from services.config import load_settings


@click.group()
def jobs() -> None:
    """Look at imports, deletions, reindexes and audits, cancel and retry them."""


@jobs.command("list")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="How many, newest first.")
@target_options
@reporting_errors
def list_jobs(limit: int, url: str | None, key: str | None, catalog: str | None) -> None:
    """Show the latest jobs."""
    with _connect(url, key, catalog) as client:
        found = client.jobs(limit)
    table = Table(Column("job", no_wrap=True), "kind", Column("of", no_wrap=True), "state", "done", "failed", "begun")
    for job in found:
        done = f"{job.done:,} of {job.total:,}{'' if job.listed else ' so far'}"
        source = escape(source_of(job))
        table.add_row(job.id, job.kind, source, job.state, done, f"{job.failed:,}", job.created_at[:16])
    open_console().print(table)


@jobs.command()
@click.argument("job_id")
@click.option("--wait", is_flag=True, help="Show progress until it is over.")
@target_options
@reporting_errors
def show(job_id: str, wait: bool, url: str | None, key: str | None, catalog: str | None) -> None:
    """Show one job: what of, how far, how fast, the reasons of its failures, and who is told of its end."""
    with _connect(url, key, catalog) as client:
        _print(follow(client, job_id, job_id[:8]) if wait else client.job(job_id))


@jobs.command()
@click.argument("job_id")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: ref, code, detail.")
@target_options
@reporting_errors
def errors(job_id: str, as_json: bool, url: str | None, key: str | None, catalog: str | None) -> None:
    """List everything that failed in a job."""
    with _connect(url, key, catalog) as client:
        for error in client.job_errors(job_id):
            line = json.dumps(error.model_dump(), ensure_ascii=False) if as_json else f"{error.ref}: {error.detail}"
            click.echo(line)


@jobs.command()
@click.argument("job_id")
@target_options
@reporting_errors
def cancel(job_id: str, url: str | None, key: str | None, catalog: str | None) -> None:
    """Stop an import or a deletion.

    What was accepted before stays, and becomes searchable; what was deleted is deleted.
    """
    with _connect(url, key, catalog) as client:
        _print(client.cancel_job(job_id))


@jobs.command()
@click.argument("job_id")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Show progress until it is over.")
@target_options
@reporting_errors
def retry(job_id: str, wait: bool, url: str | None, key: str | None, catalog: str | None) -> None:
    """Give what failed in an import another try, and only that."""
    with _connect(url, key, catalog) as client:
        job = client.retry_job(job_id)
        _print(follow(client, job_id, job_id[:8]) if wait else job)


def _connect(url: str | None, key: str | None, catalog: str | None) -> AkinClient:
    return find_target(load_settings(), url, key, catalog).connect()


def _print(job: Job) -> None:
    for line in describe(job):
        click.echo(line)
