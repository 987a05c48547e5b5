"""Contact sheets: each query on the left, what was found for it on the right, scores underneath."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw, ImageFont, ImageOps

PICTURE: Final = 176  # pixels; every picture is shown in a square of this size
GAP: Final = 16
MARGIN: Final = 36
CAPTION: Final = 52
HEADING: Final = 44
DIVIDER: Final = 56

PAGE: Final = (246, 245, 241)
CARD: Final = (255, 255, 255)
LINE: Final = (222, 219, 210)
TEXT: Final = (38, 38, 44)
QUIET: Final = (122, 120, 114)
ACCENT: Final = (34, 98, 168)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class SheetHit:
    """One picture that was found."""

    thumbnail: bytes
    score: float
    label: str


@dataclass(frozen=True)
class SheetRow:
    """One query and its hits, best first."""

    query: bytes
    label: str
    hits: Sequence[SheetHit]


def contact_sheet(rows: Sequence[SheetRow]) -> Image.Image:
    """Draw queries and hits as one RGB picture.

    Raises:
        ValueError: there are no rows.
        PIL.UnidentifiedImageError: a picture's bytes cannot be read.
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one row")
    columns = max(1, *(len(row.hits) for row in rows))
    width = MARGIN * 2 + PICTURE + DIVIDER + columns * (PICTURE + GAP) - GAP
    row_height = PICTURE + CAPTION
    height = MARGIN * 2 + HEADING + len(rows) * (row_height + GAP) - GAP
    sheet = Image.new("RGB", (width, height), PAGE)
    pen = ImageDraw.Draw(sheet)
    found_left = MARGIN + PICTURE + DIVIDER
    pen.text((MARGIN, MARGIN - 4), "Query", fill=ACCENT, font=_font(22))
    pen.text((found_left, MARGIN - 4), "Looks like", fill=TEXT, font=_font(22))
    for number, row in enumerate(rows):
        top = MARGIN + HEADING + number * (row_height + GAP)
        _place(sheet, pen, (MARGIN, top), row.query, ACCENT)
        _write(pen, (MARGIN, top + PICTURE + 8), row.label, TEXT, 15)
        _draw_arrow(pen, MARGIN + PICTURE + DIVIDER // 2, top + PICTURE // 2)
        for position, hit in enumerate(row.hits):
            left = found_left + position * (PICTURE + GAP)
            _place(sheet, pen, (left, top), hit.thumbnail, LINE)
            _write(pen, (left, top + PICTURE + 6), f"{hit.score:.4f}", ACCENT if hit.score >= 0.999 else TEXT, 18)
            _write(pen, (left, top + PICTURE + 29), hit.label, QUIET, 14)
    return sheet


def _place(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, corner: tuple[int, int], content: bytes, border: tuple[int, int, int]
) -> None:
    """Show a picture, whole and centred, on a white card."""
    left, top = corner
    pen.rounded_rectangle((left - 1, top - 1, left + PICTURE, top + PICTURE), 8, fill=CARD, outline=border, width=2)
    with Image.open(io.BytesIO(content)) as opened:
        opened.draft("RGB", (PICTURE * 2, PICTURE * 2))
        upright = ImageOps.exif_transpose(opened).convert("RGBA")
    inner = PICTURE - 12
    fitted = ImageOps.contain(upright, (inner, inner), Image.Resampling.LANCZOS)
    at = (left + (PICTURE - fitted.width) // 2, top + (PICTURE - fitted.height) // 2)
    sheet.paste(fitted, at, fitted)


def _draw_arrow(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    pen.line((x - 12, y, x + 8, y), fill=QUIET, width=3)
    pen.polygon([(x + 4, y - 8), (x + 14, y), (x + 4, y + 8)], fill=QUIET)


def _write(
    pen: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, colour: tuple[int, int, int], size: int
) -> None:
    """Write one line as wide as a picture; longer text ends in an ellipsis."""
    font = _font(size)
    # Pillow's own font has no accented letters: the plain ones are better than boxes.
    text = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    if pen.textlength(text, font=font) > PICTURE:
        while text and pen.textlength(f"{text}…", font=font) > PICTURE:
            text = text[:-1]
        text = f"{text.rstrip()}…"
    pen.text(corner, text, fill=colour, font=font)


def _font(size: int) -> Font:
    return ImageFont.load_default(size)
