"""Figures of a report, judged by what can be seen in them."""

from __future__ import annotations

import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from services.training import figures

SVG = "{http://www.w3.org/2000/svg}"
BLUE, ORANGE = (31, 119, 180), (255, 127, 14)


def seen(png: bytes) -> np.ndarray:
    """The picture on a white page, (h, w, 3)."""
    with Image.open(io.BytesIO(png)) as image:
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        return np.asarray(page.convert("RGB")).astype(int)


def where(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Places (row, column) of a colour, that may be mixed with white by transparency."""
    paler = [255 + (np.array(colour) - 255) * share for share in (0.75, 0.95, 1.0)]
    near = [np.abs(picture - shade).max(axis=2) < 12 for shade in paler]
    return np.argwhere(np.any(near, axis=0))


class TestLossCurves:
    def test_every_curve_is_named_and_drawn_over_its_epochs(self) -> None:
        drawing = figures.loss_curves({"training": [3.0, 2.0, 1.0], "validation": [3.0, 2.5, 2.4]}, "squared error")

        root = ElementTree.fromstring(drawing)
        words = {"".join(text.itertext()).strip() for text in root.iter(f"{SVG}text")}
        assert {"training", "validation", "epoch", "squared error", "1", "2", "3"} <= words
        falling = [path for path in root.iter(f"{SVG}path") if "fill: none" in path.get("style", "")]
        corners = [path.get("d", "").split() for path in falling if "1f77b4" in path.get("style", "")]
        heights = [float(number) for number in corners[0][2::3]]
        assert len(heights) == 3
        assert heights == sorted(heights)

    def test_it_needs_nothing_beside_it_and_is_the_same_each_time(self) -> None:
        drawing = figures.loss_curves({"training": [2.0, 1.0]})

        assert drawing == figures.loss_curves({"training": [2.0, 1.0]})
        assert drawing.startswith("<svg")
        assert 'href="http' not in drawing

    def test_a_missing_value_leaves_a_gap(self) -> None:
        """A line is one path whose points follow an M, and an M again after the gap."""

        def moves(values: list[float]) -> int:
            drawing = ElementTree.fromstring(figures.loss_curves({"training": values}))
            paths = [path.get("d", "") for path in drawing.iter("{http://www.w3.org/2000/svg}path")]
            return max(path.count("M") for path in paths if path.count("L") >= 2)

        assert moves([4.0, 3.0, 2.0, 1.5, 1.0]) == 1
        assert moves([4.0, 3.0, float("nan"), 1.5, 1.0]) == 2


class TestReconstructions:
    def test_originals_are_above_what_was_made_of_them(self) -> None:
        random = np.random.default_rng(0)
        originals, made = random.integers(0, 256, (2, 3, 8, 8, 3), np.uint8)

        picture = seen(figures.reconstruction_grid(originals, made))

        assert picture.shape == (2 * 10 + 2, 3 * 10 + 2, 3)
        for column in range(3):
            left = column * 10 + 2
            assert np.array_equal(picture[2:10, left : left + 8], originals[column])
            assert np.array_equal(picture[12:20, left : left + 8], made[column])

    def test_large_pictures_are_shrunk(self) -> None:
        large = np.zeros((2, 500, 500, 3), np.uint8)

        assert seen(figures.reconstruction_grid(large, large)).shape == (2 * 194 + 2, 2 * 194 + 2, 3)

    def test_different_shapes_are_refused(self) -> None:
        with pytest.raises(ValueError, match="originals"):
            figures.reconstruction_grid(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3), np.uint8))


def two_clouds(count: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes of two classes: the second one lies far to the right."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 2
    codes = random.normal(size=(count, dimension))
    codes[:, 0] += 20 * labels
    return codes.astype(np.float32), labels


class TestLatentScatter:
    def test_a_plane_is_drawn_as_it_is(self) -> None:
        codes, labels = two_clouds(60, 2)

        picture = seen(figures.latent_scatter(codes, labels, ["left", "right"]))

        # Without the legend, which lies to the right of the axes.
        axes = picture[:, : int(picture.shape[1] * 0.85)]
        blue, orange = where(axes, BLUE), where(axes, ORANGE)
        assert len(blue) > 100
        assert len(orange) > 100
        assert blue[:, 1].max() < orange[:, 1].min()

    @pytest.mark.parametrize("count", [8, 200])
    def test_more_dimensions_are_brought_to_a_plane_in_which_groups_stay_apart(self, count: int) -> None:
        codes, labels = two_clouds(count, 30)

        picture = seen(figures.latent_scatter(codes, labels, ["left", "right"]))

        axes = picture[:, : int(picture.shape[1] * 0.85)]
        blue, orange = where(axes, BLUE), where(axes, ORANGE)
        spread = max(blue.std(axis=0).max(), orange.std(axis=0).max())
        assert np.linalg.norm(blue.mean(axis=0) - orange.mean(axis=0)) > 2 * spread

    def test_of_many_codes_some_are_drawn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(figures, "_TSNE_MOST", 30)
        codes, labels = two_clouds(5000, 30)

        assert len(where(seen(figures.latent_scatter(codes, labels, ["left", "right"])), BLUE)) > 100

    def test_it_is_the_same_each_time(self) -> None:
        codes, labels = two_clouds(40, 10)

        first, second = (figures.latent_scatter(codes, labels, ["left", "right"]) for _ in range(2))

        assert first == second

    @pytest.mark.parametrize(("count", "dimension"), [(3, 1), (2, 5), (30, 2)])
    def test_codes_without_labels_and_tiny_sets_can_be_drawn(self, count: int, dimension: int) -> None:
        codes = np.random.default_rng(0).normal(size=(count, dimension)).astype(np.float32)

        picture = seen(figures.latent_scatter(codes, np.full(count, -1), []))

        assert len(where(picture, (125, 125, 125))) > 20

    def test_many_classes_go_without_a_legend(self) -> None:
        codes, _ = two_clouds(60, 2)
        names = [f"class {number}" for number in range(60)]

        assert seen(figures.latent_scatter(codes, np.arange(60), names)).std() > 1

    @pytest.mark.parametrize("value", [0.0, 0.1, 1e30, float("nan"), float("inf")])
    def test_codes_that_are_all_the_same_are_one_point(self, value: float) -> None:
        picture = seen(figures.latent_scatter(np.full((50, 200), value, np.float32), np.zeros(50, int), ["only"]))

        blue = where(picture[:, : int(picture.shape[1] * 0.85)], BLUE)
        assert 0 < np.ptp(blue, axis=0).max() < 20

    @pytest.mark.parametrize("name", ["a_$x^$", "_hidden"])
    def test_the_legend_has_names_as_they_are(self, name: str) -> None:
        codes, labels = two_clouds(60, 2)

        legend = seen(figures.latent_scatter(codes, labels, ["left", name]))[:, -120:]

        assert len(where(legend, ORANGE)) > 10


class TestPlane:
    CODES = np.random.default_rng(0).normal([3, -5], [2, 0.5], (2000, 2)).astype(np.float32)

    def test_points_cover_the_codes_row_by_row_from_the_top(self) -> None:
        points = figures.plane_points(self.CODES, 5)

        assert points.shape == (25, 2)
        assert points.dtype == np.float32
        low, high = np.percentile(self.CODES, [2, 98], axis=0)
        np.testing.assert_allclose(points[0], [low[0], high[1]], rtol=1e-5)
        np.testing.assert_allclose(points[4], [high[0], high[1]], rtol=1e-5)
        np.testing.assert_allclose(points[20], [low[0], low[1]], rtol=1e-5)
        assert (np.diff(points[:5, 0]) > 0).all()

    def test_pictures_lie_where_their_points_do(self) -> None:
        points = figures.plane_points(self.CODES, 3)
        decoded = np.zeros((9, 4, 4, 3), np.uint8)
        decoded[0] = (255, 0, 0)
        decoded[2] = (0, 255, 0)
        decoded[6] = (0, 0, 255)

        picture = seen(figures.plane_grid(decoded, points))

        red, green, blue = (where(picture, tuple(255 * row)).mean(axis=0) for row in np.eye(3, dtype=int))
        assert red[1] < green[1]
        assert red[0] < blue[0]
        assert red[0] == pytest.approx(green[0], abs=2)
        assert red[1] == pytest.approx(blue[1], abs=2)

    def test_what_is_no_square_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no square grid"):
            figures.plane_grid(np.zeros((8, 4, 4, 3), np.uint8), np.zeros((8, 2), np.float32))
