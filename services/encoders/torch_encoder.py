"""The encoder that workers run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import pairwise
from threading import Lock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.nn.utils.fusion import fuse_conv_bn_eval

from services.encoders.architectures import load
from services.encoders.batches import Batches
from services.encoders.manifest import Manifest
from services.encoders.normalisation import to_input
from services.errors import ConfigurationError, EncoderError

LARGEST_BATCH = 256
# On a CPU, layers of larger parts fall out of its caches: measured, 64 encode 1.1 to 1.3 times as fast as 256.
LARGEST_BATCH_ON_CPU = 64
# Sides of a grid: finer ones are averaged to this, as nobody looks at more cells and answers would grow with them.
LARGEST_GRID = 16
# Pictures of a part times pixels of one: what the layers of a network keep of a batch has to fit into memory.
LARGEST_PIXELS = 2**22


class TorchEncoder:
    """Encodes pictures with PyTorch. Thread-safe: threads take turns, so memory stays that of one batch.

    Measured on one CPU core in batches of 64, ONNX Runtime has 1.2 times the rate for conv-ae-200 and 0.7 to 1.2
    times for three small ResNets, and torch.compile 1.0 times after half a minute of compiling: neither is used.

    Args:
        manifest: facts of the encoder.
        weights: its weights, as safetensors.
        device: `auto` (CUDA, else MPS, else CPU) or the name of a torch device.

    Attributes:
        largest_batch: pictures that the device is given at once; longer batches are cut.

    Raises:
        EncoderError: the weights are not those of the manifest, or this release cannot run them.
        ConfigurationError: this machine has no such device.
    """

    def __init__(self, manifest: Manifest, weights: bytes, device: str = "auto") -> None:
        self.manifest = manifest
        self.device = pick_device(device)
        network = fold_batch_norms(load(manifest, weights))
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.largest_batch = largest_batch(manifest.preprocessing.size, self.device)
        self._batches = Batches(self.device, self.largest_batch, apart=True)
        # What reads features of places hooks into some networks, which one call at a time bears.
        self._one_by_one = Batches(self.device, self.largest_batch)
        self._turn = Lock()

    def encode(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Encode (n, size, size, 3) uint8 into (n, dimension) unit rows; see `Encoder.encode`."""
        return self._run(
            self._batches,
            lambda pictures: to_unit_rows(self.network(pictures).float()),
            batch,
            self.manifest.dimension,
        )

    @property
    def has_grid(self) -> bool:
        """Whether the network has features of places, which `grid` gives."""
        return hasattr(self.network, "cells")

    def grid(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Features of (n, size, size, 3) uint8 by place, (n, rows, columns, channels); see `Encoder.grid`."""
        if not self.has_grid:
            raise EncoderError(
                f"{self.manifest.ref} has no grid: its network, {self.manifest.architecture}, gives none"
            )
        width = math.prod(self._grid_shape)
        rows = self._run(self._one_by_one, lambda pictures: self._cells(pictures).flatten(1), batch, width)
        return rows.reshape(len(batch), *self._grid_shape)

    def encode_flattened(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Encode (n, size, size, 3) uint8 into unit rows of the network's last feature map, before it is pooled.

        Raises:
            EncoderError: the network has no `feature_map`: nothing is pooled, or inside of a library's network.
            ValueError: the batch is not uint8 of that shape.
        """
        feature_map = getattr(self.network, "feature_map", None)
        if feature_map is None:
            raise EncoderError(
                f"{self.manifest.ref} has no flattened code: its network, {self.manifest.architecture}, pools nothing, "
                "or pools inside of a library's code"
            )

        def flattened(pictures: Tensor) -> Tensor:
            return to_unit_rows(feature_map(pictures).flatten(1).float())

        return self._run(self._one_by_one, flattened, batch, self._flattened_width)

    def encode_text(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode sentences into (n, dimension) unit rows, in the space of the pictures they describe.

        Raises:
            EncoderError: this encoder embeds pictures only.
        """
        if not self.manifest.embeds_text:
            raise EncoderError(f"{self.manifest.ref} embeds pictures only; an encoder of `openclip:` also embeds text")
        rows = np.empty((len(texts), self.manifest.dimension), np.float32)
        with self._turn, torch.inference_mode(), reduced_precision(self.device):
            for start in range(0, len(texts), LARGEST_BATCH):
                part = slice(start, start + LARGEST_BATCH)
                codes: Tensor = self.network.encode_text(texts[part])
                rows[part] = to_unit_rows(codes.float()).cpu().numpy()
        return rows

    def _cells(self, pictures: Tensor) -> Tensor:
        cells: Tensor = self.network.cells(pictures).float()
        rows, columns = (math.ceil(side / math.ceil(side / LARGEST_GRID)) for side in cells.shape[2:])
        return adaptive_avg_pool2d(cells, (rows, columns)).permute(0, 2, 3, 1)

    @cached_property
    def _grid_shape(self) -> tuple[int, ...]:
        size = self.manifest.preprocessing.size
        with self._turn, torch.inference_mode():
            return tuple(self._cells(torch.zeros(1, 3, size, size, device=self.device)).shape[1:])

    @cached_property
    def _flattened_width(self) -> int:
        size = self.manifest.preprocessing.size
        with torch.inference_mode():
            width: int = self.network.feature_map(torch.zeros(1, 3, size, size, device=self.device)).numel()
        return width

    def _run(
        self, batches: Batches, forward: Callable[[Tensor], Tensor], batch: npt.NDArray[np.uint8], width: int
    ) -> npt.NDArray[np.float32]:
        size = self.manifest.preprocessing.size
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != (size, size, 3):
            raise ValueError(f"expected uint8 (n, {size}, {size}, 3), got {batch.dtype} {batch.shape}")

        # Entered once for all parts: what it has cast of the weights is kept until it is left.
        with self._turn, torch.inference_mode(), reduced_precision(self.device):
            return batches.map(lambda pictures: forward(to_input(pictures, self.manifest.preprocessing)), batch, width)


def largest_batch(size: int, device: torch.device) -> int:
    """How many pictures of size × size a device is given at once."""
    largest = LARGEST_BATCH_ON_CPU if device.type == "cpu" else LARGEST_BATCH
    return max(1, min(largest, LARGEST_PIXELS // size**2))


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


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Multiply batch norms into the convolutions that they follow in an `nn.Sequential`, in place.

    The network must be in evaluation mode, where both are linear: its output stays the same but for rounding.
    Measured on one CPU core, residual networks encode 1.1 to 1.2 times as many pictures.
    """
    for layers in network.modules():
        if isinstance(layers, nn.Sequential):
            for position, (layer, following) in enumerate(pairwise(layers)):
                # No subclasses: some libraries' batch norms also hold the activation.
                if type(layer) is nn.Conv2d and type(following) is nn.BatchNorm2d:
                    layers[position] = fuse_conv_bn_eval(layer, following)
                    layers[position + 1] = nn.Identity()
    return network


def reduced_precision(device: torch.device) -> AbstractContextManager[object]:
    """Half precision where it pays: bfloat16 on a GPU that has it, float16 on an older one, nothing elsewhere."""
    if device.type != "cuda":
        return nullcontext()
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.autocast("cuda", dtype)


def to_unit_rows(codes: Tensor) -> Tensor:
    """Rows of length 1; zeros where a row has no direction."""
    norms = codes.norm(dim=1, keepdim=True)
    return torch.where(norms.isfinite() & (norms > 0), codes / norms, 0.0)


def use_threads(count: int) -> None:
    """Have this process encode on so many cores, where it does so on the CPU."""
    torch.set_num_threads(count)
