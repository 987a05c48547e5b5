"""What became of the sources of an ingest: for people on the console, for programs as a JSON report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.markup import escape

from services.cli.describing import failure_lines, removed
from services.cli.importing import COUNTED, Imported
from services.cli.preview import Preview
from services.cli.upload import Report

IN_REPORT: Final = "the report (--report FILE)"


def print_summary(console: Console, source: Path | str, report: Report) -> None:
    """Say where every picture ended, and why those that failed did."""
    speed = f"{report.found:,} pictures in {report.seconds:.1f} s, {report.rate:.1f} per second"
    lines = [f"[bold]{escape(str(source))}[/]: {speed}"]
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
        "uploaded": report.waiting,
    }
    lines.append(_sum(counts))
    lines += _skipped(report.skipped)
    if not report.adds_up:
        lines.append("  [bold red]these numbers do not add up: the server lost or doubled pictures[/]")
    lines += failure_lines(Counter(failure.code for failure in report.failures), report.failures, IN_REPORT)
    _print(console, lines)


def print_imported(console: Console, source: str, imported: Imported) -> None:
    """Say what became of an import that the server read by itself."""
    states = ", ".join(sorted({job.state.replace("_", " ") for job in imported.jobs}))
    found = f"{imported.found:,} found" if all(job.listed for job in imported.jobs) else "not listed yet"
    lines = [f"[bold]{escape(source)}[/]: {states or 'nothing sent'}, {found}, {imported.seconds:.1f} s"]
    counts = {name: imported.count(name) for name in COUNTED}
    lines.append(_sum({**counts, "unreadable": imported.unreadable, "on their way": imported.waiting}))
    for job in imported.jobs:
        lines += removed(job.result)
        if job.error is not None:
            lines.append(f"  [red]{escape(job.error.detail)} \\[{escape(job.error.code)}][/]")
        if not job.over:
            lines.append(f"  akin jobs show {job.id} --wait")
    lines += failure_lines(imported.failed_by_code, imported.failures, IN_REPORT)
    _print(console, lines)


def print_preview(console: Console, source: str, found: Preview) -> None:
    """Say what there is, and what is wrong with it."""
    lines = [f"[bold]{escape(source)}[/]: {found.plan}"]
    counts = ", ".join(f"{count:,} {name}" for name, count in found.counts.items() if count)
    lines += [f"  {counts}"] if counts else []
    lines += _skipped(found.skipped)
    if found.names.doubled:
        examples = ", ".join(escape(name) for name in found.names.examples)
        lines.append(f"  named more than once: {found.names.doubled:,} ({examples})")
    lines += failure_lines(Counter(problem.code for problem in found.problems), found.problems, IN_REPORT)
    _print(console, lines)


def write_report(
    path: Path, outcomes: Mapping[str, Report] | Mapping[str, Report | Imported] | Mapping[str, Preview]
) -> None:
    """Write a JSON document with the counts, jobs and failures of each source.

    Raises:
        ClickException: the file cannot be written.
    """
    document = {"sources": {source: outcome.as_json() for source, outcome in outcomes.items()}}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from error


def _sum(counts: Mapping[str, int]) -> str:
    return "  " + " + ".join(f"{n:,} {name}" for name, n in counts.items() if n or name == "indexed")


def _skipped(skipped: Counter[str]) -> list[str]:
    if not skipped:
        return []
    kinds = ", ".join(f"{escape(kind)} {count:,}" for kind, count in skipped.most_common(12))
    return [f"  not pictures, skipped: {skipped.total():,} ({kinds})"]


def _print(console: Console, lines: Iterable[str]) -> None:
    console.print("\n".join(lines), soft_wrap=True, highlight=False)
