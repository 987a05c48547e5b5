"""What an encoder is given."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from services.errors import ImageReason, ImageRejected, InvalidRequest
from services.images.decode import Limits
from services.images.preprocess import Box, Crop, Preprocessing, covered, preprocess, preprocess_image

LIMITS = Limits(max_bytes=10_000_000, max_pixels=10_000_000)
WHITE = [255, 255, 255]


def spec(**changes: object) -> Preprocessing:
    fields = {"size": 32, "fit": "stretch", "resample": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    return Preprocessing.model_validate(fields | changes)


def striped(width: int, height: int) -> Image.Image:
    """Red in the middle square, blue at both ends of the longer side."""
    image = Image.new("RGB", (width, height), (0, 0, 255))
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    image.paste((255, 0, 0), (left, top, left + short, top + short))
    return image


def jpeg(image: Image.Image) -> bytes:
    target = BytesIO()
    image.save(target, "JPEG", quality=95)
    return target.getvalue()


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("resample", ["bilinear", "bicubic", "lanczos", "box"])
@pytest.mark.parametrize("size", [(300, 100), (100, 300), (7, 5), (1, 400)])
def test_every_picture_becomes_a_square_of_bytes(fit: str, resample: str, size: tuple[int, int]) -> None:
    pixels = preprocess(jpeg(striped(*size)), spec(fit=fit, resample=resample, size=48), LIMITS)

    assert pixels.shape == (48, 48, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable and pixels.flags.c_contiguous


def test_stretch_shows_all_of_the_picture() -> None:
    pixels = preprocess_image(striped(300, 100), spec(fit="stretch"))

    assert pixels[16, 0].tolist() == pixels[16, 31].tolist() == [0, 0, 255]
    assert pixels[16, 16].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [(300, 100), (100, 300)])
def test_crop_shows_the_middle_square(size: tuple[int, int]) -> None:
    pixels = preprocess_image(striped(*size), spec(fit="crop", resample="box"))

    assert (pixels == [255, 0, 0]).all()


def test_pad_frames_the_whole_picture_in_white() -> None:
    pixels = preprocess_image(striped(300, 100), spec(fit="pad"))

    assert pixels[0, 16].tolist() == pixels[31, 16].tolist() == WHITE
    assert pixels[16, 0].tolist() == [0, 0, 255]
    assert pixels[16, 16].tolist() == [255, 0, 0]


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(300, 100), (7, 5)])
def test_a_margin_frames_what_the_same_fit_gives_for_the_inner_size(fit: str, size: tuple[int, int]) -> None:
    background = (10, 20, 30)

    framed = preprocess_image(striped(*size), spec(fit=fit, size=48, margin=6, background=background))
    inner = preprocess_image(striped(*size), spec(fit=fit, size=36, background=background))

    assert framed.shape == (48, 48, 3)
    assert (framed[6:42, 6:42] == inner).all()
    framed[6:42, 6:42] = background
    assert (framed == background).all()


def test_pad_takes_the_background() -> None:
    pixels = preprocess_image(striped(300, 100), spec(fit="pad", background=(0, 0, 0)))

    assert pixels[0, 16].tolist() == pixels[31, 16].tolist() == [0, 0, 0]


@pytest.mark.parametrize("fit", ["stretch", "crop"])
@pytest.mark.parametrize("size", [(300, 200), (200, 300)])
def test_a_crop_share_keeps_that_much_of_the_sides(fit: str, size: tuple[int, int]) -> None:
    """As classifiers are evaluated: resized to 256, of which the middle 224 are kept."""
    gradient = Image.merge("RGB", [Image.linear_gradient("L").rotate(turn) for turn in (0, 90, 180)]).resize(size)

    kept = preprocess_image(gradient, spec(fit=fit, size=224, crop_share=0.875)).astype(int)
    whole = preprocess_image(gradient, spec(fit=fit, size=256)).astype(int)

    assert np.abs(kept - whole[16:240, 16:240]).max() <= 1


@pytest.mark.parametrize("changes", [{}, {"fit": "crop", "crop_share": 0.5}, {"margin": 4}])
def test_jpegs_are_decoded_with_twice_the_pixels_that_are_kept(changes: dict[str, object]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    smooth = Image.fromarray(noise).resize((48, 48)).resize((512, 512), Image.Resampling.BICUBIC)
    data = jpeg(smooth)

    reduced = preprocess(data, spec(**changes), LIMITS).astype(int)
    full = preprocess_image(Image.open(BytesIO(data)).convert("RGB"), spec(**changes)).astype(int)

    assert np.abs(reduced - full).mean() < 1.5


def test_the_same_bytes_give_the_same_pixels() -> None:
    data = jpeg(striped(640, 480))

    assert (preprocess(data, spec(), LIMITS) == preprocess(data, spec(), LIMITS)).all()


def test_reduced_decoding_differs_little_from_full_decoding() -> None:
    gradient = Image.linear_gradient("L").resize((1600, 1200)).convert("RGB")
    data = jpeg(gradient)

    reduced = preprocess(data, spec(), LIMITS).astype(int)
    full = preprocess_image(Image.open(BytesIO(data)).convert("RGB"), spec()).astype(int)

    assert np.abs(reduced - full).max() <= 3


def test_a_broken_picture_is_rejected() -> None:
    with pytest.raises(ImageRejected) as caught:
        preprocess(jpeg(striped(64, 64))[:300], spec(), LIMITS)

    assert caught.value.reason is ImageReason.BROKEN


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"size": 0},
        {"fit": "fill"},
        {"std": (0.5, 0.0, 0.5)},
        {"unknown": 1},
        {"margin": 16},
        {"margin": -1},
        {"background": (0, 0, 256)},
        {"fit": "pad", "crop_share": 0.9},
        {"fit": "crop", "crop_share": 1.1},
    ],
)
def test_a_specification_that_is_not_understood_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        spec(**changes)


def test_a_specification_survives_json() -> None:
    framed = spec(margin=3, background=(1, 2, 3))

    assert Preprocessing.model_validate_json(spec().model_dump_json()) == spec()
    assert Preprocessing.model_validate_json(framed.model_dump_json()) == framed


def test_a_specification_of_before_margins_is_one_without() -> None:
    old = spec().model_dump(exclude={"margin", "background", "crop_share"})

    assert Preprocessing.model_validate(old) == spec()


def noise(width: int, height: int, orientation: int = 1) -> bytes:
    """A PNG in which no two places look alike, stored turned as the EXIF orientation says."""
    image = Image.fromarray(np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    target = BytesIO()
    (image.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else image).save(target, "PNG", exif=exif)
    return target.getvalue()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_a_crop_is_what_the_upright_part_alone_would_be(fit: str, orientation: int) -> None:
    part = Image.open(BytesIO(noise(200, 120))).crop((50, 30, 150, 120))

    pixels = preprocess(noise(200, 120, orientation), spec(fit=fit), LIMITS, Crop(0.25, 0.25, 0.5, 0.75))

    np.testing.assert_array_equal(pixels, preprocess_image(part, spec(fit=fit)))


def test_a_crop_of_everything_is_the_whole_picture() -> None:
    data = jpeg(striped(800, 600))
    np.testing.assert_array_equal(preprocess(data, spec(), LIMITS, Crop(0, 0, 1, 1)), preprocess(data, spec(), LIMITS))


def test_a_part_is_decoded_with_twice_the_pixels_that_are_kept() -> None:
    """Were the whole decoded smaller as without a crop, an eighth of it would have 8 pixels left for 32."""
    sharp = Image.fromarray(
        np.kron(np.random.default_rng(1).integers(0, 256, (64, 64), np.uint8), np.ones((16, 16))).astype(np.uint8)
    ).convert("RGB")
    crop = Crop(0.5, 0.5, 0.125, 0.125)

    pixels = preprocess(jpeg(sharp), spec(), LIMITS, crop)

    full = preprocess_image(sharp.crop(crop.box(sharp.size)), spec())
    assert np.abs(pixels.astype(int) - full.astype(int)).mean() < 6


@pytest.mark.parametrize(
    ("crop", "box"),
    [
        (Crop(0, 0, 1, 1), (0, 0, 100, 50)),
        (Crop(0.5, 0.5, 0.5000001, 0.5), (50, 25, 100, 50)),
        (Crop(0.101, 0.1, 0.1, 0.1), (10, 5, 21, 10)),
    ],
)
def test_a_crop_has_every_pixel_that_it_touches(crop: Crop, box: tuple[int, int, int, int]) -> None:
    assert crop.box((100, 50)) == box


@pytest.mark.parametrize("crop", [Crop(0, 0, 0.05, 1), Crop(0, 0.9, 1, 0.05)])
def test_a_crop_of_less_than_eight_pixels_is_refused(crop: Crop) -> None:
    with pytest.raises(InvalidRequest) as caught:
        preprocess(noise(140, 140), spec(), LIMITS, crop)
    assert caught.value.code == "crop_too_small"


def ruled(width: int, height: int) -> bytes:
    """A picture whose red says how far to the right a pixel is, and whose green how far down; nothing of it is blue."""
    pixels = np.zeros((height, width, 3))
    pixels[..., 0] = 255 * (np.arange(width) + 0.5) / width
    pixels[..., 1] = 255 * (np.arange(height)[:, None] + 0.5) / height
    target = BytesIO()
    Image.fromarray(pixels.round().astype(np.uint8)).save(target, "PNG")
    return target.getvalue()


@pytest.mark.parametrize("crop", [None, Crop(0.5, 0.2, 0.4, 0.6)])
@pytest.mark.parametrize("size", [(300, 200), (120, 360), (256, 256)])
@pytest.mark.parametrize(
    "changes",
    [
        {"fit": "stretch"},
        {"fit": "stretch", "crop_share": 0.7, "margin": 5},
        {"fit": "crop"},
        {"fit": "crop", "crop_share": 0.875},
        {"fit": "pad"},
        {"fit": "pad", "margin": 8},
    ],
)
def test_what_an_input_covers_is_where_its_pixels_come_from(
    changes: dict[str, object], size: tuple[int, int], crop: Crop | None
) -> None:
    fitting = spec(size=64, background=(0, 0, 255), **changes)
    pixels = preprocess(ruled(*size), fitting, LIMITS, crop) / 255

    box = covered(size, fitting, crop)

    middles = (np.arange(64) + 0.5) / 64
    across, down = np.meshgrid(box.x + box.width * middles, box.y + box.height * middles)
    shown = pixels[..., 2] == 0
    assert shown.any()
    np.testing.assert_allclose(pixels[..., 0][shown], across[shown], atol=0.02)
    np.testing.assert_allclose(pixels[..., 1][shown], down[shown], atol=0.02)
    part = crop or Crop(0, 0, 1, 1)
    inside = (abs(across - part.x - part.width / 2) < part.width / 2) & (
        abs(down - part.y - part.height / 2) < part.height / 2
    )
    assert (shown <= inside).all()
    if changes.get("margin") is None:
        assert (shown == inside).mean() > 0.97  # the frame may cut a row of pixels in two


@pytest.mark.parametrize(
    ("fit", "box"),
    [
        ("stretch", Box(0, 0, 1, 1)),
        ("crop", Box(0.25, 0, 0.5, 1)),
        ("pad", Box(0, -0.5, 1, 2)),
    ],
)
def test_of_a_wide_picture_an_input_covers_all_its_middle_or_more(fit: str, box: Box) -> None:
    assert covered((200, 100), spec(fit=fit)) == box
