"""Decoder halves of the autoencoders: from an encoder's `code` back to its normalised picture.

Their last layers are linear. Tanh or a sigmoid would fit the range of pixels, but reach its ends only at infinity,
and product pictures are mostly background that is exactly white: there the gradient would vanish. What a linear
layer draws beyond white or black is clipped when it is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from services.encoders.autoencoders import start_from_xavier
from services.errors import EncoderError


class ConvDecoder(nn.Sequential):
    """The mirror of `conv-ae`: (n, bottleneck) to (n, 3, 32, 32).

    Source: the convolutional autoencoder for CIFAR-10 of the Paperspace blog. As there, the linear layer starts
    from Xavier's uniform distribution with biases of 0.01, and transposed convolutions from PyTorch's default.
    """

    def __init__(self, bottleneck: int) -> None:
        super().__init__(
            nn.Linear(bottleneck, 64 * 8 * 8),
            nn.ReLU(),
            nn.Unflatten(1, (64, 8, 8)),
            nn.ConvTranspose2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 3, padding=1, stride=2, output_padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 3, padding=1, stride=2, output_padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 3, 3, padding=1),
        )
        self.apply(start_from_xavier)


class DoublingDecoder(nn.Sequential):
    """2 × 2 transposed convolutions of stride 2 with ReLU between them: (n, c, h, w) to (n, 3, h · 2^k, w · 2^k).

    Args:
        channels: of the code and of what each but the last of the k layers gives.
    """

    def __init__(self, *channels: int) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in zip(channels, (*channels[1:], 3), strict=True):
            layers += [nn.ConvTranspose2d(inputs, outputs, 2, stride=2), nn.ReLU(inplace=True)]
        super().__init__(*layers[:-1])


class FashionDecoder(nn.Module):
    """The mirror of `fashion-ae`: (n, latent) to grey pictures, (n, 3, 32, 32) with three equal channels."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent, 128 * 4 * 4),
            nn.Unflatten(1, (128, 4, 4)),
            nn.BatchNorm2d(128),
            nn.GELU(),
            *_doubled(128, 64),
            *_doubled(64, 32),
            nn.ConvTranspose2d(32, 1, 3, stride=2, padding=1, output_padding=1),
        )

    def forward(self, code: Tensor) -> Tensor:
        """Draw the pictures of points in the latent space."""
        grey: Tensor = self.layers(code)
        return grey.expand(-1, 3, -1, -1)


def _conv(options: Mapping[str, Any]) -> nn.Module:
    return ConvDecoder(options["bottleneck"])


def _folder(_: Mapping[str, Any]) -> nn.Module:
    return DoublingDecoder(256, 128, 64, 32, 16)


def _vgg(_: Mapping[str, Any]) -> nn.Module:
    return DoublingDecoder(256, 128, 64)


def _fashion(options: Mapping[str, Any]) -> nn.Module:
    return FashionDecoder(options.get("latent", 2))


DECODERS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "conv-ae": _conv,
    "folder-ae": _folder,
    "vgg-ae": _vgg,
    "fashion-ae": _fashion,
}


def build_decoder(architecture: str, options: Mapping[str, Any]) -> nn.Module:
    """The untrained decoder of an encoder: its `code` to pictures (n, 3, s, s) in the encoder's normalised range.

    Args:
        architecture: of the encoder.
        options: of the encoder; how its code is pooled has no part in this.

    Raises:
        EncoderError: the encoder is of an architecture that has no decoder.
    """
    if architecture not in DECODERS:
        raise EncoderError(
            f"{architecture!r} cannot be trained by reconstruction: only {', '.join(sorted(DECODERS))} have decoders"
        )
    return DECODERS[architecture](options)


def _doubled(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(outputs),
        nn.GELU(),
    ]
