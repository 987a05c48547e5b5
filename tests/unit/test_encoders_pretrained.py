"""Networks of other libraries: adopted from files with random weights, as hubs are not for tests."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from services.encoders.architectures import build
from services.encoders.checkpoint import Checkpoint, read, save
from services.encoders.manifest import parse_manifest
from services.encoders.normalisation import to_input
from services.encoders.pretrained import adopt, slug
from services.encoders.torch_encoder import TorchEncoder
from services.errors import EncoderError, InvalidRequest
from tests.unit.test_encoders import checkpoint_with, noise

models = pytest.importorskip("torchvision.models")
timm = pytest.importorskip("timm")
open_clip = pytest.importorskip("open_clip")

TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
TINY_TAG = {
    "url": "https://example.invalid/tiny.pt",
    "mean": (0.1, 0.2, 0.3),
    "std": (0.4, 0.5, 0.6),
    "interpolation": "bilinear",
    "resize_mode": "longest",
    "fill_color": 7,
    "quick_gelu": True,
}


@pytest.fixture
def tiny_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small network in OpenCLIP's own registries, with published weights that are nowhere."""
    (tmp_path / "tiny-clip.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", {"somewhere": TINY_TAG})
    return "openclip:tiny-clip"


def randomise(network: nn.Module) -> nn.Module:
    """Also what starts as zeros or ones, so that nothing can be left out unseen."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.copy_(0.02 * torch.randn(value.shape, generator=draw).abs() + 0.5 * value)
    return network.eval()


def unit(codes: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (codes / codes.norm(dim=1, keepdim=True)).detach().numpy()


def encoded(checkpoint: Checkpoint) -> tuple[np.ndarray[Any, np.dtype[np.float32]], Tensor]:
    """Vectors of two pictures, and what the network was given."""
    batch = noise(2, checkpoint.manifest.preprocessing.size)
    values = to_input(torch.from_numpy(batch), checkpoint.manifest.preprocessing)
    return TorchEncoder(*checkpoint, device="cpu").encode(batch), values


class TestTorchvision:
    @pytest.mark.parametrize(
        ("name", "head", "suffix"),
        [
            ("shufflenet_v2_x0_5", "fc", ".safetensors"),
            ("mobilenet_v3_small", "classifier.3", ".pth"),
            ("regnet_y_400mf", "fc", ".bin"),
        ],
    )
    def test_gives_what_the_last_layer_was_given(self, name: str, head: str, suffix: str, tmp_path: Path) -> None:
        network = randomise(models.get_model(name, weights=None))
        seen: list[Tensor] = []
        network.get_submodule(head).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        weights = tmp_path / f"weights{suffix}"
        store = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
        store(network.state_dict(), weights)

        vectors, values = encoded(adopt(f"torchvision:{name}", weights))

        with torch.inference_mode():
            network(values)
        np.testing.assert_allclose(vectors, unit(seen[0].flatten(1)), atol=1e-5)

    @pytest.mark.parametrize(
        ("reference", "share", "resample"),
        [
            ("mobilenet_v2/IMAGENET1K_V1", 224 / 256, "bilinear"),
            ("mobilenet_v2", 224 / 232, "bilinear"),
            ("efficientnet_b0", 224 / 256, "bicubic"),
        ],
    )
    def test_reads_the_preprocessing_from_the_facts_of_the_weights(
        self, reference: str, share: float, resample: str, tmp_path: Path
    ) -> None:
        torch.save(models.get_model(reference.partition("/")[0], weights=None).state_dict(), tmp_path / "w.pth")

        manifest = adopt(f"torchvision:{reference}", tmp_path / "w.pth").manifest

        spec = manifest.preprocessing
        assert (spec.size, spec.fit, spec.resample) == (224, "crop", resample)
        assert spec.crop_share == pytest.approx(share)
        assert (spec.mean, spec.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        assert manifest.architecture == f"torchvision:{reference.partition('/')[0]}"

    @pytest.mark.parametrize(
        ("reference", "message"),
        [
            ("torchvision:resnet19", "no classifier 'resnet19'"),
            ("torchvision:resnet18/IMAGENET1K_V9", "no weights 'IMAGENET1K_V9' of resnet18: IMAGENET1K_V1"),
            ("torchvision:squeezenet1_0", "does not end in one linear layer"),
            ("torchvision:googlenet", "does not end in one linear layer"),
        ],
    )
    def test_says_what_it_does_not_know(self, reference: str, message: str, tmp_path: Path) -> None:
        torch.save({}, tmp_path / "w.pth")

        with pytest.raises(EncoderError, match=message):
            adopt(reference, tmp_path / "w.pth")


class TestTimm:
    @pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
    def test_gives_the_features_before_the_classifier(self, name: str, tmp_path: Path) -> None:
        network = randomise(timm.create_model(name, pretrained=False))
        safetensors.torch.save_file(network.state_dict(), tmp_path / "model.safetensors")

        vectors, values = encoded(adopt(f"timm:{name}", tmp_path / "model.safetensors"))

        with torch.inference_mode():
            expected = network.forward_head(network.forward_features(values), pre_logits=True)
        np.testing.assert_allclose(vectors, unit(expected), atol=1e-5)

    def test_reads_preprocessing_and_licence_from_the_facts_of_the_weights(self, tmp_path: Path) -> None:
        torch.save({"state_dict": timm.create_model("resnet10t").state_dict()}, tmp_path / "w.pth")

        manifest = adopt("timm:resnet10t.c3_in1k", tmp_path / "w.pth").manifest

        assert manifest.preprocessing.model_dump(include={"size", "fit", "crop_share", "resample"}) == {
            "size": 176,
            "fit": "crop",
            "crop_share": 0.875,
            "resample": "bicubic",
        }
        assert manifest.training.licence == "apache-2.0"
        assert manifest.training.data.description == "pretrained: timm, c3_in1k, read from w.pth"

    def test_refuses_an_unknown_network_and_a_tag_behind_a_slash(self, tmp_path: Path) -> None:
        torch.save({}, tmp_path / "w.pth")

        with pytest.raises(EncoderError, match="no network 'resnet9000'"):
            adopt("timm:resnet9000", tmp_path / "w.pth")
        with pytest.raises(InvalidRequest, match=r"timm:resnet18\.a1_in1k"):
            adopt("timm:resnet18/a1_in1k", tmp_path / "w.pth")


class TestOpenClip:
    def test_embeds_pictures_and_text_as_the_library_does(self, tiny_clip: str, tmp_path: Path) -> None:
        network = randomise(open_clip.create_model("tiny-clip", pretrained=None))
        torch.save(network.state_dict(), tmp_path / "clip.pt")
        texts = ["a red shoe", "a lamp"]

        checkpoint = adopt(tiny_clip, tmp_path / "clip.pt")
        vectors, values = encoded(checkpoint)
        sentences = TorchEncoder(*checkpoint, device="cpu").encode_text(texts)

        assert checkpoint.manifest.embeds_text
        with torch.inference_mode():
            np.testing.assert_allclose(vectors, unit(network.encode_image(values)), atol=1e-5)
            tokens = open_clip.get_tokenizer("tiny-clip")(texts)
            np.testing.assert_allclose(sentences, unit(network.encode_text(tokens)), atol=1e-5)

    def test_takes_activation_and_preprocessing_of_named_weights(self, tiny_clip: str, tmp_path: Path) -> None:
        network = randomise(open_clip.create_model("tiny-clip", pretrained=None, force_quick_gelu=True))
        torch.save(network.state_dict(), tmp_path / "clip.pt")

        checkpoint = adopt(f"{tiny_clip}/somewhere", tmp_path / "clip.pt")
        vectors, values = encoded(checkpoint)

        spec = checkpoint.manifest.preprocessing
        assert checkpoint.manifest.options == {"quick_gelu": True, "text": True}
        assert (spec.size, spec.fit, spec.resample, spec.background) == (32, "pad", "bilinear", (7, 7, 7))
        assert (spec.mean, spec.std) == (TINY_TAG["mean"], TINY_TAG["std"])
        with torch.inference_mode():
            np.testing.assert_allclose(vectors, unit(network.encode_image(values)), atol=1e-5)

    def test_without_its_text_half_still_embeds_pictures(self, tiny_clip: str) -> None:
        whole = checkpoint_with(tiny_clip, {}, 32)
        pictures_only = checkpoint_with(tiny_clip, {"text": False}, 32)

        assert len(pictures_only.weights) < len(whole.weights) / 2
        assert not pictures_only.manifest.embeds_text
        with pytest.raises(EncoderError, match="tiny@3 embeds pictures only"):
            TorchEncoder(*pictures_only, device="cpu").encode_text(["a lamp"])

    def test_names_the_weights_that_there_are(self, tiny_clip: str) -> None:
        for reference in (tiny_clip, f"{tiny_clip}/elsewhere"):
            with pytest.raises(EncoderError, match=r"openclip:tiny-clip/TAG: somewhere$"):
                adopt(reference)

    def test_refuses_networks_that_need_files_of_a_hub(self) -> None:
        with pytest.raises(EncoderError, match="built from files of a hub"):
            adopt("openclip:roberta-ViT-B-32/laion2b_s12b_b32k")

    def test_says_so_when_weights_cannot_be_downloaded(self, tiny_clip: str) -> None:
        with pytest.raises(EncoderError, match="cannot be downloaded; fetch them by other means"):
            adopt(f"{tiny_clip}/somewhere")


class TestAdopting:
    @pytest.fixture
    def weights(self, tmp_path: Path) -> Path:
        network = randomise(models.get_model("shufflenet_v2_x0_5", weights=None))
        torch.save(network.state_dict(), tmp_path / "shuffle.pth")
        return tmp_path / "shuffle.pth"

    def test_leaves_a_checkpoint_that_needs_neither_hub_nor_file(self, weights: Path, tmp_path: Path) -> None:
        adopted = adopt("torchvision:shufflenet_v2_x0_5", weights, name="shuffle", version=2)
        weights.unlink()
        save(tmp_path / "shuffle@2", adopted)

        found = read(tmp_path / "shuffle@2")

        assert found.manifest == parse_manifest(adopted.manifest.to_json())
        assert found.manifest.ref == "shuffle@2"
        assert found.manifest.training.data.trained_on is None
        np.testing.assert_array_equal(encoded(found)[0], encoded(adopted)[0])

    def test_takes_weights_with_another_number_of_classes(self, weights: Path, tmp_path: Path) -> None:
        state = torch.load(weights, weights_only=True)
        state |= {"fc.weight": torch.zeros(7, 1024), "fc.bias": torch.zeros(7)}
        torch.save(state, tmp_path / "fine-tuned.pth")

        assert adopt("torchvision:shufflenet_v2_x0_5", tmp_path / "fine-tuned.pth").manifest.dimension == 1024

    def test_refuses_networks_whose_weights_are_more_than_tensors(self, tmp_path: Path) -> None:
        torch.save(models.get_model("mnasnet0_5", weights=None).state_dict(), tmp_path / "w.pth")

        with pytest.raises(EncoderError, match="version should be set"):
            adopt("torchvision:mnasnet0_5", tmp_path / "w.pth")

    def test_refuses_weights_of_another_network_in_one_sentence(self, weights: Path) -> None:
        with pytest.raises(
            EncoderError, match=r"shuffle.pth is not for this network: \d+ tensors are missing"
        ) as refusal:
            adopt("torchvision:resnet18", weights)

        assert len(refusal.value.detail) < 500

    def test_runs_nothing_that_a_pickle_says(self, tmp_path: Path) -> None:
        class Attack:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (tmp_path / "owned",))

        (tmp_path / "evil.pth").write_bytes(pickle.dumps({"fc.weight": Attack()}))
        torch.save({"fc.weight": Attack()}, tmp_path / "evil.bin")

        for name in ("evil.pth", "evil.bin"):
            with pytest.raises(EncoderError, match="cannot be read as weights"):
                adopt("torchvision:resnet18", tmp_path / name)
        assert not (tmp_path / "owned").exists()

    @pytest.mark.parametrize("content", [b"", b"not weights"])
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_refuses_files_that_hold_no_weights(self, content: bytes, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"w{suffix}"
        path.write_bytes(content)

        with pytest.raises(EncoderError, match="cannot be read as weights"):
            adopt("torchvision:resnet18", path)

    @pytest.mark.parametrize("reference", ["resnet18", "torchvision:", "keras:resnet", "", "torchvision"])
    def test_refuses_what_names_no_network(self, reference: str) -> None:
        with pytest.raises(InvalidRequest, match=r"no pretrained network; there are torchvision:NAME"):
            adopt(reference)

    @pytest.mark.parametrize("name", ["", "x" * 65, "Upper", "a_b", "a--b", "a/b", "-a", "a\n"])
    def test_refuses_a_wrong_name_before_anything_is_read(self, name: str) -> None:
        with pytest.raises(InvalidRequest, match=r"cannot name an encoder: lower-case .* 64 characters at most"):
            adopt("torchvision:resnet18", Path("nowhere.pth"), name=name)

    def test_refuses_other_kinds_of_files(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match=r"\.safetensors, \.pth, \.pt, \.bin are read"):
            adopt("timm:resnet10t", tmp_path / "weights.npz")

    @pytest.mark.parametrize(
        ("library", "architecture", "extra"),
        [("timm", "timm:resnet10t", "timm"), ("open_clip", "openclip:RN50", "openclip")],
    )
    def test_names_the_extra_that_is_missing(
        self, library: str, architecture: str, extra: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, library, None)  # as importing what is not installed

        with pytest.raises(EncoderError, match=rf"pip install 'akin\[{extra}\]'"):
            build(architecture, {})

    def test_makes_names_that_encoders_may_have(self) -> None:
        assert slug("openclip:ViT-B-32/laion2b_s34b_b79k") == "openclip-vit-b-32-laion2b-s34b-b79k"
        assert slug("timm:" + "x" * 58 + "_y") == "timm-" + "x" * 58
