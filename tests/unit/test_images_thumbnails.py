"""Pictures that are shown to people."""

from __future__ import annotations

from io import BytesIO

import pytest
from PIL import ExifTags, Image, ImageCms

from services.errors import ImageRejected, InvalidRequest
from services.images.decode import Limits
from services.images.thumbnails import SIZES, rendition, thumbnail

LIMITS = Limits(max_bytes=10_000_000, max_pixels=10_000_000)


def opened(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data))


def photograph(width: int, height: int) -> bytes:
    """A JPEG that says where and with what it was taken, to be turned by a quarter."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "a camera"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (52.0, 31.0, 12.0)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    target = BytesIO()
    Image.new("RGB", (width, height), (90, 120, 30)).save(
        target, "JPEG", exif=exif, icc_profile=profile, comment=b"private"
    )
    return target.getvalue()


@pytest.mark.parametrize("size", SIZES)
def test_a_thumbnail_is_webp_that_fits(size: int) -> None:
    shown = opened(thumbnail(photograph(2000, 1000), size, LIMITS))

    assert shown.format == "WEBP"
    assert shown.size == (size // 2, size)


def test_a_small_picture_is_not_enlarged() -> None:
    assert opened(thumbnail(photograph(20, 10), 256, LIMITS)).size == (10, 20)


def test_a_very_long_picture_keeps_at_least_one_pixel() -> None:
    assert opened(thumbnail(photograph(5000, 1), 128, LIMITS)).size == (1, 128)


def test_a_size_that_is_not_offered_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="128, 256, 512"):
        thumbnail(photograph(20, 10), 100, LIMITS)


def test_a_rendition_has_the_full_size_upright() -> None:
    data, media_type = rendition(photograph(200, 100), LIMITS)

    assert media_type == "image/jpeg"
    assert opened(data).size == (100, 200)


def test_a_rendition_too_long_for_jpeg_is_png() -> None:
    target = BytesIO()
    Image.new("RGB", (70_000, 2)).save(target, "PNG")

    data, media_type = rendition(target.getvalue(), LIMITS)

    assert media_type == "image/png"
    assert opened(data).size == (70_000, 2)


def test_neither_keeps_metadata() -> None:
    source = photograph(200, 100)

    shown = [thumbnail(source, 128, LIMITS), rendition(source, LIMITS)[0]]

    for data in shown:
        assert not opened(data).getexif()
        assert not {"exif", "icc_profile", "comment", "xmp"} & set(opened(data).info)
        assert b"private" not in data and b"a camera" not in data


def test_broken_pictures_are_rejected() -> None:
    for draw in (lambda data: thumbnail(data, 128, LIMITS), lambda data: rendition(data, LIMITS)):
        with pytest.raises(ImageRejected):
            draw(photograph(200, 100)[:-200])
