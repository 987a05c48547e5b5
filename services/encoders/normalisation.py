"""Between the bytes of pictures and the numbers that networks take; the same for training, ingestion and queries."""

from __future__ import annotations

import torch
from torch import Tensor

from services.images.preprocess import Pixels, Preprocessing


def to_input(pictures: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalise uint8 (n, s, s, 3) on its device to float32 (n, 3, s, s) in channels-last order."""
    return normalise(to_values(pictures), preprocessing)


def to_values(pictures: Tensor) -> Tensor:
    """uint8 (n, s, s, 3) to float32 (n, 3, s, s) in [0, 1], in channels-last order."""
    return (pictures.float() / 255).permute(0, 3, 1, 2)


def normalise(values: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Values (n, 3, s, s) in [0, 1] to what the network takes, in channels-last order."""
    mean, std = _on(values.device, preprocessing.mean), _on(values.device, preprocessing.std)
    return ((values - mean) / std).contiguous(memory_format=torch.channels_last)


def to_pixels(pictures: Tensor, preprocessing: Preprocessing) -> Pixels:
    """The reverse of `to_input`: float (n, 3, s, s) to uint8 (n, s, s, 3) in main memory."""
    mean, std = _on(pictures.device, preprocessing.mean), _on(pictures.device, preprocessing.std)
    values = (pictures.float() * std + mean).clamp(0, 1)
    pixels: Pixels = (values * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels


def _on(device: torch.device, values: tuple[float, float, float]) -> Tensor:
    """One number a channel, (3, 1, 1), on the device, without waiting for what a GPU is at."""
    # CUDA takes what it copies from ordinary memory at once; elsewhere it may be gone before it is read.
    return torch.tensor(values).to(device, non_blocking=device.type == "cuda").view(3, 1, 1)
