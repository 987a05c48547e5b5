"""What is drawn over pictures, pixel by pixel, in a real browser."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page

pytestmark = pytest.mark.browser

EVERYTHING = {"x": 0, "y": 0, "width": 1, "height": 1}
# Draws over a picture that is twice as wide as high, and tells what there is at places along two lines through its
# middle, from left to right and from top to bottom.
DRAWN = """
async (drawing) => {
  const { overlay, paint } = await import("/static/overlay.js");
  const black = new OffscreenCanvas(320, 160);
  black.getContext("2d").fillRect(0, 0, 320, 160);
  const image = new Image();
  image.src = URL.createObjectURL(await black.convertToBlob());
  document.body.append(image);
  const canvas = overlay(image);
  await paint(canvas, image, drawing);
  const context = canvas.getContext("2d");
  const at = (x, y) => {
    const [red, , , opacity] = context.getImageData(x * canvas.width, y * canvas.height, 1, 1).data;
    if (opacity === 0) return "nothing";
    return red < 30 ? "shade" : red < 150 ? "cold" : "hot";
  };
  const places = [0.05, 0.3, 0.5, 0.7, 0.95];
  return [places.map((x) => at(x, 0.5)), places.map((y) => at(0.5, y))];
}
"""


def drawn(page: Page, **drawing: Any) -> Any:
    return page.evaluate(DRAWN, drawing)


def test_a_grid_is_drawn_where_the_encoder_looked(page: Page) -> None:
    middle = {"x": 0.25, "y": 0, "width": 0.5, "height": 1}

    assert drawn(page, grid=[[1]], box=EVERYTHING) == [["hot"] * 5, ["hot"] * 5]
    assert drawn(page, grid=[[1]], box=middle) == [["nothing", "hot", "hot", "hot", "nothing"], ["hot"] * 5]


def test_what_a_grid_says_of_the_frame_around_a_picture_is_not_drawn_on_it(page: Page) -> None:
    grid = [[1], [1], [0], [0], [0], [0], [1], [1]]

    stretched = drawn(page, grid=grid, box=EVERYTHING)
    framed = drawn(page, grid=grid, box={"x": 0, "y": -0.6, "width": 1, "height": 2.2})

    assert stretched == [["cold"] * 5, ["hot", "cold", "cold", "cold", "hot"]]
    assert framed == [["cold"] * 5, ["cold"] * 5]


def test_a_grid_over_a_crop_is_drawn_on_no_more_than_the_crop(page: Page) -> None:
    crop = {"x": 0.2, "y": 0.4, "width": 0.6, "height": 0.2}
    framed = {"x": 0.2, "y": -0.1, "width": 0.6, "height": 1.2}

    without = drawn(page, crop=crop)
    over_it = drawn(page, crop=crop, grid=[[1]], box=framed)

    bare, shade = ["nothing"], ["shade"]
    assert without == [shade + bare * 3 + shade, shade * 2 + bare + shade * 2]
    assert over_it == [shade + ["hot"] * 3 + shade, shade * 2 + ["hot"] + shade * 2]
