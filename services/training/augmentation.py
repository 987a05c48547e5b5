"""How strongly pictures are varied while an encoder learns. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields

Range = tuple[float, float]


@dataclass(frozen=True)
class Augmentation:
    """Strengths of `services.training.augment`; without arguments pictures are cropped and mirrored only.

    Attributes:
        scale: share of the area that a crop keeps, least and most.
        ratio: width of a crop over its height, least and most.
        flip: probability of mirroring left and right.
        jitter: probability that the colours of a picture are changed by the next four.
        brightness: light is multiplied by up to 1 ± this.
        contrast: the distance to the mean grey is, by up to 1 ± this.
        saturation: the distance to the picture's own grey is, by up to 1 ± this.
        hue: colours turn by up to ± this part of a full circle, at most 0.5.
        greyscale: probability of losing all colour.
        blur: probability of a Gaussian blur.
        blur_sigma: its standard deviation in pixels of the result, least and most.
        solarise: probability of inverting all values above one half.
    """

    scale: Range = (0.2, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    greyscale: float = 0.0
    blur: float = 0.0
    blur_sigma: Range = (0.1, 2.0)
    solarise: float = 0.0

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: a strength is out of its range.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = value if isinstance(value, tuple) else (value, value)
            most = {"hue": 0.5, "ratio": float("inf"), "blur_sigma": float("inf")}.get(field.name, 1.0)
            if not 0 <= low <= high <= most or (isinstance(value, tuple) and low == 0):
                raise ValueError(f"{field.name} of an augmentation cannot be {value}")
