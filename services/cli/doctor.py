"""`akin doctor`: what is configured, what answers, and what to do where it does not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.config import load_settings
from services.errors import AkinError
from services.stack.checks import examine
from services.stack.findings import Finding, Outcome

STYLES = {Outcome.OK: "green", Outcome.IDLE: "yellow", Outcome.FAILED: "bold red"}


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Data directory of `akin up`.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def doctor(data_dir: Path | None, as_json: bool) -> None:
    """Check every part of the service; exit status 0 unless one has failed (embedded parts may be stopped)."""
    try:
        findings = examine(load_settings(**({} if data_dir is None else {"data_dir": data_dir})))
    except AkinError as error:
        raise click.ClickException(error.detail) from error
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        Console().print(report(findings))
    if any(finding.outcome is Outcome.FAILED for finding in findings):
        raise SystemExit(1)


def report(findings: Sequence[Finding]) -> Table:
    """The findings as a table for a terminal."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("part", "", "from", "finding", "what to do"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        found = Text("\n").join([Text(finding.detail), Text(finding.address, "dim")])
        outcome = Text(finding.outcome, STYLES[finding.outcome])
        table.add_row(finding.part, outcome, finding.source, found, Text(finding.advice))
    return table
