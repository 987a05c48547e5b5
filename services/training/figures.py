"""Figures of a training's report: arrays in, SVG text or PNG bytes out, legible on light and on dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO, StringIO

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps, rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from services.images.preprocess import Pixels

PLANE = 2
"""Numbers of a code that can be drawn as they are."""

Codes = npt.NDArray[np.float32]

# As far from white as from the near-black of dark pages.
_INK = "#7d7d7d"
_GAP = 2
# Larger pictures are shrunk: a grid is to be looked at as a whole.
_LARGEST_SHOWN = 192
# Of this many dimensions t-SNE takes the distances.
_TSNE_DIMENSIONS = 50
_TSNE_FEWEST = 10
_TSNE_MOST = 1500
# Codes that differ by no more, of their largest number, differ by rounding alone.
_SAME = 1e-6
_MOST_IN_LEGEND = 20
_COVERED = (2, 98)


def loss_curves(curves: Mapping[str, Sequence[float]], label: str = "loss") -> str:
    """Draw one line a name over the epochs, from 1 on; returns SVG.

    Args:
        curves: values of each epoch; NaN leaves a gap.
        label: what the values are.
    """
    figure, axes = _axes(7, 3.2)
    lines: list[tuple[str, Artist]] = []
    for name, values in curves.items():
        (line,) = axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, linewidth=1.8)
        lines.append((name, line))
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25, color=_INK)
    _legend(axes, lines)
    # Text stays text, in the page's font; ids and date would differ from run to run.
    target = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "akin"}):
        figure.savefig(target, format="svg", metadata={"Date": None})
    drawing = target.getvalue()
    return drawing[drawing.index("<svg") :]


def reconstruction_grid(originals: Pixels, reconstructed: Pixels) -> bytes:
    """Draw pictures, uint8 (n, s, s, 3), above what was made of them; returns PNG.

    Raises:
        ValueError: the shapes differ.
    """
    if originals.shape != reconstructed.shape:
        raise ValueError(f"{originals.shape} originals, {reconstructed.shape} reconstructions")
    return _png(_tiled(np.stack([originals, reconstructed])))


def latent_scatter(codes: Codes, labels: npt.NDArray[np.int64], classes: Sequence[str]) -> bytes:
    """Draw codes (n, d) as points coloured by class; returns PNG.

    Two numbers are drawn as they are, more by t-SNE of their first principal components: van der Maaten and
    Hinton, "Visualizing Data using t-SNE" (2008). Fewer than ten codes have too few neighbours for that, they are
    drawn by their first two components, and codes that are all the same have none, they are drawn as one point; of
    many codes, 1,500 spread over all are drawn, as t-SNE takes its time.

    Args:
        labels: (n,), positions in `classes`, -1 for none.
    """
    if codes.shape[1] != PLANE and len(codes) > _TSNE_MOST:
        spread = np.linspace(0, len(codes) - 1, _TSNE_MOST).astype(int)
        codes, labels = codes[spread], labels[spread]
    points, axis = _in_plane(codes)
    figure, axes = _axes(8, 6)
    size = float(np.clip(12_000 / max(len(points), 1), 4, 40))
    clouds: list[tuple[str, Artist]] = []
    for label in np.unique(labels):
        x, y = points[labels == label].T
        name, colour = (classes[label], _colour(label, len(classes))) if label >= 0 else ("no label", _INK)
        clouds.append((name, axes.scatter(x, y, s=size, color=colour, alpha=0.75, linewidths=0)))
    axes.set_xlabel(f"{axis} 1")
    axes.set_ylabel(f"{axis} 2")
    if len(classes) <= _MOST_IN_LEGEND:
        _legend(axes, clouds, beside=True)
    else:
        axes.set_title(f"{len(classes)} classes, one colour each", fontsize=9, color=_INK)
    return _drawn(figure)


def plane_points(codes: Codes, side: int) -> Codes:
    """Points of a grid over where codes (n, 2) lie, without the outermost; (side², 2), row by row from the top."""
    low, high = np.percentile(codes, _COVERED, axis=0)
    columns, rows = (np.linspace(low[axis], high[axis], side, dtype=np.float32) for axis in range(PLANE))
    return np.stack([np.tile(columns, side), np.repeat(rows[::-1], side)], axis=1)


def plane_grid(decoded: Pixels, points: Codes) -> bytes:
    """Draw what points of `plane_points` decode to, uint8 (side², s, s, 3), where they lie; returns PNG."""
    side = round(len(points) ** 0.5)
    if side * side != len(points) or len(decoded) != len(points):
        raise ValueError(f"{len(points)} points and {len(decoded)} pictures are no square grid")
    figure, axes = _axes(7, 7)
    low, high = points.min(axis=0), points.max(axis=0)
    half = np.maximum(high - low, 1e-6) / max(side - 1, 1) / 2
    extent = (low[0] - half[0], high[0] + half[0], low[1] - half[1], high[1] + half[1])
    tiled = _tiled(decoded.reshape(side, side, *decoded.shape[1:]), gap=0)
    axes.imshow(tiled, extent=extent, aspect="auto", interpolation="nearest")
    axes.set_xlabel("code 1")
    axes.set_ylabel("code 2")
    return _drawn(figure)


def _in_plane(codes: Codes) -> tuple[Codes, str]:
    """Points (n, 2) for codes, and what their axes are called."""
    if codes.shape[1] == PLANE:
        return codes, "code"
    with np.errstate(all="ignore"):
        spread, largest = np.ptp(codes, axis=0).max(), np.abs(codes).max()
    # t-SNE divides by the spread of the first component, and crashes on what is not finite.
    if not _SAME * largest < spread < np.inf:
        return np.zeros((len(codes), PLANE), np.float32), "principal component"
    most = min(_TSNE_DIMENSIONS, *codes.shape)
    components = PCA(most, random_state=0).fit_transform(codes)
    if len(codes) < _TSNE_FEWEST or codes.shape[1] < PLANE:
        missing = max(0, PLANE - components.shape[1])
        return np.pad(components, ((0, 0), (0, missing)))[:, :PLANE], "principal component"
    perplexity = min(30.0, (len(codes) - 1) / 3)
    return TSNE(PLANE, perplexity=perplexity, init="pca", max_iter=500, random_state=0).fit_transform(
        components
    ), "t-SNE"


def _tiled(pictures: Pixels, gap: int = _GAP) -> Pixels:
    """One picture (h, w, 3) of a table (rows, columns, s, s, 3), with white gaps between and around them."""
    rows, columns, size = pictures.shape[:3]
    shown = min(size, _LARGEST_SHOWN)
    table = np.full((rows * (shown + gap) + gap, columns * (shown + gap) + gap, 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (shown + gap) + gap, column * (shown + gap) + gap
            tile = Image.fromarray(pictures[row, column])
            if shown < size:
                tile = tile.resize((shown, shown), Image.Resampling.LANCZOS)
            table[top : top + shown, left : left + shown] = tile
    return table


def _png(pixels: Pixels) -> bytes:
    target = BytesIO()
    Image.fromarray(pixels).save(target, "PNG", optimize=True)
    return target.getvalue()


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Axes on a transparent figure, in inches; without pyplot, which keeps figures and is not safe in threads."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.tick_params(colors=_INK, labelsize=8)
    for name, spine in axes.spines.items():
        spine.set_color(_INK)
        spine.set_visible(name in ("left", "bottom"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(_INK)
    return figure, axes


def _legend(axes: Axes, shown: Sequence[tuple[str, Artist]], *, beside: bool = False) -> None:
    names, artists = [name for name, _ in shown], [artist for _, artist in shown]
    legend = axes.legend(artists, names, frameon=False, fontsize=8, labelcolor=_INK, markerscale=2 if beside else 1)
    for text in legend.get_texts():  # names are those of folders, where dollar signs are no mathematics
        text.set_parse_math(False)
    if beside:
        legend.set_loc("center left")
        legend.set_bbox_to_anchor((1, 0.5))


def _colour(label: int, classes: int) -> tuple[float, ...]:
    if classes <= _MOST_IN_LEGEND:
        return tuple(colormaps["tab10" if classes <= 10 else "tab20"](label))
    return tuple(colormaps["hsv"](label / classes))


def _drawn(figure: Figure) -> bytes:
    target = BytesIO()
    figure.savefig(target, format="png", dpi=110)
    return target.getvalue()
