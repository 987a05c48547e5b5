"""akin train: train an encoder from pictures."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from services.cli.encoders import register_folder
from services.cli.terminal import reporting_errors
from services.config import load_settings
from services.images.decode import Limits
from services.training.recipes import RECIPES, find_recipe

if TYPE_CHECKING:
    from services.training.loop import Epoch, Step
    from services.training.run import Outcome


@click.command()
@click.option("--recipe", "recipe_name", type=click.Choice(list(RECIPES)), required=True, help="What to train.")
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="Folder or zip file of pictures, flat or as label/file.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the encoder's folder is made; `encoders` in the data directory unless given.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's number.")
@click.option("--seed", type=click.IntRange(min=0), help="Instead of the recipe's seed.")
@click.option("--device", help="auto, cpu, cuda, cuda:1 or mps; AKIN_DEVICE unless given.")
@click.option("--name", help="Name of the encoder; the recipe's unless given.")
@click.option("--description", help="What the manifest says of the data; its file name unless given.")
@click.option("--register/--no-register", default=True, help="Make it available to `akin reindex`. [default]")
@click.option("--licence", default="not stated", show_default=True, help="What the manifest says of the weights.")
@reporting_errors
def train(
    *,
    recipe_name: str,
    data: Path,
    output: Path | None,
    epochs: int | None,
    seed: int | None,
    device: str | None,
    name: str | None,
    description: str | None,
    register: bool,
    licence: str,
) -> None:
    """Train an encoder and keep its best epoch as NAME@VERSION under the output folder."""
    if importlib.util.find_spec("torch") is None:
        raise click.ClickException("training needs PyTorch: install akin[worker]")
    settings = load_settings()
    recipe = find_recipe(recipe_name)
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
            data,
            output or settings.data_dir / "encoders",
            Limits(settings.max_image_bytes, settings.max_image_pixels),
            run.Progress(display.read, display.step, display.epoch),
            name=name or recipe.name,
            description=description or data.resolve().name,
            licence=licence,
            device=device or settings.device,
        )
    _summarise(console, outcome)
    if register:
        register_folder(outcome.folder)
    else:
        click.echo(f"Next: akin encoders register {outcome.folder}")


class _Display:
    """One progress bar: first over the files, then over the training; a line for each epoch."""

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

    def __enter__(self) -> _Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def read(self, done: int, total: int) -> None:
        self._show("reading", done, total)
        if done == total:
            self._bar.reset(self._task)

    def step(self, step: Step) -> None:
        self._show(f"epoch {step.epoch}, loss {step.loss:.4f}", step.pictures_seen, step.pictures_total)

    def epoch(self, epoch: Epoch) -> None:
        self._bar.console.print(
            f"epoch {epoch.number:2}: loss {epoch.train_loss:.5f}, validation {epoch.validation_loss:.5f}"
            f"{' (best so far)' if epoch.best else ''}, {epoch.images_per_second:,.0f} images/s",
            highlight=False,
        )

    def _show(self, description: str, done: int, total: int) -> None:
        speed = self._bar.tasks[0].speed
        text = f"{speed:,.0f} images/s" if speed else ""
        self._bar.update(self._task, description=description, completed=done, total=total, speed_text=text)


def _summarise(console: Console, outcome: Outcome) -> None:
    metrics = outcome.manifest.training.metrics
    report = outcome.folder / "report"
    if outcome.unreadable:
        console.print(
            f"Files left out: {outcome.unreadable}, see {report / 'unreadable.json'}", soft_wrap=True, highlight=False
        )
    console.print(
        f"{outcome.manifest.ref}: validation loss {metrics['mse']:.5f} at epoch {metrics['epoch']:.0f}\n"
        f"  encoder: {outcome.folder}\n"
        f"  losses and reconstructions: {report}",
        soft_wrap=True,
        highlight=False,
    )
