"""Holding pictures out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]


def spread(count: int, most: int) -> Positions:
    """At most so many positions, spread over all, because neighbours are often of one label."""
    return np.linspace(0, count - 1, min(most, count)).astype(np.int64)


def split(count: int, held_out: float, seed: int) -> tuple[Positions, Positions]:
    """Positions to train on and positions held out: disjoint, sorted, and the same for the same seed."""
    held = min(count - 1, max(1, round(count * held_out)))
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])
