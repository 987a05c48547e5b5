"""Contact sheets: every picture in its place, whatever its shape or the length of its label."""

from __future__ import annotations

import io

import pytest
from PIL import Image, UnidentifiedImageError

from services.sheet import DIVIDER, GAP, HEADING, MARGIN, PICTURE, SheetHit, SheetRow, contact_sheet

RED, GREEN, BLUE = (220, 20, 20), (20, 180, 20), (20, 20, 220)


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (64, 64), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def cell(column: int, row: int = 0) -> tuple[int, int]:
    """The middle of a picture; column 0 is the query."""
    left = MARGIN if column == 0 else MARGIN + PICTURE + DIVIDER + (column - 1) * (PICTURE + GAP)
    return left + PICTURE // 2, MARGIN + HEADING + row * (PICTURE + 52 + GAP) + PICTURE // 2


def test_the_query_is_on_the_left_and_its_hits_follow_in_order() -> None:
    row = SheetRow(picture(RED), "query", [SheetHit(picture(GREEN), 1.0, "a"), SheetHit(picture(BLUE), 0.5, "b")])

    sheet = contact_sheet([row])

    assert sheet.mode == "RGB"
    assert [sheet.getpixel(cell(column)) for column in range(3)] == [RED, GREEN, BLUE]


def test_rows_may_have_different_numbers_of_hits() -> None:
    few = SheetRow(picture(RED), "few", [])
    many = SheetRow(picture(GREEN), "many", [SheetHit(picture(BLUE), 0.9 - n / 10, str(n)) for n in range(4)])

    sheet = contact_sheet([few, many])

    assert sheet.getpixel(cell(0, 0)) == RED
    assert sheet.getpixel(cell(0, 1)) == GREEN
    assert sheet.getpixel(cell(4, 1)) == BLUE


def test_a_row_grows_the_sheet_downwards_and_a_hit_to_the_right() -> None:
    one = SheetRow(picture(RED), "q", [SheetHit(picture(GREEN), 1.0, "a")])
    two = SheetRow(picture(RED), "q", [SheetHit(picture(GREEN), 1.0, "a")] * 2)

    assert contact_sheet([two]).width - contact_sheet([one]).width == PICTURE + GAP
    assert contact_sheet([one, one]).height - contact_sheet([one]).height == PICTURE + 52 + GAP


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "I;16"])
def test_pictures_of_any_mode_are_shown(mode: str) -> None:
    contact_sheet([SheetRow(picture(RED, mode=mode), "q", [SheetHit(picture(GREEN, mode=mode), 0.3, "a")])])


@pytest.mark.parametrize("size", [(1, 1), (900, 40), (40, 900)])
def test_pictures_of_any_shape_are_shown_whole_and_centred(size: tuple[int, int]) -> None:
    sheet = contact_sheet([SheetRow(picture(RED, size), "q", [SheetHit(picture(GREEN), 1.0, "a")])])

    assert sheet.getpixel(cell(0)) == RED


def test_a_long_label_does_not_run_into_its_neighbour() -> None:
    def row(label: str) -> SheetRow:
        return SheetRow(picture(RED), "q", [SheetHit(picture(GREEN), 1.0, label), SheetHit(picture(BLUE), 0.9, "")])

    left, top = cell(2)[0] - PICTURE // 2, cell(2)[1] + PICTURE // 2 + 26
    beside = (left, top, left + PICTURE, top + 20)

    assert contact_sheet([row("word " * 60)]).crop(beside).tobytes() == contact_sheet([row("")]).crop(beside).tobytes()


def test_accents_are_left_out_rather_than_drawn_as_boxes() -> None:
    accented, plain = (contact_sheet([SheetRow(picture(RED), label, [])]) for label in ("Größe é", "Große e"))

    assert accented.tobytes() == plain.tobytes()


def test_a_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        contact_sheet([])


def test_bytes_that_are_no_picture_are_refused() -> None:
    with pytest.raises(UnidentifiedImageError):
        contact_sheet([SheetRow(b"no picture", "q", [])])
