"""A bar that follows a job of the server until it is over."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.answers import Job
from services.client import AkinClient


def follow(client: AkinClient, job_id: str, description: str) -> Job:
    """Show on standard error how far a job is; returns it when it is over."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description)
        return client.wait(job_id, lambda job: bar.update(task, completed=job.done, total=job.total))
