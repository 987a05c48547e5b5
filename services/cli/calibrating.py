"""akin evaluate --calibrate: fit what an encoder's scores mean, show it, and write it beside the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
from rich.table import Table

from services.cli.encoders import find_checkpoint
from services.cli.terminal import open_console, require
from services.encoders import checkpoint
from services.encoders.calibration import CurveKind
from services.encoders.checkpoint import Checkpoint
from services.errors import Conflict, InvalidRequest

if TYPE_CHECKING:
    from services.evaluation.calibration import CalibrationRun
    from services.evaluation.material import Material
    from services.evaluation.run import Progress
    from services.images.pool import DecodePool

Result = TypeVar("Result")
_TEXT_COLUMNS = 3


def chosen(references: Sequence[str], kinds: Sequence[CurveKind], write: Path | None) -> list[Checkpoint]:
    """The encoders that are to be calibrated.

    Raises:
        UsageError: the options do not fit each other.
        ConfigurationError: what curves are fitted with is not installed.
        EncoderError, NotFound: one is no encoder.
    """
    if not references or (write is not None and len(references) != 1):
        raise click.UsageError(f"--calibrate{' --write' if write else ''} needs {'one' if write else 'an'} ENCODER")
    if {"similar", "same_item"} <= set(kinds):
        raise click.UsageError("the labels of a set are kinds of things (similar) or items (same_item), not both")
    require("train", "sklearn", "matplotlib")
    return [find_checkpoint(reference) for reference in references]


def fit(
    checkpoints: Sequence[Checkpoint],
    material: Material,
    pool: DecodePool,
    *,
    kinds: Sequence[CurveKind],
    copied: int,
    seed: int,
    device: str,
    progress: Progress,
) -> CalibrationRun:
    """Calibrate encoders on a device; see `services.evaluation.calibration.calibrate`."""
    from services.encoders.torch_encoder import TorchEncoder
    from services.evaluation.calibration import DEFAULT_KINDS, calibrate

    encoders = [TorchEncoder(*read, device) for read in checkpoints]
    wanted = kinds or DEFAULT_KINDS
    return calibrate(encoders, material, pool, kinds=wanted, copied=copied, seed=seed, progress=progress)


def show(run: CalibrationRun, *, markdown: bool, json_file: Path | None, report_file: Path | None) -> None:
    """Print the table, and write the files that were asked for."""
    from services.evaluation import calibration_report as report

    if markdown:
        click.echo(report.markdown(run), nl=False)
    else:
        table = Table()
        for number, column in enumerate(report.COLUMNS):
            table.add_column(column, justify="left" if number < _TEXT_COLUMNS else "right")
        for row in report.rows(run):
            table.add_row(*row)
        console = open_console()
        for shown in (report.measured_on(run), table, *run.notes):
            console.print(shown, highlight=False, markup=False, emoji=False)
    write_file(json_file, run, report.to_json)
    write_file(report_file, run, report.to_html)


def write_encoder(folder: Path, read: Checkpoint, run: CalibrationRun) -> None:
    """Write an encoder with its new calibration.

    Raises:
        InvalidRequest: no new curve holds.
        Conflict: the folder holds another encoder.
    """
    (calibrated,) = run.encoders
    if not any(item.judged.holds for item in calibrated.kinds):
        raise InvalidRequest("nothing is written: no curve holds on the pictures held out")
    manifest = read.manifest.model_copy(update={"calibration": calibrated.calibration})
    try:
        checkpoint.save_new(folder, Checkpoint(manifest, read.weights))
    except Conflict as error:
        raise Conflict(f"{error.detail}; give another --write") from error
    click.echo(f"Written: {folder}; `akin encoders register {folder}` takes it", err=True)


def write_file(file: Path | None, result: Result, content: Callable[[Result], str]) -> None:
    """Write what is made of a result, where a file is asked for."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content(result), encoding="utf-8")
        click.echo(f"Written: {file}", err=True)
