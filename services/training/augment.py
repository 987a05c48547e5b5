"""Variations of pictures, made in batches on the device that trains."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from services.training.augmentation import Augmentation

_LUMA = torch.tensor([0.299, 0.587, 0.114])
# Luma and two axes of colour (NTSC); hues turn in the plane of the last two.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_FROM_YIQ = torch.linalg.inv(_TO_YIQ)


def augment(pictures: Tensor, augmentation: Augmentation, size: int, generator: torch.Generator) -> Tensor:
    """Vary each picture by itself: crop, mirror, blur, colours, solarisation, in this order.

    The crops are those of Szegedy et al., "Going Deeper with Convolutions" (2014), the rest that of Chen et al.,
    "A Simple Framework for Contrastive Learning" (SimCLR, 2020) and Grill et al., "Bootstrap Your Own Latent"
    (BYOL, 2020). Everything but solarisation is linear, so a batch costs three products of matrices.

    Args:
        pictures: float (n, 3, s, s) in [0, 1].
        size: side of the result in pixels.
        generator: what is drawn comes from it alone; on any device.

    Returns:
        Float (n, 3, size, size) in [0, 1].
    """
    count, device = len(pictures), pictures.device

    def uniform(low: float | Tensor, high: float | Tensor) -> Tensor:
        drawn = torch.rand(count, generator=generator, device=generator.device)
        return low + (high - low) * drawn.to(device, non_blocking=True)

    def happens(probability: float) -> Tensor:
        return uniform(0.0, 1.0) < probability

    def factor(strength: float, changed: Tensor) -> Tensor:
        return torch.where(changed, uniform(1 - strength, 1 + strength), 1.0)

    # Half precision is for the network: here it would show in the pictures.
    with torch.autocast(device.type, enabled=False):
        boxes = _boxes(augmentation, uniform)
        mirrored = happens(augmentation.flip)
        blur = None
        if augmentation.blur:
            low, high = augmentation.blur_sigma
            blur = gaussian(torch.where(happens(augmentation.blur), uniform(low, high), 0.0), high, size)
        varied = resample(pictures, boxes, mirrored, size, blur)
        if augmentation.jitter or augmentation.greyscale:
            changed = happens(augmentation.jitter)
            varied = recolour(
                varied,
                brightness=factor(augmentation.brightness, changed),
                contrast=factor(augmentation.contrast, changed),
                saturation=factor(augmentation.saturation, changed) * ~happens(augmentation.greyscale),
                hue=torch.where(changed, uniform(-augmentation.hue, augmentation.hue), 0.0),
            )
        if augmentation.solarise:
            varied = solarise(varied, happens(augmentation.solarise))
    return varied


def resample(pictures: Tensor, boxes: Tensor, mirrored: Tensor, size: int, blur: Tensor | None = None) -> Tensor:
    """Cut a box out of each picture and bring it to size × size, with Pillow's antialiased bilinear filter.

    Two products of matrices a picture, one along rows and one along columns, in which mirroring and blurring are
    contained. `grid_sample` is no faster, blurs in passes of its own, and aliases where it makes pictures smaller,
    which the preprocessing of queries does not.

    Args:
        pictures: float (n, 3, s, s).
        boxes: (n, 4), left, top, width and height as parts of the side.
        mirrored: bool (n,), pictures whose left and right change places.
        blur: (n, size, size), matrices of `gaussian` to blur the result with.
    """
    count, channels, height, width = pictures.shape
    left, top, box_width, box_height = boxes.unbind(1)
    # A mirrored box is walked from its right edge to the left.
    start, along = torch.where(mirrored, left + box_width, left), torch.where(mirrored, -box_width, box_width)
    columns = _bilinear(start, along, width, size)
    rows = _bilinear(top, box_height, height, size)
    if blur is not None:
        columns, rows = blur @ columns, blur @ rows
    narrowed = torch.bmm(pictures.reshape(count, channels * height, width), columns.transpose(1, 2))
    return rows[:, None] @ narrowed.view(count, channels, height, size)


def gaussian(sigmas: Tensor, most: float, size: int) -> Tensor:
    """Matrices (n, size, size) that blur along one side, mirrored at the edges; the identity where sigma is 0.

    Args:
        sigmas: (n,), standard deviations in pixels.
        most: the largest of them; the kernel reaches three times as far.
    """
    reach = min(size - 1, math.ceil(3 * most))
    shifts = torch.arange(-reach, reach + 1, device=sigmas.device)
    weights = torch.exp(-0.5 * (shifts / sigmas.clamp(min=1e-3)[:, None]) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    sources = shifts[:, None] + torch.arange(size, device=sigmas.device)
    reflected = size - 1 - (size - 1 - sources.abs()).abs()
    shifted = torch.nn.functional.one_hot(reflected, size).to(weights.dtype)
    return (weights @ shifted.view(len(shifts), -1)).view(len(sigmas), size, size)


def recolour(pictures: Tensor, *, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue, in this order, and clamp to [0, 1] at the end.

    All four are affine, so each picture takes one 3 × 3 matrix and one number. Factors are those of torchvision's
    ColorJitter, except that hues turn about the grey axis, which keeps the luma, and not in HSV.

    Args:
        pictures: float (n, 3, h, w) in [0, 1].
        brightness, contrast, saturation: (n,), factors; 1 changes nothing.
        hue: (n,), parts of a full circle; 0 changes nothing.
    """
    # Not waiting for the copy: a device in the middle of its work would be waited for.
    luma = _LUMA.to(pictures.device, non_blocking=True)
    matrix = _turned(hue) @ _saturated(saturation, luma) * (brightness * contrast)[:, None, None]
    mean_grey = pictures.mean((2, 3)) @ luma
    offset = (brightness * (1 - contrast) * mean_grey)[:, None, None]
    changed = torch.baddbmm(offset, matrix, pictures.flatten(2))
    return changed.view_as(pictures).clamp_(0, 1)


def solarise(pictures: Tensor, chosen: Tensor) -> Tensor:
    """Invert the values of at least one half in the chosen pictures, bool (n,)."""
    # Of a value and its inverse the lower is the solarised one; a limit out of reach leaves the others as they are.
    limit = torch.where(chosen, 1.0, 2.0)[:, None, None, None]
    return torch.minimum(pictures, limit - pictures)


def _boxes(augmentation: Augmentation, uniform: Callable[[float | Tensor, float | Tensor], Tensor]) -> Tensor:
    """Boxes (n, 4) inside the unit square, left, top, width and height, with their area and ratio drawn evenly.

    The ratio is drawn, on a logarithmic scale, from those at which a box of this area fits.
    """
    area = uniform(*augmentation.scale)
    narrow, wide = (math.log(ratio) for ratio in augmentation.ratio)
    fits = -area.log()
    ratio = uniform((-fits).clamp(min=narrow), fits.clamp(max=wide)).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    return torch.stack([uniform(0.0, 1 - width), uniform(0.0, 1 - height), width, height], dim=1)


def _bilinear(start: Tensor, length: Tensor, inputs: int, outputs: int) -> Tensor:
    """Matrices (n, outputs, inputs) that resample from `start` along `length`, both parts of the side."""
    step = length * inputs / outputs
    steps = torch.arange(outputs, device=start.device) + 0.5
    centres = (start * inputs)[:, None] + step[:, None] * steps
    pixels = torch.arange(inputs, device=start.device) + 0.5
    # Where pixels are merged the filter is as wide as what becomes one of them.
    distance = (pixels - centres[:, :, None]).abs_() / step.abs().clamp(min=1)[:, None, None]
    weights = (1 - distance).clamp_(min=0)
    return weights / weights.sum(2, keepdim=True)


def _saturated(factors: Tensor, luma: Tensor) -> Tensor:
    """Matrices (n, 3, 3) that move colours from their grey (0) to themselves (1) and beyond."""
    grey = luma.expand(3, 3)
    return grey + factors[:, None, None] * (torch.eye(3, device=luma.device) - grey)


def _turned(hue: Tensor) -> Tensor:
    """Matrices (n, 3, 3) that turn colours about the grey axis by parts of a full circle."""
    angle = 2 * math.pi * hue
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(hue)
    turn = torch.stack([zero + 1, zero, zero, zero, cosine, sine, zero, -sine, cosine], dim=1).view(-1, 3, 3)
    there, back = (matrix.to(hue.device, non_blocking=True) for matrix in (_TO_YIQ, _FROM_YIQ))
    turned: Tensor = back @ turn @ there
    return turned
