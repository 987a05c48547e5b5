"""What is trained: an encoder, and around it whatever teaches it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss

from services.datasets.load import UNLABELLED, Dataset
from services.datasets.split import Positions, spread
from services.encoders.architectures import build
from services.encoders.normalisation import normalise, to_input, to_pixels, to_values
from services.encoders.torch_encoder import largest_batch, to_unit_rows
from services.errors import EncoderError
from services.evaluation.metrics import label_metrics
from services.images.preprocess import Pixels, Preprocessing
from services.training.augment import augment
from services.training.contrastive import ContrastiveObjective
from services.training.decoders import build_decoder
from services.training.metric import MetricObjective, balanced_batches
from services.training.recipe import Contrastive, Metric, Recipe, Reconstruction

# Pictures that one validation compares with each other: enough to rank epochs by, few enough to cost little.
COMPARED = 4_000


class Backbone(Protocol):
    """A network that losses other than reconstruction can teach."""

    channels: int

    def features(self, pictures: Tensor) -> Tensor:
        """Normalised pictures (n, 3, s, s), of any s, to (n, channels)."""
        ...


@dataclass(frozen=True)
class Batch:
    """Pictures on the device, uint8 (n, s, s, 3), with their labels, int64 (n,), -1 for none."""

    pictures: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Validation:
    """How good an epoch is on the pictures held out: lower `loss` is better."""

    loss: float
    metrics: dict[str, float]


class Learner(nn.Module, ABC):
    """An encoder with what teaches it. Its parameters are what the optimiser changes."""

    encoder: nn.Module

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.encoder = build(recipe.architecture, recipe.options)

    @property
    def backbone(self) -> Backbone:
        """The encoder, for objectives that take its features.

        Raises:
            EncoderError: its architecture has none.
        """
        if not hasattr(self.encoder, "features"):
            raise EncoderError(f"{self.recipe.architecture!r} can be trained by reconstruction only")
        return cast(Backbone, self.encoder)

    @abstractmethod
    def loss(self, batch: Batch, progress: float, generator: torch.Generator) -> Tensor:
        """The loss of one batch; `progress` runs from 0 to 1 over the whole training."""

    @abstractmethod
    def validate(self, held_out: Dataset, device: torch.device) -> Validation:
        """Judge the encoder on pictures that it is not trained on."""

    def after_step(self, progress: float) -> None:
        """What else a step changes, such as a teacher that follows slowly."""

    def batches(self, train: Dataset, epoch: int) -> Iterator[Positions]:
        """Positions of the pictures of each batch of an epoch, the same for the same epoch and seed."""
        order = np.random.default_rng((self.recipe.seed, epoch)).permutation(len(train))
        # Equally long, because batch norm and contrasts cannot do with a last batch of one picture.
        yield from np.array_split(order, self.steps(train))

    def steps(self, train: Dataset) -> int:
        """Batches of an epoch."""
        return -(-len(train) // self.recipe.batch_size)


class ReconstructionLearner(Learner):
    """Learns by drawing the picture again: an autoencoder."""

    def __init__(self, recipe: Recipe, objective: Reconstruction) -> None:
        super().__init__(recipe)
        self.decoder = build_decoder(recipe.architecture, recipe.options)
        self._difference = {"mse": mse_loss, "l1": l1_loss}[objective.loss]

    def loss(self, batch: Batch, progress: float, generator: torch.Generator) -> Tensor:
        """Difference of pictures and their reconstructions, over normalised values."""
        pictures = to_input(batch.pictures, self.recipe.preprocessing)
        return self._difference(self.reconstruct(pictures), pictures)

    def reconstruct(self, pictures: Tensor) -> Tensor:
        """Normalised pictures (n, 3, s, s) to the same, by way of their codes."""
        drawn: Tensor = self.decoder(self.encoder.code(pictures))  # type: ignore[operator]
        return drawn

    @torch.inference_mode()
    def reconstructed(self, pixels: Pixels, device: torch.device) -> Pixels:
        """Pictures uint8 (n, s, s, 3) as they come back."""
        pictures = to_input(torch.from_numpy(pixels).to(device), self.recipe.preprocessing)
        return to_pixels(self.reconstruct(pictures), self.recipe.preprocessing)

    @torch.inference_mode()
    def drawn_from(self, codes: npt.NDArray[np.float32], device: torch.device) -> Pixels:
        """What codes (n, d) are drawn to: uint8 (n, s, s, 3)."""
        return to_pixels(self.decoder(torch.from_numpy(codes).to(device)), self.recipe.preprocessing)

    @torch.inference_mode()
    def validate(self, held_out: Dataset, device: torch.device) -> Validation:
        """Mean reconstruction loss."""
        total = 0.0
        for pixels in parts(held_out.pixels, self.recipe.batch_size, device):
            pictures = to_input(pixels, self.recipe.preprocessing)
            total += self._difference(self.reconstruct(pictures), pictures).item() * len(pixels)
        return Validation(total / len(held_out.pixels), {})


class ContrastiveLearner(Learner):
    """Learns from views of the same picture. Labels, where there are any, are only reported on."""

    def __init__(self, recipe: Recipe, objective: Contrastive) -> None:
        super().__init__(recipe)
        self._spec = objective
        self.objective = ContrastiveObjective(
            objective.method,
            self.backbone.features,
            self.backbone.channels,
            views=objective.views,
            temperature=objective.temperature,
        )

    def loss(self, batch: Batch, progress: float, generator: torch.Generator) -> Tensor:
        """Loss of the method over the views of one batch."""
        return self.objective.loss(self._views(batch.pictures, generator))

    def after_step(self, progress: float) -> None:
        """Move the teacher, where the method has one."""
        self.objective.after_step(progress)

    @torch.inference_mode()
    def validate(self, held_out: Dataset, device: torch.device) -> Validation:
        """The same loss over pictures held out, with the same views at every epoch."""
        generator = torch.Generator(device).manual_seed(self.recipe.seed)
        total, count = 0.0, 0
        # In random order, as in training: a batch of one label is harder to tell apart.
        compared = np.random.default_rng(self.recipe.seed).permutation(spread(len(held_out), COMPARED))
        for pixels in parts(held_out.pixels[compared], self.recipe.batch_size, device):
            if len(pixels) > 1:
                total += self.objective.loss(self._views(pixels, generator)).item() * len(pixels)
                count += len(pixels)
        return Validation(total / count, judged(self.backbone, held_out, self.recipe.preprocessing, device))

    def _views(self, pictures: Tensor, generator: torch.Generator) -> list[Tensor]:
        values = to_values(pictures)
        return [
            normalise(
                augment(values, self._spec.augmentation, self._spec.view_size, generator), self.recipe.preprocessing
            )
            for _ in range(self._spec.views)
        ]


class MetricLearner(Learner):
    """Learns from labels."""

    def __init__(self, recipe: Recipe, objective: Metric, classes: int) -> None:
        super().__init__(recipe)
        self._spec = objective
        self.objective = MetricObjective(objective.loss, self.backbone.channels, classes)

    def loss(self, batch: Batch, progress: float, generator: torch.Generator) -> Tensor:
        """Loss of the embeddings of one batch of augmented pictures."""
        size = next(size for share, size in self._spec.view_sizes if progress <= share)
        views = normalise(
            augment(to_values(batch.pictures), self._spec.augmentation, size, generator), self.recipe.preprocessing
        )
        return self.objective.loss(self.backbone.features(views), batch.labels)

    @torch.inference_mode()
    def validate(self, held_out: Dataset, device: torch.device) -> Validation:
        """Share of the ten nearest that have another label: one less precision@10."""
        metrics = judged(self.backbone, held_out, self.recipe.preprocessing, device)
        return Validation(1 - metrics["precision@10"], metrics)

    def batches(self, train: Dataset, epoch: int) -> Iterator[Positions]:
        """Batches of several pictures of each of some classes, where the recipe asks for that."""
        if self._spec.per_class is None:
            yield from super().batches(train, epoch)
            return
        yield from balanced_batches(
            train.labels, self.recipe.batch_size, self._spec.per_class, seed=self.recipe.seed, epoch=epoch
        )


def learner_for(recipe: Recipe, classes: int) -> Learner:
    """The learner of a recipe, with weights drawn from torch's generator."""
    match recipe.objective:
        case Reconstruction():
            return ReconstructionLearner(recipe, recipe.objective)
        case Contrastive():
            return ContrastiveLearner(recipe, recipe.objective)
        case Metric():
            return MetricLearner(recipe, recipe.objective, classes)


def batch_of(dataset: Dataset, positions: Positions, device: torch.device) -> Batch:
    """Pictures of a data set on the device."""
    pictures, labels = torch.from_numpy(dataset.pixels[positions]), torch.from_numpy(dataset.labels[positions])
    # Only from page-locked memory: from any other a copy that nobody waits for may find it reused.
    locked = device.type == "cuda"
    if locked:
        pictures, labels = pictures.pin_memory(), labels.pin_memory()
    return Batch(pictures.to(device, non_blocking=locked), labels.to(device, non_blocking=locked))


def parts(pixels: Pixels, count: int, device: torch.device) -> Iterator[Tensor]:
    """Pictures uint8 (n, s, s, 3) on the device, so many at once."""
    for start in range(0, len(pixels), count):
        yield torch.from_numpy(pixels[start : start + count]).to(device)


@torch.inference_mode()
def encode(
    vectors_of: Callable[[Tensor], Tensor], pixels: Pixels, preprocessing: Preprocessing, device: torch.device
) -> npt.NDArray[np.float32]:
    """What a network in evaluation mode says of pictures uint8 (n, s, s, 3): float32 (n, d)."""
    count = largest_batch(preprocessing.size, device)
    coded = [vectors_of(to_input(part, preprocessing)) for part in parts(pixels, count, device)]
    vectors: npt.NDArray[np.float32] = torch.cat(coded).float().cpu().numpy()
    return vectors


def judged(
    encoder: Backbone, held_out: Dataset, preprocessing: Preprocessing, device: torch.device
) -> dict[str, float]:
    """Label metrics of pictures held out, each looked for among the others; empty where no two have the same."""
    labelled = np.flatnonzero(held_out.labels != UNLABELLED)
    compared = held_out.take(labelled[spread(len(labelled), COMPARED)])
    if len(compared) == len(np.unique(compared.labels)):  # none has another of its label to find
        return {}
    vectors = encode(lambda pictures: to_unit_rows(encoder.features(pictures)), compared.pixels, preprocessing, device)
    found = label_metrics(vectors, compared.labels, vectors, compared.labels, own=np.arange(len(vectors)))
    return {"knn@1": found.knn_1, "precision@10": found.precision_10}
