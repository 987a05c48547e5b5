"""Neighbours of query vectors, round by round more of them, until a page is full or there are none left."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.errors import NotFound
from services.search.filtering import Plan
from services.search.ranking import best_of
from services.search.stages import Stages
from services.vectors.base import MAX_LIMIT, Hit
from services.vectors.conditions import Condition
from services.wiring import Services

SLOWEST_GROWTH: Final = 4
FASTEST_GROWTH: Final = 16
# An approximate index that found nothing new twice, each time asked for so many more, is not asked again.
VAIN_ROUNDS: Final = 2
# Under a filter all vectors together are asked for so many: from 20,000 on Milvus Lite eight times as many take ten
# seconds, and what few match is found by its ids in the end (filtering.last_resort).
MOST_FILTERED: Final = 2 * MAX_LIMIT

Found = list[list[Hit]]
# Depth, the ids to search among, and a condition.
Search = Callable[[int, tuple[int, ...] | None, Condition | None], Found]


@dataclass(frozen=True)
class Ask:
    """What a vector store is asked again and again: what is near these vectors (q, d)?"""

    services: Services
    collection: str
    vectors: NDArray[np.float32]
    stages: Stages
    strong: bool

    def __call__(self, depth: int, among: tuple[int, ...] | None, where: Condition | None) -> Found:
        with self.stages.stage("vectors"):
            try:
                return self.services.vectors.search(
                    self.collection, self.vectors, depth, strong=self.strong, among=among, where=where
                )
            except NotFound:  # no picture was ever embedded
                return []


class Neighbours:
    """What a vector store finds near some vectors.

    Attributes:
        hits: best first, each with its best score over all vectors; without a condition none that is missing scores
            more than the last.
        complete: there are no more of at least `min_score`, or none that may be asked for.
        cut_off: complete only because no more may be asked for.
    """

    def __init__(self, ask: Search, plan: Plan, depth: int, min_score: float, first: Found | None) -> None:
        """
        Args:
            depth: how many are asked for at first.
            first: what was found when they were asked for, where that is known.
        """
        self._ask = ask
        self._min_score = min_score
        self._among, self._where = plan.among, plan.where
        self._changed = ask(len(plan.changed), plan.changed, None) if plan.changed else []
        self._deepest = MAX_LIMIT if plan.among is None else max(1, len(plan.among))
        self._depth = min(depth, self._deepest)
        self._vain = 0
        self.hits: list[Hit] = []
        self.complete = plan.among == ()
        self.cut_off = False
        if not self.complete:
            found = ask(self._depth, self._among, self._where) if first is None else first
            if plan.by in {"vectors", "database"}:
                self._deepest = max(self._depth, min(MAX_LIMIT, MOST_FILTERED // max(1, len(found))))
            self._take(found)

    def widen(self, wanted: int, kept: int) -> None:
        """Ask for more, because only `kept` of `wanted` pictures were left of those found so far."""
        known = len(self.hits)
        if self._depth < self._deepest:
            growth = min(FASTEST_GROWTH, max(SLOWEST_GROWTH, 1.25 * wanted / max(1, kept)))
            self._depth = min(self._deepest, math.ceil(self._depth * growth))
            self._take(self._ask(self._depth, self._among, self._where))
        self._vain = 0 if len(self.hits) > known else self._vain + 1
        if self._where is not None and (self._depth == self._deepest or self._vain == VAIN_ROUNDS):
            self._drop_condition()

    def _drop_condition(self) -> None:
        """An approximate index may have overlooked those that meet a condition: look among all that are near."""
        self._where, self._depth = None, self._deepest
        found = self._ask(self._depth, self._among, None)
        self.hits = best_of([*found, *self._changed, self.hits], self._min_score)
        self.complete, self.cut_off = True, self._floor(found) >= self._min_score

    def _take(self, found: Found) -> None:
        floor = self._floor(found)
        self.hits = [hit for hit in best_of([*found, *self._changed], self._min_score) if hit.score >= floor]
        if self._where is None:
            self.complete = floor < self._min_score or self._depth == self._deepest
            self.cut_off = floor >= self._min_score and self.complete and self._among is None
        else:  # a list that is not full proves nothing
            self.complete = -math.inf < floor < self._min_score

    def _floor(self, found: Found) -> float:
        """Whatever is missing scores no more: it scores less than the last of some list that is full."""
        return max((hits[-1].score for hits in found if len(hits) >= self._depth), default=-math.inf)
