"""Networks by name, and weights into networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from services.encoders.autoencoders import ConvEncoder, FashionEncoder, FolderEncoder, VggEncoder
from services.encoders.backbones import BACKBONES
from services.encoders.checkpoint import Checkpoint, verify
from services.encoders.manifest import Manifest
from services.encoders.resnet import ResNetEncoder
from services.errors import EncoderError

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "conv-ae": ConvEncoder,
    "fashion-ae": FashionEncoder,
    "folder-ae": FolderEncoder,
    "resnet": ResNetEncoder,
    "vgg-ae": VggEncoder,
}


def build(name: str, options: Mapping[str, Any]) -> nn.Module:
    """Build a network with untrained weights.

    Args:
        name: an architecture of ours, or `torchvision:NAME`, `timm:NAME`, `openclip:NAME`.

    Raises:
        EncoderError: no architecture has this name, it does not take these options, or its library is missing.
    """
    family, _, model = name.partition(":")
    try:
        if model and family in BACKBONES:
            return BACKBONES[family](model, **options)
        if name in ARCHITECTURES:
            return ARCHITECTURES[name](**options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise EncoderError(f"architecture {name!r} does not take the options {dict(options)}: {error}") from error
    known = ", ".join([*sorted(ARCHITECTURES), *(f"{family}:NAME" for family in sorted(BACKBONES))])
    raise EncoderError(f"unknown encoder architecture {name!r}: this release knows {known}")


def pack(network: nn.Module) -> bytes:
    """The weights of a network as safetensors."""
    # Cloned: safetensors refuses tensors that share memory, as some libraries' do.
    state = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }
    return safetensors.torch.save(state)


def load(manifest: Manifest, weights: bytes) -> nn.Module:
    """Build the network of a checkpoint on the CPU, ready to encode.

    Raises:
        EncoderError: wrong SHA-256, unknown architecture, or tensors that do not fit the manifest.
    """
    verify(Checkpoint(manifest, weights))
    network = build(manifest.architecture, manifest.options).eval()
    try:
        fill(network, safetensors.torch.load(weights))
    except (SafetensorError, EncoderError) as error:
        raise EncoderError(f"the weights of {manifest.ref} do not fit {manifest.architecture!r}: {error}") from error
    width = output_width(network, manifest.architecture, manifest.preprocessing.size)
    if width != manifest.dimension:
        raise EncoderError(f"{manifest.ref} declares dimension {manifest.dimension}, its network gives {width}")
    return network


def fill(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network exactly the tensors that it has.

    Raises:
        EncoderError: some are missing, unknown or of another shape; the message counts them and names a few.
    """
    own = network.state_dict()
    faults = {
        "missing": [name for name in own if name not in state],
        "unknown": [name for name in state if name not in own],
        "of another shape": [name for name in own if name in state and own[name].shape != state[name].shape],
    }
    told = [
        f"{len(names)} tensors are {fault} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for fault, names in faults.items()
        if names
    ]
    if told:
        raise EncoderError("; ".join(told))
    try:
        network.load_state_dict(state)
    except (RuntimeError, ValueError) as error:  # some networks want more than tensors, such as a version
        raise EncoderError(str(error)) from error


@torch.inference_mode()
def output_width(network: nn.Module, architecture: str, size: int) -> int:
    """Numbers that a network in evaluation mode makes of a picture.

    Raises:
        EncoderError: it does not take pictures of this size, or gives something else than a row for each.
    """
    try:
        code: Tensor = network(torch.zeros(1, 3, size, size, device=next(network.parameters()).device))
    except (RuntimeError, AssertionError) as error:
        raise EncoderError(f"{architecture!r} does not take {size} × {size} pictures: {error}") from error
    if code.ndim != 2:
        raise EncoderError(f"{architecture!r} gives {tuple(code.shape[1:])} for a picture, which is not one vector")
    return code.shape[1]
