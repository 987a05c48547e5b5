"""akin evaluate: measure encoders side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from services.cli import calibrating
from services.cli.calibrating import write_file
from services.cli.encoders import find_checkpoint
from services.cli.terminal import device_option, open_console, reporting_errors, require
from services.config import Settings, load_settings
from services.encoders.calibration import CURVE_KINDS, CurveKind

if TYPE_CHECKING:
    from services.encoders.manifest import Manifest
    from services.evaluation.material import Material, Split
    from services.evaluation.run import Evaluation
    from services.evaluation.subjects import Subject
    from services.images.pool import DecodePool

_UNREADABLE_SHOWN = 10
_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.command()
@click.argument("encoders", nargs=-1, metavar="[ENCODER]...")
@click.option(
    "--data",
    metavar="SET",
    help="Folder or zip file of label/picture, cifar10:FOLDER or fashion-mnist:FOLDER. A set with train and "
    "validation or test is searched in the first for the second, any other for each picture among the others.",
)
@click.option("--gallery", metavar="SET", help="Instead of --data: the pictures to be found. SET#PART is a part.")
@click.option("--queries", metavar="SET", help="With --gallery: the pictures to search for.")
@click.option("--limit", type=click.IntRange(min=2), help="At most so many pictures of each part, drawn by the seed.")
@click.option(
    "--copies",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Alter at most so many pictures to search for their originals.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all that chance decides.")
@device_option
@click.option("--markdown", is_flag=True, help="Print the tables as Markdown.")
@click.option("--json", "json_file", type=_FILE, help="Write all figures to this file.")
@click.option("--report", "report_file", type=_FILE, help="Write a page with tables and example searches.")
@click.option(
    "--calibrate",
    is_flag=True,
    help="Instead: fit on one half of the pictures how probable a cosine makes it that a hit is a duplicate, or "
    "similar, and judge that on the other half. Take pictures that ENCODER was not trained on.",
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(CURVE_KINDS),
    help="With --calibrate: only this kind; may be repeated. duplicate: altered copies. similar: of one label. "
    "same_item: of one label, where labels are items with several pictures each. [default: duplicate, similar]",
)
@click.option(
    "--write",
    type=click.Path(file_okay=False, path_type=Path),
    help="With --calibrate and one ENCODER: write it with its new calibration to this folder, which may be where it "
    "came from; `akin encoders register` takes it.",
)
@reporting_errors
def evaluate(
    *,
    encoders: tuple[str, ...],
    data: str | None,
    gallery: str | None,
    queries: str | None,
    limit: int | None,
    copies: int,
    seed: int,
    device: str | None,
    markdown: bool,
    json_file: Path | None,
    report_file: Path | None,
    calibrate: bool,
    kinds: tuple[CurveKind, ...],
    write: Path | None,
) -> None:
    """Measure encoders side by side, with raw pixels and a colour histogram as baselines.

    ENCODER is a registered `name@version` or `name`, or a folder with manifest.json and weights.safetensors;
    with `:flattened` the code that its network pools is measured. Akin need not run.

    With --calibrate, what its scores mean is fitted instead, and judged beside the calibration that it has.
    """
    if (data is None) == (gallery is None) or (queries is not None and gallery is None):
        raise click.UsageError("give either --data SET, or --gallery SET with or without --queries SET")
    if (kinds or write) and not calibrate:
        raise click.UsageError("--kind and --write belong to --calibrate")
    require("worker", "torch")
    from services.encoders.torch_encoder import pick_device
    from services.evaluation import report, tables
    from services.evaluation.material import Split, split_of
    from services.evaluation.run import evaluate as measure
    from services.evaluation.speed import device_name

    settings = load_settings(**({"device": device} if device else {}))
    on = str(pick_device(settings.device))
    # Before the data set is listed, which takes its time: a mistyped name is told at once.
    checkpoints = calibrating.chosen(encoders, kinds, write) if calibrate else []
    subjects = [] if calibrate else _subjects(encoders, on)
    split = split_of(data) if data is not None else Split(str(gallery), queries)
    with _opened(split, limit, seed, settings) as (material, pool, progress):
        if calibrate:
            run = calibrating.fit(
                checkpoints, material, pool, kinds=kinds, copied=copies, seed=seed, device=on, progress=progress
            )
        else:
            evaluation = measure(
                subjects, material, pool, copied=copies, seed=seed, device=device_name(on), progress=progress
            )
    if calibrate:
        calibrating.show(run, markdown=markdown, json_file=json_file, report_file=report_file)
        if write is not None:
            calibrating.write_encoder(write, checkpoints[0], run)
        return
    if markdown:
        click.echo(tables.markdown(evaluation), nl=False)
    else:
        _print(open_console(), evaluation)
    write_file(json_file, evaluation, report.to_json)
    write_file(report_file, evaluation, report.to_html)


@contextmanager
def _opened(
    split: Split, limit: int | None, seed: int, settings: Settings
) -> Iterator[tuple[Material, DecodePool, _Bars]]:
    """The pictures, the processes that decode them, and bars for what is done with them."""
    from services.evaluation.material import open_material
    from services.images.decode import Limits
    from services.images.pool import DecodePool

    limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
    with (
        open_material(split, limit, seed) as material,
        DecodePool(settings.decode_processes, settings.decode_timeout, settings.decode_memory, limits) as pool,
        _progress() as progress,
    ):
        yield material, pool, progress


def _subjects(references: Sequence[str], device: str) -> list[Subject]:
    """The encoders, each once, and the baselines after them; another one of a name that is taken as it was given."""
    from services.encoders.torch_encoder import TorchEncoder
    from services.evaluation.subjects import FLATTENED, baselines, of_encoder, of_flattened

    subjects: dict[str, Subject] = {}
    known: dict[str, Manifest] = {}
    plain = {baseline.name: baseline for baseline in baselines()}
    for reference in references:
        if reference in plain:
            continue
        encoder = TorchEncoder(*find_checkpoint(reference.removesuffix(FLATTENED)), device)
        subject = of_flattened(encoder) if reference.endswith(FLATTENED) else of_encoder(encoder)
        if known.setdefault(subject.name, encoder.manifest) != encoder.manifest:
            subject = replace(subject, name=reference)
        subjects[subject.name] = subject
    return [*subjects.values(), *plain.values()]


@contextmanager
def _progress() -> Iterator[_Bars]:
    """Bars on standard error, so that the tables can be redirected."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield _Bars(bars)


class _Bars:
    """One bar for each thing that is done."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what)
        self._bars.update(self._tasks[what], completed=done, total=total)


def _print(console: Console, evaluation: Evaluation) -> None:
    from services.evaluation.tables import measured_on, tables

    def say(text: str, *, wrapped: bool = True) -> None:
        # Paths may hold what rich takes for markup.
        console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=not wrapped)

    say(measured_on(evaluation))
    for table in tables(evaluation):
        drawn = Table("encoder", title=table.title, title_justify="left")
        for column in table.columns:
            drawn.add_column(column.title, justify="right")
        for encoder in evaluation.encoders:
            cells = [(column.cell(encoder), column.is_best(encoder, evaluation.encoders)) for column in table.columns]
            drawn.add_row(encoder.name, *(f"[bold green]{text}[/]" if best else text for text, best in cells))
        console.print(drawn)
    for note in evaluation.notes:
        say(note)
    if evaluation.unreadable:
        say(f"{len(evaluation.unreadable):,} unreadable files left out:")
        for item in evaluation.unreadable[:_UNREADABLE_SHOWN]:
            say(f"  {item.name}: {item.reason}", wrapped=False)
        if len(evaluation.unreadable) > _UNREADABLE_SHOWN:
            say("  … the others are in the files of --json and --report")
