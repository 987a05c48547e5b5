"""What a search asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from services.catalog.filters import Filter
from services.errors import InvalidRequest
from services.images.preprocess import Crop

MAX_PARTS = 8
MAX_WEIGHT = 10.0


class Collapse(StrEnum):
    """Which pictures count as one, of which the best ranked is answered."""

    NONE = "none"
    IDENTICAL = "identical"
    NEAR = "near"


@dataclass(frozen=True)
class Picture:
    """A picture by its bytes."""

    data: bytes
    crop: Crop | None = None


@dataclass(frozen=True)
class Address:
    """A picture that lies on a web server."""

    url: str
    crop: Crop | None = None


@dataclass(frozen=True)
class KnownImage:
    """A picture of the catalog. Without a crop its vector is there already."""

    image_id: int
    crop: Crop | None = None


@dataclass(frozen=True)
class KnownItem:
    """All pictures of an item, by the client's id."""

    item_id: str


@dataclass(frozen=True)
class Words:
    """A sentence, for encoders that give sentences vectors beside those of pictures."""

    text: str


Subject = Picture | Address | KnownImage | KnownItem | Words


@dataclass(frozen=True)
class Part:
    """One thing to search with; with a weight below 0 hits are to be unlike it."""

    subject: Subject
    weight: float = 1.0


@dataclass(frozen=True)
class Options:
    """Which hits are wanted.

    Attributes:
        min_score: the lowest cosine.
        group: one hit, the best picture, for each item.
        collapse: which pictures count as one.
        diversity: 0 ranks by score alone, 1 by being unlike the hits before (maximal marginal relevance).
        strong: see all that was acknowledged before: what a job that is over has reported as indexed.
    """

    limit: int = 20
    min_score: float = -1.0
    filter: Filter | None = None
    group: bool = True
    collapse: Collapse = Collapse.IDENTICAL
    diversity: float = 0.0
    strong: bool = False


@dataclass(frozen=True)
class Search:
    """Things to search with, and which hits are wanted.

    Raises:
        InvalidRequest: no part has a weight above 0: unlike things there is nothing to be near to.
    """

    parts: tuple[Part, ...]
    options: Options = field(default_factory=Options)
    explain: bool = False

    def __post_init__(self) -> None:
        if all(part.weight <= 0 for part in self.parts):
            raise InvalidRequest("some part of the query needs a weight above 0", code="only_negative_weights")
