"""Grouping, collapsing, diversity and widening, beside slow and obvious references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.caching import Recent
from services.catalog.filters import AsWritten, parse
from services.catalog.found import Found, Known
from services.errors import InvalidRequest
from services.search.filtering import Plan
from services.search.neighbours import MOST_FILTERED, Neighbours
from services.search.pages import Frozen
from services.search.ranking import best_of, diversified, far_apart, first_of_each
from services.search.request import KnownItem, Part, Search
from services.vectors.base import MAX_LIMIT, Hit
from services.vectors.conditions import Condition, HasAny

HALF = HasAny((1,))


def unit_vectors(seed: int, count: int, dimension: int = 3) -> NDArray[np.float32]:
    """Few dimensions, so that some are near one another."""
    drawn = np.random.default_rng(seed).normal(size=(count, dimension))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


hits = st.lists(st.builds(Hit, st.integers(1, 9), st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0])), max_size=12)


@given(st.lists(hits, max_size=4), st.sampled_from([-1.0, 0.0, 0.3]))
def test_a_picture_has_its_best_score_over_all_query_vectors(found: list[list[Hit]], min_score: float) -> None:
    every = [hit for one in found for hit in one]
    best = {image: max(hit.score for hit in every if hit.id == image) for image in {hit.id for hit in every}}
    expected = sorted(
        ((score, image) for image, score in best.items() if score >= min_score), key=lambda p: (-p[0], p[1])
    )

    assert [(hit.score, hit.id) for hit in best_of(found, min_score)] == expected


@given(st.lists(st.integers(0, 5)))
def test_of_each_key_the_first_is_kept(keys: list[int]) -> None:
    assert first_of_each(keys) == [place for place, key in enumerate(keys) if key not in keys[:place]]


@given(st.integers(0, 999), st.integers(1, 25), st.floats(-1, 1), st.integers(1, 30))
def test_what_is_near_one_that_is_kept_is_left_out(seed: int, count: int, threshold: float, most: int) -> None:
    vectors = unit_vectors(seed, count)
    kept: list[int] = []
    for place in range(count):
        if len(kept) < most and all(vectors[place] @ vectors[other] < threshold for other in kept):
            kept.append(place)

    assert far_apart(vectors, threshold, most) == kept


@given(st.integers(0, 999), st.integers(1, 15), st.floats(0, 1), st.integers(1, 20))
def test_diversity_is_maximal_marginal_relevance(seed: int, count: int, diversity: float, most: int) -> None:
    vectors = unit_vectors(seed, count)
    scores = sorted(np.random.default_rng(seed).uniform(-1, 1, count).tolist(), reverse=True)

    order = diversified(scores, vectors, diversity, most)

    assert len(order) == len(set(order)) == min(most, count)
    for step, chosen in enumerate(order):

        def worth(place: int, before: list[int] = order[:step]) -> float:
            nearest = max((float(vectors[place] @ vectors[other]) for other in before), default=0.0)
            return (1 - diversity) * scores[place] - diversity * nearest

        # Rounding may decide between equals.
        assert worth(chosen) == pytest.approx(max(worth(place) for place in range(count) if place not in order[:step]))


def test_without_diversity_the_order_is_that_of_the_scores() -> None:
    assert diversified([0.9, 0.8, 0.7], unit_vectors(1, 3), 0.0, 3) == [0, 1, 2]


def test_with_diversity_a_copy_of_the_first_comes_last() -> None:
    vectors = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)

    assert diversified([0.9, 0.9, 0.5], vectors, 0.5, 3) == [0, 2, 1]


class Shelf:
    """Scores of many pictures, of which an approximate search with a condition overlooks some."""

    def __init__(self, count: int, overlooked: float = 0.0) -> None:
        rng = np.random.default_rng(1)
        self.hits = [Hit(image, float(score)) for image, score in enumerate(sorted(rng.uniform(-1, 1, count))[::-1])]
        self.seen = rng.uniform(size=count) >= overlooked
        self.depths: list[tuple[int, bool]] = []

    def __call__(self, depth: int, among: tuple[int, ...] | None, where: Condition | None) -> list[list[Hit]]:
        self.depths.append((depth, where is not None))
        found = [hit for hit in self.hits if where is None or (hit.id % 2 == 0 and self.seen[hit.id])]
        return [[hit for hit in found if among is None or hit.id in among][:depth]]


def test_without_a_condition_a_short_list_is_the_end() -> None:
    shelf = Shelf(30)

    neighbours = Neighbours(shelf, Plan(), 50, -1.0, None)

    assert neighbours.complete
    assert neighbours.hits == shelf.hits


def test_a_score_below_the_least_one_is_the_end() -> None:
    shelf = Shelf(1000)
    bound = shelf.hits[5].score

    neighbours = Neighbours(shelf, Plan(), 20, bound, None)

    assert neighbours.complete
    assert [hit.id for hit in neighbours.hits] == [0, 1, 2, 3, 4, 5]


def test_a_search_widens_until_it_has_seen_everything() -> None:
    shelf = Shelf(20_000)
    neighbours = Neighbours(shelf, Plan(), 20, -1.0, None)
    while not neighbours.complete:
        neighbours.widen(wanted=20, kept=10)

    assert [depth for depth, _ in shelf.depths] == [20, 80, 320, 1280, 5120, MAX_LIMIT]
    assert neighbours.hits == shelf.hits[:MAX_LIMIT]


def test_the_less_is_kept_the_faster_a_search_widens() -> None:
    shelf = Shelf(20_000)
    neighbours = Neighbours(shelf, Plan(), 20, -1.0, None)

    neighbours.widen(wanted=20, kept=0)

    assert shelf.depths[-1][0] == 320


def test_among_ids_everything_is_found_and_nothing_else() -> None:
    neighbours = Neighbours(Shelf(1000), Plan("ids", among=(7, 500, 3)), 20, -1.0, None)

    assert neighbours.complete
    assert [hit.id for hit in neighbours.hits] == [3, 7, 500]


def test_among_no_ids_nothing_is_asked() -> None:
    shelf = Shelf(10)
    assert Neighbours(shelf, Plan("ids", among=()), 20, -1.0, None).complete
    assert shelf.depths == []


def test_a_short_list_under_a_condition_is_no_proof_and_in_the_end_all_that_is_near_is_looked_at() -> None:
    shelf = Shelf(2000, overlooked=0.9)
    neighbours = Neighbours(shelf, Plan("vectors", where=HALF), 300, -1.0, None)
    assert not neighbours.complete
    assert len(neighbours.hits) < 300

    while not neighbours.complete:
        neighbours.widen(wanted=300, kept=len(neighbours.hits))

    assert shelf.depths == [(300, True), (1200, True), (4800, True), (MAX_LIMIT, False)]
    assert {hit.id for hit in neighbours.hits} >= set(range(0, 2000, 2))


def test_what_a_condition_found_beyond_the_depth_is_kept_without_it() -> None:
    shelf = Shelf(3 * MAX_LIMIT)
    shelf.seen[: 2 * MAX_LIMIT] = False
    neighbours = Neighbours(shelf, Plan("vectors", where=HALF), MAX_LIMIT, -1.0, None)
    found = set(neighbours.hits)

    neighbours.widen(wanted=300, kept=0)

    assert neighbours.complete
    assert found <= set(neighbours.hits)
    assert neighbours.hits[0].id == 0


@pytest.mark.parametrize("plan", [Plan("vectors", where=HALF), Plan("database")])
def test_under_a_filter_many_vectors_are_searched_with_less_deep(plan: Plan) -> None:
    shelf = Shelf(20_000, overlooked=1.0)
    neighbours = Neighbours(lambda *asked: 16 * shelf(*asked), plan, 20, -1.0, None)

    while not neighbours.complete:
        neighbours.widen(wanted=20, kept=0)

    assert shelf.depths[-1] == (MOST_FILTERED // 16, False)
    assert neighbours.hits == shelf.hits[: MOST_FILTERED // 16]
    assert neighbours.cut_off


def test_what_does_not_meet_a_condition_yet_is_ranked_with_the_others() -> None:
    shelf = Shelf(40_000)
    neighbours = Neighbours(shelf, Plan("vectors", where=HALF, changed=(1, 9_999)), 20, -1.0, None)
    assert [hit.id for hit in neighbours.hits] == sorted([1, *range(0, 40, 2)])  # 9,999 is beyond what may be missing

    while not neighbours.complete:
        neighbours.widen(wanted=30_000, kept=len(neighbours.hits))

    assert {1, 9_999} <= {hit.id for hit in neighbours.hits}


def test_a_search_that_may_not_go_deeper_says_so() -> None:
    def widest(count: int, plan: Plan, min_score: float = -1.0) -> Neighbours:
        neighbours = Neighbours(Shelf(count), plan, 20, min_score, None)
        while not neighbours.complete:
            neighbours.widen(wanted=20, kept=0)
        return neighbours

    for plan in (Plan(), Plan("vectors", where=HALF)):
        assert widest(MAX_LIMIT + 1, plan).cut_off
        assert not widest(MAX_LIMIT - 1, plan).cut_off
        assert not widest(MAX_LIMIT + 1, plan, min_score=0.5).cut_off


def test_of_several_lists_only_what_no_missing_picture_can_outdo_is_ranked() -> None:
    lists = [[Hit(1, 0.9), Hit(2, 0.8)], [Hit(3, 0.3), Hit(4, 0.2)]]

    neighbours = Neighbours(lambda *_: lists, Plan(), 2, -1.0, None)

    # A picture that is third in the first list may have 0.79, more than 3 and 4.
    assert [hit.id for hit in neighbours.hits] == [1, 2]
    assert not neighbours.complete


def test_a_ranking_is_the_same_out_of_the_cache() -> None:
    frozen = Frozen(7, 3, {"field": "brand", "eq": "Ä"}, True, ((2**60, 0.1), (5, -0.25)))
    assert Frozen.unpack(frozen.pack()) == frozen


@pytest.mark.parametrize("number", [10**20, -(2**63) - 1, 10**300, 1, 1.0, -0.0, 5e-324, True])
def test_a_filter_is_the_same_out_of_the_cache(number: float) -> None:
    frozen = Frozen(7, 3, {"field": "price", "eq": number}, True, ())
    assert repr(Frozen.unpack(frozen.pack())) == repr(frozen)


def test_rankings_without_a_filter_are_kept_too() -> None:
    frozen = Frozen(7, 3, None, False, ((1, 0.5),))
    assert Frozen.unpack(frozen.pack()) == frozen


def test_what_was_not_used_for_long_is_forgotten_first() -> None:
    recent: Recent[str, int] = Recent(10, seconds=60)
    recent.put("a", 1, cost=4)
    recent.put("b", 2, cost=4)
    assert recent.get("a") == 1

    recent.put("c", 3, cost=4)

    assert (recent.get("a"), recent.get("b"), recent.get("c")) == (1, None, 3)
    recent.put("huge", 4, cost=11)
    assert [recent.get(name) for name in ("a", "c", "huge")] == [None, None, None]


def test_what_was_kept_long_enough_is_forgotten() -> None:
    recent: Recent[str, int] = Recent(10, seconds=-1)
    recent.put("a", 1)
    assert recent.get("a") is None


@pytest.mark.parametrize("weights", [(), (-1.0,), (-0.5, -2.0)])
def test_there_is_nothing_near_only_unlike_things(weights: tuple[float, ...]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Search(tuple(Part(KnownItem("x"), weight) for weight in weights))
    assert caught.value.code == "only_negative_weights"


def test_filters_are_told_apart_by_how_they_are_written() -> None:
    numbers = [True, 1, 1.0, "1"]
    filters = [AsWritten(parse({"field": "a", "eq": number})) for number in numbers]

    assert len({*filters, AsWritten(None)}) == 5
    assert {*filters, AsWritten(parse({"field": "a", "eq": 1}))} == set(filters)


def test_filters_can_be_remembered_by() -> None:
    body = {"and": [{"field": "brand", "in": ["a", 1, True]}, {"not": {"field": "price", "gte": 1, "lt": 2}}]}
    assert hash(parse(body)) == hash(parse(body))


def test_rows_in_full_have_all_that_the_short_ones_have() -> None:
    assert set(Known._fields) < set(Found._fields)
