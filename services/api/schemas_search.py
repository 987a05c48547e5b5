"""What goes in and out of searches."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from services.api.fields import ItemId, Limit, PictureBytes, Text, WebAddress, parsed
from services.api.schemas import ImageOut, ItemOut, Problem, Schema
from services.catalog import filters
from services.images.preprocess import Crop
from services.search.filtering import FilteredBy
from services.search.request import (
    MAX_PARTS,
    MAX_WEIGHT,
    Address,
    Collapse,
    KnownImage,
    KnownItem,
    Options,
    Part,
    Picture,
    Search,
    Subject,
    Words,
)

MAX_SEARCHES = 32
# Shares that were computed from pixels may add up to a little more than the whole.
ROUNDING = 1e-6


def _not_zero(weight: float) -> float:
    if weight == 0:
        raise ValueError("must not be 0")
    return weight


Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Weight = Annotated[
    float,
    Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False, description="below 0: hits are to be unlike it; not 0"),
    AfterValidator(_not_zero),
]
# In a form and in an address these are JSON text.
FilterBody = Annotated[
    dict[str, Any],
    BeforeValidator(parsed),
    Field(description='on the hits\' items, such as {"field": "price", "lt": 50}; the filter of deletions'),
]


class CropBody(Schema):
    """A part of a picture, in shares of its upright width and height."""

    x: Share
    y: Share
    width: Share = Field(gt=0)
    height: Share = Field(gt=0)

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if self.x + self.width > 1 + ROUNDING or self.y + self.height > 1 + ROUNDING:
            raise ValueError("must lie inside the picture: x + width and y + height are at most 1")
        return self

    def crop(self) -> Crop:
        """As the decoder takes it."""
        return Crop(self.x, self.y, self.width, self.height)


class QueryPart(Schema):
    """One thing to search with: exactly one of image, url, image_id, item_id and text."""

    image: PictureBytes | None = None
    url: WebAddress | None = Field(None, description="http(s) address of a picture, which the server fetches")
    image_id: int | None = Field(None, ge=1, le=2**63 - 1, description="a picture of the catalog")
    item_id: ItemId | None = Field(None, description="an item of the catalog, with all its pictures")
    text: Annotated[Text, Field(min_length=1, max_length=1000)] | None = Field(
        None, description="a sentence, for encoders that embed text"
    )
    weight: Weight = 1.0
    crop: CropBody | None = Field(None, description="search with this part of the picture only")

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [self.image, self.url, self.image_id, self.item_id, self.text]
        if sum(member is not None for member in given) != 1:
            raise ValueError("give exactly one of image, url, image_id, item_id and text")
        if self.crop is not None and (self.item_id is not None or self.text is not None):
            raise ValueError("crop goes with a picture: image, url or image_id")
        return self

    def part(self) -> Part:
        """As the search takes it."""
        return Part(self._subject(), self.weight)

    def _subject(self) -> Subject:
        crop = self.crop.crop() if self.crop else None
        if self.image is not None:
            return Picture(self.image, crop)
        if self.url is not None:
            return Address(self.url, crop)
        if self.image_id is not None:
            return KnownImage(self.image_id, crop)
        if self.item_id is not None:
            return KnownItem(self.item_id)
        assert self.text is not None
        return Words(self.text)


class SearchQuery(Schema):
    """Which look-alikes are wanted."""

    limit: Limit = 20
    min_score: float = Field(-1.0, ge=-1, le=1, allow_inf_nan=False, description="lowest cosine to return")
    filter: FilterBody | None = None
    collapse: Collapse = Field(
        Collapse.IDENTICAL,
        description="which pictures count as one: those of the same bytes, those nearer than the encoder takes for "
        "duplicates, or none",
    )
    diversity: Share = Field(0.0, description="0: by score alone; 1: by being unlike the hits before")


class SimilarQuery(SearchQuery):
    """Which look-alikes of an item are wanted."""

    in_stock: bool = Field(False, description='short for the filter {"field": "in_stock", "eq": true}')

    def options(self) -> Options:
        """As the search takes it.

        Raises:
            InvalidRequest: the filter is none.
        """
        parts = [*([self.filter] if self.filter is not None else []), *([IN_STOCK] if self.in_stock else [])]
        wanted = filters.parse({"and": parts} if len(parts) > 1 else parts[0]) if parts else None
        return Options(self.limit, self.min_score, wanted, True, self.collapse, self.diversity)


IN_STOCK = {"field": "in_stock", "eq": True}


class SearchBody(SearchQuery):
    """What to find look-alikes of, and which are wanted."""

    image: PictureBytes | None = Field(None, description="short for a query of one picture")
    crop: Annotated[CropBody, BeforeValidator(parsed)] | None = Field(None, description="of image")
    weight: Weight | None = Field(None, description="of image")
    query: Annotated[list[QueryPart], BeforeValidator(parsed), Field(min_length=1, max_length=MAX_PARTS)] | None = (
        Field(None, description="things to search with; the query is the normalised sum of weight × unit vector")
    )
    group: bool = Field(True, description="one hit, the best picture, for each item; false: every picture")
    consistency: Literal["bounded", "strong"] = Field(
        "bounded", description="strong: sees every picture that a job has reported as indexed; takes longer"
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.image is None and (self.crop is not None or self.weight is not None):
            raise ValueError("crop and weight go with image; those of other pictures go into query")
        if len(self.query or ()) + (self.image is not None) > MAX_PARTS:
            raise ValueError(f"image and query have more than {MAX_PARTS} parts together")
        if self._needs_query() and self.image is None and self.query is None:
            raise ValueError("give an image or a query")
        return self

    def _needs_query(self) -> bool:
        return True

    def search(self, *, explain: bool = False) -> Search:
        """As the search takes it.

        Raises:
            InvalidRequest: the filter is none, or every weight is below 0.
        """
        parts = [part.part() for part in self.query or ()]
        if self.image is not None:
            crop = self.crop.crop() if self.crop else None
            parts.insert(0, Part(Picture(self.image, crop), 1.0 if self.weight is None else self.weight))
        options = Options(
            self.limit, self.min_score, filters.parse(self.filter) if self.filter is not None else None,
            self.group, self.collapse, self.diversity, self.consistency == "strong",
        )  # fmt: skip
        return Search(tuple(parts), options, explain)


class SearchRequest(SearchBody):
    """One search, or the next page of one."""

    paged: bool = Field(False, description="rank up to 1,000 hits, kept for ten minutes, and answer page by page")
    cursor: Annotated[Text, Field(max_length=100)] | None = Field(
        None, description="next_cursor of the page before; goes with nothing but limit"
    )
    explain: bool = Field(False, description="say how the answer came about, and show where the first hits agree")

    @model_validator(mode="after")
    def _alone(self) -> Self:
        if self.cursor is not None and self.model_fields_set - {"cursor", "limit"}:
            raise ValueError("cursor goes with nothing but limit")
        return self

    def _needs_query(self) -> bool:
        return self.cursor is None


class BatchRequest(Schema):
    """Several searches at once."""

    searches: list[SearchBody] = Field(min_length=1, max_length=MAX_SEARCHES)


class LikenessOut(Schema):
    """What the score means, by the encoder's calibration."""

    kind: Literal["duplicate", "same_item", "similar", "unrelated"]
    probability: float


class BoxOut(Schema):
    """A rectangle on a picture, in shares of its upright width and height; it may reach beyond the picture."""

    x: float
    y: float
    width: float
    height: float


class RegionsOut(Schema):
    """Where two pictures agree, 0 to 1, by rows of the encoder's feature grid.

    The grid covers what the encoder is given of a picture: all of it, its middle, or more where it is framed.
    """

    query: list[list[float]]
    hit: list[list[float]]
    query_box: BoxOut = Field(description="what of the query's whole picture its grid covers; of a crop, about that")
    hit_box: BoxOut = Field(description="what of the hit's picture its grid covers")


class HitOut(Schema):
    """One look-alike."""

    rank: int
    score: float = Field(description="cosine of the two embeddings")
    image: ImageOut
    item: ItemOut
    likeness: LikenessOut | None = Field(description="null where the encoder is not calibrated, or several things were "
                                         "searched with")  # fmt: skip
    regions: RegionsOut | None = Field(
        description="of the first hits of an explained search with one picture; where none has any, `explain` says why"
    )


class ExplanationOut(Schema):
    """How an answer came about."""

    timings_ms: dict[str, float]
    candidates: int = Field(description="hits of the vector store that the database was asked about")
    collection: str
    filtered_by: FilteredBy = Field(description="who applied the filter; the database checks every hit in any case")
    no_regions: str | None = Field(description="why no hit has regions; null where one has, or there is no hit")


class SearchOut(Schema):
    """Look-alikes, best first."""

    hits: list[HitOut]
    encoder: str
    index: int
    took_ms: float
    next_cursor: str | None
    explain: ExplanationOut | None


class SearchFailed(Schema):
    """Why one search of several has no answer."""

    error: Problem


class BatchOut(Schema):
    """Answers in the order of the searches."""

    results: list[SearchOut | SearchFailed]
