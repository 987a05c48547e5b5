"""Learning without labels: views of the same picture are brought together by one of five published methods."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import combinations, permutations
from types import MethodType

import torch
from lightly.loss import DINOLoss, NegativeCosineSimilarity, NTXentLoss, VICRegLoss
from lightly.models.modules import heads
from lightly.models.utils import update_momentum
from torch import Tensor, nn

from services.errors import InvalidRequest

Features = Callable[[Tensor], Tensor]

# Of both methods with a teacher, at the start; it rises to 1 along a cosine.
_MOMENTUM = 0.996
# Views that a DINO teacher sees; the student sees further ones too.
_TEACHER_VIEWS = 2


class ContrastiveObjective(nn.Module):
    """A method with its heads, and its teacher where it has one, on an encoder.

    `simclr`: a view is told from those of all other pictures of the batch. Chen et al. (2020).
    `vicreg`: views agree, while numbers keep their variance and do without each other. Bardes et al. (2021).
    `byol`: one view predicts what a slowly moving teacher makes of another. Grill et al. (2020).
    `fastsiam`: one view predicts the mean of what the encoder itself makes of the others; wants four views, with
    two it is SimSiam. Pototzky et al. (2022).
    `dino`: the classes that a student gives any view are those that a teacher gives the first two. Caron et
    al. (2021).

    With more than two views the first three average over all pairs. `parameters()` has those of the encoder and
    the heads, which are trained, and of the teacher, which need no gradient; the encoder to keep is the one given.

    Args:
        method: one of these.
        features: a module, or a method of one, from normalised pictures (n, 3, s, s) to (n, width).
        width: numbers that it gives.
        views: how many views of each picture `loss` is given, at least two.
        temperature: of `simclr`: the lower, the more weigh those of the other pictures that are nearest.

    Raises:
        InvalidRequest: there is no such method, or there are too few views.
    """

    def __init__(self, method: str, features: Features, width: int, *, views: int, temperature: float = 0.5) -> None:
        super().__init__()
        if method not in _METHODS:
            raise InvalidRequest(f"unknown contrastive method {method!r}: there are {', '.join(_METHODS)}")
        if views < 2:
            raise InvalidRequest(f"{method} compares views of a picture: it needs at least 2, not {views}")
        self.views = views
        own = {"temperature": temperature} if method == "simclr" else {}
        self.method = _METHODS[method](features, width, **own)

    def loss(self, views: list[Tensor]) -> Tensor:
        """The loss over views of one batch.

        Args:
            views: normalised pictures (n, 3, s, s), n at least 2, each element the same pictures in the same order;
                s may differ between the first two and the rest.
        """
        if len(views) != self.views:
            raise ValueError(f"expected {self.views} views, got {len(views)}")
        return self.method.loss(views)

    def after_step(self, progress: float) -> None:
        """Move the teacher; to be called after each step of the optimiser.

        Args:
            progress: how much of the training is done, from 0 to 1.
        """
        self.method.after_step(progress)


class _Branch(nn.Module):
    """An encoder's features and a head on them: (n, 3, s, s) to (n, outputs of the head)."""

    def __init__(self, features: Features, head: nn.Module) -> None:
        super().__init__()
        if isinstance(features, MethodType):
            owner, self._call = features.__self__, features.__name__
        else:
            owner, self._call = features, "__call__"
        assert isinstance(owner, nn.Module)
        self.backbone = owner
        self.head = head

    def forward(self, pictures: Tensor) -> Tensor:
        projected: Tensor = self.head(getattr(self.backbone, self._call)(pictures))
        return projected

    def teacher(self, head: nn.Module) -> _Branch:
        """A copy that no gradient reaches; `head` is another of the same kind, which takes over the weights.

        Heads with weight normalisation cannot be copied by `deepcopy`.
        """
        backbone = copy.deepcopy(self.backbone)
        copied = _Branch(backbone if self._call == "__call__" else getattr(backbone, self._call), head)
        copied.load_state_dict(self.state_dict())
        copied.requires_grad_(False)
        return copied


class _Method(nn.Module, ABC):
    @abstractmethod
    def loss(self, views: list[Tensor]) -> Tensor: ...

    def after_step(self, progress: float) -> None:
        """Most methods have nothing to move."""


class _SimCLR(_Method):
    def __init__(self, features: Features, width: int, temperature: float) -> None:
        super().__init__()
        self.student = _Branch(features, heads.SimCLRProjectionHead(width, width, 128))
        self._criterion = NTXentLoss(temperature=temperature)

    def loss(self, views: list[Tensor]) -> Tensor:
        projected = [self.student(view) for view in views]
        with _exact(projected):
            return _mean([self._criterion(a.float(), b.float()) for a, b in combinations(projected, 2)])


class _VICReg(_Method):
    def __init__(self, features: Features, width: int) -> None:
        super().__init__()
        self.student = _Branch(features, heads.VICRegProjectionHead(width, 2048, 2048))
        self._criterion = VICRegLoss(lambda_param=25, mu_param=25, nu_param=1)

    def loss(self, views: list[Tensor]) -> Tensor:
        projected = [self.student(view) for view in views]
        with _exact(projected):
            return _mean([self._criterion(a.float(), b.float()) for a, b in combinations(projected, 2)])


class _BYOL(_Method):
    def __init__(self, features: Features, width: int) -> None:
        super().__init__()
        self.student = _Branch(features, heads.BYOLProjectionHead(width, 1024, 256))
        self.teacher = self.student.teacher(heads.BYOLProjectionHead(width, 1024, 256))
        self.predictor = heads.BYOLPredictionHead(256, 1024, 256)
        self._criterion = NegativeCosineSimilarity()

    def loss(self, views: list[Tensor]) -> Tensor:
        predicted = [self.predictor(self.student(view)) for view in views]
        with torch.no_grad():
            wanted = [self.teacher(view) for view in views]
        with _exact(predicted):
            pairs = permutations(range(len(views)), 2)
            return _mean([self._criterion(predicted[a].float(), wanted[b].float()) for a, b in pairs])

    def after_step(self, progress: float) -> None:
        update_momentum(self.student, self.teacher, _momentum(progress))


class _FastSiam(_Method):
    def __init__(self, features: Features, width: int) -> None:
        super().__init__()
        self.student = _Branch(features, heads.SimSiamProjectionHead(width, 2048, 2048))
        self.predictor = heads.SimSiamPredictionHead(2048, 512, 2048)
        self._criterion = NegativeCosineSimilarity()

    def loss(self, views: list[Tensor]) -> Tensor:
        projected = [self.student(view) for view in views]
        predicted = [self.predictor(projection) for projection in projected]
        with _exact(predicted):
            wanted = torch.stack([projection.detach().float() for projection in projected])
            total = wanted.sum(0)
            others = len(views) - 1
            return _mean(
                [
                    self._criterion(prediction.float(), (total - own) / others)
                    for prediction, own in zip(predicted, wanted, strict=True)
                ]
            )


class _DINO(_Method):
    """Heads have batch normalisation, which convolutional encoders want, and 2,048 classes."""

    _CLASSES = 2048

    def __init__(self, features: Features, width: int) -> None:
        super().__init__()
        self.student = _Branch(features, self._head(width))
        self.teacher = self.student.teacher(self._head(width))
        self._criterion = _DINOLoss(self._CLASSES, teacher_temp=0.04, student_temp=0.1)

    def _head(self, width: int) -> nn.Module:
        head: nn.Module = heads.DINOProjectionHead(width, 2048, 256, self._CLASSES, batch_norm=True)
        return head

    def loss(self, views: list[Tensor]) -> Tensor:
        student = [self.student(view) for view in views]
        with torch.no_grad():
            teacher = [self.teacher(view) for view in views[:_TEACHER_VIEWS]]
        with _exact(student):
            value: Tensor = self._criterion([out.float() for out in teacher], [out.float() for out in student])
        return value

    def after_step(self, progress: float) -> None:
        update_momentum(self.student, self.teacher, _momentum(progress))


class _DINOLoss(DINOLoss):  # type: ignore[misc]
    """lightly's loss, whose centre follows the pictures trained on and not those that a validation looks at."""

    def update_center(self, teacher_out: Tensor) -> None:
        if self.training:
            super().update_center(teacher_out)


def _exact(outputs: list[Tensor]) -> torch.autocast:
    """Losses are computed in float32: their exponents and variances need more digits than half precision has."""
    return torch.autocast(outputs[0].device.type, enabled=False)


def _mean(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).mean()


def _momentum(progress: float) -> float:
    return 1 - (1 - _MOMENTUM) * (math.cos(math.pi * progress) + 1) / 2


_METHODS: dict[str, Callable[..., _Method]] = {
    "simclr": _SimCLR,
    "vicreg": _VICReg,
    "byol": _BYOL,
    "fastsiam": _FastSiam,
    "dino": _DINO,
}
