"""A bar that follows a job of the server until it is over."""

from __future__ import annotations

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from services.answers import Job
from services.cli.display import Lines, job_line
from services.client import AkinClient


def follow(client: AkinClient, job_id: str, description: str) -> Job:
    """Show on standard error how far a job is; returns it when it is over.

    Raises:
        ClickException: somebody pressed Ctrl-C; the job goes on without being watched.
    """
    console = Console(stderr=True)
    try:
        if not console.is_terminal:
            lines = Lines(console)
            return client.wait(job_id, lambda job: lines.say(f"{description}: {job_line(job)}"))
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(description, total=None, note="")

            def show(job: Job) -> None:
                # Until it is known how much there is, the bar runs to and fro.
                bar.update(task, completed=job.done, total=job.total if job.listed else None, note=job_line(job))

            return client.wait(job_id, show)
    except KeyboardInterrupt:
        raise click.ClickException(f"the job goes on: akin jobs show {job_id} --wait") from None
