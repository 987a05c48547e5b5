"""Two halves of some pictures that share nothing: curves are fitted on the one and judged on the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.encoders.calibration import CurveKind
from services.evaluation.calibration_pairs import Pairs, pairs_by_label, pairs_of_copies
from services.evaluation.metrics import Labels, Positions, Vectors


@dataclass(frozen=True)
class Half:
    """Positions of the pictures that are searched, of those that are asked for, and whether they are the same."""

    gallery: Positions
    queries: Positions
    same: bool

    @property
    def pictures(self) -> Positions:
        """All of them."""
        return self.gallery if self.same else np.sort(np.concatenate([self.gallery, self.queries]))


def cut(labels: Labels, asked: int, whole_labels: bool, seed: int) -> tuple[Half, Half]:
    """Cut pictures, of which the first `asked` are the queries, into two parts; labels as a whole where wanted."""
    random = np.random.default_rng(seed)
    turn = random.permutation(len(labels)) % 2
    if whole_labels:
        of_label = random.permutation(int(labels.max(initial=0)) + 1) % 2
        turn = np.where(labels >= 0, of_label[labels], turn)
    everything = np.arange(len(labels))

    def half(number: int) -> Half:
        mine = everything[turn == number]
        return Half(mine[mine >= asked], mine[mine < asked] if asked else mine, not asked)

    return half(0), half(1)


def draw_copied(halves: Sequence[Half], copied: int, seed: int) -> Positions:
    """Queries of each half that are altered, as many of the one as of the other."""
    random = np.random.default_rng(seed)
    drawn = [random.choice(half.queries, min(len(half.queries), copied // 2), replace=False) for half in halves]
    return np.sort(np.concatenate(drawn))


def pairs_of(
    kind: CurveKind, half: Half, vectors: Vectors, labels: Labels, *, copies: Vectors, originals: Positions
) -> Pairs | None:
    """The hits of one half; None where there is nothing to ask, or nothing to be found.

    Args:
        vectors: of all pictures.
        copies: (alterations, copied, dimension), of the pictures at the positions `originals`.
    """
    if kind == "duplicate":
        searched = half.pictures
        chosen = np.isin(originals, searched)
        if not chosen.any():
            return None
        answers = np.searchsorted(searched, originals[chosen])
        return pairs_of_copies(vectors[searched], copies[:, chosen], answers)
    own = np.arange(len(half.queries)) if half.same else None
    if (labels[half.gallery] >= 0).sum() < 2 or not (labels[half.queries] >= 0).any():
        return None
    return pairs_by_label(
        vectors[half.gallery], labels[half.gallery], vectors[half.queries], labels[half.queries], own=own
    )
