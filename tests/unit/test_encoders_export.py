"""Encoders for other programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from services.cli.encoders import encoders as command
from services.cli.encoders import find_checkpoint
from services.encoders import onnx_export
from services.encoders.checkpoint import read, save_new
from services.encoders.onnx_export import INPUT, OUTPUT, TOLERANCE, export
from services.encoders.shipped import shipped
from services.encoders.torch_encoder import TorchEncoder
from services.errors import AkinError, Conflict, EncoderError, InvalidRequest, NotFound
from services.images.preprocess import Preprocessing
from tests.unit.test_encoders import checkpoint_with, noise

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

RESNET = {
    "stem": 8,
    "stem_stride": 1,
    "widths": [8, 16],
    "blocks": [1, 1],
    "pool": "gem",
    "pooled_stages": 2,
    "dimension": 12,
}


def run(path: Path, batch: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    vectors: np.ndarray[Any, np.dtype[np.float32]] = session.run([OUTPUT], {INPUT: batch})[0]
    return vectors


@pytest.mark.parametrize(
    ("architecture", "options", "size"),
    [
        ("conv-ae", {"bottleneck": 24}, 32),
        ("folder-ae", {"pool": "grid", "side": 2, "dimension": 9}, 64),
        ("fashion-ae", {}, 32),
        ("resnet", RESNET, 48),
    ],
)
def test_one_graph_takes_bytes_and_gives_the_encoders_vectors(
    architecture: str, options: dict[str, Any], size: int, tmp_path: Path
) -> None:
    checkpoint = checkpoint_with(architecture, options, size)

    difference = export(checkpoint, tmp_path / "encoder.onnx")

    assert difference <= TOLERANCE
    encoder = TorchEncoder(*checkpoint, device="cpu")
    for count in (1, 2, 5):
        vectors = run(tmp_path / "encoder.onnx", noise(count, size))
        np.testing.assert_allclose(vectors, encoder.encode(noise(count, size)), atol=TOLERANCE)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]


def test_the_file_says_which_encoder_it_is_and_what_it_is_given(tmp_path: Path) -> None:
    checkpoint = checkpoint_with("conv-ae", {"bottleneck": 4}, 32)
    export(checkpoint, tmp_path / "encoder.onnx")

    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])

    facts = session.get_modelmeta().custom_metadata_map
    assert facts["akin.encoder"] == "tiny@3"
    assert facts["akin.weights_sha256"] == checkpoint.manifest.weights_sha256
    assert Preprocessing.model_validate(json.loads(facts["akin.preprocessing"])) == checkpoint.manifest.preprocessing
    (given,) = session.get_inputs()
    assert (given.type, given.shape[1:]) == ("tensor(uint8)", [32, 32, 3])
    assert isinstance(given.shape[0], str)


def test_a_graph_that_differs_from_torch_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = checkpoint_with("conv-ae", {"bottleneck": 4}, 32)
    scaled = onnx_export.to_input
    monkeypatch.setattr(onnx_export, "to_input", lambda pictures, spec: scaled(pictures, spec).flip(1))

    with pytest.raises(EncoderError, match=r"differs from PyTorch by [\d.]+, 0.001 are allowed"):
        export(checkpoint, tmp_path / "encoder.onnx")

    assert list(tmp_path.iterdir()) == []


def test_without_the_libraries_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(EncoderError, match=r"pip install 'akin\[onnx\]'"):
        export(checkpoint_with("conv-ae", {"bottleneck": 4}, 32), tmp_path / "encoder.onnx")


def test_the_folder_of_the_file_is_made(tmp_path: Path) -> None:
    export(checkpoint_with("conv-ae", {"bottleneck": 4}, 32), tmp_path / "new" / "folder" / "encoder.onnx")

    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["encoder.onnx"]


def test_a_path_that_cannot_be_written_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # the work would end with another error
    checkpoint = checkpoint_with("conv-ae", {"bottleneck": 4}, 32)
    (tmp_path / "file").touch()

    with pytest.raises(InvalidRequest, match=r"is a folder; name the \.onnx file"):
        export(checkpoint, tmp_path)
    with pytest.raises(AkinError, match=r"file/encoder\.onnx cannot be written"):
        export(checkpoint, tmp_path / "file" / "encoder.onnx")


def test_a_new_checkpoint_replaces_nothing_else(tmp_path: Path) -> None:
    one, other = (checkpoint_with("conv-ae", {"bottleneck": numbers}, 32) for numbers in (4, 5))
    save_new(tmp_path / "one", one)
    save_new(tmp_path / "one", one)
    for folder, name in (("weights", "weights.safetensors"), ("facts", "manifest.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(b"{}")
    (tmp_path / "file").touch()

    for folder, message in (
        ("one", "one holds other weights"),
        ("weights", "weights holds other weights"),
        ("facts", r"manifest\.json is no encoder's"),
    ):
        with pytest.raises(Conflict, match=message):
            save_new(tmp_path / folder, other)
    with pytest.raises(AkinError, match="file cannot be written"):
        save_new(tmp_path / "file", other)
    assert read(tmp_path / "one") == one
    assert (tmp_path / "facts" / "manifest.json").read_bytes() == b"{}"


class TestCommand:
    @pytest.fixture(autouse=True)
    def data_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AKIN_DATA_DIR", str(tmp_path / "data"))

    def test_exports_a_registered_encoder_as_onnx_and_says_how_near_it_is(self, tmp_path: Path) -> None:
        done = CliRunner().invoke(
            command, ["export", "conv-ae-64", "--format", "onnx", "--output", str(tmp_path / "c.onnx")]
        )

        assert done.exit_code == 0, done.output
        assert "conv-ae-64@1 is in" in done.output and "(allowed: 0.001)" in done.output
        assert run(tmp_path / "c.onnx", noise(3)).shape == (3, 64)

    def test_exports_the_checkpoint_that_register_takes(self, tmp_path: Path) -> None:
        done = CliRunner().invoke(
            command, ["export", "conv-ae-64@1", "--format", "safetensors", "--output", str(tmp_path / "copy")]
        )

        assert done.exit_code == 0, done.output
        original = next(encoder for encoder in shipped() if encoder.manifest.ref == "conv-ae-64@1")
        assert read(tmp_path / "copy") == read(original.weights_path.parent)
        assert CliRunner().invoke(command, ["register", str(tmp_path / "copy")]).exit_code == 0

    def test_export_refuses_a_folder_with_another_encoder(self, tmp_path: Path) -> None:
        save_new(tmp_path / "mine", checkpoint_with("conv-ae", {"bottleneck": 4}, 32))

        done = CliRunner().invoke(
            command, ["export", "conv-ae-64", "--format", "safetensors", "--output", str(tmp_path / "mine")]
        )

        assert done.exit_code == 1
        assert "mine holds other weights; give another --output" in done.output

    def test_names_the_registered_encoders_where_there_is_none(self, tmp_path: Path) -> None:
        done = CliRunner().invoke(
            command, ["export", "conv-ae-65", "--format", "onnx", "--output", str(tmp_path / "c.onnx")]
        )

        assert done.exit_code == 1
        assert "registered: conv-ae-200@1, conv-ae-64@1" in done.output

    def test_adopts_a_network_from_a_file_and_registers_it(self, tmp_path: Path) -> None:
        models = pytest.importorskip("torchvision.models")
        torch.save(models.get_model("shufflenet_v2_x0_5", weights=None).state_dict(), tmp_path / "w.pth")
        call = ["adopt", "torchvision:shufflenet_v2_x0_5", "--weights", str(tmp_path / "w.pth")]

        done = CliRunner().invoke(command, [*call, "--name", "shuffle"])

        assert done.exit_code == 0, done.output
        assert "shuffle@1: 1024 numbers of pictures of 224 × 224" in done.output
        assert "shuffle@1" in CliRunner().invoke(command, ["list"]).output

        torch.save(models.get_model("shufflenet_v2_x0_5", weights=None).state_dict(), tmp_path / "w.pth")
        again = CliRunner().invoke(command, [*call, "--name", "shuffle"])
        assert again.exit_code == 1
        assert "holds other weights; give another --version" in again.output

    def test_a_folder_does_not_hide_a_registered_encoder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        mine = checkpoint_with("conv-ae", {"bottleneck": 4}, 32)
        registered = next(encoder for encoder in shipped() if encoder.manifest.ref == "conv-ae-64@1")
        monkeypatch.chdir(tmp_path)
        for folder in ("conv-ae-64@1", "mine"):
            save_new(Path(folder), mine)

        assert find_checkpoint("conv-ae-64@1") == read(registered.weights_path.parent)
        assert find_checkpoint("./conv-ae-64@1") == find_checkpoint("mine") == mine
        with pytest.raises(NotFound):
            find_checkpoint("./nothing")
