"""akin demo: the whole product from pictures to look-alikes, step by step, on real parts."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.markup import escape

from services.answers import SearchResult
from services.cli.ingest import ingest_path
from services.cli.outcomes import print_summary, write_report
from services.cli.pictures import Source
from services.cli.samples import draw_samples
from services.cli.search import hits_table, sheet_row, write_sheet
from services.cli.target import Target, find_running, local_target
from services.cli.terminal import open_console, reporting_errors
from services.cli.upload import Report
from services.client import AkinClient
from services.config import Settings, load_settings
from services.errors import Unavailable

SAMPLES: Final = 600
SEED: Final = 7
QUERIES: Final = 3
HITS: Final = 6
TIE: Final = 1e-6
SELF_SCORE: Final = 0.999  # what a picture must at least score against itself


@dataclass(frozen=True)
class Query:
    """A picture of the demo that is searched for, and what was found."""

    ref: str
    content: bytes
    result: SearchResult

    @property
    def finds_itself(self) -> bool:
        """Whether the first hit is this very picture; one that scores exactly the same may stand before it."""
        if not self.result.hits:
            return False
        best = self.result.hits[0].score
        digest = hashlib.sha256(self.content).hexdigest()
        tied = [hit for hit in self.result.hits if best - hit.score < TIE]
        return best >= SELF_SCORE and any(hit.image.sha256 == digest for hit in tied)


class Steps:
    """Numbered steps on the terminal, each ending in ✓ or ✗; `held` is False once one has not held."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.held = True
        self._number = 0

    def begin(self, title: str) -> None:
        """Say what comes next."""
        self._number += 1
        self.console.print(f"\n[bold]{self._number}. {escape(title)}[/]", soft_wrap=True, highlight=False)

    def check(self, held: bool, statement: str) -> None:
        """Say whether something is as it should be."""
        mark = "[green]✓[/]" if held else "[bold red]✗[/]"
        self.console.print(f"   {mark} {escape(statement)}", soft_wrap=True, highlight=False)
        self.held &= held


@click.command()
@click.option(
    "--images", type=click.Path(exists=True, path_type=Path), help="Folder or zip file to use instead of the samples."
)
@click.option("--once", is_flag=True, help="Stop at the end; exit code 0 only if every step held.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Where the samples, the report and the contact sheet are written.",
)
@reporting_errors
def demo(images: Path | None, once: bool, output: Path) -> None:
    """Index pictures, search with three of them, and show what was found."""
    steps = Steps(open_console())
    settings = load_settings()
    try:
        steps.begin("Start Akin")
        with _stack(steps, settings) as (target, started_here):
            with target.connect() as client:
                source = _pictures(steps, images, output)
                report = _ingest(steps, client, target, source, settings, report_file=output / "report.json")
                queries = _search(steps, client, _choose(Source(source), report, settings.max_image_bytes))
                _draw_sheet(steps, client, queries, output / "contact-sheet.png")
            steps.console.print()
            steps.check(steps.held, "every step held" if steps.held else "not every step held")
            if not once:
                _show_page(steps.console, target, settings, stay=started_here)
    except KeyboardInterrupt:
        raise click.ClickException("interrupted") from None
    if not steps.held:
        sys.exit(1)


@contextmanager
def _stack(steps: Steps, settings: Settings) -> Iterator[tuple[Target, bool]]:
    """The stack that runs in the data directory, else one that runs as long as the demo does."""
    from services.stack.background import background_stack

    running = find_running(settings)
    if running is not None:
        steps.check(True, f"already running at {running.url}")
        yield running, False
        return
    with background_stack(settings.data_dir) as state:
        steps.check(True, f"running at {state.api_url}, data in {settings.data_dir}")
        yield local_target(settings, state.api_url, state.api_key), True


def _pictures(steps: Steps, images: Path | None, output: Path) -> Path:
    if images is not None:
        steps.begin(f"Take the pictures of {images}")
        source = images
    else:
        source = output / "samples"
        steps.begin(f"Draw {SAMPLES} sample pictures into {source}")
        draw_samples(steps.console, source, SAMPLES, SEED)
    count = Source(source).count()
    if count == 0:
        raise click.ClickException(f"{source} holds no pictures: give --images a folder or a zip file that does")
    steps.check(True, f"{count:,} pictures")
    return source


def _ingest(
    steps: Steps, client: AkinClient, target: Target, source: Path, settings: Settings, *, report_file: Path
) -> Report:
    steps.begin("Upload and index them")
    report = ingest_path(steps.console, client, target, source, settings, resume=True)
    print_summary(steps.console, source, report)
    write_report(report_file, {str(source): report})
    listed = len(report.failures)
    searchable = report.indexed + report.unchanged
    steps.check(
        report.adds_up and report.found == searchable + listed,
        f"{report.found:,} found = {searchable:,} indexed + {listed:,} listed with their reason in {report_file}",
    )
    steps.check(searchable > 0, f"{report.rate:.1f} pictures per second")
    return report


def _choose(source: Source, report: Report, limit: int) -> dict[str, bytes]:
    """Pictures that were indexed, spread evenly over the source; the same ones each time."""
    failed = {failure.ref for failure in report.failures}
    searchable = sum(picture.ref not in failed for picture in source.pictures())
    wanted = {searchable * (2 * k + 1) // (2 * QUERIES) for k in range(QUERIES)}
    indexed = (picture for picture in source.pictures() if picture.ref not in failed)
    return {picture.ref: picture.read(limit) for position, picture in enumerate(indexed) if position in wanted}


def _search(steps: Steps, client: AkinClient, pictures: Mapping[str, bytes]) -> list[Query]:
    steps.begin(f"Search with {len(pictures)} of them")
    steps.check(bool(pictures), "there are indexed pictures to search with")
    queries = [Query(ref, content, client.search(content, limit=HITS)) for ref, content in pictures.items()]
    for query in queries:
        steps.console.print(hits_table(query.ref, query.result))
        best = f"{query.result.hits[0].score:.4f}" if query.result.hits else "none"
        steps.check(query.finds_itself, f"finds itself first (best score {best}, at least {SELF_SCORE} expected)")
    return queries


def _draw_sheet(steps: Steps, client: AkinClient, queries: list[Query], path: Path) -> None:
    steps.begin("Draw a contact sheet")
    if queries:
        write_sheet(path, [sheet_row(client, q.content, Path(q.ref).stem, q.result) for q in queries])
    steps.check(bool(queries), f"{path}: queries on the left, look-alikes on the right, scores underneath")


def _show_page(console: Console, target: Target, settings: Settings, *, stay: bool) -> None:
    """Say where the page is; keep the stack serving until Ctrl-C where the demo started it.

    Raises:
        Unavailable: the stack stopped by itself.
    """
    console.print(f"\n[bold]Try it yourself:[/] {target.sign_in_link()}", soft_wrap=True, highlight=False)
    if not stay:
        return
    console.print("Serving until you press Ctrl-C.")
    try:
        while find_running(settings) is not None:
            time.sleep(1)
    except KeyboardInterrupt:
        console.print("\nStopping.")
        return
    raise Unavailable(f"Akin stopped by itself: {settings.data_dir / 'logs'} says why")
