"""What a search finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.catalog.found import Found, Known, LiveIndex
from services.encoders.calibration import Likeness
from services.images.preprocess import Box
from services.search.filtering import FilteredBy

Grid = list[list[float]]


@dataclass(frozen=True)
class Regions:
    """Where two pictures agree: 0 to 1 for each cell of the encoder's feature grid, rows from the top.

    Attributes:
        query_box: what of the query's picture its grid covers.
        hit_box: the same of the hit's.
    """

    query: Grid
    hit: Grid
    query_box: Box
    hit_box: Box


@dataclass(frozen=True)
class Match:
    """One look-alike.

    Attributes:
        score: cosine with the query, in [-1, 1].
        likeness: None where the encoder is not calibrated, or the query is composed.
        regions: None unless asked for.
    """

    rank: int
    score: float
    found: Found
    likeness: Likeness | None = None
    regions: Regions | None = None


@dataclass(frozen=True)
class Explanation:
    """How an answer came about: milliseconds by stage, and how many candidates were looked at in SQL.

    Attributes:
        no_regions: why no match has regions; None where one has, or there is no match.
    """

    timings_ms: Mapping[str, float]
    candidates: int
    collection: str
    filtered_by: FilteredBy
    no_regions: str | None


@dataclass(frozen=True)
class Ranking:
    """Pictures in order: what can be kept and turned into an answer later.

    Attributes:
        scores: ids of images with their scores.
        candidates: how many were looked at in SQL.
        rows: what SQL said of them a moment ago; of some in full.
    """

    scores: tuple[tuple[int, float], ...]
    filtered_by: FilteredBy = "none"
    candidates: int = 0
    rows: Mapping[int, Known | Found] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """Matches, best first, and what found them."""

    matches: list[Match]
    index: LiveIndex
    took_ms: float
    next_cursor: str | None = None
    explanation: Explanation | None = None
