"""From a feature map to a vector: pooling over its places, and a linear projection fitted afterwards."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

PoolKind = Literal["avg", "gem", "grid"]
POOL_KINDS: tuple[PoolKind, ...] = ("avg", "gem", "grid")


class Pool(nn.Module):
    """Pool a feature map (n, c, h, w) to vectors.

    `avg` is the global average, (n, c). `gem` is the generalised mean with the exponent p, (n, c), which weighs
    strong answers more: Radenović et al., "Fine-tuning CNN Image Retrieval with No Human Annotation" (2018).
    `grid` averages within side × side cells, (n, c · side²), which keeps where something is.
    """

    def __init__(self, kind: PoolKind, p: float = 3.0, side: int = 4) -> None:
        super().__init__()
        if kind not in POOL_KINDS:
            raise ValueError(f"unknown pooling {kind!r}: there are {', '.join(POOL_KINDS)}")
        self.kind = kind
        self.p = p
        self.side = side

    def forward(self, features: Tensor) -> Tensor:
        """Pool (n, c, h, w) to (n, `width(c)`)."""
        if self.kind == "avg":
            return features.mean(dim=(2, 3))
        if self.kind == "gem":
            # In float32: cubes of small numbers vanish in half precision. The clamp keeps the root's slope finite.
            return features.float().clamp(min=1e-6).pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)
        return adaptive_avg_pool2d(features, self.side).flatten(1)

    def within(self, features: Tensor, sides: tuple[int, int]) -> Tensor:
        """Pool (n, c, h, w) within the cells of a grid instead of as a whole: (n, c, *sides)."""
        if self.kind == "gem":
            powers = features.float().clamp(min=1e-6).pow(self.p)
            return adaptive_avg_pool2d(powers, sides).pow(1 / self.p)
        return adaptive_avg_pool2d(features, sides)

    def width(self, channels: int) -> int:
        """Numbers that a map of so many channels is pooled to."""
        return channels * self.side**2 if self.kind == "grid" else channels


class Projection(nn.Module):
    """Centre vectors and multiply them by a matrix: (n, inputs) to (n, outputs).

    The two are fitted to data once the network is trained, not by gradients, so they are buffers: principal
    components, whitening, or a metric that labels have shaped. Until then it keeps the first `outputs` numbers.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("matrix", torch.eye(outputs, inputs))

    def forward(self, vectors: Tensor) -> Tensor:
        """Project (n, inputs) to (n, outputs)."""
        return (vectors.float() - self.mean) @ self.matrix.T

    def of_places(self, features: Tensor) -> Tensor:
        """Project each place of (n, inputs, h, w) to (n, outputs, h, w)."""
        projected: Tensor = self(features.movedim(1, -1))
        return projected.movedim(-1, 1)
