"""How far probabilities can be relied on, judged on pairs that had no part in the fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from services.encoders.calibration import Curve, Reliability
from services.evaluation.calibration_curves import Method, probabilities
from services.evaluation.calibration_pairs import Pairs

FEWEST_PAIRS = 1_000
"""To be judged at all."""

MOST_ECE = 0.05
"""Curves that are farther off are of no use."""

# Pairs of one bin where there are enough, and at the least.
_PAIRS_IN_BIN, _FEWEST_IN_BIN = 1_000, 200
_FEW_BINS, _MOST_BINS = 10, 100


class Bin(NamedTuple):
    """Pairs of neighbouring scores: their mean probability, the share that is of the kind, and how many they are."""

    probability: float
    share: float
    pairs: int


@dataclass(frozen=True)
class Judged:
    """What a curve is worth on some pairs; see `services.encoders.calibration.Reliability` for the figures."""

    pairs: int
    base_rate: float
    ece: float
    brier: float
    brier_skill: float
    bins: list[Bin]

    @property
    def holds(self) -> bool:
        """Whether the probabilities may be shown."""
        return self.ece <= MOST_ECE and self.brier_skill > 0

    def reliability(self, data: str, method: Method) -> Reliability:
        """The figures as they travel in a manifest."""
        return Reliability(
            data=data,
            method=method,
            pairs=self.pairs,
            base_rate=round(self.base_rate, 4),
            ece=round(self.ece, 4),
            brier=round(self.brier, 4),
            brier_skill=round(self.brier_skill, 4),
        )


def judge(curve: Curve, pairs: Pairs) -> Judged:
    """Compare a curve's probabilities with the truth.

    The expected calibration error is taken over bins of as many pairs each, never fewer than 200: Nixon et al.,
    Measuring Calibration in Deep Learning (2019). Skill is over the base rate of the same pairs: Murphy (1973).

    Raises:
        ValueError: there are fewer than 1,000 pairs, or all or none of them are of the kind.
    """
    if len(pairs.scores) < FEWEST_PAIRS or pairs.right.all() or not pairs.right.any():
        raise ValueError("too few pairs to judge a curve by")
    expected = probabilities(curve, pairs.scores)
    order = np.argsort(pairs.scores, kind="stable")
    bins = [
        Bin(float(expected[rows].mean()), float(pairs.right[rows].mean()), len(rows))
        for rows in np.array_split(order, _bin_count(len(order)))
    ]
    base_rate = float(pairs.right.mean())
    brier = float(((expected - pairs.right) ** 2).mean())
    return Judged(
        pairs=len(order),
        base_rate=base_rate,
        ece=sum(item.pairs * abs(item.probability - item.share) for item in bins) / len(order),
        brier=brier,
        brier_skill=1 - brier / (base_rate * (1 - base_rate)),
        bins=bins,
    )


def _bin_count(pairs: int) -> int:
    return min(_MOST_BINS, max(pairs // _PAIRS_IN_BIN, min(_FEW_BINS, pairs // _FEWEST_IN_BIN)))
