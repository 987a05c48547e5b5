"""Progress on a terminal as bars, in a log as a line every few seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from services.answers import Job
from services.cli.upload import Report
from services.client import AkinClient

LINE_SECONDS: Final = 5.0  # between lines of progress where there is no terminal
NOTICE_SECONDS: Final = 30.0  # between notices that the server asks to wait


class Lines:
    """Lines on a console, no more often than every so many seconds; from any thread."""

    def __init__(self, console: Console, seconds: float = LINE_SECONDS) -> None:
        self._console = console
        self._seconds = seconds
        self._next = 0.0
        self._lock = threading.Lock()

    def say(self, line: str) -> None:
        """Print it, if it is time for a line."""
        with self._lock:
            if time.monotonic() < self._next:
                return
            self._next = time.monotonic() + self._seconds
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)


def say_waiting(client: AkinClient, console: Console) -> None:
    """Have a client wait as long as the server asks, and say so."""
    lines = Lines(console, NOTICE_SECONDS)
    client.wait_out(lambda why, seconds: lines.say(f"the server asks to wait ({seconds:.0f} s): {why.detail}"))


def pace(done: int, total: int | None, rate: float, failed: int) -> str:
    """Rate, time left and failures in words; without a total there is no time left."""
    words = [f"{rate:,.0f}/s"]
    if rate > 0 and total is not None:
        left = max(0, total - done) / rate
        words.append(f"{left:.0f} s left" if left < 120 else f"{left / 60:.0f} min left")
    if failed:
        words.append(f"{failed:,} failed")
    return " · ".join(words)


@contextmanager
def sending(console: Console, file: Path) -> Iterator[Callable[[int], None]]:
    """Show how much of a file is uploaded; gives what takes the bytes sent so far."""
    size = file.stat().st_size
    if not console.is_terminal:
        lines = Lines(console)
        yield lambda sent: lines.say(f"uploaded {sent / 1e6:,.1f} of {size / 1e6:,.1f} MB")
        return
    columns = (TextColumn("uploaded"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=size)
        yield lambda sent: progress.update(task, completed=sent)


def job_line(job: Job) -> str:
    """How far a job is, in words."""
    total = job.total if job.listed else None
    of = f"/{job.total:,}" if job.listed else f" of {job.total:,} found so far"
    return f"{job.done:,}{of} · {pace(job.done, total, job.rate or 0.0, job.failed)}"


@contextmanager
def uploading(console: Console) -> Iterator[Callable[[Report], None]]:
    """Show how far an upload of pictures is; gives what takes its report."""
    if not console.is_terminal:
        lines = Lines(console)
        yield lambda report: lines.say(_upload_line(report))
        return
    columns = (
        TextColumn("{task.description:>8}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        uploaded = progress.add_task("uploaded", total=0, note="")
        settled = progress.add_task("indexed", total=0, note="")

        def show(report: Report) -> None:
            progress.update(uploaded, completed=report.uploaded, total=report.expected)
            progress.update(settled, completed=report.settled, total=report.expected, note=_pace(report))

        yield show


def _upload_line(report: Report) -> str:
    searchable = report.indexed + report.unchanged
    return f"uploaded {report.uploaded:,}/{report.expected:,} · indexed {searchable:,} · {_pace(report)}"


def _pace(report: Report) -> str:
    return pace(report.settled, report.expected, report.rate, len(report.failures))
