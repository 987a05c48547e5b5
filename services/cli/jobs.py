"""akin jobs: look at imports and other jobs, cancel and retry them."""

from __future__ import annotations

import json

import click
from rich.table import Table

from services.answers import Job
from services.cli.following import follow
from services.cli.target import find_target, target_options
from services.cli.terminal import open_console, reporting_errors
from services.client import AkinClient
from services.config import load_settings


@click.group()
def jobs() -> None:
    """Look at imports and other jobs, cancel and retry them."""


@jobs.command("list")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="How many, newest first.")
@target_options
@reporting_errors
def list_jobs(limit: int, url: str | None, key: str | None, catalog: str | None) -> None:
    """Show the latest jobs."""
    with _connect(url, key, catalog) as client:
        found = client.jobs(limit)
    table = Table("job", "kind", "state", "done", "failed", "begun")
    for job in found:
        table.add_row(
            job.id, job.kind, job.state, f"{job.done:,} of {job.total:,}", f"{job.failed:,}", job.created_at[:19]
        )
    open_console().print(table)


@jobs.command()
@click.argument("job_id")
@click.option("--wait", is_flag=True, help="Show progress until it is over.")
@target_options
@reporting_errors
def show(job_id: str, wait: bool, url: str | None, key: str | None, catalog: str | None) -> None:
    """Show one job, with the reasons of its failures."""
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
    """Stop an import. What was accepted before stays, and becomes searchable."""
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
    counts = {
        "searchable": job.indexed,
        "unchanged": job.unchanged,
        "failed": job.failed,
        "left out": job.cancelled,
        "on their way": job.total - job.done,
    }
    said = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    click.echo(f"{job.kind} {job.id}: {job.state.replace('_', ' ')}, {job.total:,} in all{': ' if said else ''}{said}")
    if job.error is not None:
        click.echo(f"  {job.error.detail} [{job.error.code}]")
    for code, count in job.failed_by_code.items():
        click.echo(f"  {count:,} × {code}")
    if job.failed_by_code:
        click.echo(f"  akin jobs errors {job.id} lists them")
