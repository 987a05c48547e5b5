"""A sample catalogue drawn by program: products in colours and patterns, each seen in four views."""

from __future__ import annotations

import io
import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFilter

from services.sample_shapes import PRODUCTS, WHITE
from services.sample_sprite import SPRITE_SIZE, Colour, Sprite, mix

PICTURE_SIZE: Final = 256
MANIFEST_NAME: Final = "items.jsonl"
VIEWS: Final = ("front", "tilted", "tinted", "small")
PATTERNS: Final = {"plain": "", "stripes": "striped", "dots": "dotted", "checks": "checked", "gradient": "faded"}
COLOURS: Final[dict[str, Colour]] = {
    "navy": (46, 66, 116),
    "red": (200, 58, 56),
    "mustard": (222, 170, 56),
    "teal": (38, 136, 138),
    "pink": (232, 142, 164),
    "forest": (52, 104, 72),
    "sky": (112, 172, 220),
    "terracotta": (204, 108, 70),
    "plum": (116, 66, 118),
    "mint": (154, 210, 182),
    "charcoal": (78, 80, 90),
    "sand": (216, 192, 154),
}
BRANDS: Final = ("Aldermoor", "Birk & Vale", "Casa Lumen", "Fjordline", "Northwick", "Pebble Lane")
PRICES: Final = {
    "mug": (8, 24),
    "t-shirt": (15, 45),
    "sneaker": (55, 140),
    "lamp": (35, 160),
    "dress": (40, 150),
    "chair": (70, 320),
    "watch": (60, 400),
    "plant pot": (12, 60),
    "handbag": (45, 260),
    "bottle": (14, 38),
    "sofa": (450, 1900),
    "hat": (18, 70),
    "book": (9, 35),
    "umbrella": (16, 55),
}
MAX_SAMPLES: Final = len(PRODUCTS) * len(COLOURS) * len(PATTERNS) * len(VIEWS)


@dataclass(frozen=True)
class SampleItem:
    """One product of the catalogue."""

    kind: str
    colour: str
    pattern: str
    brand: str
    price: float
    in_stock: bool

    @property
    def title(self) -> str:
        """For example "Striped navy mug"."""
        words = " ".join(filter(None, (PATTERNS[self.pattern], self.colour, self.kind)))
        return words[0].upper() + words[1:]

    @property
    def item_id(self) -> str:
        """For example "mug-navy-stripes"."""
        return f"{self.kind}-{self.colour}-{self.pattern}".replace(" ", "-")

    def record(self, file: str) -> dict[str, Any]:
        """The item's line in items.jsonl for one of its pictures."""
        attributes = {
            "price": self.price,
            "currency": "EUR",
            "brand": self.brand,
            "category": self.kind,
            "colour": self.colour,
            "pattern": self.pattern,
            "in_stock": self.in_stock,
        }
        url = f"https://shop.example/products/{self.item_id}"
        return {"file": file, "item_id": self.item_id, "title": self.title, "url": url, "attributes": attributes}


def write_samples(
    folder: Path, count: int = 600, seed: int = 7, progress: Callable[[int], None] | None = None
) -> list[Path]:
    """Draw `count` JPEG pictures (256 × 256) and their items.jsonl into a folder.

    The same count and seed give the same bytes each time (with the same Pillow). `progress` is called
    with the number of pictures written so far.

    Raises:
        ValueError: count is not from 1 to MAX_SAMPLES.
    """
    if not 1 <= count <= MAX_SAMPLES:
        raise ValueError(f"count must be from 1 to {MAX_SAMPLES}, not {count}")
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    lines: list[str] = []
    for item, view, picture in itertools.islice(_pictures(seed), count):
        file = f"{item.kind.replace(' ', '-')}/{item.item_id}-{view}.jpg"
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(_jpeg(picture))
        lines.append(json.dumps(item.record(file), ensure_ascii=False) + "\n")
        written.append(path)
        if progress is not None:
            progress(len(written))
    (folder / MANIFEST_NAME).write_text("".join(lines), encoding="utf-8")
    return written


def sample_items(seed: int) -> Iterator[SampleItem]:
    """All products, kind after kind in turn, so that any beginning of the list holds every kind."""
    dice = random.Random(f"items:{seed}")  # noqa: S311 - pictures, not secrets
    looks = {
        kind: dice.sample(list(itertools.product(COLOURS, PATTERNS)), k=len(COLOURS) * len(PATTERNS))
        for kind in PRODUCTS
    }
    for turn in range(len(COLOURS) * len(PATTERNS)):
        for kind in PRODUCTS:
            colour, pattern = looks[kind][turn]
            low, high = PRICES[kind]
            price = dice.randint(low, high) - 0.05
            yield SampleItem(kind, colour, pattern, dice.choice(BRANDS), round(price, 2), dice.random() < 0.85)


def _pictures(seed: int) -> Iterator[tuple[SampleItem, str, Image.Image]]:
    for item in sample_items(seed):
        dice = random.Random(f"views:{seed}:{item.item_id}")  # noqa: S311
        sprite = Sprite(draw_fabric(COLOURS[item.colour], item.pattern), COLOURS[item.colour])
        PRODUCTS[item.kind](sprite)
        product = sprite.image.reduce(2)
        for view in VIEWS:
            yield item, view, _compose(product, view, dice)


def draw_fabric(colour: Colour, pattern: str) -> Image.Image:
    """The square that a product's body is cut from, SPRITE_SIZE wide."""
    size = SPRITE_SIZE
    bright = sum(colour) > 3 * 165
    accent = mix(colour, (60, 48, 60), 0.5) if bright else mix(colour, WHITE, 0.78)
    fabric = Image.new("RGB", (size, size), colour)
    pen = ImageDraw.Draw(fabric)
    if pattern == "stripes":
        for y in range(0, size, 72):
            pen.rectangle((0, y, size, y + 31), fill=accent)
    elif pattern == "dots":
        for row, y in enumerate(range(0, size + 1, 54)):
            for x in range(27 * (row % 2), size + 1, 54):
                pen.ellipse((x - 13, y - 13, x + 13, y + 13), fill=accent)
    elif pattern == "checks":
        half = mix(colour, accent, 0.5)
        for k in range(0, size, 84):
            pen.rectangle((k, 0, k + 41, size), fill=half)
            pen.rectangle((0, k, size, k + 41), fill=half)
        for x, y in itertools.product(range(0, size, 84), repeat=2):
            pen.rectangle((x, y, x + 41, y + 41), fill=accent)
    elif pattern == "gradient":
        ramp = Image.linear_gradient("L").crop((0, 32, 256, 224)).resize((size, size))
        fabric = Image.composite(Image.new("RGB", (size, size), accent), fabric, ramp)
    return fabric


def _compose(sprite: Image.Image, view: str, dice: random.Random) -> Image.Image:
    """Place a product in a scene of PICTURE_SIZE with a soft shadow under it."""
    angle = dice.choice((-1, 1)) * dice.uniform(9, 20) if view == "tilted" else 0.0
    scale = dice.uniform(0.56, 0.66) if view == "small" else dice.uniform(0.9, 0.98)
    shift = (dice.uniform(-24, 24), dice.uniform(6, 26)) if view == "small" else (0.0, 0.0)
    if angle:
        sprite = sprite.rotate(angle, Image.Resampling.BICUBIC)
    edge = round(PICTURE_SIZE * scale)
    product = sprite.resize((edge, edge), Image.Resampling.LANCZOS)
    left, top = (round((PICTURE_SIZE - edge) / 2 + offset) for offset in shift)

    scene = _background(view, dice)
    shadow = Image.new("L", scene.size)
    shadow.paste(product.getchannel("A").point(lambda alpha: alpha * 0.34), (left + 5, top + 8))
    scene.paste((58, 50, 70), (0, 0), shadow.filter(ImageFilter.GaussianBlur(7)))
    scene.paste(product, (left, top), product)
    return scene


def _background(view: str, dice: random.Random) -> Image.Image:
    size = (PICTURE_SIZE, PICTURE_SIZE)
    if view in ("front", "tilted"):
        low, high = (238, 239, 242), (252, 252, 253)
    else:
        tint = dice.choice(list(COLOURS.values()))
        low, high = mix(tint, WHITE, 0.58), mix(tint, WHITE, 0.78)
    scene = Image.composite(Image.new("RGB", size, low), Image.new("RGB", size, high), Image.linear_gradient("L"))
    if view == "small":
        ImageDraw.Draw(scene).rectangle((0, 196, *size), fill=mix(low, (90, 74, 60), 0.22))
    return scene


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
