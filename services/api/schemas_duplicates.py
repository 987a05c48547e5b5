"""What goes in and out of the routes for duplicates."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from services.api.fields import Limit, Text
from services.api.schemas import ImageOut, ItemOut, Schema
from services.catalog.duplicates import CURSOR
from services.duplicates import LOWEST_THRESHOLD


class DuplicatesRequest(Schema):
    """How alike pictures have to be."""

    threshold: float | None = Field(
        None,
        ge=LOWEST_THRESHOLD,
        le=1,
        allow_inf_nan=False,
        description="cosine from which on two pictures are near-identical; default: what was measured for the encoder, "
        "or 0.98",
    )


class DuplicatesQuery(Schema):
    """Which clusters."""

    job: Text | None = Field(None, max_length=32, description="the job that found them; default: the latest")
    across_items: bool = Field(False, description="leave out clusters whose pictures all belong to one item")
    limit: Limit = 20
    cursor: str | None = Field(None, pattern=CURSOR, max_length=100, description="next_cursor of the page before")


class DuplicateOut(Schema):
    """A picture of a cluster."""

    image: ImageOut
    item: ItemOut
    score: float = Field(description="cosine to the nearest other picture of the cluster; 1 for the same bytes")


class ClusterOut(Schema):
    """Pictures that are near-identical."""

    id: int = Field(description="the smallest id of a picture in it when it was found")
    count: int = Field(description="how many pictures it has")
    wasted_bytes: int = Field(description="bytes of all its pictures but the largest")
    images: list[DuplicateOut] = Field(description="the largest 50 by their bytes, the largest first")


class DuplicatesOut(Schema):
    """Clusters, largest first; ask again with `cursor=next_cursor` until that is null."""

    job_id: str
    threshold: float
    encoder: str
    found_at: datetime
    clusters: int = Field(description="how many there are in all")
    count: int = Field(description="how many pictures they have")
    wasted_bytes: int
    data: list[ClusterOut]
    next_cursor: str | None
