"""akin recipes: list what can be trained."""

from __future__ import annotations

import click
from rich.table import Table

from services.cli.terminal import open_console
from services.training.recipes import RECIPES


@click.command()
def recipes() -> None:
    """List the recipes of `akin train` with what each is."""
    table = Table("recipe", "what", "input", "epochs", "batch")
    for recipe in (make() for make in RECIPES.values()):
        size = recipe.preprocessing.size
        table.add_row(recipe.name, recipe.summary, f"{size} × {size}", str(recipe.epochs), str(recipe.batch_size))
    console = open_console()
    console.print(table)
    console.print(
        "Networks that others trained: akin encoders adopt torchvision:NAME, timm:NAME or openclip:NAME/WEIGHTS.",
        highlight=False,
    )
