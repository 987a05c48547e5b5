"""Export an encoder as one ONNX file, which other programs run without Akin or PyTorch."""

from __future__ import annotations

import errno
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from services.encoders.architectures import load
from services.encoders.checkpoint import Checkpoint
from services.encoders.manifest import Manifest
from services.encoders.normalisation import to_input
from services.encoders.torch_encoder import TorchEncoder, to_unit_rows
from services.errors import AkinError, EncoderError, InvalidRequest

if TYPE_CHECKING:
    import onnx

TOLERANCE = 1e-3
INPUT = "pictures"
OUTPUT = "vectors"


class PicturesToVectors(nn.Module):
    """What `TorchEncoder.encode` does, as one graph: uint8 (n, size, size, 3) to unit rows (n, dimension)."""

    def __init__(self, network: nn.Module, manifest: Manifest) -> None:
        super().__init__()
        self.network = network
        self._preprocessing = manifest.preprocessing

    def forward(self, pictures: Tensor) -> Tensor:
        """Normalise, encode, and bring to length 1."""
        return to_unit_rows(self.network(to_input(pictures, self._preprocessing)).float())


def export(checkpoint: Checkpoint, path: Path) -> float:
    """Write an encoder as ONNX, once ONNX Runtime has been seen to give the vectors that PyTorch gives.

    The graph takes any number of pictures as bytes, RGB, as `services.images.preprocess` gives them. Its metadata
    has the encoder's name, the SHA-256 of its weights, and the preprocessing as JSON.

    Returns:
        The largest difference between the numbers of the two, at most TOLERANCE.

    Raises:
        EncoderError: a library is missing, the network cannot be exported, or the two differ. No file is left.
        InvalidRequest: the path is a folder's.
        AkinError: the path cannot be written.
    """
    _make_room(path)
    manifest = checkpoint.manifest
    graph = _traced(checkpoint)
    facts = {
        "akin.encoder": manifest.ref,
        "akin.weights_sha256": manifest.weights_sha256,
        "akin.preprocessing": manifest.preprocessing.model_dump_json(),
    }
    for name, value in facts.items():
        graph.metadata_props.add(key=name, value=value)
    try:
        content = graph.SerializeToString()
    except ValueError as error:  # protobuf holds 2 GiB at most
        raise EncoderError(f"{manifest.ref} is too large for one ONNX file: {error}") from error
    difference = _difference(checkpoint, content)
    if not difference <= TOLERANCE:
        raise EncoderError(
            f"{manifest.ref} is not exported: its ONNX graph differs from PyTorch by {difference:.2g}, "
            f"{TOLERANCE:.2g} are allowed"
        )
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise _unwritable(path, error) from error
    return difference


def _make_room(path: Path) -> None:
    """Make the folder of a file and check that it can be written, before a minute's work."""
    try:
        if path.is_dir():
            raise InvalidRequest(f"{path} is a folder; name the .onnx file that is to be written")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> AkinError:
    return AkinError(f"{path} cannot be written: {error.strerror or error}")


def _traced(checkpoint: Checkpoint) -> onnx.ModelProto:
    manifest = checkpoint.manifest
    network = PicturesToVectors(load(*checkpoint), manifest).eval()
    size = manifest.preprocessing.size
    try:
        # Two pictures: one would be taken for a constant.
        example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
        with _quiet():
            program = torch.onnx.export(
                network,
                (example,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={"pictures": {0: torch.export.Dim("n", min=1)}},
                dynamo=True,
                verbose=False,
            )
    except ImportError as error:
        raise _missing() from error
    except Exception as error:  # the exporter raises errors of many kinds where it does not know an operation
        raise EncoderError(f"{manifest.ref} cannot be exported as ONNX: {error}") from error
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    return proto


@torch.inference_mode()
def _difference(checkpoint: Checkpoint, content: bytes) -> float:
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing() from error
    size = checkpoint.manifest.preprocessing.size
    draw = np.random.default_rng(0)
    flat = np.broadcast_to(draw.integers(0, 256, (3, 1, 1, 3), np.uint8), (3, size, size, 3))
    pictures = np.concatenate([draw.integers(0, 256, (4, size, size, 3), np.uint8), flat])
    expected = TorchEncoder(*checkpoint, device="cpu").encode(pictures)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = [session.run([OUTPUT], {INPUT: pictures[part]})[0] for part in (slice(0, 1), slice(1, None))]
    return float(np.abs(np.concatenate(found) - expected).max())


def _missing() -> EncoderError:
    return EncoderError("exporting needs further libraries: pip install 'akin[onnx]'")


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter speaks of its own workings, to those who develop it."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
