"""Figures from vectors and labels, against references that are slow and obvious."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from lightly.utils.benchmarking import knn_predict
from sklearn.metrics import average_precision_score

from services.evaluation import metrics
from services.evaluation.metrics import label_metrics, neighbours, ranks

Rows = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def unit(rows: npt.NDArray[np.float64]) -> Rows:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def classes() -> tuple[Rows, Labels, Rows, Labels]:
    """A gallery of 200 and 60 queries in 5 overlapping clusters."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(5, 16))
    gallery_labels, query_labels = random.integers(0, 5, 200), random.integers(0, 5, 60)
    gallery = unit(centres[gallery_labels] + 1.5 * random.normal(size=(200, 16)))
    queries = unit(centres[query_labels] + 1.5 * random.normal(size=(60, 16)))
    return gallery, gallery_labels, queries, query_labels


@pytest.fixture(params=["at once", "in pieces"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in pieces":
        monkeypatch.setattr(metrics, "_BLOCK_NUMBERS", 7 * 200)
        monkeypatch.setattr(metrics, "_GALLERY_NUMBERS", 50)
        monkeypatch.setattr(metrics, "_ROW_NUMBERS", 5)


def slow_figures(ranked: list[list[bool]]) -> dict[str, float]:
    """Figures of queries whose galleries, best first, are right or wrong."""
    figures: dict[str, list[float]] = {}
    for right in ranked:
        precisions = [sum(right[: rank + 1]) / (rank + 1) for rank, hit in enumerate(right) if hit]
        values = {
            "knn_1": float(right[0]),
            "precision_10": sum(right[:10]) / 10,
            "recall_1": float(any(right[:1])),
            "recall_5": float(any(right[:5])),
            "recall_10": float(any(right[:10])),
            "mean_average_precision": sum(precisions) / len(precisions),
        }
        for name, value in values.items():
            figures.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in figures.items()}


@pytest.mark.usefixtures("pieces")
class TestLabelMetrics:
    def test_they_are_those_of_a_slow_reference(self, classes: tuple[Rows, Labels, Rows, Labels]) -> None:
        gallery, gallery_labels, queries, query_labels = classes
        ranked = []
        for query, label in zip(queries, query_labels, strict=True):
            order = sorted(range(len(gallery)), key=lambda n, query=query: -float(query @ gallery[n]))
            ranked.append([bool(gallery_labels[n] == label) for n in order])

        found = label_metrics(gallery, gallery_labels, queries, query_labels)

        for name, value in slow_figures(ranked).items():
            assert getattr(found, name) == pytest.approx(value), name
        assert (found.queries, found.unanswerable) == (60, 0)

    def test_average_precision_is_that_of_scikit_learn(self, classes: tuple[Rows, Labels, Rows, Labels]) -> None:
        gallery, gallery_labels, queries, query_labels = classes
        expected = [
            average_precision_score(gallery_labels == label, gallery @ query)
            for query, label in zip(queries, query_labels, strict=True)
        ]

        found = label_metrics(gallery, gallery_labels, queries, query_labels)

        assert found.mean_average_precision == pytest.approx(np.mean(expected))

    def test_the_vote_of_20_is_that_of_lightly(self, classes: tuple[Rows, Labels, Rows, Labels]) -> None:
        gallery, gallery_labels, queries, query_labels = classes
        predicted = knn_predict(
            torch.from_numpy(queries),
            torch.from_numpy(gallery.T.copy()),
            torch.from_numpy(gallery_labels),
            num_classes=5,
            knn_k=20,
            knn_t=0.1,
        )[:, 0].numpy()

        found = label_metrics(gallery, gallery_labels, queries, query_labels)

        assert found.knn_20 == pytest.approx((predicted == query_labels).mean())

    def test_a_query_does_not_find_itself(self, classes: tuple[Rows, Labels, Rows, Labels]) -> None:
        gallery, labels, _, _ = classes
        ranked = []
        for own in range(len(gallery)):
            others = [n for n in range(len(gallery)) if n != own]
            order = sorted(others, key=lambda n, own=own: -float(gallery[own] @ gallery[n]))
            ranked.append([bool(labels[n] == labels[own]) for n in order])

        found = label_metrics(gallery, labels, gallery, labels, own=np.arange(len(gallery)))

        for name, value in slow_figures(ranked).items():
            assert getattr(found, name) == pytest.approx(value), name

    def test_half_precision_in_a_file_gives_the_same(
        self, classes: tuple[Rows, Labels, Rows, Labels], tmp_path: Path
    ) -> None:
        gallery, gallery_labels, queries, query_labels = classes
        stored = np.memmap(tmp_path / "gallery", np.float16, "w+", shape=gallery.shape)
        stored[:] = gallery

        from_file = label_metrics(stored, gallery_labels, queries.astype(np.float16), query_labels)

        whole = label_metrics(gallery, gallery_labels, queries, query_labels)
        assert from_file.mean_average_precision == pytest.approx(whole.mean_average_precision, abs=2e-3)
        assert from_file.knn_1 == pytest.approx(whole.knn_1, abs=0.04)

    def test_equal_similarities_rank_by_position(self) -> None:
        """An encoder that gives every picture the same vector is no better than the order of the files."""
        same = np.ones((6, 1), np.float32)
        labels = np.array([0, 1, 1, 1, 0, 1])

        found = neighbours(same, same[:2], 6)

        assert found.positions.tolist() == [list(range(6))] * 2
        assert label_metrics(same, labels, same, labels).knn_1 == pytest.approx(2 / 6)

    def test_a_picture_without_direction_finds_nothing_and_is_found_last(self) -> None:
        gallery = np.array([[0, 0], [1, 0], [-1, 0]], np.float32)
        queries = np.array([[1, 0], [0, 0]], np.float32)

        found = label_metrics(gallery, np.array([1, 0, 1]), queries, np.array([0, 1]))

        assert neighbours(gallery, queries[:1], 3).positions.tolist() == [[1, 2, 0]]
        assert found.recall_10 == 0.5
        assert found.knn_20 == 0.5
        assert found.mean_average_precision == 0.5


def test_queries_whose_label_the_gallery_lacks_are_left_out(classes: tuple[Rows, Labels, Rows, Labels]) -> None:
    gallery, gallery_labels, queries, query_labels = classes
    known = query_labels != 4
    without = gallery_labels != 4

    found = label_metrics(gallery[without], gallery_labels[without], queries, query_labels)

    only = label_metrics(gallery[without], gallery_labels[without], queries[known], query_labels[known])
    assert found.unanswerable == (~known).sum() > 0
    assert found.mean_average_precision == pytest.approx(only.mean_average_precision)
    assert found.precision_10 == pytest.approx(only.precision_10)


def test_a_small_gallery_is_found_whole() -> None:
    gallery = unit(np.random.default_rng(0).normal(size=(3, 4)))

    found = label_metrics(gallery, np.array([0, 1, 1]), gallery, np.array([0, 1, 1]))

    assert found.precision_10 == pytest.approx((1 / 3 + 2 / 3 + 2 / 3) / 3)
    assert neighbours(gallery, gallery, 10, own=np.arange(3)).positions.shape == (3, 2)


@pytest.mark.usefixtures("pieces")
class TestRanks:
    def test_they_are_where_the_answers_stand(self, classes: tuple[Rows, Labels, Rows, Labels]) -> None:
        gallery, _, queries, _ = classes
        answers = np.random.default_rng(1).integers(0, len(gallery), len(queries))
        expected = [
            sorted(range(len(gallery)), key=lambda n, query=query: -float(query @ gallery[n])).index(answer) + 1
            for query, answer in zip(queries, answers, strict=True)
        ]

        assert ranks(gallery, queries, answers).tolist() == expected

    def test_of_equals_the_earlier_is_before(self) -> None:
        gallery = np.array([[1, 0], [1, 0], [0, 1]], np.float32)

        assert ranks(gallery, gallery, np.arange(3)).tolist() == [1, 2, 1]

    def test_a_query_without_direction_has_the_last_rank(self) -> None:
        gallery = np.array([[1, 0], [0, 1]], np.float32)

        assert ranks(gallery, np.zeros((1, 2), np.float32), np.array([0])).tolist() == [2]


class TestWrongInput:
    def test_dimensions_must_agree(self) -> None:
        with pytest.raises(ValueError, match="does not answer"):
            neighbours(np.ones((3, 4), np.float32), np.ones((2, 5), np.float32), 1)

    def test_a_gallery_must_have_pictures(self) -> None:
        with pytest.raises(ValueError, match="empty"):
            neighbours(np.empty((0, 4), np.float32), np.ones((2, 4), np.float32), 1)

    def test_every_picture_needs_a_label(self) -> None:
        rows = np.ones((2, 4), np.float32)
        with pytest.raises(ValueError, match="as many labels"):
            label_metrics(rows, np.array([0]), rows, np.array([0, 1]))
        with pytest.raises(ValueError, match="without a label"):
            label_metrics(rows, np.array([0, -1]), rows, np.array([0, 1]))

    def test_no_query_with_an_answer_is_an_error(self) -> None:
        rows = np.ones((2, 4), np.float32)
        with pytest.raises(ValueError, match="no picture of any"):
            label_metrics(rows, np.array([0, 0]), rows, np.array([1, 1]))
