"""Networks by name, and weights into networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from services.encoders.checkpoint import Checkpoint, verify
from services.encoders.manifest import Manifest
from services.errors import EncoderError


def conv_encoder(bottleneck: int) -> nn.Sequential:
    """Encoder half of the convolutional autoencoder: (n, 3, 32, 32) in [-1, 1] to (n, bottleneck).

    Source: the convolutional autoencoder for CIFAR-10 of the Paperspace blog.
    """
    return nn.Sequential(
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


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {"conv-ae": conv_encoder}


def build(name: str, options: Mapping[str, Any]) -> nn.Module:
    """Build a network with untrained weights.

    Raises:
        EncoderError: no architecture has this name, or it does not take these options.
    """
    if name not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise EncoderError(f"unknown encoder architecture {name!r}: this release knows {known}")
    try:
        return ARCHITECTURES[name](**options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise EncoderError(f"architecture {name!r} does not take the options {dict(options)}: {error}") from error


def pack(network: nn.Module) -> bytes:
    """The weights of a network as safetensors."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    return safetensors.torch.save(state)


def load(manifest: Manifest, weights: bytes) -> nn.Module:
    """Build the network of a checkpoint on the CPU, ready to encode.

    Raises:
        EncoderError: wrong SHA-256, unknown architecture, or tensors that do not fit the manifest.
    """
    verify(Checkpoint(manifest, weights))
    network = build(manifest.architecture, manifest.options).eval()
    try:
        network.load_state_dict(safetensors.torch.load(weights))
    except (SafetensorError, RuntimeError) as error:
        raise EncoderError(f"the weights of {manifest.ref} do not fit {manifest.architecture!r}: {error}") from error
    _check_shapes(network, manifest)
    return network


@torch.inference_mode()
def _check_shapes(network: nn.Module, manifest: Manifest) -> None:
    size = manifest.preprocessing.size
    try:
        code: Tensor = network(torch.zeros(1, 3, size, size))
    except RuntimeError as error:
        raise EncoderError(f"{manifest.architecture!r} does not take {size} × {size} pictures: {error}") from error
    if code.shape != (1, manifest.dimension):
        found = tuple(code.shape[1:])
        raise EncoderError(f"{manifest.ref} declares dimension {manifest.dimension}, its network gives {found}")
