"""akin samples: draw a sample catalogue."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from services.cli.terminal import open_console
from services.samples import MANIFEST_NAME, MAX_SAMPLES, write_samples


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--count", type=click.IntRange(1, MAX_SAMPLES), default=600, show_default=True, help="Pictures to draw.")
@click.option("--seed", type=int, default=7, show_default=True, help="The same seed draws the same catalogue.")
def samples(folder: Path, count: int, seed: int) -> None:
    """Draw a catalogue of products into FOLDER, with an items.jsonl that describes them."""
    console = open_console()
    draw_samples(console, folder, count, seed)
    console.print(f"{count} pictures and {MANIFEST_NAME} in {folder}", soft_wrap=True, highlight=False)
    console.print(f"Next: akin ingest {folder}", soft_wrap=True, highlight=False)


def draw_samples(console: Console, folder: Path, count: int, seed: int) -> None:
    """Draw the catalogue with a progress bar, where there is a terminal to show one."""
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("drawing", total=count)
            write_samples(folder, count, seed, lambda done: bar.update(task, completed=done))
    except OSError as error:
        raise click.ClickException(f"{folder} cannot be written: {error.strerror}") from error
