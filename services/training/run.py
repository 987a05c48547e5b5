"""The use case: train an encoder from pictures and leave a checkpoint and a report."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from services.datasets.load import load
from services.encoders.architectures import load as load_network
from services.encoders.architectures import output_width, pack
from services.encoders.checkpoint import Checkpoint, digest, read, save
from services.encoders.manifest import Manifest, Training, TrainingData, check_name
from services.encoders.shipped import shipped
from services.encoders.torch_encoder import pick_device
from services.errors import Conflict, InvalidRequest
from services.images.pool import DecodePool
from services.training.learner import learner_for
from services.training.loop import Epoch, Step, fit
from services.training.partition import partition
from services.training.projection import Pooling, fit_projection
from services.training.recipe import Recipe
from services.training.report import Report
from services.training.state import fingerprint, identity_of, past_epochs

STATE_FILE, LOCK_FILE, TRAINED_FOLDER = "state.safetensors", "training.lock", "trained"


@dataclass(frozen=True)
class Progress:
    """Where a training tells how it goes."""

    on_read: Callable[[int, int], None]
    on_step: Callable[[Step], None]
    on_epoch: Callable[[Epoch], None]
    on_whiten: Callable[[int, int], None]
    on_resume: Callable[[Path, int], None]
    on_unfinished: Callable[[Path], None]
    """Called with the folder of an interrupted training that is left as it is: it had other settings or pictures."""


@dataclass(frozen=True)
class Outcome:
    """A finished training: the folder of the checkpoint, its manifest, the report and the files left out."""

    folder: Path
    manifest: Manifest
    report: Path
    unreadable: int


@dataclass(frozen=True)
class Source:
    """What is trained on, and what the manifest says of it."""

    specs: Sequence[str]
    description: str
    licence: str


def train(
    recipe: Recipe,
    source: Source,
    output: Path,
    decoder: DecodePool,
    progress: Progress,
    *,
    name: str,
    device: str,
    max_steps: int | None = None,
    taken: Collection[int] = (),
) -> Outcome:
    """Train an encoder and keep the epoch that its recipe wants in `output/name@version`.

    A training that was cut short goes on where its last state was written, if recipe and pictures are the same;
    otherwise the version is the first after those that the folder, the registry and Akin itself have. The checkpoint
    is replaced after each better epoch, or after each where the recipe keeps the last. Beside it, `report/` has what
    the training looked like.

    Args:
        decoder: closed once the pictures are decoded, hours before the training ends.
        max_steps: end after so many batches.
        taken: versions of this name that are registered.

    Raises:
        InvalidRequest: the name cannot be one, or the source has not the pictures that the recipe needs.
        Conflict: another process is at this training.
        ConfigurationError: this machine has no such device.
        EncoderError: the training diverged.
    """
    check_name(name)
    target = pick_device(device)
    with decoder:
        pictures = load(source.specs, recipe.preprocessing, decoder, progress=progress.on_read)
    train_set, held_out = partition(pictures, recipe)
    del pictures  # their parts are copies
    if recipe.whitening is not None and len(train_set) <= recipe.whitening.dimension:
        raise InvalidRequest(
            f"{recipe.name} makes embeddings of {recipe.whitening.dimension} numbers, which needs more pictures than "
            f"that to train on: there are {len(train_set)}"
        )
    torch.manual_seed(recipe.seed)
    learner = learner_for(recipe, len(train_set.classes))

    # Words about a recipe decide nothing.
    identity = fingerprint(replace(recipe, summary=""), train_set.sha256, max_steps)
    folder, version, unfinished = _folder(output, name, identity, taken)
    for other in unfinished:
        progress.on_unfinished(other)
    state_path = folder / STATE_FILE
    lock = (folder / LOCK_FILE).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Conflict(f"another process is training {folder.name}") from error
    data = TrainingData(
        description=source.description, trained_on=len(train_set), held_out=len(held_out), sha256=train_set.sha256
    )
    scribe = _Scribe(folder, recipe, name, version, data, source.licence, _git_revision())
    history = [Epoch(**epoch) for epoch in past_epochs(state_path)]
    if state_path.exists():
        progress.on_resume(folder, len(history))
    report = Report(folder / "report", recipe, held_out)
    for epoch in fit(
        learner,
        recipe,
        train_set,
        held_out,
        device=target,
        state_path=state_path,
        identity=identity,
        on_step=progress.on_step,
        max_steps=max_steps,
    ):
        history.append(epoch)
        if epoch.best or recipe.keep == "last":
            scribe.save(learner.encoder, recipe.options, epoch)
        report.add_epoch(learner, history, target)
        progress.on_epoch(epoch)

    # With a projection it is written anew at the end: a crash between its two files must not cost the training.
    trained = folder / TRAINED_FOLDER
    kept = read(trained if trained.exists() else folder)
    manifest = kept.manifest
    encoder = load_network(manifest, kept.weights).to(target)
    if recipe.whitening is not None:
        if not trained.exists():
            part = trained.with_suffix(".part")
            save(part, kept)
            part.rename(trained)
        projection = fit_projection(
            cast(Pooling, encoder),
            train_set,
            recipe.preprocessing,
            recipe.whitening,
            seed=recipe.seed,
            device=target,
            progress=progress.on_whiten,
        )
        encoder.projection = projection.to(target)
        options = recipe.options | {"dimension": recipe.whitening.dimension}
        manifest = scribe.save(encoder, options, _kept_epoch(recipe, history))
    page = report.finish(encoder, manifest, train_set, history, target)
    shutil.rmtree(trained, ignore_errors=True)
    state_path.unlink()
    (folder / LOCK_FILE).unlink()
    lock.close()
    return Outcome(folder, manifest, page, len(held_out.unreadable))


@dataclass(frozen=True)
class _Scribe:
    """Writes checkpoints of one training."""

    folder: Path
    recipe: Recipe
    name: str
    version: int
    data: TrainingData
    licence: str
    git_revision: str | None

    def save(self, encoder: nn.Module, options: dict[str, Any], epoch: Epoch) -> Manifest:
        """Write an encoder in evaluation mode as it is after an epoch, replacing the one before."""
        weights = pack(encoder)
        training = Training(
            recipe=self.recipe.name,
            data=self.data,
            metrics={
                "epoch": epoch.number,
                "train_loss": epoch.train_loss,
                "loss": epoch.validation_loss,
            }
            | epoch.metrics,
            seed=self.recipe.seed,
            git_revision=self.git_revision,
            created=datetime.now(UTC).replace(microsecond=0),
            licence=self.licence,
        )
        manifest = Manifest(
            name=self.name,
            version=self.version,
            architecture=self.recipe.architecture,
            options=options,
            dimension=output_width(encoder, self.recipe.architecture, self.recipe.preprocessing.size),
            preprocessing=self.recipe.preprocessing,
            weights_sha256=digest(weights),
            training=training,
        )
        save(self.folder, Checkpoint(manifest, weights))
        return manifest


def _kept_epoch(recipe: Recipe, history: list[Epoch]) -> Epoch:
    return history[-1] if recipe.keep == "last" else [epoch for epoch in history if epoch.best][-1]


def _folder(output: Path, name: str, identity: str, registered: Collection[int]) -> tuple[Path, int, list[Path]]:
    """Where this training was interrupted, else the folder of a version that is not taken; its version.

    The third are folders where other trainings of the name were interrupted, if this one begins.
    """
    taken = [*registered, *(encoder.manifest.version for encoder in shipped() if encoder.manifest.name == name)]
    unfinished = []
    for folder in sorted(output.glob(f"{name}@*")):
        number = folder.name.removeprefix(f"{name}@")
        if number.isdecimal():
            found = identity_of(folder / STATE_FILE)
            if found == identity:
                return folder, int(number), []
            if found is not None:
                unfinished.append(folder)
            taken.append(int(number))
    version = max(taken, default=0) + 1
    folder = output / f"{name}@{version}"
    folder.mkdir(parents=True)
    return folder, version, unfinished


def _git_revision() -> str | None:
    """Commit of the checkout that this code runs from, `-dirty` where it has changes; None without a checkout.

    Code that is installed inside of somebody's repository is not of their commits.
    """
    here = Path(__file__)
    try:
        _, commit, changes = (
            subprocess.run(["git", *command], cwd=here.parents[1], capture_output=True, text=True, check=True).stdout
            for command in (
                ["ls-files", "--error-unmatch", str(here)],
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "."],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.strip() + ("-dirty" if changes else "")
