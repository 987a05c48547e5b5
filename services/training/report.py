"""What a training leaves for people: loss curves and reconstructions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torchvision.utils import make_grid, save_image

from services.encoders.torch_encoder import to_input
from services.images.preprocess import Preprocessing
from services.training.autoencoder import Autoencoder
from services.training.data import Pixels, Unreadable
from services.training.loop import Epoch

COLUMNS = 12


def write_losses(path: Path, epochs: Sequence[Epoch]) -> None:
    """Write the losses of each epoch as a JSON array."""
    path.write_text(json.dumps([asdict(epoch) for epoch in epochs], indent=2) + "\n")


def write_unreadable(path: Path, unreadable: Sequence[Unreadable]) -> None:
    """Write the files that were left out, with reasons, as a JSON array."""
    path.write_text(json.dumps([item._asdict() for item in unreadable], indent=2) + "\n")


@torch.inference_mode()
def draw_reconstructions(path: Path, network: Autoencoder, pixels: Pixels, preprocessing: Preprocessing) -> None:
    """Draw pictures (upper row) above what the network makes of their codes (lower row) as a PNG file."""
    device = next(network.parameters()).device
    # Spread over all, because neighbours are often of one label.
    chosen = pixels[np.linspace(0, len(pixels) - 1, min(COLUMNS, len(pixels))).astype(int)]
    pictures = to_input(torch.from_numpy(chosen).to(device), preprocessing)
    both = torch.cat([pictures, network(pictures)])
    mean = torch.tensor(preprocessing.mean, device=device).view(3, 1, 1)
    std = torch.tensor(preprocessing.std, device=device).view(3, 1, 1)
    save_image(make_grid((both * std + mean).clamp(0, 1), nrow=len(pictures)), path)
