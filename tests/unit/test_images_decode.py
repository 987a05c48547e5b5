"""What the decode boundary accepts, what it makes of it, and how it refuses."""

from __future__ import annotations

import struct
import warnings
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from services.errors import ImageReason, ImageRejected
from services.images.decode import ImageInfo, Limits, decode, inspect, verify

LIMITS = Limits(max_bytes=32_000_000, max_pixels=128_000_000)
AWKWARD = (Path(__file__).parents[2] / "../shared/data/awkward.zip").resolve()
RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    target = BytesIO()
    if file_format == "HEIF" and "exif" in options:
        # The plugin's `save` leaves the orientation in the EXIF data, where HEIF (ISO/IEC 23008-12) wants none read.
        options["exif"] = options["exif"].tobytes()
        pillow_heif.encode(image.mode, image.size, image.tobytes(), target, **options)
    else:
        image.save(target, file_format, **options)
    return target.getvalue()


def scene(width: int = 60, height: int = 40) -> Image.Image:
    """Four coloured quarters, so that every turn and flip looks different."""
    image = Image.new("RGB", (width, height), (200, 30, 30))
    image.paste((30, 200, 30), (width // 2, 0, width, height // 2))
    image.paste((30, 30, 200), (0, height // 2, width // 2, height))
    image.paste((220, 220, 40), (width // 2, height // 2, width, height))
    return image


def difference(left: Image.Image, right: Image.Image) -> float:
    return float(np.abs(np.asarray(left, float) - np.asarray(right, float)).mean())


def rejection(data: bytes, limits: Limits = LIMITS) -> ImageRejected:
    with pytest.raises(ImageRejected) as caught:
        verify(data, limits)
    return caught.value


def srgb_profile(space: str = "sRGB") -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()


def png_declaring(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checked = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + checked + struct.pack(">I", 1000) + b"IDAT"


@pytest.mark.parametrize(
    ("file_format", "name", "media_type"),
    [
        ("JPEG", "jpeg", "image/jpeg"),
        ("MPO", "jpeg", "image/jpeg"),
        ("PNG", "png", "image/png"),
        ("WEBP", "webp", "image/webp"),
        ("GIF", "gif", "image/gif"),
        ("BMP", "bmp", "image/bmp"),
        ("TIFF", "tiff", "image/tiff"),
        ("AVIF", "avif", "image/avif"),
        ("HEIF", "heic", "image/heic"),
    ],
)
def test_accepted_formats_are_named_and_decoded(file_format: str, name: str, media_type: str) -> None:
    options = {"save_all": True, "append_images": [scene()]} if file_format == "MPO" else {}
    data = encoded(scene(), file_format, **options)

    info = verify(data, LIMITS)

    assert info == ImageInfo(name, media_type, 60, 40)
    assert difference(decode(data, LIMITS), scene()) < 12


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(file_format: str, orientation: int) -> None:
    turns = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.ROTATE_90, Image.Transpose.FLIP_TOP_BOTTOM],
        6: [Image.Transpose.ROTATE_270],
        7: [Image.Transpose.ROTATE_270, Image.Transpose.FLIP_TOP_BOTTOM],
        8: [Image.Transpose.ROTATE_90],
    }
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(scene(), file_format, exif=exif)
    expected = scene()
    for turn in turns.get(orientation, []):
        expected = expected.transpose(turn)

    picture, info = decode(data, LIMITS), inspect(data, LIMITS)

    assert (info.width, info.height) == picture.size == expected.size
    assert difference(picture, expected) < 12


def test_the_size_is_read_without_decoding_pixels() -> None:
    data = encoded(scene(), "PNG")

    cut_after_the_header = data[: data.index(b"IDAT") + 8]

    assert inspect(cut_after_the_header, LIMITS).width == 60


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_white(mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (*RED, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))

    picture = decode(encoded(image.convert(mode), "PNG"), LIMITS)

    assert picture.getpixel((1, 1)) == WHITE
    assert picture.getpixel((6, 6)) != WHITE


def test_a_transparent_colour_of_a_palette_shows_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, *RED])
    image.putpixel((3, 3), 1)

    picture = decode(encoded(image, "GIF", transparency=0), LIMITS)

    assert picture.getpixel((0, 0)) == WHITE
    assert picture.getpixel((3, 3)) == RED


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_only_the_first_frame_counts(file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 0, 255))]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])

    red, _, blue = decode(data, LIMITS).getpixel((0, 0))

    assert red > 240 and blue < 15


@pytest.mark.parametrize(
    ("dtype", "top"), [(np.uint16, 65535), (np.int32, 65535), (np.int32, 255), (np.float32, 1.0), (np.float32, 255.0)]
)
def test_deep_grey_is_scaled_to_eight_bits(dtype: type, top: float) -> None:
    ramp = np.array([[0, top / 2, top]], dtype=dtype)

    values = np.asarray(decode(encoded(Image.fromarray(ramp), "TIFF"), LIMITS))[0, :, 0]

    assert values.tolist() in ([0, 127, 255], [0, 128, 255])


def test_sixteen_bits_a_channel_become_eight() -> None:
    rows = b"".join(b"\0" + struct.pack(">3H", 65535, 32768, 0) * 4 for _ in range(4))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )

    assert decode(data, LIMITS).getpixel((2, 2)) == (255, 128, 0)


def test_a_palette_of_half_transparent_colours_is_mixed_with_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*RED, 0, 0, 0])

    picture = decode(encoded(image, "PNG", transparency=bytes([128, 255])), LIMITS)

    assert picture.getpixel((0, 0)) == (255, 127, 127)


def test_cmyk_becomes_rgb() -> None:
    data = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)

    red, green, blue = decode(data, LIMITS).getpixel((4, 4))

    assert red > 200 and green < 60 and blue < 60


def test_a_colour_profile_is_applied() -> None:
    swapping = srgb_profile().replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    swapping = swapping.replace("sRGB".encode("utf-16-be"), "RGB?".encode("utf-16-be"))

    red, green, blue = decode(encoded(Image.new("RGB", (8, 8), RED), "PNG", icc_profile=swapping), LIMITS).getpixel(
        (4, 4)
    )

    assert red < 30 and green > 225 and blue < 30


@pytest.mark.parametrize("profile", [b"no profile at all", b"", "sRGB", "XYZ"])
def test_a_profile_that_is_srgb_or_does_not_fit_changes_nothing(profile: bytes | str) -> None:
    embedded = profile if isinstance(profile, bytes) else srgb_profile(profile)
    data = encoded(Image.new("RGB", (8, 8), (10, 128, 250)), "PNG", icc_profile=embedded)

    assert decode(data, LIMITS).getpixel((4, 4)) == (10, 128, 250)


def test_lab_becomes_rgb() -> None:
    lightest = Image.new("LAB", (8, 8), (255, 128, 128))

    assert min(decode(encoded(lightest, "TIFF"), LIMITS).getpixel((4, 4))) >= 253


def test_nothing_of_the_metadata_is_kept() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "a camera"
    data = encoded(scene(), "JPEG", exif=exif, comment=b"a comment", dpi=(300, 300))

    picture = decode(data, LIMITS)

    assert not picture.info
    assert not picture.getexif()


@pytest.mark.parametrize(("size", "at_least"), [((800, 600), 64), ((800, 600), 300), ((100, 900), 50), ((30, 30), 64)])
def test_a_reduced_jpeg_keeps_both_sides_long_enough_and_is_always_the_same(
    size: tuple[int, int], at_least: int
) -> None:
    data = encoded(scene(*size), "JPEG")

    picture = decode(data, LIMITS, at_least=at_least)

    assert min(picture.size) >= min(at_least, *size)
    assert picture.tobytes() == decode(data, LIMITS, at_least=at_least).tobytes()


def test_reduced_decoding_really_reduces() -> None:
    data = encoded(scene(800, 600), "JPEG")

    assert decode(data, LIMITS, at_least=64).size == (100, 75)


def test_an_empty_file_is_rejected() -> None:
    assert rejection(b"").reason is ImageReason.EMPTY


def test_too_many_bytes_are_rejected() -> None:
    data = encoded(scene(), "PNG")

    assert rejection(data, Limits(len(data) - 1, 10_000)).reason is ImageReason.TOO_MANY_BYTES
    assert verify(data, Limits(len(data), 10_000)).width == 60


@pytest.mark.parametrize("side", [40_000, 2_000_000_000])
def test_too_many_declared_pixels_are_rejected_by_the_header_alone(side: int) -> None:
    assert rejection(png_declaring(side, side)).reason is ImageReason.TOO_MANY_PIXELS


def test_the_pixel_limit_is_the_configured_one_also_above_that_of_pillow() -> None:
    data = png_declaring(20_000, 20_000)

    assert inspect(data, Limits(1_000, 400_000_000)).height == 20_000


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_truncated_files_are_rejected(file_format: str) -> None:
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    data = encoded(noise, file_format)

    assert rejection(data[: len(data) * 2 // 3]).reason is ImageReason.BROKEN


def test_what_is_no_picture_is_not_recognised() -> None:
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("photo.jpg", encoded(scene(), "JPEG"))

    for data in (archive.getvalue(), b"BMW and other texts", b"<html></html>", b"\x00" * 100, b"%PDF-1.7"):
        assert rejection(data).reason is ImageReason.UNRECOGNISED


@pytest.mark.parametrize(("file_format", "name"), [("JPEG2000", "JPEG 2000"), ("PPM", "Netpbm"), ("ICO", "icon")])
def test_pictures_of_other_formats_are_named_in_the_refusal(file_format: str, name: str) -> None:
    error = rejection(encoded(scene(), file_format))

    assert error.reason is ImageReason.UNSUPPORTED
    assert name in error.detail


def test_svg_is_named_in_the_refusal() -> None:
    svg = b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>'

    assert rejection(svg).detail == "SVG pictures are not supported."


@given(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF"]), st.data())
def test_damage_anywhere_gives_a_picture_or_a_rejection(file_format: str, data: st.DataObject) -> None:
    damaged = bytearray(encoded(scene(24, 16), file_format))
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))

    try:
        picture = decode(bytes(damaged), Limits(100_000, 1_000_000))
    except ImageRejected as error:
        assert isinstance(error.reason, ImageReason)
    else:
        assert picture.mode == "RGB"


@pytest.mark.skipif(not AWKWARD.exists(), reason="awkward.zip is not on this machine")
def test_awkward_files_decode_or_are_rejected_with_a_sentence() -> None:
    accepted, reasons = 0, set()
    with zipfile.ZipFile(AWKWARD) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for name in archive.namelist():
            data = archive.read(name)
            try:
                info = verify(data, LIMITS)
            except ImageRejected as error:
                reasons.add(error.reason)
                assert error.detail.endswith(".") and "<" not in error.detail and "\n" not in error.detail, name
            else:
                accepted += 1
                assert decode(data, LIMITS).size == (info.width, info.height), name

    assert accepted >= 130
    assert reasons == {
        ImageReason.EMPTY,
        ImageReason.BROKEN,
        ImageReason.UNRECOGNISED,
        ImageReason.UNSUPPORTED,
    }


@pytest.mark.skipif(not AWKWARD.exists(), reason="awkward.zip is not on this machine")
@pytest.mark.parametrize("shape", ["Landscape", "Portrait"])
def test_the_same_photograph_in_all_orientations_decodes_alike(shape: str) -> None:
    with zipfile.ZipFile(AWKWARD) as archive:
        photographs = [decode(archive.read(f"exif-orientation/{shape}_{turn}.jpg"), LIMITS) for turn in range(1, 9)]

    small = [photograph.resize((32, 32), Image.Resampling.BOX) for photograph in photographs]

    assert {photograph.size for photograph in photographs} == {photographs[0].size}
    assert max(difference(each, small[0]) for each in small) < 30
