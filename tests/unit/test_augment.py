"""Variations of pictures, against Pillow and torchvision one picture at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as reference

from services.training.augment import augment, gaussian, recolour, resample, solarise
from services.training.augmentation import Augmentation

STILL = Augmentation(scale=(1, 1), ratio=(1, 1), flip=0)


def pictures(count: int = 6, side: int = 24, seed: int = 0) -> Tensor:
    """Smooth pictures, in which neighbouring pixels are alike as in photographs."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, side, mode="bicubic").clamp(0, 1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unchanged(count: int) -> dict[str, Tensor]:
    ones = torch.ones(count)
    return {"brightness": ones, "contrast": ones, "saturation": ones, "hue": 0 * ones}


class TestResample:
    # Left, top, width and height as parts of the side.
    BOXES = torch.tensor([[0.1, 0.2, 0.5, 0.7], [0.0, 0.0, 1.0, 1.0], [0.55, 0.3, 0.45, 0.2], [0.3, 0.0, 0.6, 0.9]])

    @pytest.mark.parametrize("size", [8, 16, 24, 40])
    @pytest.mark.parametrize("mirror", [False, True])
    def test_it_is_what_pillow_makes_of_each_channel(self, size: int, mirror: bool) -> None:
        given = pictures(4)

        found = resample(given, self.BOXES, torch.full((4,), mirror), size)

        for picture, box, result in zip(given, self.BOXES, found, strict=True):
            left, top, width, height = (box * 24).tolist()
            for channel, resampled in zip(picture, result, strict=True):
                image = Image.fromarray(channel.numpy())
                image = image.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + width, top + height))
                if mirror:
                    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                np.testing.assert_allclose(resampled, np.asarray(image), atol=1e-5)

    def test_mirroring_is_of_each_picture_by_itself(self) -> None:
        given = pictures(2)
        whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(2, 4)

        found = resample(given, whole, torch.tensor([True, False]), 24)

        torch.testing.assert_close(found, torch.stack([given[0].flip(2), given[1]]))

    def test_blur_is_the_gaussian_of_torchvision(self) -> None:
        given = pictures(3, side=32)
        whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(3, 4)
        sigmas = torch.tensor([0.0, 0.7, 2.0])

        found = resample(given, whole, torch.zeros(3, dtype=torch.bool), 32, gaussian(sigmas, 2.0, 32))

        torch.testing.assert_close(found[0], given[0])
        for number in (1, 2):
            expected = reference.gaussian_blur(given[number], [13, 13], [sigmas[number].item()] * 2)
            torch.testing.assert_close(found[number], expected, atol=1e-5, rtol=0)

    def test_a_blur_wider_than_the_picture_is_possible(self) -> None:
        rows = gaussian(torch.tensor([50.0]), 50.0, 5)

        torch.testing.assert_close(rows.sum(2), torch.ones(1, 5))


class TestColours:
    FACTORS = torch.tensor([0.4, 0.8, 1.0, 1.3, 1.6, 0.0])

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("brightness", reference.adjust_brightness),
            ("contrast", reference.adjust_contrast),
            ("saturation", reference.adjust_saturation),
        ],
    )
    def test_each_factor_is_that_of_torchvision(self, name: str, expected: Callable[[Tensor, float], Tensor]) -> None:
        given = pictures()

        found = recolour(given, **{**unchanged(6), name: self.FACTORS})

        for picture, factor, result in zip(given, self.FACTORS.tolist(), found, strict=True):
            # torchvision rounds the weights of grey to four digits.
            torch.testing.assert_close(result, expected(picture, factor), atol=1e-3, rtol=0)

    def test_together_they_follow_each_other_without_a_clamp(self) -> None:
        # So pale that nothing is clamped, in which torchvision's steps differ.
        given = 0.4 + 0.2 * pictures()
        brightness, contrast, saturation = 0.9, 1.2, 1.3
        factors = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": 0.0}

        found = recolour(given, **{name: torch.full((6,), value) for name, value in factors.items()})

        for picture, result in zip(given, found, strict=True):
            expected = reference.adjust_brightness(picture, brightness)
            expected = reference.adjust_saturation(reference.adjust_contrast(expected, contrast), saturation)
            torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)

    def test_hues_turn_as_in_torchvision(self) -> None:
        primaries = torch.eye(3)[:, :, None, None] * 0.6 + 0.2

        for part in (-1 / 3, 1 / 3):
            turned = recolour(primaries, **{**unchanged(3), "hue": torch.full((3,), part)})
            assert torch.equal(turned.flatten(1).argmax(1), reference.adjust_hue(primaries, part).flatten(1).argmax(1))

    def test_a_turn_keeps_luma_and_greys_and_ends_where_it_began(self) -> None:
        given = 0.4 + 0.2 * pictures()
        grey = given.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)

        turned = recolour(given, **{**unchanged(6), "hue": torch.linspace(-0.5, 0.5, 6)})
        whole = recolour(given, **{**unchanged(6), "hue": torch.ones(6)})
        greys = recolour(grey, **{**unchanged(6), "hue": torch.linspace(-0.5, 0.5, 6)})

        torch.testing.assert_close((turned * luma).sum(1), (given * luma).sum(1), atol=1e-4, rtol=0)
        torch.testing.assert_close(whole, given, atol=1e-4, rtol=0)
        torch.testing.assert_close(greys, grey, atol=1e-4, rtol=0)
        assert (turned - given).abs().amax((1, 2, 3)).min() > 0.01

    def test_values_stay_in_their_range(self) -> None:
        found = recolour(pictures(), **{**unchanged(6), "brightness": torch.full((6,), 5.0)})

        assert (found.min(), found.max()) == (0, 1)

    def test_solarising_is_that_of_torchvision(self) -> None:
        given = pictures(4)
        chosen = torch.tensor([True, False, True, False])

        found = solarise(given, chosen)

        for picture, is_chosen, result in zip(given, chosen, found, strict=True):
            torch.testing.assert_close(result, reference.solarize(picture, 0.5) if is_chosen else picture)


class TestAugment:
    def test_without_strengths_nothing_changes(self) -> None:
        torch.testing.assert_close(augment(pictures(), STILL, 24, seeded()), pictures())

    @pytest.mark.parametrize("size", [12, 24, 32])
    def test_the_result_has_the_size_that_is_asked_for(self, size: int) -> None:
        found = augment(pictures(), Augmentation(blur=1, jitter=1, brightness=0.5, solarise=0.5), size, seeded())

        assert found.shape == (6, 3, size, size)
        assert found.min() >= 0
        assert found.max() <= 1

    def test_the_generator_alone_decides(self) -> None:
        spec = Augmentation(jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, greyscale=0.2, blur=0.5)
        torch.manual_seed(1)
        first = augment(pictures(), spec, 24, seeded(3))
        torch.manual_seed(2)

        assert torch.equal(augment(pictures(), spec, 24, seeded(3)), first)
        assert not torch.equal(augment(pictures(), spec, 24, seeded(4)), first)

    def test_half_precision_of_the_network_does_not_reach_it(self) -> None:
        spec = Augmentation(jitter=1, brightness=0.4, blur=1)
        exact = augment(pictures(), spec, 24, seeded())

        with torch.autocast("cpu", torch.bfloat16):
            mixed = augment(pictures(), spec, 24, seeded())

        assert torch.equal(mixed, exact)

    def test_pictures_of_a_batch_are_varied_apart(self) -> None:
        same = pictures(1).expand(50, 3, 24, 24)

        found = augment(same, Augmentation(), 24, seeded())

        assert len(found.flatten(1).unique(dim=0)) == 50

    def test_crops_have_the_declared_area_ratio_and_place(self) -> None:
        # Coordinates as colours: what a crop shows at its edges says where it was cut.
        side = 64
        line = (torch.arange(side) + 0.5) / side
        columns, rows = line.expand(side, side), line[:, None].expand(side, side)
        maps = torch.stack([columns, rows, rows]).expand(2000, 3, side, side)

        found = augment(maps, Augmentation(scale=(0.25, 0.6), ratio=(0.5, 2), flip=0), side, seeded())

        step = side - 1
        width = (found[:, 0, 32, -9] - found[:, 0, 32, 8]) * side / (step - 16)
        height = (found[:, 1, -9, 32] - found[:, 1, 8, 32]) * side / (step - 16)
        area, ratio = width * height, (width / height).log()
        assert 0.245 < area.min() < 0.26
        assert 0.59 < area.max() < 0.61
        assert area.mean().item() == pytest.approx(0.425, abs=0.01)
        assert ratio.abs().max() < 0.70
        assert ratio.mean().item() == pytest.approx(0, abs=0.02)
        middle = found[:, 0, 32, 32]
        assert middle.mean().item() == pytest.approx(0.5, abs=0.02)

    def test_probabilities_are_those_of_single_pictures(self) -> None:
        same = pictures(1).expand(1000, 3, 24, 24)
        still = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}

        grey = augment(same, Augmentation(**still, flip=0, greyscale=0.3), 24, seeded())
        mirrored = augment(same, Augmentation(**still, flip=0.3), 24, seeded())
        changed = augment(same, Augmentation(**still, flip=0, jitter=0.3, brightness=0.5), 24, seeded())
        blurred = augment(same, Augmentation(**still, flip=0, blur=0.3, blur_sigma=(1, 2)), 24, seeded())
        solarised = augment(same, Augmentation(**still, flip=0, solarise=0.3), 24, seeded())

        assert ((grey.amax(1) - grey.amin(1)).amax((1, 2)) < 1e-4).float().mean().item() == pytest.approx(0.3, abs=0.05)
        for found in (mirrored, changed, blurred, solarised):
            different = (found - same).abs().amax((1, 2, 3)) > 1e-3
            assert different.float().mean().item() == pytest.approx(0.3, abs=0.05)

    def test_brightness_varies_within_its_strength(self) -> None:
        dim = torch.full((500, 3, 4, 4), 0.5)
        spec = Augmentation(scale=(1, 1), ratio=(1, 1), jitter=1, brightness=0.4)

        factors = augment(dim, spec, 4, seeded())[:, 0, 0, 0] / 0.5

        assert 0.6 <= factors.min() < 0.62
        assert 1.38 < factors.max() <= 1.4001

    @pytest.mark.parametrize(
        "strengths", [{"hue": 0.6}, {"flip": 1.5}, {"scale": (0.5, 0.2)}, {"scale": (0.0, 1.0)}, {"blur": -0.1}]
    )
    def test_impossible_strengths_are_refused_by_name(self, strengths: dict[str, float]) -> None:
        with pytest.raises(ValueError, match=f"{next(iter(strengths))} of an augmentation"):
            Augmentation(**strengths)
