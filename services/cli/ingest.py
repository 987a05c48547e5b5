"""akin ingest: upload folders and zip files of pictures and follow them until they can be searched."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from services.cli.journal import Journal
from services.cli.pictures import Source
from services.cli.target import Target, find_target, target_options
from services.cli.terminal import open_console, reporting_errors
from services.cli.upload import Ingest, Report
from services.client import AkinClient
from services.config import Settings, load_settings

SOME_FAILED: Final = 3  # exit code
LINE_SECONDS: Final = 5.0  # between lines of progress where there is no terminal
EXAMPLES: Final = 3  # failures shown for each reason


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--no-resume", is_flag=True, help="Upload everything, also what an interrupted run had uploaded.")
@click.option("--report", "report_file", type=click.Path(dir_okay=False, path_type=Path), help="Write a JSON report.")
@target_options
@reporting_errors
def ingest(
    *,
    paths: Sequence[Path],
    no_resume: bool,
    report_file: Path | None,
    url: str | None,
    key: str | None,
    catalog: str | None,
) -> None:
    """Upload the pictures of folders and zip files (PATHS), and wait until they can be searched.

    An items.jsonl in or beside a folder or zip file says which item a picture belongs to: lines of
    {"file", "item_id", "title", "url", "attributes"}. Without one, a picture's item is its file name.
    Exit code 0: everything is indexed; 3: some pictures failed, and are listed; 1: it could not be done.
    """
    console = open_console()
    settings = load_settings()
    target = find_target(settings, url, key, catalog)
    reports: dict[str, Report] = {}
    with target.connect() as client:
        for path in dict.fromkeys(paths):
            try:
                reports[str(path)] = ingest_path(console, client, target, path, settings, resume=not no_resume)
            except KeyboardInterrupt:
                raise click.ClickException("interrupted: run the same command again to go on from here") from None
            print_summary(console, path, reports[str(path)])
    if report_file is not None:
        write_report(report_file, reports)
    if any(report.failures for report in reports.values()):
        sys.exit(SOME_FAILED)


def ingest_path(
    console: Console, client: AkinClient, target: Target, path: Path, settings: Settings, *, resume: bool
) -> Report:
    """Upload one folder or zip file with a display of progress.

    Raises:
        AkinError: it cannot be read, or the server cannot be reached or refuses the key.
    """
    source = Source(path)
    journal = Journal(target.journal_dir, target.name, path)
    if not resume:
        journal.forget()
    with _display(console) as display:
        return Ingest(client, source, journal, settings.max_image_bytes, display.show).run()


def print_summary(console: Console, path: Path, report: Report) -> None:
    """Say where every picture ended, and why those that failed did."""
    speed = f"{report.found:,} pictures in {report.seconds:.1f} s, {report.rate:.1f} per second"
    lines = [f"[bold]{escape(str(path))}[/]: {speed}"]
    if report.resumed:
        lines.append(f"  {report.resumed:,} were uploaded by an earlier run")
    if report.described:
        lines.append(f"  {report.described:,} are described by items.jsonl")
    counts = {
        "indexed": report.indexed,
        "unchanged": report.unchanged,
        "failed": report.failed,
        "refused": report.refused,
        "unreadable": report.unreadable,
    }
    lines.append("  " + " + ".join(f"{n:,} {name}" for name, n in counts.items() if n or name == "indexed"))
    if report.skipped:
        kinds = ", ".join(f"{escape(kind)} {count:,}" for kind, count in report.skipped.most_common(12))
        lines.append(f"  not pictures, skipped: {report.skipped.total():,} ({kinds})")
    if not report.adds_up:
        lines.append("  [bold red]these numbers do not add up: the server lost or doubled pictures[/]")
    for code, count in Counter(failure.code for failure in report.failures).most_common():
        lines.append(f"  [red]{count:,} × {escape(code)}[/]")
        examples = [failure for failure in report.failures if failure.code == code][:EXAMPLES]
        lines.extend(f"      {escape(failure.ref)}: {escape(failure.detail)}" for failure in examples)
        if count > EXAMPLES:
            lines.append(f"      and {count - EXAMPLES:,} more in the report (--report FILE)")
    console.print("\n".join(lines), soft_wrap=True, highlight=False)


def write_report(path: Path, reports: Mapping[str, Report]) -> None:
    """Write a JSON document with the counts and every failure of each source."""
    document = {"sources": {source: report.as_json() for source, report in reports.items()}}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from error


def _display(console: Console) -> _Bars | _Lines:
    return _Bars(console) if console.is_terminal else _Lines(console)


def _pace(report: Report) -> str:
    """Rate, time left and failures in words."""
    words = [f"{report.rate:.0f}/s"]
    if report.rate > 0:
        left = max(0, report.expected - report.settled) / report.rate
        words.append(f"{left:.0f} s left" if left < 120 else f"{left / 60:.0f} min left")
    if report.failures:
        words.append(f"{len(report.failures):,} failed")
    return " · ".join(words)


class _Bars:
    """Two progress bars: uploaded and settled."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:>8}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._uploaded: TaskID = self._progress.add_task("uploaded", total=0, note="")
        self._settled: TaskID = self._progress.add_task("indexed", total=0, note="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def show(self, report: Report) -> None:
        uploaded = report.accepted + report.refused + report.unreadable
        self._progress.update(self._uploaded, completed=uploaded, total=report.expected)
        self._progress.update(self._settled, completed=report.settled, total=report.expected, note=_pace(report))


class _Lines:
    """A line every few seconds, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return

    def show(self, report: Report) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LINE_SECONDS
        uploaded = report.accepted + report.refused + report.unreadable
        searchable = report.indexed + report.unchanged
        line = f"uploaded {uploaded:,}/{report.expected:,} · indexed {searchable:,} · {_pace(report)}"
        self._console.print(line, soft_wrap=True, highlight=False)
