"""The use case: train an encoder from pictures and leave a checkpoint."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from services.encoders.architectures import pack
from services.encoders.checkpoint import Checkpoint, digest, save
from services.encoders.manifest import NAME_PATTERN, Manifest, Training, TrainingData
from services.encoders.shipped import shipped
from services.encoders.torch_encoder import pick_device
from services.errors import EncoderError, InvalidRequest
from services.images.decode import Limits
from services.training import report
from services.training.autoencoder import ARCHITECTURE, Autoencoder
from services.training.data import load_pictures, split
from services.training.loop import Epoch, Step, fit
from services.training.recipes import Recipe


@dataclass(frozen=True)
class Progress:
    """Where a training tells how it goes."""

    on_read: Callable[[int, int], None]
    on_step: Callable[[Step], None]
    on_epoch: Callable[[Epoch], None]


@dataclass(frozen=True)
class Outcome:
    """A finished training: the folder of the best checkpoint, its manifest, and the files left out."""

    folder: Path
    manifest: Manifest
    unreadable: int


def train(
    recipe: Recipe,
    source: Path,
    output: Path,
    limits: Limits,
    progress: Progress,
    *,
    name: str,
    description: str,
    licence: str,
    device: str,
) -> Outcome:
    """Train an encoder and keep the epoch of lowest validation loss in `output/name@version`.

    The version is the first that neither the folder nor Akin itself has. The checkpoint is replaced
    after each better epoch, so a training that is cut short leaves its best so far. Beside it,
    `report/` has the losses, the files left out, and reconstructions of pictures held out, per epoch.

    Args:
        description: what the manifest says of the data.
        licence: what the manifest says of the weights.

    Raises:
        InvalidRequest: the name cannot be one, or the source has no pictures to train on.
        ConfigurationError: this machine has no such device.
        EncoderError: no epoch had a finite validation loss.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise InvalidRequest(f"{name!r} cannot name an encoder: lower-case letters, digits, - and . are allowed")
    target = pick_device(device)
    pictures = load_pictures(source, recipe.preprocessing, limits, progress.on_read)
    trained_on, held_out = split(len(pictures.pixels), recipe.held_out, recipe.seed)
    validation = pictures.pixels[held_out]
    data = TrainingData(
        description=description, trained_on=len(trained_on), held_out=len(held_out), sha256=pictures.sha256
    )
    version = _next_version(name, output)
    folder = output / f"{name}@{version}"
    figures = folder / "report"
    figures.mkdir(parents=True)
    report.write_unreadable(figures / "unreadable.json", pictures.unreadable)

    revision = _git_revision()
    torch.manual_seed(recipe.seed)
    network = Autoencoder(recipe.bottleneck)
    manifest: Manifest | None = None
    epochs: list[Epoch] = []
    for epoch in fit(network, recipe, pictures.pixels[trained_on], validation, device=target, on_step=progress.on_step):
        if epoch.best:
            weights = pack(network.encoder)
            training = _describe(recipe, epoch, data, revision, licence)
            manifest = Manifest(
                name=name,
                version=version,
                architecture=ARCHITECTURE,
                options={"bottleneck": recipe.bottleneck},
                dimension=recipe.bottleneck,
                preprocessing=recipe.preprocessing,
                weights_sha256=digest(weights),
                training=training,
            )
            save(folder, Checkpoint(manifest, weights))
        epochs.append(epoch)
        report.write_losses(figures / "losses.json", epochs)
        report.draw_reconstructions(figures / f"epoch-{epoch.number:02}.png", network, validation, recipe.preprocessing)
        progress.on_epoch(epoch)
    if manifest is None:
        raise EncoderError(f"the training diverged: no epoch had a finite validation loss; see {figures}")
    return Outcome(folder, manifest, len(pictures.unreadable))


def _describe(recipe: Recipe, epoch: Epoch, data: TrainingData, revision: str | None, licence: str) -> Training:
    return Training(
        recipe=recipe.name,
        data=data,
        metrics={"epoch": epoch.number, "train_mse": epoch.train_loss, "mse": epoch.validation_loss},
        seed=recipe.seed,
        git_revision=revision,
        created=datetime.now(UTC).replace(microsecond=0),
        licence=licence,
    )


def _next_version(name: str, output: Path) -> int:
    taken = [encoder.manifest.version for encoder in shipped() if encoder.manifest.name == name]
    for folder in output.glob(f"{name}@*"):
        version = folder.name.removeprefix(f"{name}@")
        if version.isdecimal():
            taken.append(int(version))
    return max(taken, default=0) + 1


def _git_revision() -> str | None:
    """Commit of the checkout that this code runs from, `-dirty` where it has changes; None without a checkout."""
    try:
        commit, changes = (
            subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout
            for command in (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "."])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.strip() + ("-dirty" if changes else "")
