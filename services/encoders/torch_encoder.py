"""The encoder that workers run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from threading import Lock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from services.encoders.architectures import load
from services.encoders.manifest import Manifest
from services.errors import ConfigurationError
from services.images.preprocess import Preprocessing

LARGEST_BATCH = 256


class TorchEncoder:
    """Encodes pictures with PyTorch. Thread-safe: threads take turns, so memory stays that of one batch.

    Args:
        manifest: facts of the encoder.
        weights: its weights, as safetensors.
        device: `auto` (CUDA, else MPS, else CPU) or the name of a torch device.

    Raises:
        EncoderError: the weights are not those of the manifest, or this release cannot run them.
        ConfigurationError: this machine has no such device.
    """

    def __init__(self, manifest: Manifest, weights: bytes, device: str = "auto") -> None:
        self.manifest = manifest
        self.device = pick_device(device)
        network = load(manifest, weights)
        self._network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._turn = Lock()

    def encode(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Encode (n, size, size, 3) uint8 into (n, dimension) unit rows; see `Encoder.encode`."""
        size = self.manifest.preprocessing.size
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != (size, size, 3):
            raise ValueError(f"expected uint8 (n, {size}, {size}, 3), got {batch.dtype} {batch.shape}")
        codes = np.empty((len(batch), self.manifest.dimension), np.float32)
        with self._turn:
            for start in range(0, len(batch), LARGEST_BATCH):
                part = slice(start, start + LARGEST_BATCH)
                codes[part] = self._encode_part(batch[part])
        return codes

    @torch.inference_mode()
    def _encode_part(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        pictures = torch.from_numpy(np.require(batch, requirements=["C", "W"])).to(self.device)
        with self._reduced_precision():
            codes = self._network(to_input(pictures, self.manifest.preprocessing))
        unit: npt.NDArray[np.float32] = _to_unit_rows(codes.float()).cpu().numpy()
        return unit

    def _reduced_precision(self) -> AbstractContextManager[object]:
        if self.device.type != "cuda":
            return nullcontext()
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return torch.autocast("cuda", dtype)


def pick_device(name: str) -> torch.device:
    """The torch device of a name; `auto` is CUDA, else MPS, else the CPU.

    Raises:
        ConfigurationError: this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigurationError(f"cannot use the device {name!r}: {str(error).splitlines()[0]}") from error
    return device


def to_input(pictures: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalise uint8 (n, s, s, 3) on its device to float32 (n, 3, s, s) in channels-last order."""
    mean = torch.tensor(preprocessing.mean, device=pictures.device)
    std = torch.tensor(preprocessing.std, device=pictures.device)
    return ((pictures.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def _to_unit_rows(codes: Tensor) -> Tensor:
    """Rows of length 1; zeros where a row has no direction."""
    norms = codes.norm(dim=1, keepdim=True)
    return torch.where(norms.isfinite() & (norms > 0), codes / norms, 0.0)
