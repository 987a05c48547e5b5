"""What a cosine means: curves fitted on hits whose truth is known, and the likeness that they make of a score.

Curves belong to one encoder, and travel in its manifest. Needs no torch.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

CurveKind = Literal["duplicate", "same_item", "similar"]
LikenessKind = Literal["duplicate", "same_item", "similar", "unrelated"]
CURVE_KINDS: Final[tuple[CurveKind, ...]] = ("duplicate", "same_item", "similar")
"""From the strictest on: a duplicate shows the same item, and the same item is similar."""

MOST_KNOTS: Final = 32
LIKELY: Final = 0.5
"""Probability from which a hit is called by a kind's name."""

Score = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Likeness(NamedTuple):
    """What a hit most likely is to the query, and how likely."""

    kind: LikenessKind
    probability: float


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Curve(_Facts):
    """Probability by score: linear between its knots, flat outside; it never falls."""

    scores: tuple[Score, ...] = Field(min_length=1, max_length=MOST_KNOTS)
    probabilities: tuple[Probability, ...]

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if len(self.probabilities) != len(self.scores):
            raise ValueError(f"{len(self.scores)} scores have {len(self.probabilities)} probabilities")
        if any(left >= right for left, right in pairwise(self.scores)):
            raise ValueError("the scores do not ascend")
        if any(left > right for left, right in pairwise(self.probabilities)):
            raise ValueError("the probabilities fall")
        return self

    def at(self, score: float) -> float:
        """The probability of a score."""
        right = bisect_right(self.scores, score)
        if right == 0 or right == len(self.scores):
            return self.probabilities[max(0, right - 1)]
        left_score, left = self.scores[right - 1], self.probabilities[right - 1]
        right_score, highest = self.scores[right], self.probabilities[right]
        # Rounding may not lift a point above the next knot, here or in `reaches`: the curve would fall there.
        return min(highest, left + (highest - left) * (score - left_score) / (right_score - left_score))

    def reaches(self, probability: float) -> float | None:
        """The least score that has this probability; None where none has, -1 where every score has."""
        if self.probabilities[-1] < probability:
            return None
        right = next(knot for knot, value in enumerate(self.probabilities) if value >= probability)
        if right == 0:
            return -1.0
        left_score, left = self.scores[right - 1], self.probabilities[right - 1]
        share = (probability - left) / (self.probabilities[right] - left)
        return min(self.scores[right], left_score + share * (self.scores[right] - left_score))


class Reliability(_Facts):
    """How well a curve's probabilities held on pairs that it was not fitted on.

    Attributes:
        data: the pictures, in words or as the specification of their source.
        method: what was fitted.
        pairs: hits that were judged; neither their queries nor their pictures had a part in the fit.
        base_rate: share of them that are of the kind.
        ece: expected calibration error, over bins of as many pairs each.
        brier: mean squared difference of probability and truth.
        brier_skill: 1 - brier / brier of the base rate; above 0 the score tells something.
    """

    data: str
    method: Literal["isotonic", "logistic"]
    pairs: int = Field(ge=0)
    base_rate: Probability
    ece: Probability
    brier: Probability
    brier_skill: Annotated[float, Field(le=1, allow_inf_nan=False)]


class Calibration(_Facts):
    """The curves of one encoder; None for a kind that nothing was measured of.

    Attributes:
        duplicate_threshold: the cosine at which the probability of a duplicate reaches one half; 1 where none does.
        measured: what each curve is worth.
    """

    duplicate: Curve | None = None
    same_item: Curve | None = None
    similar: Curve | None = None
    duplicate_threshold: Score
    measured: dict[CurveKind, Reliability]

    def curve(self, kind: CurveKind) -> Curve | None:
        """The curve of a kind."""
        curve: Curve | None = getattr(self, kind)
        return curve


def likeness(calibration: Calibration | None, score: float) -> Likeness | None:
    """The strictest kind that a hit of this cosine likely is, else `unrelated`.

    The kinds lie in one another, so each is at least as likely as the stricter ones: a greater score never makes a
    looser kind. None without a calibration, and where no kind is likely and none was measured for what is similar:
    what is no duplicate may still be alike.
    """
    if calibration is None:
        return None
    probability = 0.0
    for kind in CURVE_KINDS:
        curve = calibration.curve(kind)
        probability = max(probability, curve.at(score) if curve is not None else 0.0)
        if probability >= LIKELY:
            return Likeness(kind, probability)
    return None if calibration.similar is None else Likeness("unrelated", 1 - probability)
