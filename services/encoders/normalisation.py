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
    mean, std = _mean_and_std(values, preprocessing)
    return ((values - mean) / std).contiguous(memory_format=torch.channels_last)


def to_pixels(pictures: Tensor, preprocessing: Preprocessing) -> Pixels:
    """The reverse of `to_input`: float (n, 3, s, s) to uint8 (n, s, s, 3) in main memory."""
    mean, std = _mean_and_std(pictures, preprocessing)
    values = (pictures.float() * std + mean).clamp(0, 1)
    pixels: Pixels = (values * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels


def _mean_and_std(pictures: Tensor, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Both (3, 1, 1)."""
    mean, std = (
        torch.tensor(values, device=pictures.device).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std)
    )
    return mean, std
