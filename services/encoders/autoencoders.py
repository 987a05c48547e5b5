"""Encoder halves of the autoencoders. Each says by `code` what its decoder draws the picture from again.

`services.training.decoders` has the other halves, which are not needed once an encoder is trained.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from services.encoders.pooling import Pool, PoolKind, Projection


class ConvEncoder(nn.Sequential):
    """Encoder of the convolutional autoencoder: (n, 3, 32, 32) in [-1, 1] to (n, bottleneck).

    Source: the convolutional autoencoder for CIFAR-10 of the Paperspace blog. As there, layers start from
    Xavier's uniform distribution with biases of 0.01.
    """

    def __init__(self, bottleneck: int) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 8 * 8, bottleneck),
            nn.ReLU(),
        )
        self.apply(start_from_xavier)

    def code(self, pictures: Tensor) -> Tensor:
        """What the decoder draws from: the embedding itself, (n, bottleneck)."""
        code: Tensor = self(pictures)
        return code

    def cells(self, pictures: Tensor) -> Tensor:
        """What the linear layer is given, averaged within 4 × 4 cells: (n, 64, 4, 4).

        As 8 × 8, cells that two pictures have in common are told from others less well (AUC 0.83 beside 0.89).
        """
        features = pictures
        for layer in list(self)[:-3]:  # without the flattening, the linear layer and its activation
            features = layer(features)
        return adaptive_avg_pool2d(features, 4)


class PooledEncoder(nn.Module):
    """Convolutions whose feature map is the code, and is pooled to an embedding of a size that can be stored.

    Args:
        layers: (n, 3, s, s) to the code, (n, channels, h, w).
        channels: of the code.
        pool: how the code is pooled: `avg`, `gem`, or `grid`.
        side: cells of a grid along each side.
        dimension: numbers of the embedding, by a projection that is fitted once the network is trained;
            without it the pooled numbers are the embedding.
    """

    def __init__(self, layers: nn.Sequential, channels: int, *, pool: PoolKind, side: int, dimension: int | None):
        super().__init__()
        self.layers = layers
        self.channels = channels
        self.pool = Pool(pool, side=side)
        self.pooled_width = self.pool.width(channels)
        self.projection = None if dimension is None else Projection(self.pooled_width, dimension)

    def feature_map(self, pictures: Tensor) -> Tensor:
        """The code, (n, channels, h, w)."""
        features: Tensor = self.layers(pictures)
        return features

    def code(self, pictures: Tensor) -> Tensor:
        """What the decoder draws from: the feature map."""
        return self.feature_map(pictures)

    def pooled(self, pictures: Tensor) -> Tensor:
        """The pooled code, (n, pooled_width), before the projection."""
        pooled: Tensor = self.pool(self.feature_map(pictures))
        return pooled

    def cells(self, pictures: Tensor) -> Tensor:
        """The code at each place, (n, numbers, h, w), projected where the pooled one is: a place as a whole picture."""
        code = self.feature_map(pictures)
        # The vector of a grid has numbers of their own for each place.
        return code if self.projection is None or self.pool.kind == "grid" else self.projection.of_places(code)

    def forward(self, pictures: Tensor) -> Tensor:
        """Encode pictures to (n, dimension)."""
        pooled = self.pooled(pictures)
        return pooled if self.projection is None else self.projection(pooled)


class FolderEncoder(PooledEncoder):
    """Five stages of convolution, ReLU and max-pooling, 3 → 16 → 32 → 64 → 128 → 256 channels.

    At 512 × 512 the code is 256 × 16 × 16 = 65,536 numbers; any size that 32 divides will do.
    Source: "Image Similarity Search in PyTorch" (A. Oke), an autoencoder for a folder of photographs.
    """

    def __init__(self, pool: PoolKind = "gem", side: int = 4, dimension: int | None = None) -> None:
        channels = (3, 16, 32, 64, 128, 256)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(channels):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        super().__init__(nn.Sequential(*layers), channels[-1], pool=pool, side=side, dimension=dimension)


class VggEncoder(PooledEncoder):
    """Seven 3 × 3 convolutions, 64, 64, P, 128, 128, P, 256, 256, 256, P, where P is max-pooling.

    At 448 × 448 the code is 256 × 56 × 56 = 802,816 numbers; any size that 8 divides will do.
    The first seven convolutions of Simonyan and Zisserman, "Very Deep Convolutional Networks" (2014).
    """

    def __init__(self, pool: PoolKind = "gem", side: int = 4, dimension: int | None = None) -> None:
        layers: list[nn.Module] = []
        inputs = 3
        for outputs, convolutions in ((64, 2), (128, 2), (256, 3)):
            for _ in range(convolutions):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        super().__init__(nn.Sequential(*layers), inputs, pool=pool, side=side, dimension=dimension)


class FashionEncoder(nn.Module):
    """Three strided convolutions with batch norm and GELU: (n, 3, 32, 32), seen in grey, to (n, latent).

    Source: the autoencoder for Fashion-MNIST with a latent plane (strides 2-2-2, channels 32-64-128, linear
    2,048 → 2). Pictures come as RGB like everybody's; the three channels must be normalised alike.
    """

    def __init__(self, latent: int = 2) -> None:
        super().__init__()
        self.latent = latent
        self.layers = nn.Sequential(
            *_strided(1, 32),
            *_strided(32, 64),
            *_strided(64, 128),
            nn.Flatten(),
            nn.Linear(128 * 4 * 4, latent),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Encode pictures to (n, latent)."""
        code: Tensor = self.layers(to_grey(pictures))
        return code

    def code(self, pictures: Tensor) -> Tensor:
        """What the decoder draws from: the point in the latent space, (n, latent)."""
        return self.forward(pictures)

    def cells(self, pictures: Tensor) -> Tensor:
        """What the linear layer is given: (n, 128, h, w)."""
        features: Tensor = self.layers[:-2](to_grey(pictures))
        return features


def to_grey(pictures: Tensor) -> Tensor:
    """Luma of ITU-R BT.601, (n, 3, s, s) to (n, 1, s, s).

    Written as green and its differences, so that a grey picture is kept to the bit.
    """
    red, green, blue = pictures[:, 0:1], pictures[:, 1:2], pictures[:, 2:3]
    return green + 0.299 * (red - green) + 0.114 * (blue - green)


def start_from_xavier(layer: nn.Module) -> None:
    """Initialise a convolution or linear layer as the Paperspace article does."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        assert layer.bias is not None
        nn.init.constant_(layer.bias, 0.01)


def _strided(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.GELU()]
