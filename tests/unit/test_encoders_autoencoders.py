"""The two halves of the autoencoders: shapes, what they keep of a picture, and that they learn."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from services.encoders.architectures import build, load
from services.encoders.autoencoders import FashionEncoder, PooledEncoder, to_grey
from services.encoders.normalisation import to_input
from services.encoders.resnet import ResNetEncoder
from services.encoders.shipped import shipped
from services.encoders.torch_encoder import LARGEST_PIXELS, TorchEncoder
from services.errors import EncoderError
from services.images.preprocess import Preprocessing
from services.training.decoders import build_decoder
from tests.torch_threads import torch_threads
from tests.unit.test_encoders import checkpoint_with, noise

# Architecture, options, side of the pictures, shape of the code, numbers of the embedding.
HALVES = [
    ("conv-ae", {"bottleneck": 24}, 32, (24,), 24),
    ("folder-ae", {"pool": "avg"}, 64, (256, 2, 2), 256),
    ("folder-ae", {"pool": "gem"}, 64, (256, 2, 2), 256),
    ("folder-ae", {"pool": "grid", "side": 2}, 64, (256, 2, 2), 1024),
    ("folder-ae", {"pool": "grid", "side": 2, "dimension": 7}, 64, (256, 2, 2), 7),
    ("vgg-ae", {"pool": "gem", "dimension": 100}, 24, (256, 3, 3), 100),
    ("fashion-ae", {"latent": 2}, 32, (2,), 2),
]


def pictures(count: int, side: int) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


class TestHalves:
    @pytest.mark.parametrize(("architecture", "options", "side", "code", "dimension"), HALVES)
    def test_give_a_code_an_embedding_and_a_picture_of_the_declared_shapes(
        self, architecture: str, options: dict[str, Any], side: int, code: tuple[int, ...], dimension: int
    ) -> None:
        encoder = build(architecture, options).eval()
        decoder = build_decoder(architecture, options).eval()

        found = encoder.code(pictures(2, side))

        assert found.shape == (2, *code)
        assert encoder(pictures(2, side)).shape == (2, dimension)
        assert decoder(found).shape == (2, 3, side, side)

    @pytest.mark.parametrize(
        ("architecture", "side", "code"), [("folder-ae", 512, (256, 16, 16)), ("vgg-ae", 448, (256, 56, 56))]
    )
    def test_at_the_size_of_their_articles_have_codes_too_large_to_store(
        self, architecture: str, side: int, code: tuple[int, ...]
    ) -> None:
        with torch.device("meta"):
            encoder = build(architecture, {})
            assert encoder.code(torch.empty(1, 3, side, side)).shape == (1, *code)
            assert encoder(torch.empty(1, 3, side, side)).shape == (1, 256)

    @pytest.mark.parametrize(
        ("network", "channels", "kernel", "stride"),
        [
            (build("folder-ae", {}), (3, 16, 32, 64, 128, 256), 3, 1),
            (build_decoder("folder-ae", {}), (256, 128, 64, 32, 16, 3), 2, 2),
            (build("vgg-ae", {}), (3, 64, 64, 128, 128, 256, 256, 256), 3, 1),
            (build_decoder("vgg-ae", {}), (256, 128, 64, 3), 2, 2),
            (build("fashion-ae", {}), (1, 32, 64, 128), 3, 2),
            (build_decoder("fashion-ae", {}), (128, 64, 32, 1), 3, 2),
        ],
        ids=["folder", "folder decoder", "vgg", "vgg decoder", "fashion", "fashion decoder"],
    )
    def test_have_the_layers_of_the_articles(
        self, network: nn.Module, channels: tuple[int, ...], kernel: int, stride: int
    ) -> None:
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]

        assert [(layer.in_channels, layer.out_channels) for layer in layers] == list(pairwise(channels))
        assert {layer.kernel_size for layer in layers} == {(kernel, kernel)}
        assert {layer.stride for layer in layers} == {(stride, stride)}

    @pytest.mark.parametrize(
        ("architecture", "options", "side"), [(h[0], h[1], h[2]) for h in (*HALVES[::2], HALVES[5])]
    )
    def test_learn_to_draw_what_they_see(self, architecture: str, options: dict[str, Any], side: int) -> None:
        torch.manual_seed(0)
        encoder, decoder = build(architecture, options), build_decoder(architecture, options)
        colours = torch.rand(8, 1, 1, 1).expand(-1, 3, side, side) * 2 - 1
        optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=2e-3)

        losses = []
        for _ in range(60):
            loss = (decoder(encoder.code(colours)) - colours).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())

        assert losses[-1] < 0.5 * losses[0]

    def test_of_another_architecture_has_no_decoder(self) -> None:
        with pytest.raises(EncoderError, match=r"'resnet' cannot be trained by reconstruction: only conv-ae, fashion"):
            build_decoder("resnet", {})

    def test_refuse_an_unknown_pooling(self) -> None:
        with pytest.raises(EncoderError, match="unknown pooling 'max'"):
            build("folder-ae", {"pool": "max"})


class TestPooling:
    def test_of_a_code_is_as_in_plain_loops(self) -> None:
        encoder = build("folder-ae", {"pool": "grid", "side": 2, "dimension": 5}).eval()
        assert isinstance(encoder, PooledEncoder) and encoder.projection is not None
        encoder.projection.mean.normal_()
        encoder.projection.matrix.normal_()
        with torch.inference_mode():
            code = encoder.feature_map(pictures(2, 128))
            embedding = encoder(pictures(2, 128))

        for row in range(2):
            cells = [
                code[row, channel, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean()
                for channel in range(256)
                for y in range(2)
                for x in range(2)
            ]
            expected = encoder.projection.matrix @ (torch.stack(cells) - encoder.projection.mean)
            torch.testing.assert_close(embedding[row], expected, atol=1e-4, rtol=1e-4)

    def test_leaves_the_flattened_code_to_those_who_ask(self) -> None:
        checkpoint = checkpoint_with("folder-ae", {"pool": "avg"}, 64)
        encoder = TorchEncoder(*checkpoint, device="cpu")
        batch = noise(3, 64)

        flattened = encoder.encode_flattened(batch)

        network = build("folder-ae", {})
        network.load_state_dict(encoder.network.state_dict())
        with torch.inference_mode():
            values = to_input(torch.from_numpy(batch), checkpoint.manifest.preprocessing)
            code = network.code(values).flatten(1)
        assert flattened.shape == (3, 256 * 2 * 2)
        np.testing.assert_allclose(flattened, (code / code.norm(dim=1, keepdim=True)).numpy(), atol=1e-6)

    def test_is_said_to_be_missing_where_the_embedding_is_the_whole_code(self) -> None:
        encoder = TorchEncoder(*checkpoint_with("conv-ae", {"bottleneck": 8}, 32), device="cpu")

        with pytest.raises(EncoderError, match=r"tiny@3 has no flattened code: its network, conv-ae, pools nothing"):
            encoder.encode_flattened(noise(1))

    def test_of_a_residual_network_is_its_last_stage(self) -> None:
        options = {"stem": 8, "stem_stride": 1, "widths": [8, 16], "blocks": [1, 1], "pooled_stages": 2}
        checkpoint = checkpoint_with("resnet", options, 32)
        batch = noise(3)

        flattened = TorchEncoder(*checkpoint, device="cpu").encode_flattened(batch)

        network = load(*checkpoint)
        assert isinstance(network, ResNetEncoder)
        with torch.inference_mode():
            stage = network.feature_maps(to_input(torch.from_numpy(batch), checkpoint.manifest.preprocessing))[-1]
        stage = stage.flatten(1)
        assert flattened.shape == (3, 16 * 16 * 16)
        np.testing.assert_allclose(flattened, (stage / stage.norm(dim=1, keepdim=True)).numpy(), atol=1e-5)

    def test_of_large_pictures_goes_in_parts_that_fit_into_memory(self) -> None:
        side = 512
        encoder = TorchEncoder(*checkpoint_with("folder-ae", {"pool": "avg"}, side), device="cpu")
        batch = noise(LARGEST_PIXELS // side**2 + 1, side)
        seen: list[int] = []
        encoder.network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))

        with torch_threads(1):
            codes = encoder.encode(batch)
        assert seen == [16, 1]
        seen.clear()
        with torch_threads(4):
            encoder.encode(batch)
        assert sorted(seen) == [1, 4, 4, 4, 4]  # four at a time
        np.testing.assert_allclose(codes[-1:], encoder.encode(batch[-1:]), atol=1e-5)


class TestFashion:
    def test_sees_grey_pictures_to_the_bit(self) -> None:
        values = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))

        assert torch.equal(to_grey(values.expand(-1, 3, -1, -1)), values)

    def test_sees_colours_as_their_luma(self) -> None:
        colour = torch.tensor([0.3, -0.7, 0.9]).reshape(1, 3, 1, 1)

        assert to_grey(colour).item() == pytest.approx(0.299 * 0.3 + 0.587 * -0.7 + 0.114 * 0.9, abs=1e-6)

    def test_draws_grey_pictures(self) -> None:
        drawn = build_decoder("fashion-ae", {}).eval()(torch.randn(3, 2))

        assert torch.equal(drawn[:, 0], drawn[:, 1]) and torch.equal(drawn[:, 0], drawn[:, 2])

    def test_has_two_dimensions_unless_told_otherwise(self) -> None:
        assert isinstance(build("fashion-ae", {}), FashionEncoder)
        assert build("fashion-ae", {}).eval()(pictures(1, 32)).shape == (1, 2)


def test_a_decoder_of_old_codes_fits_the_shipped_encoder() -> None:
    for encoder in shipped():
        if encoder.manifest.architecture == "conv-ae":
            loaded = TorchEncoder(encoder.manifest, encoder.weights_path.read_bytes(), "cpu").network
            drawn = build_decoder("conv-ae", encoder.manifest.options)(loaded.code(pictures(1, 32)))
            assert drawn.shape == (1, 3, 32, 32)


def test_the_preprocessing_of_an_article_centres_its_pixels() -> None:
    """(x - 127.5) / 127.5, as the VGG-like autoencoder is given them."""
    half = (0.5, 0.5, 0.5)
    spec = Preprocessing(size=2, fit="stretch", resample="bilinear", mean=half, std=half)
    pixels = torch.arange(12, dtype=torch.uint8).reshape(1, 2, 2, 3) * 23

    expected = (pixels.double() - 127.5) / 127.5

    torch.testing.assert_close(to_input(pixels, spec).double(), expected.permute(0, 3, 1, 2), atol=1e-6, rtol=0)
