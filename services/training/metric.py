"""Learning from labels: losses that bring the same label near and keep others away, and batches for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from pytorch_metric_learning import distances, losses, miners
from torch import Tensor, nn

from services.datasets.split import Positions
from services.errors import InvalidRequest

_TRIPLET_MARGIN = 0.2


class MetricObjective(nn.Module):
    """A loss over embeddings with labels. Its parameters, where a loss has any (proxies), are trained too.

    `proxy-anchor`: each class has a learned proxy, which is compared with all embeddings of the batch. Kim et al.,
    "Proxy Anchor Loss for Deep Metric Learning" (2020).
    `triplet`: an embedding is nearer to one of its class than to one of another by a margin of squared distance.
    Wang et al., "Learning Fine-grained Image Similarity with Deep Ranking" (2014); of all triplets of the batch
    the semi-hard ones count, whose negative is farther than the positive, but not by the margin. Schroff et al.,
    "FaceNet" (2015).
    `multi-similarity`: pairs are weighed by how they compare with the other pairs of their anchor, those that are
    easy are left out. Wang et al., "Multi-Similarity Loss with General Pair Weighting" (2019).
    `normalised-softmax`: a classifier by cosine at a temperature of 0.05. Zhai and Wu, "Classification is a Strong
    Baseline for Deep Metric Learning" (2018).

    Args:
        name: one of these.
        width: numbers of an embedding.
        classes: how many labels there are.

    Raises:
        InvalidRequest: there is no such loss, or there are fewer than two classes.
    """

    def __init__(self, name: str, width: int, classes: int) -> None:
        super().__init__()
        if name not in _LOSSES:
            raise InvalidRequest(f"unknown metric loss {name!r}: there are {', '.join(_LOSSES)}")
        if classes < 2:
            raise InvalidRequest(f"{name} needs pictures of at least two labels, found {classes}")
        self._loss, self._miner = _LOSSES[name](width, classes)

    def loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch, computed in float32.

        Args:
            embeddings: (n, width), of any length.
            labels: int64 (n,) in [0, classes).
        """
        # Sums of exponentials with factors of 20 to 50 in their exponents need more digits than half precision has.
        with torch.autocast(embeddings.device.type, enabled=False):
            exact = embeddings.float()
            chosen = None if self._miner is None else self._miner(exact, labels)
            value: Tensor = self._loss(exact, labels, chosen)
        return value


def balanced_batches(
    labels: Positions, batch_size: int, per_class: int, *, seed: int, epoch: int
) -> Iterator[Positions]:
    """Positions of the batches of one epoch, in which every class that occurs does with `per_class` pictures at least.

    An epoch has as many batches as one that takes each picture once, all full. A class whose pictures do not fill
    its last group lends some of them twice; so does one that has fewer than `per_class`.

    Args:
        labels: (n,); pictures labelled -1 are left out.
        batch_size: pictures of a batch, rounded down to a multiple of `per_class`.
        seed, epoch: decide together what is drawn.

    Raises:
        InvalidRequest: no batch can have pairs of the same and of another class.
    """
    if per_class < 2 or batch_size < 2 * per_class:
        raise InvalidRequest(
            f"a batch of {batch_size} has no room for two pictures or more ({per_class}) of two classes"
        )
    groups_of_batch = batch_size // per_class
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels) if label >= 0]
    if len(classes) < 2:
        raise InvalidRequest(f"batches need pictures of at least two labels, found {len(classes)}")
    random = np.random.default_rng((seed, epoch))
    groups = np.concatenate([_groups(members, per_class, random) for members in classes])
    batches = -(-len(labels) // batch_size)
    order = random.permutation(len(groups))
    while len(order) < batches * groups_of_batch:
        order = np.concatenate([order, random.permutation(len(groups))])
    for batch in range(batches):
        yield groups[order[batch * groups_of_batch : (batch + 1) * groups_of_batch]].ravel()


def _groups(members: Positions, size: int, random: np.random.Generator) -> Positions:
    """Deal the pictures of one class into groups, (groups, size); some come twice where they do not come out even."""
    dealt = random.permutation(members)
    missing = -len(dealt) % size
    while missing:
        # Not again what is already in the last, incomplete group, as long as there are others.
        others = dealt[: len(dealt) - len(dealt) % size]
        again = random.permutation(others if len(others) else members)[:missing]
        dealt, missing = np.concatenate([dealt, again]), missing - len(again)
    return dealt.reshape(-1, size)


def _proxy_anchor(width: int, classes: int) -> tuple[Any, Any]:
    return losses.ProxyAnchorLoss(classes, width, margin=0.1, alpha=32), None


def _triplet(width: int, classes: int) -> tuple[Any, Any]:
    squared = distances.LpDistance(power=2)
    return (
        losses.TripletMarginLoss(margin=_TRIPLET_MARGIN, distance=squared),
        miners.TripletMarginMiner(margin=_TRIPLET_MARGIN, type_of_triplets="semihard", distance=squared),
    )


def _multi_similarity(width: int, classes: int) -> tuple[Any, Any]:
    return losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5), miners.MultiSimilarityMiner(epsilon=0.1)


def _normalised_softmax(width: int, classes: int) -> tuple[Any, Any]:
    return losses.NormalizedSoftmaxLoss(classes, width, temperature=0.05), None


_LOSSES: dict[str, Callable[[int, int], tuple[Any, Any]]] = {
    "proxy-anchor": _proxy_anchor,
    "triplet": _triplet,
    "multi-similarity": _multi_similarity,
    "normalised-softmax": _normalised_softmax,
}
