"""Features by place, and where two pictures agree by them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from services.encoders.agreement import agreement
from services.encoders.architectures import build
from services.encoders.shipped import shipped
from services.encoders.torch_encoder import LARGEST_GRID, TorchEncoder
from services.errors import EncoderError
from services.samples import COLOURS, PATTERNS, draw_fabric
from tests.torch_threads import torch_threads
from tests.unit.test_encoders import checkpoint_with, noise

Floats = np.ndarray[Any, np.dtype[np.float32]]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]
RESNET = {"stem": 8, "stem_stride": 2, "widths": [8, 12, 16, 20], "blocks": [1, 1, 1, 1]}


def encoder_of(architecture: str, options: dict[str, Any], size: int = 32) -> TorchEncoder:
    return TorchEncoder(*checkpoint_with(architecture, options, size), device="cpu")


class TestGrid:
    @pytest.mark.parametrize(
        ("architecture", "options", "size", "shape"),
        [
            ("resnet", RESNET | {"pooled_stages": 3, "dimension": 24}, 64, (2, 2, 24)),
            ("resnet", RESNET | {"pool": "gem", "pooled_stages": 2}, 96, (3, 3, 36)),
            ("resnet", RESNET | {"pool": "grid", "pooled_stages": 2}, 96, (3, 3, 20)),
            ("conv-ae", {"bottleneck": 24}, 32, (4, 4, 64)),
            ("fashion-ae", {"latent": 2}, 32, (4, 4, 128)),
            ("folder-ae", {"dimension": 8}, 64, (2, 2, 8)),
            ("folder-ae", {"pool": "grid", "dimension": 8}, 128, (4, 4, 256)),
            ("torchvision:mobilenet_v3_small", {}, 64, (2, 2, 576)),
        ],
    )
    def test_has_features_for_every_place_of_every_picture(
        self, architecture: str, options: dict[str, Any], size: int, shape: tuple[int, int, int]
    ) -> None:
        encoder = encoder_of(architecture, options, size)

        grids = encoder.grid(noise(3, size)[::-1])

        assert encoder.has_grid
        assert grids.shape == (3, *shape)
        assert grids.dtype == np.float32
        np.testing.assert_allclose(encoder.grid(noise(3, size)[:1])[0], grids[2], atol=1e-5)

    def test_of_a_library_network_is_each_pictures_own_on_several_cores(self) -> None:
        encoder = encoder_of("torchvision:mobilenet_v3_small", {}, 32)
        pictures = noise(48, 32)
        with torch_threads(1):
            alone = encoder.grid(pictures)
        with torch_threads(4):
            for _ in range(5):
                np.testing.assert_allclose(encoder.grid(pictures), alone, atol=1e-4)

    @pytest.mark.parametrize("pool", ["avg", "gem"])
    @pytest.mark.parametrize("dimension", [None, 12])
    def test_of_a_single_place_is_the_embedding(self, pool: str, dimension: int | None) -> None:
        options = RESNET | {"pool": pool, "pooled_stages": 3, "dimension": dimension}
        network = build("resnet", options).eval()
        pictures = torch.randn(2, 3, 32, 32)  # of which the last stage has one place
        if dimension is not None:
            network.projection.mean.normal_()
            network.projection.matrix.normal_()

        with torch.inference_mode():
            torch.testing.assert_close(network.cells(pictures).flatten(1), network(pictures))

    def test_has_at_most_so_many_cells_as_can_be_looked_at(self) -> None:
        encoder = encoder_of("folder-ae", {"pool": "avg"}, 32 * (LARGEST_GRID + 1))  # with as many places, and one

        assert encoder.grid(noise(1, 32 * (LARGEST_GRID + 1))).shape == (1, 9, 9, 256)

    def test_is_said_to_be_missing_where_no_layer_of_a_library_pools(self) -> None:
        encoder = encoder_of("torchvision:shufflenet_v2_x0_5", {})

        assert not encoder.has_grid
        with pytest.raises(EncoderError, match="tiny@3 has no grid"):
            encoder.grid(noise(1))

    def test_of_a_library_is_what_it_pools(self) -> None:
        network = build("torchvision:resnet18", {}).eval()

        with torch.inference_mode():
            cells, pooled = network.cells(torch.ones(2, 3, 64, 64)), network(torch.ones(2, 3, 64, 64))

        torch.testing.assert_close(cells.mean(dim=(2, 3)), pooled)
        assert not network.body.avgpool._forward_pre_hooks, "it is watched during the call only"

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
    def test_on_the_gpu_agrees_with_the_cpu(self) -> None:
        (encoder,) = [encoder for encoder in shipped() if encoder.manifest.ref == "metric-photo@1"]
        on_cpu, on_gpu = (
            TorchEncoder(encoder.manifest, encoder.weights_path.read_bytes(), device) for device in ("cpu", "cuda")
        )

        for expected, found in zip(on_cpu.grid(noise(9, 96)), on_gpu.grid(noise(9, 96)), strict=True):
            cosines = (expected * found).sum(-1) / np.linalg.norm(expected, axis=-1) / np.linalg.norm(found, axis=-1)
            assert cosines.min() > 0.99


class TestAgreement:
    def test_is_as_in_plain_loops(self) -> None:
        draw = np.random.default_rng(1)
        first, second = (draw.normal(0.3, 1, shape).astype(np.float32) for shape in ((2, 3, 5), (4, 2, 5)))

        def cosine(a: Floats, b: Floats) -> float:
            return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

        def best(grid: Floats, other: Floats) -> Floats:
            return np.array([[max(cosine(cell, o) for o in other.reshape(-1, 5)) for cell in row] for row in grid])

        everything = [cosine(a, b) for a in first.reshape(-1, 5) for b in second.reshape(-1, 5)]
        low, high = np.mean(everything), np.max(everything)

        found = agreement(first, second)

        for grid, expected in zip(found, (best(first, second), best(second, first)), strict=True):
            np.testing.assert_allclose(grid, ((expected - low) / (high - low)).clip(0, 1), atol=1e-5)

    def test_has_one_scale_for_both_pictures(self) -> None:
        draw = np.random.default_rng(2)
        common = draw.normal(size=8)
        first, second = draw.normal(size=(2, 3, 3, 8)).astype(np.float32)
        first[0, 0] = 3 * common
        second[2, 1] = common

        of_first, of_second = agreement(first, second)

        assert of_first[0, 0] == of_second[2, 1] == pytest.approx(1)
        assert of_first.min() >= 0 and of_second.min() >= 0
        assert sorted(of_first.flatten())[-2] < 0.9

    def test_of_two_pictures_of_one_colour_is_all_of_both(self) -> None:
        grid = np.broadcast_to(np.arange(1, 5, dtype=np.float32), (3, 3, 4))

        of_first, of_second = agreement(grid, 2 * grid)

        np.testing.assert_allclose(of_first, 1, atol=1e-5)
        np.testing.assert_allclose(of_second, 1, atol=1e-5)

    def test_of_features_without_a_direction_is_nothing(self) -> None:
        empty = np.zeros((2, 2, 3), np.float32)
        empty[0, 0] = np.nan

        for grid in agreement(empty, np.ones((2, 2, 3), np.float32)):
            assert (grid == 0).all()

    @pytest.mark.parametrize(("ref", "least"), [("metric-photo@1", 0.95), ("conv-ae-200@1", 0.8)])
    def test_lights_up_the_half_that_two_pictures_have_in_common(self, ref: str, least: float) -> None:
        (encoder,) = [encoder for encoder in shipped() if encoder.manifest.ref == ref]
        size = encoder.manifest.preprocessing.size
        runs = TorchEncoder(encoder.manifest, encoder.weights_path.read_bytes(), "cpu")
        halves = [fabric(*look, size) for look in itertools.product(list(COLOURS)[:6], PATTERNS)]
        draw = np.random.default_rng(0)
        triples = [[halves[number] for number in draw.permutation(len(halves))[:3]] for _ in range(20)]

        firsts = runs.grid(np.stack([np.hstack([common, here]) for common, here, _ in triples]))
        seconds = runs.grid(np.stack([np.hstack([there, common]) for common, _, there in triples]))
        found = [agreement(*pair) for pair in zip(firsts, seconds, strict=True)]

        margins = [halves_of(first) for first, _ in found] + [halves_of(second)[::-1] for _, second in found]
        in_common, apart = np.mean(margins, axis=0)
        assert in_common > apart + 0.3, (in_common, apart)
        assert np.mean([ours > theirs for ours, theirs in margins]) >= least


def fabric(colour: str, pattern: str, size: int) -> Pixels:
    """Cloth of one look, as the left or right half of a picture."""
    cloth = draw_fabric(COLOURS[colour], pattern).convert("RGB")
    return np.asarray(cloth.resize((size // 2, size), Image.Resampling.BOX))


def halves_of(grid: Floats) -> tuple[float, float]:
    middle = grid.shape[1] // 2
    return float(grid[:, :middle].mean()), float(grid[:, middle:].mean())
