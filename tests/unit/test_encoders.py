"""What an encoder promises, and what a checkpoint refuses."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from services.config import Settings
from services.encoders.architectures import build, load, output_width, pack
from services.encoders.base import Encoder
from services.encoders.batches import Batches
from services.encoders.checkpoint import MANIFEST_FILE, WEIGHTS_FILE, Checkpoint, digest, read, save
from services.encoders.manifest import Manifest, Training, TrainingData, parse_manifest
from services.encoders.normalisation import to_input
from services.encoders.resnet import Pointwise
from services.encoders.shipped import ShippedEncoder, shipped
from services.encoders.torch_encoder import LARGEST_BATCH, TorchEncoder
from services.errors import ConfigurationError, EncoderError
from services.images.preprocess import Preprocessing
from tests.torch_threads import torch_threads

DIMENSION = 24


def checkpoint_of(weights: bytes, **changes: Any) -> Checkpoint:
    manifest = Manifest(
        name="tiny",
        version=3,
        architecture="conv-ae",
        options={"bottleneck": DIMENSION},
        dimension=DIMENSION,
        preprocessing=Preprocessing(
            version=1, size=32, fit="stretch", resample="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
        ),
        weights_sha256=digest(weights),
        training=Training(
            recipe="none",
            data=TrainingData(description="nothing", trained_on=1, held_out=1, sha256="0" * 64),
            metrics={},
            seed=0,
            git_revision=None,
            created=datetime(2026, 1, 1, tzinfo=UTC),
            licence="Apache-2.0",
        ),
    )
    return Checkpoint(manifest.model_copy(update=changes), weights)


def checkpoint_with(architecture: str, options: dict[str, Any], size: int) -> Checkpoint:
    """An encoder with random weights."""
    torch.manual_seed(0)
    network = build(architecture, options)
    preprocessing = Preprocessing(size=size, fit="stretch", resample="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
    return checkpoint_of(
        pack(network),
        architecture=architecture,
        options=options,
        dimension=output_width(network.eval(), architecture, size),
        preprocessing=preprocessing,
    )


@pytest.fixture
def checkpoint() -> Checkpoint:
    return checkpoint_with("conv-ae", {"bottleneck": DIMENSION}, 32)


@pytest.fixture
def encoder(checkpoint: Checkpoint) -> TorchEncoder:
    return TorchEncoder(*checkpoint, device="cpu")


def noise(count: int, size: int = 32) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


class TestEncoding:
    def test_gives_one_float32_unit_row_of_the_declared_dimension_per_picture(self, encoder: Encoder) -> None:
        codes = encoder.encode(noise(5))

        assert codes.shape == (5, encoder.manifest.dimension)
        assert codes.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(codes, axis=1), 1, atol=1e-6)

    def test_does_not_depend_on_the_rest_of_the_batch(self, encoder: Encoder) -> None:
        pictures = noise(LARGEST_BATCH + 3)

        codes = encoder.encode(pictures)

        for position in (0, 17, LARGEST_BATCH - 1, LARGEST_BATCH, LARGEST_BATCH + 2):
            alone = encoder.encode(pictures[position : position + 1])
            np.testing.assert_allclose(alone[0], codes[position], atol=1e-5)

    def test_of_nothing_is_nothing(self, encoder: Encoder) -> None:
        assert encoder.encode(noise(0)).shape == (0, DIMENSION)

    def test_takes_views_and_read_only_arrays(self, encoder: Encoder) -> None:
        pictures = noise(4)
        pictures.flags.writeable = False

        np.testing.assert_allclose(encoder.encode(pictures[::-1]), encoder.encode(pictures)[::-1], atol=1e-5)

    @pytest.mark.parametrize("bias", [-1.0, float("nan"), float("inf")])
    def test_marks_a_code_without_direction_by_a_row_of_zeros(self, bias: float) -> None:
        network = build("conv-ae", {"bottleneck": DIMENSION})
        state = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
        state["13.bias"] += bias
        checkpoint = checkpoint_of(safetensors.torch.save(state))

        codes = TorchEncoder(*checkpoint, device="cpu").encode(noise(2))

        assert (codes == 0).all()

    @pytest.mark.parametrize(
        "batch", [np.zeros((1, 31, 32, 3), np.uint8), np.zeros((32, 32, 3), np.uint8), np.zeros((1, 32, 32, 3))]
    )
    def test_refuses_other_shapes_and_types(self, encoder: Encoder, batch: Any) -> None:
        with pytest.raises(ValueError, match=r"expected uint8 \(n, 32, 32, 3\)"):
            encoder.encode(batch)

    @pytest.mark.parametrize(
        ("architecture", "options"),
        [
            ("resnet", {"stem": 8, "stem_stride": 2, "widths": [8, 16], "blocks": [1, 2], "pooled_stages": 2}),
            ("fashion-ae", {"latent": 6}),
            ("torchvision:mobilenet_v3_small", {}),
        ],
    )
    def test_is_that_of_the_network_with_its_batch_norms(self, architecture: str, options: dict[str, Any]) -> None:
        manifest, weights = checkpoint_with(architecture, options, 32)
        network = load(manifest, weights)
        with torch.no_grad():
            for layer in network.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.running_mean.normal_(0, 0.1)
                    layer.running_var.uniform_(0.5, 2)
                    layer.weight.uniform_(0.5, 1.5)
                    layer.bias.normal_(0, 0.1)
        checkpoint = checkpoint_of(pack(network), **dict(manifest) | {"weights_sha256": digest(pack(network))})

        codes = TorchEncoder(*checkpoint, device="cpu").encode(noise(3))

        with torch.inference_mode():
            expected = network(to_input(torch.from_numpy(noise(3)), manifest.preprocessing))
        np.testing.assert_allclose(codes, (expected / expected.norm(dim=1, keepdim=True)).numpy(), atol=1e-5)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
    @pytest.mark.parametrize("count", [0, 1, LARGEST_BATCH, 5 * LARGEST_BATCH + 7])
    def test_on_the_gpu_keeps_every_row_in_its_place(self, encoder: TorchEncoder, count: int) -> None:
        on_gpu = TorchEncoder(encoder.manifest, pack(encoder.network), device="cuda")

        codes = on_gpu.encode(noise(count)[::-1])

        assert codes.shape == (count, DIMENSION)
        assert count == 0 or (codes[::-1] * encoder.encode(noise(count))).sum(axis=1).min() > 0.999

    def test_of_text_is_refused_where_only_pictures_are_embedded(self, encoder: TorchEncoder) -> None:
        assert not encoder.manifest.embeds_text
        with pytest.raises(EncoderError, match="tiny@3 embeds pictures only; an encoder of `openclip:`"):
            encoder.encode_text(["a lamp"])

    @pytest.mark.parametrize("device", ["cuda:99", "abacus"])
    def test_refuses_a_device_that_is_not_there(self, checkpoint: Checkpoint, device: str) -> None:
        with pytest.raises(ConfigurationError, match=device):
            TorchEncoder(*checkpoint, device=device)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
    @pytest.mark.parametrize("shipped_encoder", shipped(), ids=lambda encoder: encoder.manifest.ref)
    def test_on_the_gpu_agrees_with_the_cpu(self, shipped_encoder: ShippedEncoder) -> None:
        checkpoint = read(shipped_encoder.weights_path.parent)
        size = checkpoint.manifest.preprocessing.size
        pictures = np.random.default_rng(0).integers(0, 256, (70, size, size, 3), np.uint8)

        on_gpu = TorchEncoder(*checkpoint, device="cuda").encode(pictures)

        assert (on_gpu * TorchEncoder(*checkpoint, device="cpu").encode(pictures)).sum(axis=1).min() > 0.999

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
    def test_on_the_gpu_nothing_is_waited_for_but_the_rows(self) -> None:
        """What waits for the GPU while parts are handed over keeps it from computing one while another is copied."""
        checkpoint = read(next(e for e in shipped() if e.manifest.name == "metric-photo").weights_path.parent)
        encoder = TorchEncoder(*checkpoint, device="cuda")
        pictures = np.zeros((3 * LARGEST_BATCH, 96, 96, 3), np.uint8)
        expected = encoder.encode(pictures)

        torch.cuda.set_sync_debug_mode("error")  # events, which rows are waited for by, are not meant
        try:
            found = encoder.encode(pictures)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        np.testing.assert_allclose(found, expected, atol=1e-3)


class TestPointwise:
    @pytest.mark.parametrize(("inputs", "outputs"), [(4, 8), (3, 5), (16, 32)])
    def test_is_a_convolution_with_a_stride_and_so_are_its_gradients(self, inputs: int, outputs: int) -> None:
        torch.manual_seed(0)
        pictures = torch.rand(3, inputs, 7, 10)
        pointwise = Pointwise(inputs, outputs, 2).to(memory_format=torch.channels_last)
        usual = torch.nn.Conv2d(inputs, outputs, 1, 2, bias=False)
        usual.load_state_dict(pointwise.state_dict())
        results = []
        for network, order in ((pointwise, torch.channels_last), (usual, torch.contiguous_format)):
            asked = pictures.to(memory_format=order).requires_grad_()
            with torch_threads(1):
                made = network(asked)
                made.square().sum().backward()
            results.append((made, asked.grad, network.weight.grad))
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs)


class TestCheckpoint:
    def test_survives_a_round_trip_through_a_folder(self, checkpoint: Checkpoint, tmp_path: Path) -> None:
        save(tmp_path / "tiny@3", checkpoint)

        found = read(tmp_path / "tiny@3")

        assert found == checkpoint
        assert found.manifest.ref == "tiny@3"
        assert {path.name for path in (tmp_path / "tiny@3").iterdir()} == {MANIFEST_FILE, WEIGHTS_FILE}

    def test_refuses_weights_of_another_hash(self, checkpoint: Checkpoint, tmp_path: Path) -> None:
        save(tmp_path, checkpoint)
        damaged = bytearray(checkpoint.weights)
        damaged[-1] ^= 1
        (tmp_path / WEIGHTS_FILE).write_bytes(damaged)

        with pytest.raises(EncoderError, match=r"tiny@3 are damaged or of another encoder"):
            read(tmp_path)
        with pytest.raises(EncoderError, match=r"SHA-256"):
            load(checkpoint.manifest, bytes(damaged))

    def test_refuses_a_folder_without_one(self, tmp_path: Path) -> None:
        with pytest.raises(EncoderError, match="not an encoder checkpoint"):
            read(tmp_path)

    def test_refuses_an_unknown_architecture_and_names_the_known(self, checkpoint: Checkpoint) -> None:
        manifest, weights = checkpoint_of(checkpoint.weights, architecture="vit-huge")

        with pytest.raises(EncoderError, match=r"'vit-huge': this release knows conv-ae, .*, timm:NAME"):
            load(manifest, weights)

    def test_refuses_options_that_the_architecture_does_not_take(self, checkpoint: Checkpoint) -> None:
        manifest, weights = checkpoint_of(checkpoint.weights, options={"depth": 3})

        with pytest.raises(EncoderError, match="does not take the options"):
            load(manifest, weights)

    def test_refuses_a_declared_dimension_that_is_not_the_networks(self, checkpoint: Checkpoint) -> None:
        manifest, weights = checkpoint_of(checkpoint.weights, dimension=DIMENSION + 1)

        with pytest.raises(EncoderError, match=r"declares dimension 25, its network gives 24"):
            load(manifest, weights)

    def test_refuses_tensors_of_another_shape(self, checkpoint: Checkpoint) -> None:
        manifest, weights = checkpoint_of(checkpoint.weights, options={"bottleneck": 25}, dimension=25)

        with pytest.raises(EncoderError, match="do not fit 'conv-ae'"):
            load(manifest, weights)

    def test_refuses_an_input_size_that_the_network_does_not_take(self, checkpoint: Checkpoint) -> None:
        preprocessing = checkpoint.manifest.preprocessing.model_copy(update={"size": 40})
        manifest, weights = checkpoint_of(checkpoint.weights, preprocessing=preprocessing)

        with pytest.raises(EncoderError, match="40 × 40"):
            load(manifest, weights)

    def test_refuses_bytes_that_are_not_safetensors(self) -> None:
        with pytest.raises(EncoderError, match="do not fit"):
            load(*checkpoint_of(b"not safetensors"))

    @pytest.mark.parametrize(
        ("old", "new", "field"),
        [
            ('"format_version": 1', '"format_version": 2', "format_version"),
            ('"version": 1,\n    "size"', '"version": 2,\n    "size"', "preprocessing.version"),
            ('"dimension"', '"dimensions"', "dimension"),
            ("{", "", "manifest"),
        ],
    )
    def test_refuses_a_manifest_of_another_release(
        self, checkpoint: Checkpoint, old: str, new: str, field: str
    ) -> None:
        text = checkpoint.manifest.to_json()
        changed = text.replace(old, new, 1)
        assert changed != text

        with pytest.raises(EncoderError, match=field):
            parse_manifest(changed)


class TestShipped:
    def test_has_the_default_encoder_and_others_to_reindex_with(self) -> None:
        default = Settings.model_fields["default_encoder"].default

        assert {e.manifest.name: e.manifest.dimension for e in shipped()}.items() >= {
            (default, 256),
            ("conv-ae-200", 200),
            ("conv-ae-64", 64),
        }

    @pytest.mark.parametrize("encoder", shipped(), ids=lambda encoder: encoder.manifest.ref)
    def test_loads_and_tells_pictures_apart(self, encoder: ShippedEncoder) -> None:
        assert encoder.weights_path.parent.name == encoder.manifest.ref
        size = encoder.manifest.preprocessing.size
        colours = np.array([[200, 30, 30], [190, 40, 35], [20, 40, 210]], np.uint8)
        pictures = np.broadcast_to(colours[:, None, None], (3, size, size, 3))

        red, also_red, blue = TorchEncoder(encoder.manifest, encoder.weights_path.read_bytes(), "cpu").encode(pictures)

        assert red @ also_red > 0.95
        assert red @ blue < red @ also_red - 0.05

    def test_manifests_tell_how_they_were_trained_without_naming_a_machine(self) -> None:
        for encoder in shipped():
            training = encoder.manifest.training
            assert training.data.trained_on > training.data.held_out > 0
            assert training.metrics.get("loss", training.metrics.get("mse", 0)) > 0
            assert "/" not in training.data.description


def test_manifests_protocol_and_shipped_encoders_need_no_torch() -> None:
    code = (
        "import sys; import services.encoders.base, services.encoders.checkpoint; "
        "from services.encoders.shipped import shipped; shipped(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


@pytest.fixture
def three_cores() -> Iterator[None]:
    with torch_threads(3):
        yield


@pytest.mark.usefixtures("three_cores")
class TestOnSeveralCores:
    def test_the_rows_are_those_of_one_core_in_their_order(self, checkpoint: Checkpoint) -> None:
        pictures = noise(37)
        encoder = TorchEncoder(*checkpoint, device="cpu")
        together = encoder.encode(pictures)
        with torch_threads(1):
            np.testing.assert_allclose(together, encoder.encode(pictures), atol=1e-5)
            np.testing.assert_allclose(together[:1], encoder.encode(pictures[:1]), atol=1e-5)

    def test_each_core_computes_a_part_of_its_own(self) -> None:
        all_compute = threading.Barrier(3)
        sizes: list[int] = []

        def compute(pictures: torch.Tensor) -> torch.Tensor:
            all_compute.wait(10)
            sizes.append(len(pictures))
            assert torch.get_num_threads() == 1
            return pictures.flatten(1)[:, :2].float()

        pictures = np.arange(120 * 12, dtype=np.uint32).astype(np.uint8).reshape(120, 2, 2, 3)
        rows = Batches(torch.device("cpu"), 60, apart=True).map(compute, pictures, 2)
        np.testing.assert_array_equal(rows, pictures.reshape(120, 12)[:, :2])
        assert sizes == [20] * 6  # three at a time are what a part may hold
        assert torch.get_num_threads() == 3

    @pytest.mark.parametrize(("largest", "parts"), [(1, [1] * 16), (8, [4] * 4), (64, [5, 5, 5, 1])])
    def test_no_more_pictures_are_in_work_than_a_part_may_hold(self, largest: int, parts: list[int]) -> None:
        sizes: list[int] = []

        def compute(pictures: torch.Tensor) -> torch.Tensor:
            sizes.append(len(pictures))
            return pictures.flatten(1)[:, :1].float()

        Batches(torch.device("cpu"), largest, apart=True).map(compute, np.zeros((16, 2, 2, 3), np.uint8), 1)
        assert sorted(sizes, reverse=True) == parts

    def test_what_a_part_raises_is_raised(self) -> None:
        def fails(pictures: torch.Tensor) -> torch.Tensor:
            raise RuntimeError(f"out of memory for {len(pictures)}")

        with pytest.raises(RuntimeError, match="out of memory for 20"):
            Batches(torch.device("cpu"), 60, apart=True).map(fails, np.zeros((120, 2, 2, 3), np.uint8), 4)
        assert torch.get_num_threads() == 3
