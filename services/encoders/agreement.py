"""Where two pictures agree: which places of one look like any place of the other. Needs no torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Grid = npt.NDArray[np.float32]
# Cosines nearer to each other than this are the same but for rounding.
_ALIKE = 1e-4


def agreement(first: Grid, second: Grid) -> tuple[Grid, Grid]:
    """How well each cell of two grids of features (rows, columns, channels) agrees with the other grid, in 0..1.

    A cell agrees as well as the best cosine that it has with any cell of the other grid, so that what has moved is
    found. On one scale for both, 1 is the best of all cells, and 0 what any two of their cells have on average:
    features of one network are all somewhat alike, and where something differs is to be seen.

    Returns:
        For each of the two, (rows, columns).
    """
    cosines = _unit(first) @ _unit(second).T
    best = cosines.max(axis=1), cosines.max(axis=0)
    low, high = float(cosines.mean()), float(cosines.max())
    if high - low < _ALIKE:  # pictures of one colour: all of both agrees as well as any of it
        low, high = 0.0, 1.0
    scaled = [((values - low) / (high - low)).clip(0, 1) for values in best]
    return scaled[0].reshape(first.shape[:2]), scaled[1].reshape(second.shape[:2])


def _unit(grid: Grid) -> Grid:
    """Cells as rows of length 1; zeros for cells without a direction."""
    cells = grid.reshape(-1, grid.shape[-1])
    lengths = np.linalg.norm(cells, axis=1, keepdims=True)
    usable = np.isfinite(lengths) & (lengths > 0)
    rows = np.zeros_like(cells)
    np.divide(cells, lengths, out=rows, where=usable)
    return rows
