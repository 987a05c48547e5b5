"""akin train: train an encoder from pictures."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from services.cli.encoders import register_folder
from services.cli.terminal import device_option, reporting_errors, require
from services.config import Settings, load_settings
from services.errors import InvalidRequest
from services.images.decode import Limits
from services.images.pool import DecodePool
from services.training.recipes import find_recipe

if TYPE_CHECKING:
    from services.training.loop import Epoch, Step
    from services.training.run import Outcome

MOST_WORKERS = 8


@click.command()
@click.option(
    "--recipe", "recipe_name", metavar="NAME", required=True, help="What to train; `akin recipes` lists them."
)
@click.option(
    "--data",
    "specs",
    multiple=True,
    required=True,
    help="Pictures: a folder or zip file, flat or as label/file; PATH#PART for a folder inside of it; "
    "cifar10:FOLDER#train or fashion-mnist:FOLDER#train. Repeat it for several.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the encoder's folder is made; `encoders` in the data directory unless given.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's number.")
@click.option("--steps", "max_steps", type=click.IntRange(min=1), help="End after so many batches.")
@click.option("--seed", type=click.IntRange(min=0), help="Instead of the recipe's seed.")
@device_option
@click.option("--workers", type=click.IntRange(min=1), help="Processes that decode pictures; one a core unless given.")
@click.option("--name", help="Name of the encoder; the recipe's unless given.")
@click.option("--description", help="What the manifest says of the data; the names of the sources unless given.")
@click.option("--register/--no-register", default=True, help="Make it available to `akin reindex`. [default]")
@click.option("--licence", default="not stated", show_default=True, help="What the manifest says of the weights.")
@reporting_errors
def train(
    *,
    recipe_name: str,
    specs: tuple[str, ...],
    output: Path | None,
    epochs: int | None,
    max_steps: int | None,
    seed: int | None,
    device: str | None,
    workers: int | None,
    name: str | None,
    description: str | None,
    register: bool,
    licence: str,
) -> None:
    """Train an encoder and keep it as NAME@VERSION under the output folder.

    A training that was interrupted goes on where it was when the same command is given again.
    """
    if ":" in recipe_name:
        raise InvalidRequest(
            f"{recipe_name} is trained already: `akin encoders adopt {recipe_name}` makes an encoder of it"
        )
    recipe = find_recipe(recipe_name)
    require("worker,train", "torch", "lightly", "pytorch_metric_learning", "matplotlib", "sklearn")
    settings = load_settings()
    recipe = replace(
        recipe,
        epochs=recipe.epochs if epochs is None else epochs,
        seed=recipe.seed if seed is None else seed,
    )
    console = Console()
    with _Display(console) as display:
        from services.training import run

        outcome = run.train(
            recipe,
            run.Source(specs, description or ", ".join(Path(spec).name for spec in specs), licence),
            output or settings.data_dir / "encoders",
            DecodePool(
                workers or min(MOST_WORKERS, os.cpu_count() or 1),
                settings.decode_timeout,
                settings.decode_memory,
                Limits(settings.max_image_bytes, settings.max_image_pixels),
            ),
            run.Progress(display.read, display.step, display.epoch, display.whiten, display.resume, display.unfinished),
            name=name or recipe.name,
            device=device or settings.device,
            max_steps=max_steps,
            taken=_registered_versions(settings, name or recipe.name) if register else (),
        )
    _summarise(console, outcome)
    if register:
        register_folder(outcome.folder)
    else:
        click.echo(f"Next: akin encoders register {outcome.folder}")


def _registered_versions(settings: Settings, name: str) -> list[int]:
    from services.bootstrap import installed
    from services.catalog import encoders as catalog_encoders

    with installed(settings) as services, services.database.reading() as session:
        return [row.version for row in catalog_encoders.all_of(session) if row.name == name]


class _Display:
    """One progress bar: over the files, the training, the pictures that are whitened; a line for each epoch."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed_text]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("reading", total=None, speed_text="")
        self._doing = "reading"

    def __enter__(self) -> _Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def read(self, done: int, total: int) -> None:
        self._show("reading", "reading", done, total)

    def step(self, step: Step) -> None:
        self._show("training", f"epoch {step.epoch}, loss {step.loss:.4f}", step.pictures_seen, step.pictures_total)

    def whiten(self, done: int, total: int) -> None:
        self._show("whitening", "whitening", done, total)

    def resume(self, folder: Path, epochs: int) -> None:
        self._bar.console.print(f"going on with {folder.name}, which has {epochs} epochs behind it", highlight=False)

    def unfinished(self, folder: Path) -> None:
        self._bar.console.print(
            f"{folder} holds an interrupted training with other settings or pictures, which is left as it is: "
            "the command that began it goes on with it",
            highlight=False,
        )

    def epoch(self, epoch: Epoch) -> None:
        metrics = "".join(f", {name} {value:.1%}" for name, value in epoch.metrics.items())
        self._bar.console.print(
            f"epoch {epoch.number:2}: loss {epoch.train_loss:.5f}, validation {epoch.validation_loss:.5f}"
            f"{' (best so far)' if epoch.best else ''}{metrics}, {epoch.images_per_second:,.0f} images/s",
            highlight=False,
        )

    def _show(self, doing: str, description: str, done: int, total: int) -> None:
        if doing != self._doing:
            # A rate over other work would make the remaining time wrong; a resumed training starts in the middle.
            self._bar.reset(self._task, completed=done)
            self._doing = doing
        speed = self._bar.tasks[0].speed
        text = f"{speed:,.0f} images/s" if speed else ""
        self._bar.update(self._task, description=description, completed=done, total=total, speed_text=text)


def _summarise(console: Console, outcome: Outcome) -> None:
    metrics = outcome.manifest.training.metrics
    lines = [f"{outcome.manifest.ref}: validation loss {metrics['loss']:.5f} at epoch {metrics['epoch']:.0f}"]
    if outcome.unreadable:
        lines.append(f"  files left out: {outcome.unreadable}, listed in the report")
    lines += [f"  encoder: {outcome.folder}", f"  report: {outcome.report}"]
    console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)
