"""What a training leaves for people: one JSON file, and one page that needs nothing beside it."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from markupsafe import Markup
from torch import nn

from services.datasets.load import Dataset
from services.datasets.split import spread
from services.encoders.manifest import Manifest
from services.encoders.torch_encoder import to_unit_rows
from services.evaluation.metrics import Vectors
from services.evaluation.pages import templates
from services.evaluation.report import searches_html
from services.evaluation.searches import Search, choose_queries, searches_of_arrays
from services.images.preprocess import Pixels
from services.training import figures
from services.training.learner import Learner, ReconstructionLearner, encode
from services.training.loop import Epoch
from services.training.recipe import Recipe

PAGE_FILE, FACTS_FILE = "index.html", "report.json"
# Pictures that are shown again at each epoch: one of each class where there are few classes.
_SHOWN = 12
_SCATTERED = 3_000
_SEARCHED_IN = 5_000
_PLANE_SIDE = 16
# Epochs whose figures the page shows, spread over all: hundreds would make it too heavy to open.
_EPOCHS = 10


@dataclass(frozen=True)
class _EpochFigures:
    """What one epoch looks like, as data URIs, as far as there is something to see."""

    number: int
    reconstructions: str | None
    scatter: str | None


class Report:
    """Writes into one folder, anew after each epoch, so that a running training can be looked at.

    `report.json` has the settings, the epochs and the files left out. `index.html` shows them with curves, and
    as far as the encoder has them with reconstructions, the latent space and example searches.
    """

    def __init__(self, folder: Path, recipe: Recipe, held_out: Dataset) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._recipe = recipe
        self._unreadable = held_out.unreadable
        self._shown = held_out.take(choose_queries(held_out.labels, _SHOWN, recipe.seed))
        self._scattered = held_out.take(spread(len(held_out), _SCATTERED))

    def add_epoch(self, learner: Learner, history: Sequence[Epoch], device: torch.device) -> None:
        """Draw what the epoch that has just ended looks like."""
        if isinstance(learner, ReconstructionLearner):
            number = history[-1].number
            grid = figures.reconstruction_grid(self._shown.pixels, learner.reconstructed(self._shown.pixels, device))
            (self._folder / f"reconstructions-{number:03}.png").write_bytes(grid)
            if self._in_plane(learner.encoder):
                codes = encode(learner.encoder, self._scattered.pixels, self._recipe.preprocessing, device)
                scatter = figures.latent_scatter(codes, self._scattered.labels, self._scattered.classes)
                (self._folder / f"scatter-{number:03}.png").write_bytes(scatter)
                points = figures.plane_points(codes, _PLANE_SIDE)
                (self._folder / "plane.png").write_bytes(figures.plane_grid(learner.drawn_from(points, device), points))
        self._write(history, None, [])

    def finish(
        self, encoder: nn.Module, manifest: Manifest, train: Dataset, history: Sequence[Epoch], device: torch.device
    ) -> Path:
        """Add what the finished encoder makes of the pictures; returns the page."""

        def unit(pixels: Pixels) -> Vectors:
            return encode(lambda pictures: to_unit_rows(encoder(pictures)), pixels, self._recipe.preprocessing, device)

        codes = encode(encoder, self._scattered.pixels, self._recipe.preprocessing, device)
        scatter = figures.latent_scatter(codes, self._scattered.labels, self._scattered.classes)
        (self._folder / "latent.png").write_bytes(scatter)
        gallery = train.take(spread(len(train), _SEARCHED_IN))
        searches = searches_of_arrays(
            manifest.ref,
            (unit(gallery.pixels), gallery.pixels, gallery.labels),
            (unit(self._shown.pixels), self._shown.pixels, self._shown.labels),
            gallery.classes,
            self._recipe.seed,
        )
        return self._write(history, manifest, searches)

    def _in_plane(self, encoder: nn.Module) -> bool:
        return getattr(encoder, "latent", None) == figures.PLANE

    def _write(self, history: Sequence[Epoch], manifest: Manifest | None, searches: Sequence[Search]) -> Path:
        facts = {
            "encoder": None if manifest is None else manifest.model_dump(mode="json"),
            "recipe": asdict(self._recipe) | {"preprocessing": self._recipe.preprocessing.model_dump(mode="json")},
            "epochs": [asdict(epoch) for epoch in history],
            "unreadable": [item._asdict() for item in self._unreadable],
        }
        (self._folder / FACTS_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        page = self._folder / PAGE_FILE
        page.write_text(
            templates("services.training")
            .get_template("report.html")
            .render(
                recipe=self._recipe,
                manifest=manifest,
                epochs=history,
                metrics=sorted({name for epoch in history for name in epoch.metrics}),
                curves=_curves(history),
                figures=self._figures(history),
                plane=self._uri("plane.png"),
                latent=self._uri("latent.png"),
                searches=searches_html(searches) if searches else None,
                unreadable=self._unreadable,
            ),
            encoding="utf-8",
        )
        return page

    def _figures(self, history: Sequence[Epoch]) -> list[_EpochFigures]:
        return [self._figures_of(history[int(position)].number) for position in spread(len(history), _EPOCHS)]

    def _figures_of(self, number: int) -> _EpochFigures:
        return _EpochFigures(
            number, self._uri(f"reconstructions-{number:03}.png"), self._uri(f"scatter-{number:03}.png")
        )

    def _uri(self, name: str) -> str | None:
        path = self._folder / name
        if not path.exists():
            return None
        return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _curves(history: Sequence[Epoch]) -> list[Markup]:
    """Losses, and the metrics of pictures held out where there are any."""
    losses = {
        "training": [epoch.train_loss for epoch in history],
        "held out": [epoch.validation_loss for epoch in history],
    }
    drawn = [figures.loss_curves(losses)]
    names = sorted({name for epoch in history for name in epoch.metrics})
    if names:
        shares = {name: [epoch.metrics.get(name, float("nan")) for epoch in history] for name in names}
        drawn.append(figures.loss_curves(shares, "share"))
    return [Markup(drawing) for drawing in drawn]  # noqa: S704  matplotlib's own SVG, which has no text from outside
