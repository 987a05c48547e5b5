"""A small residual network whose stages are pooled together into one embedding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, relu

from services.encoders.pooling import Pool, PoolKind, Projection


class ResNetEncoder(nn.Module):
    """Residual network of basic blocks: (n, 3, s, s) to (n, dimension), for any s of at least 32.

    Source: He et al., "Deep Residual Learning for Image Recognition" (2015). Early stages see colours and
    textures, late ones kinds of things; both matter to what looks alike, so the last `pooled_stages` are pooled,
    each brought to length 1, and laid side by side before the projection.

    Args:
        stem: channels of the first convolution.
        stem_stride: its stride.
        widths: channels of each stage; every stage but the first of a stem without stride halves the sides.
        blocks: residual blocks of each stage.
        pool: how stages are pooled.
        pooled_stages: how many of the last stages are.
        dimension: numbers of the embedding; without it the pooled numbers are the embedding.
    """

    def __init__(
        self,
        *,
        stem: int,
        stem_stride: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        pool: PoolKind = "avg",
        pooled_stages: int = 1,
        dimension: int | None = None,
    ) -> None:
        super().__init__()
        if len(widths) != len(blocks) or not 1 <= pooled_stages <= len(widths):
            raise ValueError("widths and blocks have one number a stage; pooled_stages counts some of them")
        self.stem = nn.Sequential(*_convolution(3, stem, 3, stem_stride), nn.ReLU(inplace=True))
        self.stages = nn.ModuleList()
        channels = stem
        for number, (width, depth) in enumerate(zip(widths, blocks, strict=True)):
            stride = 1 if number == 0 and stem_stride == 1 else 2
            stage = [
                BasicBlock(channels if block == 0 else width, width, stride if block == 0 else 1)
                for block in range(depth)
            ]
            self.stages.append(nn.Sequential(*stage))
            channels = width
        self.pool = Pool(pool)
        self.pooled_stages = pooled_stages
        self.channels = channels
        self.pooled_width = sum(self.pool.width(width) for width in widths[-pooled_stages:])
        self.projection = None if dimension is None else Projection(self.pooled_width, dimension)

    def feature_maps(self, pictures: Tensor) -> list[Tensor]:
        """What each stage sees: (n, width, h, w), h and w halved from stage to stage."""
        maps = [self.stem(pictures)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]

    def feature_map(self, pictures: Tensor) -> Tensor:
        """What the last stage sees: (n, channels, h, w)."""
        return self.feature_maps(pictures)[-1]

    def features(self, pictures: Tensor) -> Tensor:
        """The average of the last stage, (n, channels): what losses are put on while the network is trained."""
        return self.feature_map(pictures).mean(dim=(2, 3))

    def pooled(self, pictures: Tensor) -> Tensor:
        """The pooled stages side by side, (n, pooled_width), before the projection."""
        maps = self.feature_maps(pictures)[-self.pooled_stages :]
        return torch.cat([normalize(self.pool(features), dim=1) for features in maps], dim=1)

    def cells(self, pictures: Tensor) -> Tensor:
        """Each place of the last stage embedded as if it were the whole picture: (n, numbers, h, w).

        The stages are pooled within it, brought to length 1 and projected, as `forward` does with all of them.
        Measured with pictures that have one half in common, such cells tell that half from the other better than
        what each place adds to the embedding (AUC 0.97 beside 0.74), or the last stage as it is (0.93).
        """
        maps = self.feature_maps(pictures)[-self.pooled_stages :]
        if self.pool.kind == "grid":  # its vector has numbers of their own for each place
            return maps[-1]
        sides = maps[-1].shape[2], maps[-1].shape[3]
        pooled = torch.cat([normalize(self.pool.within(features, sides), dim=1) for features in maps], dim=1)
        return pooled if self.projection is None else self.projection.of_places(pooled)

    def forward(self, pictures: Tensor) -> Tensor:
        """Encode pictures to (n, dimension)."""
        pooled = self.pooled(pictures)
        return pooled if self.projection is None else self.projection(pooled)


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(inputs, outputs, 3, stride), nn.ReLU(inplace=True), *_convolution(outputs, outputs, 3)
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*_convolution(inputs, outputs, 1, stride))

    def forward(self, features: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        return relu(self.body(features) + self.shortcut(features), inplace=True)


class Pointwise(nn.Conv2d):
    """A 1 × 1 convolution of every `every`-th place.

    The same as one with a stride. Of those torch 2.14 writes the weights' gradients beyond their memory on CPUs without
    AVX-512, where pictures lie with their channels last, fewer than 8 of them, and one thread computes.
    """

    def __init__(self, inputs: int, outputs: int, every: int) -> None:
        super().__init__(inputs, outputs, 1, bias=False)
        self._every = every

    def forward(self, features: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h / every, w / every)."""
        return super().forward(features[:, :, :: self._every, :: self._every])


def _convolution(inputs: int, outputs: int, side: int, stride: int = 1) -> list[nn.Module]:
    if side == 1:
        convolution: nn.Conv2d = Pointwise(inputs, outputs, stride)
    else:
        convolution = nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return [convolution, nn.BatchNorm2d(outputs)]
