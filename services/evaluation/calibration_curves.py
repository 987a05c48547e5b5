"""Fitting a curve: how probable is it that a hit of this cosine is of the kind?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from services.encoders.calibration import MOST_KNOTS, Curve
from services.evaluation.calibration_pairs import Pairs

Method = Literal["isotonic", "logistic"]
Numbers = npt.NDArray[np.float64]

_FOLDS = 4
_DECIMALS = 6
# Pairs of which one share is taken, and by how many pairs of the base rate it is drawn to that.
_GROUPED, _DRAWN = 100, 2
# Knots that would move the curve by less are left out.
_CLOSE = 0.001
_LOGISTIC_POINTS = 2_001
# So weak a penalty that only a perfect separation, whose slope has no bound, is held by it.
_PENALTY = 1e-4


class Fitted(NamedTuple):
    """A curve, and how it came to be."""

    curve: Curve
    method: Method


def fit(pairs: Pairs, seed: int) -> Fitted:
    """Fit isotonic and logistic regression, and take the one with the lower Brier score in cross-validation.

    The folds hold whole queries, because hits of one query resemble each other. Proportions stay as they are.

    Raises:
        ValueError: all pairs are of the kind, or none is.
    """
    if pairs.right.all() or not pairs.right.any():
        raise ValueError("a curve needs hits of the kind and hits of none")
    queries, query_of = np.unique(pairs.queries, return_inverse=True)
    fold_of = np.random.default_rng(seed).permutation(len(queries))[query_of] % _FOLDS
    errors: dict[Method, float] = {method: _left_out_error(pairs, fold_of, method) for method in _METHODS}
    best = min(errors, key=lambda method: errors[method])
    return Fitted(_METHODS[best](pairs), best)


def probabilities(curve: Curve, scores: npt.NDArray[Any]) -> Numbers:
    """The probabilities of many scores."""
    found: Numbers = np.interp(scores, curve.scores, curve.probabilities)
    return found


def isotonic(pairs: Pairs) -> Curve:
    """The non-decreasing curve that is closest to the truth of neighbouring pairs, in as few knots as keep its shape.

    Source: Zadrozny and Elkan, Transforming Classifier Scores into Accurate Multiclass Probability Estimates (2002).
    Pairs are put together by hundreds, and the share of each hundred is drawn a little to the base rate (the
    m-estimate of Cestnik, 1990): otherwise a handful of lucky pairs would make the ends certain.
    """
    order = np.argsort(pairs.scores, kind="stable")
    groups = np.array_split(order, max(1, len(order) // _GROUPED))
    scores = np.array([pairs.scores[rows].mean() for rows in groups], np.float64)
    sizes = np.array([len(rows) for rows in groups], np.float64)
    right = np.array([pairs.right[rows].sum() for rows in groups], np.float64)
    shares = (right + _DRAWN * pairs.right.mean()) / (sizes + _DRAWN)
    regression = IsotonicRegression().fit(scores, shares, sample_weight=sizes)
    return reduced(regression.X_thresholds_, regression.y_thresholds_)


def logistic(pairs: Pairs) -> Curve:
    """A sigmoid of the score; the base rate everywhere where it would fall.

    Source: Platt, Probabilistic Outputs for Support Vector Machines (1999), without its smoothing of targets.
    """
    scores = pairs.scores.astype(np.float64)
    spread = scores.std() or 1.0
    regression = LogisticRegression(C=1 / _PENALTY).fit(((scores - scores.mean()) / spread)[:, None], pairs.right)
    if regression.coef_[0, 0] <= 0:
        return Curve(scores=(0.0,), probabilities=(float(pairs.right.mean()),))
    points = np.linspace(scores.min(), scores.max(), _LOGISTIC_POINTS)
    return reduced(points, regression.predict_proba(((points - scores.mean()) / spread)[:, None])[:, 1])


def reduced(scores: Numbers, values: Numbers, most: int = MOST_KNOTS) -> Curve:
    """A non-decreasing polyline with at most so many of its knots: time and again the one that is farthest off.

    Source: Douglas and Peucker (1973), with the distance taken in probability.
    """
    scores, first = np.unique(np.clip(scores, -1, 1).round(_DECIMALS), return_index=True)
    values = np.maximum.accumulate(np.clip(values[first], 0, 1).round(_DECIMALS))
    kept = np.unique([0, len(scores) - 1])
    while len(kept) < most:
        distance = np.abs(np.interp(scores, scores[kept], values[kept]) - values)
        farthest = int(distance.argmax())
        if distance[farthest] < _CLOSE:
            break
        kept = np.sort(np.append(kept, farthest))
    return Curve(scores=tuple(scores[kept].tolist()), probabilities=tuple(values[kept].tolist()))


def _left_out_error(pairs: Pairs, fold_of: npt.NDArray[np.int64], method: Method) -> float:
    """Brier score of pairs by curves that were fitted without them."""
    squared = np.zeros(len(pairs.scores))
    for fold in range(_FOLDS):
        left_out = fold_of == fold
        known = pairs.take(~left_out)
        if known.right.all() or not known.right.any():
            curve = Curve(scores=(0.0,), probabilities=(float(known.right.mean()) if len(known.right) else 0.0,))
        else:
            curve = _METHODS[method](known)
        squared[left_out] = (probabilities(curve, pairs.scores[left_out]) - pairs.right[left_out]) ** 2
    return float(squared.mean())


_METHODS: dict[Method, Callable[[Pairs], Curve]] = {"isotonic": isotonic, "logistic": logistic}
