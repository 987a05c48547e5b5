"""What clients search with, and which hits they want, as members of requests."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

# x, y, width and height in shares of the upright picture.
Crop = tuple[float, float, float, float]


@dataclass(frozen=True)
class Part:
    """One thing to search with: exactly one of image, url, image_id, item_id and text.

    Attributes:
        image: bytes or a file.
        weight: below 0 hits are to be unlike it.
        crop: search with this part of the picture only.
    """

    image: bytes | Path | None = None
    url: str | None = None
    image_id: int | None = None
    item_id: str | None = None
    text: str | None = None
    weight: float = 1.0
    crop: Crop | None = None

    def members(self) -> dict[str, Any]:
        """As a member of `query`."""
        content = self.image.read_bytes() if isinstance(self.image, Path) else self.image
        named = {"url": self.url, "image_id": self.image_id, "item_id": self.item_id, "text": self.text}
        members: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        if content is not None:
            members["image"] = base64.b64encode(content).decode()
        if self.crop is not None:
            members["crop"] = dict(zip(("x", "y", "width", "height"), self.crop, strict=True))
        return members if self.weight == 1 else {**members, "weight": self.weight}


Query = bytes | Path | Sequence[Part]


class Hits(TypedDict, total=False):
    """Which hits are wanted; what is left out is the server's default.

    min_score: the lowest cosine. filter: on the hits' items, such as {"field": "price", "lt": 50}. collapse: which
    pictures count as one. diversity: 0 to 1, how much hits are to be unlike those before.
    """

    limit: int
    min_score: float
    filter: Mapping[str, Any]
    collapse: Literal["none", "identical", "near"]
    diversity: float


class Wanted(Hits, total=False):
    """Of a search also: group, one hit for each item or every picture; consistency, strong sees all that was
    acknowledged before; explain, how the answer came about.
    """

    group: bool
    consistency: Literal["bounded", "strong"]
    explain: bool


class WantedSimilar(Hits, total=False):
    """Of an item's look-alikes also: in_stock, only items that are; fill_by, an attribute: where there are few hits,
    `others` has the newest items with the same value.
    """

    in_stock: bool
    fill_by: str


def parts_of(query: Query) -> list[dict[str, Any]]:
    """A query as the member `query` of a request."""
    parts = [Part(image=query)] if isinstance(query, bytes | Path) else query
    return [part.members() for part in parts]
