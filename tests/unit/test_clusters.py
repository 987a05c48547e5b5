"""Clusters: who belongs together, and who does not although a chain of pairs connects them."""

from __future__ import annotations

import numpy as np
import pytest

from services.clusters import NONE, Floats, Union, stars


def at_degrees(*degrees: float) -> Floats:
    """Unit vectors in a plane: two are as far from each other as their angles."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def within(degrees: float) -> float:
    """The threshold that vectors reach which are so far from each other."""
    return float(np.cos(np.radians(degrees)))


def one_each(vectors: Floats) -> np.ndarray:
    return np.ones(len(vectors), np.int64)


def clusters(vectors: Floats, threshold: float) -> set[frozenset[int]]:
    centres = stars(vectors, one_each(vectors), threshold).centres
    return {frozenset(np.flatnonzero(centres == centre).tolist()) for centre in set(centres.tolist()) - {NONE}}


def test_what_pairs_connect_is_one_set_called_by_its_greatest_number() -> None:
    union = Union()
    for first, second in ((-5, -3), (-9, -8), (-3, -9), (-7, -7)):
        union.unite(first, second)

    assert [union.find(number) for number in (-3, -5, -8, -9)] == [-3] * 4
    assert [union.find(number) for number in (-7, -1)] == [-7, -1]


def test_a_long_chain_of_unions_is_found_without_deep_recursion() -> None:
    union = Union()
    for number in range(20_000):
        union.unite(number, number + 1)

    assert union.find(0) == 20_000


def test_both_neighbours_of_a_picture_are_with_it_though_they_are_no_neighbours() -> None:
    assert clusters(at_degrees(0, 9, 18), within(10)) == {frozenset({0, 1, 2})}
    assert clusters(at_degrees(9, 0, 18), within(10)) == {frozenset({0, 1, 2})}


def test_the_ends_of_a_longer_chain_are_apart() -> None:
    assert clusters(at_degrees(0, 9, 18, 27), within(10)) == {frozenset({0, 1, 2})}
    assert clusters(at_degrees(0, 9, 18, 27, 36), within(10)) == {frozenset({0, 1, 2}), frozenset({3, 4})}


@pytest.mark.parametrize("seed", range(5))
def test_every_picture_is_near_its_centre_and_no_centre_near_one_with_more_around_it(seed: int) -> None:
    degrees = np.random.default_rng(seed).uniform(0, 180, 60)
    vectors, threshold = at_degrees(*degrees), within(5)

    found = stars(vectors, one_each(vectors), threshold)

    for position, centre in enumerate(found.centres):
        if centre != NONE:
            assert abs(degrees[position] - degrees[centre]) <= 5.01
            assert found.centres[centre] == centre
        # Who is left alone has nobody near who is left as well.
        near = np.flatnonzero((abs(degrees - degrees[position]) < 4.99) & (found.centres == NONE))
        assert centre != NONE or near.tolist() == [position]


def test_a_score_is_the_cosine_to_the_nearest_of_the_cluster() -> None:
    found = stars(at_degrees(0, 4, 10, 90), np.array([1, 1, 1, 1]), within(10))

    assert found.centres.tolist() == [0, 0, 0, NONE]
    assert found.scores[:3] == pytest.approx([within(4), within(4), within(6)], abs=1e-5)


def test_copies_are_a_cluster_by_themselves_and_draw_the_centre_to_them() -> None:
    alone = stars(at_degrees(0, 90), np.array([3, 1]), within(5))
    chain = stars(at_degrees(0, 9, 18, 27), np.array([1, 1, 1, 9]), within(10))

    assert alone.centres.tolist() == [0, NONE]
    assert alone.scores[0] == 1
    assert chain.centres.tolist() == [NONE, 2, 2, 2]


def test_pictures_join_the_nearest_centre_that_is_known_before_they_make_their_own() -> None:
    vectors, known = at_degrees(4, 52, 54, 90), at_degrees(0, 6, 45)

    found = stars(vectors, one_each(vectors), within(5), known=known)

    assert found.centres.tolist() == [4 + 1, 1, 1, NONE]
    assert found.scores[0] == pytest.approx(within(2), abs=1e-5)


def test_the_same_vectors_are_together_even_at_a_threshold_of_one() -> None:
    vectors = np.random.default_rng(1).standard_normal((2, 512)).astype(np.float32).repeat(3, axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    assert clusters(vectors, 1.0) == {frozenset({0, 1, 2}), frozenset({3, 4, 5})}


def test_nothing_makes_no_clusters() -> None:
    assert len(stars(np.empty((0, 4), np.float32), np.empty(0, np.int64), 0.9).centres) == 0
