"""The network that is trained: an encoder that will be shipped, and the decoder that teaches it."""

from __future__ import annotations

from torch import Tensor, nn

from services.encoders.architectures import build

ARCHITECTURE = "conv-ae"


class Autoencoder(nn.Module):
    """The `conv-ae` encoder with its mirrored decoder, (n, 3, 32, 32) to the same, both in [-1, 1].

    Source: the convolutional autoencoder for CIFAR-10 of the Paperspace blog. As there, convolutions and
    linear layers start from Xavier's uniform distribution with biases of 0.01, and transposed convolutions
    from PyTorch's default.
    """

    def __init__(self, bottleneck: int) -> None:
        super().__init__()
        self.encoder = build(ARCHITECTURE, {"bottleneck": bottleneck})
        self.decoder = conv_decoder(bottleneck)
        self.apply(_initialise)

    def forward(self, pictures: Tensor) -> Tensor:
        """Reconstruct pictures from their codes."""
        reconstructed: Tensor = self.decoder(self.encoder(pictures))
        return reconstructed


def conv_decoder(bottleneck: int) -> nn.Sequential:
    """Decoder half: (n, bottleneck) to (n, 3, 32, 32), the last layer linear."""
    return nn.Sequential(
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


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        assert layer.bias is not None
        nn.init.constant_(layer.bias, 0.01)
