"""From query vectors to ranked pictures, and from ranked pictures to an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.catalog import found
from services.catalog.filter_sql import to_sql
from services.catalog.filters import Filter
from services.catalog.found import Found, Known, LiveIndex
from services.encoders.calibration import likeness
from services.search import filtering, neighbours
from services.search.answer import Match, Ranking
from services.search.filtering import Plan
from services.search.known import manifest_of, vectors_of
from services.search.neighbours import Ask, Neighbours
from services.search.ranking import diversified, far_apart, first_of_each
from services.search.request import Collapse, Options
from services.search.stages import Stages
from services.vectors.base import MAX_LIMIT, Hit
from services.wiring import Services

# Of an item with more pictures the oldest ones are searched with.
MOST_QUERIES: Final = 16
MOST_DIVERSIFIED: Final = 200
# Candidates that diversity chooses from, for each hit that is wanted.
CHOICE: Final = 5
# Neighbours that are looked at beyond those wanted: some are being deleted, or copies.
MARGIN: Final = 3
# A search goes no deeper when so many pictures were looked at in SQL: it answers with what it has, unless all that
# match its filter can be listed.
MOST_LOOKED_AT: Final = 2 * MAX_LIMIT
# Where the encoder is not calibrated, only what is practically the same vector is near.
NEAR: Final = 0.99


@dataclass(frozen=True)
class Query:
    """Vectors (q, d) of length 1, and what is not to be found by them, because it is what they were made of."""

    vectors: NDArray[np.float32]
    without_items: frozenset[int] = frozenset()
    without_images: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Scope:
    """Where a search takes place."""

    services: Services
    catalog_id: int
    index: LiveIndex
    stages: Stages


def first_depth(query: Query, options: Options, wanted: int) -> int:
    """How many neighbours are asked for at first: what is wanted, and some that will fall away."""
    folded = options.group or options.collapse is not Collapse.NONE
    return _pool(options, wanted) + _own(query) + MARGIN + (wanted // 2 if folded else 0)


def rank(
    scope: Scope,
    query: Query,
    options: Options,
    *,
    wanted: int,
    first: neighbours.Found | None = None,
) -> Ranking:
    """The `wanted` best living pictures that match the filter, grouped, collapsed and diversified.

    Fewer where no more match, or where MOST_LOOKED_AT nearer ones, or all that may be asked for, do not and those that
    do are too many, or take too long, to be listed.

    Args:
        first: what the vector store found at `first_depth`, where that is known.
    """
    with scope.stages.stage("filter"):
        plan = filtering.plan(scope.services, scope.catalog_id, scope.index, options.filter, strong=options.strong)
    pool, depth = _pool(options, wanted), first_depth(query, options, wanted)
    picker = _Picker(scope, query, options, plan, pool)
    picked, all_seen = picker.fill(depth, first)
    candidates = len(picker.looked_at)
    if options.filter is not None and not all_seen:
        with scope.stages.stage("filter"):
            listed = filtering.last_resort(scope.services, scope.catalog_id, scope.index, options.filter)
        if listed is not None:
            plan = listed
            picker = _Picker(scope, query, options, plan, pool)
            picked, _ = picker.fill(depth, None)
            candidates += len(picker.looked_at)
    if options.diversity > 0:
        with scope.stages.stage("rank"):
            picked = picker.spread(picked)
    scores = tuple((hit.id, hit.score) for hit in picked[:wanted])
    return Ranking(scores, plan.by, candidates, picker.rows)


def matches(
    services: Services,
    catalog_id: int,
    index: LiveIndex,
    scores: Sequence[tuple[int, float]],
    *,
    wanted: Filter | None,
    limit: int,
    rows: Mapping[int, Known | Found],
    calibrated: bool,
    first_rank: int = 1,
) -> list[Match]:
    """The first `limit` ranked pictures that are still there and match, as SQL has them now.

    Args:
        rows: what SQL said of them in this request; the others are asked for.
        calibrated: scores are cosines of two pictures' vectors.
    """
    full = {image_id: row for image_id, row in rows.items() if isinstance(row, Found)}
    unknown = [image_id for image_id, _ in scores if image_id not in full]
    if unknown:
        with services.database.rows() as connection:
            condition = None if wanted is None else to_sql(wanted)
            full |= found.found(connection, catalog_id, unknown, condition)
    calibration = manifest_of(services, index).calibration if calibrated else None
    living = [(full[image_id], score) for image_id, score in scores if image_id in full][:limit]
    return [
        Match(rank, score, row, likeness(calibration, score)) for rank, (row, score) in enumerate(living, first_rank)
    ]


def _own(query: Query) -> int:
    """About how many pictures are found that are searched with."""
    return len(query.without_images) + (len(query.vectors) if query.without_items else 0)


def _pool(options: Options, wanted: int) -> int:
    return max(wanted, min(MOST_DIVERSIFIED, CHOICE * wanted)) if options.diversity > 0 else wanted


class _Picker:
    """Picks, of ever more neighbours, those that SQL knows and that are not folded into others."""

    def __init__(self, scope: Scope, query: Query, options: Options, plan: Plan, pool: int) -> None:
        self._scope, self._query, self._options, self._plan, self._pool = scope, query, options, plan, pool
        # Read along with what is looked at, where most of it will be shown.
        self._in_full = pool <= MOST_DIVERSIFIED and options.diversity == 0 and plan.by != "database"
        self.rows: dict[int, Known | Found] = {}
        self._vectors: dict[int, NDArray[np.float32]] = {}
        self.looked_at: set[int] = set()

    def fill(self, depth: int, first: neighbours.Found | None) -> tuple[list[Hit], bool]:
        """The best `pool` pictures, and whether they are so many, or all that there are.

        Args:
            depth: how many neighbours are asked for at first.
            first: those neighbours, where they are known.
        """
        scope, options = self._scope, self._options
        ask = Ask(scope.services, scope.index.collection, self._query.vectors, scope.stages, options.strong)
        near = Neighbours(ask, self._plan, depth, options.min_score, first)
        picked = self._pick(near.hits)
        while len(picked) < self._pool and not near.complete and not self._is_spent:
            near.widen(self._pool, len(picked))
            picked = self._pick(near.hits)
        return picked, len(picked) >= self._pool or not (near.cut_off or self._is_spent)

    def _pick(self, hits: Sequence[Hit]) -> list[Hit]:
        """The first `pool` of the hits that stand for themselves; SQL is asked for no more than that takes."""
        end = self._pool + _own(self._query) + MARGIN
        while True:
            self._look_at([hit.id for hit in hits[:end]])
            with self._scope.stages.stage("rank"):
                picked = self._fold([hit for hit in hits[:end] if self._is_wanted(hit.id)])
            if len(picked) >= self._pool or end >= len(hits) or self._is_spent:
                return picked[: self._pool]
            end *= 2

    def spread(self, picked: list[Hit]) -> list[Hit]:
        """The first of the picked hits in another order, by maximal marginal relevance; the others follow."""
        chosen = picked[:MOST_DIVERSIFIED]
        if not chosen:
            return picked
        scores = [hit.score for hit in chosen]
        order = diversified(scores, self._stacked(chosen), self._options.diversity, len(chosen))
        return [chosen[position] for position in order] + picked[MOST_DIVERSIFIED:]

    @property
    def _is_spent(self) -> bool:
        return len(self.looked_at) >= MOST_LOOKED_AT

    def _look_at(self, image_ids: Sequence[int]) -> None:
        new = [image_id for image_id in image_ids if image_id not in self.looked_at]
        new = new[: MOST_LOOKED_AT - len(self.looked_at)]
        if new:
            read = found.found if self._in_full else found.known
            with self._scope.stages.stage("database"), self._scope.services.database.rows() as connection:
                self.rows.update(read(connection, self._scope.catalog_id, new, self._plan.sql))
            self.looked_at.update(new)

    def _is_wanted(self, image_id: int) -> bool:
        row = self.rows.get(image_id)
        return (
            row is not None
            and row.item_pk not in self._query.without_items
            and image_id not in self._query.without_images
        )

    def _fold(self, hits: list[Hit]) -> list[Hit]:
        """One hit for each item and for each picture, as asked for; the best stands for the others."""
        if self._options.group:
            hits = [hits[position] for position in first_of_each(self.rows[hit.id].item_pk for hit in hits)]
        if self._options.collapse is Collapse.NONE:
            return hits
        hits = [hits[position] for position in first_of_each(self.rows[hit.id].sha256 for hit in hits)]
        if self._options.collapse is Collapse.IDENTICAL or not hits:
            return hits
        return [hits[position] for position in far_apart(self._stacked(hits), self._threshold, self._pool)]

    @property
    def _threshold(self) -> float:
        calibration = manifest_of(self._scope.services, self._scope.index).calibration
        return NEAR if calibration is None else calibration.duplicate_threshold

    def _stacked(self, hits: Sequence[Hit]) -> NDArray[np.float32]:
        missing = [hit.id for hit in hits if hit.id not in self._vectors]
        self._vectors |= vectors_of(
            self._scope.services, self._scope.index, missing, strong=self._options.strong, keep=False
        )
        # Deleted from the vector store since it was found there: like nothing, so that it stays.
        nothing = np.zeros(self._scope.index.dimension, np.float32)
        return np.stack([self._vectors.get(hit.id, nothing) for hit in hits])
