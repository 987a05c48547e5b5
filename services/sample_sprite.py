"""A pen for shaded shapes on a transparent square of 100 × 100 units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from PIL import Image, ImageChops, ImageDraw

SPRITE_SIZE: Final = 768  # three times the finished picture, so that reducing it smooths the edges
UNIT: Final = SPRITE_SIZE / 100

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Blend two colours; `share` (0 to 1) is the part of the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


class Sprite:
    """One product on a transparent square.

    Args:
        fabric: RGB square of SPRITE_SIZE, the pattern that the product's body is made of.
        colour: the body's main colour; `dark` and `light` are derived from it for trimmings.
    """

    def __init__(self, fabric: Image.Image, colour: Colour) -> None:
        self.image = Image.new("RGBA", (SPRITE_SIZE, SPRITE_SIZE), (0, 0, 0, 0))
        self.fabric = fabric
        self.dark = mix(colour, (24, 20, 32), 0.42)
        self.light = mix(colour, (250, 249, 246), 0.5)

    def polygon(self, points: Points, colour: Colour | None = None) -> None:
        """Fill straight edges; without a colour, with the fabric."""
        self._fill(lambda pen: pen.polygon([(x * UNIT, y * UNIT) for x, y in points], fill=255), colour)

    def blob(self, points: Points, colour: Colour | None = None) -> None:
        """Fill the smooth closed curve through the points."""
        self.polygon(curve(points, closed=True), colour)

    def ellipse(self, left: float, top: float, right: float, bottom: float, colour: Colour | None = None) -> None:
        """Fill the ellipse inside a box."""
        self._fill(lambda pen: pen.ellipse((left * UNIT, top * UNIT, right * UNIT, bottom * UNIT), fill=255), colour)

    def box(
        self, left: float, top: float, right: float, bottom: float, *, radius: float, colour: Colour | None = None
    ) -> None:
        """Fill a rectangle with round corners."""
        area = (left * UNIT, top * UNIT, right * UNIT, bottom * UNIT)
        self._fill(lambda pen: pen.rounded_rectangle(area, radius * UNIT, fill=255), colour)

    def stroke(self, points: Points, width: float, colour: Colour | None = None) -> None:
        """Draw a smooth line with round ends through the points."""
        path = [(x * UNIT, y * UNIT) for x, y in curve(points, closed=False)]
        radius = width * UNIT / 2

        def paint(pen: ImageDraw.ImageDraw) -> None:
            for x, y in path:
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
            pen.line(path, fill=255, width=round(radius * 2), joint="curve")

        self._fill(paint, colour)

    def _fill(self, paint: Callable[[ImageDraw.ImageDraw], None], colour: Colour | None) -> None:
        mask = Image.new("L", self.image.size)
        paint(ImageDraw.Draw(mask))
        area = mask.getbbox()
        if area is None:
            return
        size = (area[2] - area[0], area[3] - area[1])
        surface = self.fabric.crop(area) if colour is None else Image.new("RGB", size, colour)
        light = _light().resize(size, Image.Resampling.BILINEAR)
        surface = ImageChops.multiply(surface, Image.merge("RGB", (light, light, light)))
        self.image.paste(surface, area[:2], mask.crop(area))


def _light() -> Image.Image:
    """Light that falls from the upper left, as a small map to be stretched over a shape."""
    tones = [
        255 - round(10 * y + 70 * max(0.0, x - 0.3) ** 1.5) for y in (0, 0.5, 1) for x in (0, 0.2, 0.4, 0.6, 0.8, 1)
    ]
    return Image.frombytes("L", (6, 3), bytes(tones))


def curve(points: Points, *, closed: bool, steps: int = 14) -> list[tuple[float, float]]:
    """Points of a Catmull-Rom spline (Catmull and Rom, 1974) through the given ones."""
    count = len(points)
    path = [] if closed else [points[0]]
    for i in range(count if closed else count - 1):
        if closed:
            p0, p1, p2, p3 = (points[(i + k) % count] for k in (-1, 0, 1, 2))
        else:
            p0, p1, p2, p3 = (points[min(max(i + k, 0), count - 1)] for k in (-1, 0, 1, 2))
        for step in range(1, steps + 1):
            t = step / steps
            x, y = (
                0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
                for a, b, c, d in zip(p0, p1, p2, p3, strict=True)
            )
            path.append((x, y))
    return path
