"""What `akin evaluate --calibrate` promises: curves that hold on pictures which had no part in the fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from services.cli.evaluate import evaluate as evaluate_command
from services.encoders import checkpoint
from services.encoders.calibration import MOST_KNOTS, Calibration, Curve
from services.encoders.checkpoint import Checkpoint
from services.encoders.shipped import shipped
from services.evaluation.alterations import ALTERATIONS
from services.evaluation.calibration_curves import fit, isotonic, logistic, probabilities, reduced
from services.evaluation.calibration_halves import cut, draw_copied
from services.evaluation.calibration_pairs import HITS, Pairs, pairs_by_label, pairs_of_copies
from services.evaluation.calibration_reliability import judge

COLOURS = {"blue": (40, 60, 200), "green": (30, 170, 60), "red": (210, 40, 40)}


def drawn(count: int, truth: Curve, seed: int) -> Pairs:
    """Hits of queries that find ten each, which are right as often as a curve says."""
    random = np.random.default_rng(seed)
    scores = random.uniform(-0.2, 1, count).astype(np.float32)
    return Pairs(scores, random.random(count) < probabilities(truth, scores), np.arange(count) // 10)


RISING = Curve(scores=(0.0, 0.4, 0.6, 0.9), probabilities=(0.02, 0.05, 0.7, 0.95))
SIGMOID = Curve(
    scores=tuple(np.linspace(-0.2, 1, 32).tolist()),
    probabilities=tuple((1 / (1 + np.exp(-12 * (np.linspace(-0.2, 1, 32) - 0.5)))).tolist()),
)


class TestFit:
    @pytest.mark.parametrize("method", [isotonic, logistic])
    def test_a_curve_gives_back_how_probable_hits_are(self, method: object) -> None:
        assert callable(method)

        curve = method(drawn(40_000, SIGMOID, seed=0))

        grid = np.linspace(-0.1, 0.95, 50)
        np.testing.assert_allclose(probabilities(curve, grid), probabilities(SIGMOID, grid), atol=0.06)

    @settings(max_examples=25, deadline=None)
    @given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 3_000), base=st.floats(0.01, 0.99))
    def test_any_pairs_give_a_curve_of_few_knots(self, seed: int, count: int, base: float) -> None:
        """Whether scores tell anything or not: `Curve` refuses what falls."""
        random = np.random.default_rng(seed)
        right = random.random(count) < base
        right[:2] = True, False
        scores = random.choice([-1, 0, 0.5, 1, 0.3, 0.30000001], count).astype(np.float32)
        pairs = Pairs(scores, right, random.integers(0, 5, count))

        fitted = fit(pairs, seed=0)

        assert len(fitted.curve.scores) <= MOST_KNOTS

    def test_the_method_with_the_lower_error_on_other_queries_is_taken(self) -> None:
        assert fit(drawn(20_000, RISING, seed=1), seed=0).method == "isotonic"
        assert fit(drawn(600, SIGMOID, seed=1), seed=0).method == "logistic"

    def test_a_score_that_says_the_contrary_gives_the_base_rate(self) -> None:
        pairs = drawn(5_000, SIGMOID, seed=2)
        contrary = pairs._replace(right=~pairs.right)

        base = contrary.right.mean()

        assert logistic(contrary).probabilities == (pytest.approx(base),)
        np.testing.assert_allclose(probabilities(isotonic(contrary), np.linspace(-0.2, 1, 9)), base, atol=0.05)

    def test_the_ends_are_not_made_certain_by_a_handful(self) -> None:
        pairs = drawn(5_000, Curve(scores=(0.0,), probabilities=(0.3,)), seed=3)
        pairs.right[np.argsort(pairs.scores)[-20:]] = True

        assert isotonic(pairs).at(1) < 0.6

    def test_pairs_that_are_all_alike_are_refused(self) -> None:
        pairs = drawn(100, RISING, seed=0)

        with pytest.raises(ValueError, match="of the kind"):
            fit(pairs._replace(right=np.ones(100, np.bool_)), seed=0)

    def test_fewer_knots_keep_the_shape(self) -> None:
        scores = np.sort(np.random.default_rng(0).uniform(-1, 1, 5_000))
        values = 1 / (1 + np.exp(-20 * scores))

        curve = reduced(scores, values)

        assert len(curve.scores) <= MOST_KNOTS
        np.testing.assert_allclose(probabilities(curve, scores), values, atol=0.01)


class TestReliability:
    def test_the_truth_is_reliable(self) -> None:
        judged = judge(RISING, drawn(40_000, RISING, seed=4))

        assert judged.ece < 0.02
        assert judged.brier_skill > 0.4
        assert judged.holds

    def test_figures_are_those_of_their_definitions(self) -> None:
        pairs = drawn(2_000, RISING, seed=5)
        curve = Curve(scores=(0.0, 1.0), probabilities=(0.1, 0.9))

        judged = judge(curve, pairs)

        ranked = sorted(zip(pairs.scores.tolist(), pairs.right.tolist(), strict=True))
        bins = [ranked[start : start + 200] for start in range(0, 2_000, 200)]
        off = [abs(sum(curve.at(s) for s, _ in one) - sum(r for _, r in one)) / 2_000 for one in bins]
        brier = sum((curve.at(score) - right) ** 2 for score, right in ranked) / 2_000
        base = sum(right for _, right in ranked) / 2_000
        assert judged.ece == pytest.approx(sum(off), abs=1e-6)
        assert judged.brier == pytest.approx(brier, abs=1e-6)
        assert judged.brier_skill == pytest.approx(1 - brier / (base * (1 - base)), abs=1e-6)
        assert [item.pairs for item in judged.bins] == [200] * 10

    @pytest.mark.parametrize(("pairs", "bins"), [(1_000, 5), (2_000, 10), (16_850, 16), (175_000, 100)])
    def test_no_bin_has_fewer_than_200_pairs(self, pairs: int, bins: int) -> None:
        judged = judge(RISING, drawn(pairs, RISING, seed=6))

        assert len(judged.bins) == bins
        assert min(item.pairs for item in judged.bins) >= 200

    def test_the_base_rate_has_no_skill_and_a_wrong_curve_less(self) -> None:
        pairs = drawn(5_000, RISING, seed=7)
        base = Curve(scores=(0.0,), probabilities=(float(pairs.right.mean()),))
        certain = Curve(scores=(0.0,), probabilities=(1.0,))

        assert judge(base, pairs).brier_skill == pytest.approx(0, abs=1e-9)
        assert not judge(base, pairs).holds
        assert judge(certain, pairs).brier_skill < 0

    def test_too_few_pairs_are_not_judged_by(self) -> None:
        with pytest.raises(ValueError, match="too few pairs"):
            judge(RISING, drawn(999, RISING, seed=8))


def unit(rows: list[list[float]]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    vectors = np.array(rows, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


class TestPairs:
    def test_hits_are_right_where_they_have_the_querys_label(self) -> None:
        gallery = unit([[1, 0], [1, 1], [0, 1]])

        pairs = pairs_by_label(gallery, np.array([0, 1, 0]), unit([[1, 0.1]]), np.array([0]), own=None)

        assert pairs.right.tolist() == [True, False, True]
        assert pairs.scores.tolist() == sorted(pairs.scores.tolist(), reverse=True)

    def test_a_picture_does_not_find_itself(self) -> None:
        vectors = unit([[1, 0], [1, 1], [0, 1]])
        labels = np.array([0, 0, 1])

        pairs = pairs_by_label(vectors, labels, vectors, labels, own=np.arange(3))

        assert pairs.queries.tolist() == [0, 0, 1, 1, 2, 2]
        assert pairs.scores.max() < 0.99
        assert pairs.right.tolist() == [True, False, True, False, False, False]

    def test_pictures_without_label_neither_ask_nor_are_found(self) -> None:
        vectors = unit([[1, 0], [1, 1], [0, 1], [1, 2]])
        labels = np.array([0, -1, 1, 0])

        pairs = pairs_by_label(vectors, labels, vectors, labels, own=np.arange(4))

        assert pairs.queries.tolist() == [0, 0, 1, 1, 2, 2]
        assert pairs.right.sum() == 2

    def test_a_copy_is_right_at_its_original_alone(self) -> None:
        gallery = unit([[1, 0], [1, 1], [0, 1]])

        pairs = pairs_of_copies(gallery, unit([[1, 0.05], [0.1, 1]])[None], np.array([0, 2]))

        assert pairs.right.tolist() == [True, False, False, True, False, False]

    def test_no_more_hits_are_judged_than_a_search_shows(self) -> None:
        gallery = unit(np.random.default_rng(0).normal(size=(200, 8)).tolist())

        pairs = pairs_of_copies(gallery, np.stack([gallery[:3], gallery[:3]]), np.arange(3))

        assert np.bincount(pairs.queries).tolist() == [HITS] * 6
        assert pairs.right[::HITS].all()

    def test_pictures_without_direction_have_no_cosine(self) -> None:
        gallery = unit([[1, 0], [0, 0], [0, 1]])

        pairs = pairs_of_copies(gallery, unit([[1, 0], [0, 0]])[None], np.array([0, 1]))

        assert pairs.queries.tolist() == [0, 0]
        assert pairs.scores.tolist() == [1, 0]


class TestHalves:
    def test_they_share_no_picture_and_leave_none_out(self) -> None:
        halves = cut(np.zeros(101, np.int64), 31, whole_labels=False, seed=0)

        assert sorted(np.concatenate([half.pictures for half in halves])) == list(range(101))
        for half in halves:
            assert half.queries.max() < 31 <= half.gallery.min()
            assert abs(len(half.pictures) - 50.5) < 1

    def test_items_are_on_one_side_with_all_their_pictures(self) -> None:
        labels = np.repeat(np.arange(20), 3)

        first, second = cut(labels, 0, whole_labels=True, seed=0)

        assert not set(labels[first.gallery]) & set(labels[second.gallery])
        assert len(set(labels[first.gallery])) == 10

    def test_as_many_queries_of_each_are_copied(self) -> None:
        halves = cut(np.zeros(100, np.int64), 40, whole_labels=False, seed=0)

        to_copy = draw_copied(halves, 20, seed=0)

        assert [np.isin(to_copy, half.queries).sum() for half in halves] == [10, 10]
        assert len(draw_copied(halves, 0, seed=0)) == 0


def draw_picture(colour: tuple[int, int, int], seed: int, path: Path) -> None:
    """A few rectangles in shades of a colour."""
    random = np.random.default_rng(seed)
    pixels = np.full((48, 64, 3), 255, np.uint8)
    for _ in range(5):
        top, left = random.integers(0, 32), random.integers(0, 40)
        shade = np.clip(np.array(colour) + random.integers(-30, 30, 3), 0, 255)
        pixels[top : top + random.integers(8, 30), left : left + random.integers(8, 40)] = shade
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """26 pictures of each colour, which are the labels."""
    folder = tmp_path_factory.mktemp("colours")
    for label, (name, colour) in enumerate(COLOURS.items()):
        for number in range(26):
            draw_picture(colour, 100 * label + number, folder / name / f"{number}.png")
    return folder


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A shipped encoder, of whose scores nothing is known yet."""
    read = checkpoint.read(next(e for e in shipped() if e.manifest.name == "conv-ae-64").weights_path.parent)
    folder = tmp_path / "encoder"
    checkpoint.save(folder, Checkpoint(read.manifest.model_copy(update={"calibration": None}), read.weights))
    return folder


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(evaluate_command, [*map(str, arguments), "--calibrate", "--device", "cpu"])


def calibration_of(folder: Path) -> Calibration:
    found = checkpoint.read(folder).manifest.calibration
    assert found is not None
    return found


class TestCommand:
    def test_it_fits_judges_and_writes(self, encoder: Path, colours: Path, tmp_path: Path) -> None:
        figures, report = tmp_path / "out" / "figures.json", tmp_path / "out" / "report.html"
        weights = checkpoint.read(encoder).weights
        arguments = (encoder, "--gallery", colours, "--copies", "40", "--json", figures, "--report", report)

        result = run(*arguments, "--write", encoder)

        assert result.exit_code == 0, result.output
        read = json.loads(figures.read_text())
        assert (read["fitted_on"], read["judged_on"], read["copied"]) == (39, 39, 40)
        duplicate, similar = read["encoders"][0]["kinds"]
        assert duplicate["judged"]["pairs"] == 20 * len(ALTERATIONS) * 39
        assert similar["judged"]["pairs"] == 39 * 38
        assert report.read_text().count("<svg") == 2
        written = calibration_of(encoder)
        assert written.model_dump(mode="json") == read["encoders"][0]["calibration"]
        assert written.measured["similar"].pairs == 39 * 38
        assert written.duplicate is not None
        assert written.duplicate.at(written.duplicate_threshold) == pytest.approx(0.5, abs=0.01)
        assert checkpoint.read(encoder).weights == weights

        again = run(*arguments, "--kind", "similar", "--markdown", "--seed", "1", "--write", encoder)

        assert again.exit_code == 0, again.output
        assert [line.split(" | ")[1:3] for line in again.stdout.splitlines() if line.startswith("| `conv")] == [
            ["similar", f"fitted here ({calibration_of(encoder).measured['similar'].method})"],
            ["similar", "its own"],
        ]
        assert calibration_of(encoder).duplicate == written.duplicate
        assert calibration_of(encoder).duplicate_threshold == written.duplicate_threshold
        assert calibration_of(encoder).similar != written.similar

    def test_labels_may_be_items(self, encoder: Path, tmp_path: Path) -> None:
        """Views of one item are like one another here; half the items are held out as a whole."""
        for item in range(26):
            for view in range(3):
                colour = (40 + 8 * item, 250 - 9 * item, (53 * item) % 200)
                draw_picture(colour, 10 * item + view, tmp_path / "items" / f"item-{item}" / f"{view}.png")

        result = run(encoder, "--gallery", tmp_path / "items", "--kind", "same_item", "--markdown")

        assert result.exit_code == 0, result.output
        assert "| same item | fitted here" in result.stdout
        assert f"| {39 * 38:,} | {100 * 2 / 38:.1f} % |" in result.stdout

    def test_pictures_without_labels_say_what_a_duplicate_is(self, encoder: Path, colours: Path) -> None:
        result = run(encoder, "--gallery", f"{colours}#red", "--copies", "26")

        assert result.exit_code == 0, result.output
        assert "duplicate" in result.stdout
        assert "similar: left out" in " ".join(result.stdout.split())

    def test_a_set_that_is_too_small_is_refused(self, encoder: Path, colours: Path) -> None:
        result = run(encoder, "--gallery", colours, "--limit", "10", "--copies", "2", "--write", encoder)

        assert result.exit_code == 1
        assert "too small to calibrate with" in result.output
        assert checkpoint.read(encoder).manifest.calibration is None

    def test_curves_that_do_not_hold_are_not_written(self, encoder: Path, tmp_path: Path) -> None:
        """Labels drawn by lot: a score says nothing of them."""
        for number in range(80):
            label = str(np.random.default_rng(number).integers(2))
            draw_picture(COLOURS["red"], number, tmp_path / "lots" / label / f"{number}.png")

        result = run(encoder, "--gallery", tmp_path / "lots", "--kind", "similar", "--write", encoder)

        assert result.exit_code == 1
        assert "does not hold" in " ".join(result.output.split())
        assert "nothing is written" in result.output
        assert checkpoint.read(encoder).manifest.calibration is None

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "--calibrate needs an ENCODER"),
            (("a", "b", "--write", "c"), "--write needs one ENCODER"),
            (("a", "--kind", "similar", "--kind", "same_item"), "not both"),
            (("a", "--kind", "unrelated"), "'unrelated' is not one of"),
        ],
    )
    def test_wrong_arguments_are_explained(self, arguments: tuple[str, ...], message: str) -> None:
        result = run(*arguments, "--data", "nowhere")

        assert result.exit_code == 2
        assert message in result.output

    def test_its_options_mean_nothing_without_it(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(evaluate_command, ["a", "--data", "nowhere", "--write", str(tmp_path)])

        assert result.exit_code == 2
        assert "belong to --calibrate" in result.output
