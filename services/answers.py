"""What the HTTP API answers, as typed records for its clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

FINAL_STATES: Final = frozenset({"finished", "finished_with_errors", "failed", "cancelled"})


class _Answer(BaseModel):
    """A JSON answer; members that a newer server adds are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class JobError(_Answer):
    """Why one picture of a job was not indexed."""

    ref: str
    code: str
    detail: str


class Webhook(_Answer):
    """Who is told that a job is over, and how far that is."""

    url: str
    attempts: int = 0
    delivered_at: str | None = None
    error: str | None = None


class Job(_Answer):
    """Progress of a long-running request."""

    id: str
    kind: str
    state: str
    mode: str = "upsert"
    source: Mapping[str, Any] = {}
    listed: bool = True
    total: int
    done: int = 0
    indexed: int = 0
    unchanged: int = 0
    failed: int = 0
    cancelled: int = 0
    rate: float | None = None
    eta_seconds: float | None = None
    created_at: str
    result: Mapping[str, Any] = {}
    error: JobError | None = None
    errors: tuple[JobError, ...] = ()
    failed_by_code: Mapping[str, int] = {}
    webhook: Webhook | None = None

    @property
    def over(self) -> bool:
        """Whether nothing about the job will change any more."""
        return self.state in FINAL_STATES


class JobPage(_Answer):
    """The latest jobs."""

    data: tuple[Job, ...]


class JobStarted(_Answer):
    """A job that has begun."""

    job_id: str


class Deletion(_Answer):
    """How many items are to go, and the job that deletes them; none where they were only counted."""

    matched: int
    job_id: str | None = None


class CatalogIndex(_Answer):
    """A generation of vectors."""

    encoder: str
    state: str


class Catalog(_Answer):
    """A separate set of items."""

    name: str
    items: int
    images: int
    live_index: CatalogIndex
    created_at: str


class CatalogPage(_Answer):
    """The catalogs that a key may use."""

    data: tuple[Catalog, ...]


class WebhookSecret(_Answer):
    """What signatures of a catalog's webhooks are checked with."""

    secret: str


class HitImage(_Answer):
    """The picture of a hit."""

    id: str = Field(coerce_numbers_to_str=True)
    width: int
    height: int
    sha256: str


class HitItem(_Answer):
    """The item that a hit's picture belongs to."""

    item_id: str
    title: str | None = None
    url: str | None = None
    attributes: Mapping[str, Any] = {}


class Likeness(_Answer):
    """What a score means: duplicate, same_item, similar or unrelated, and how probably."""

    kind: str
    probability: float


class Box(_Answer):
    """A rectangle on a picture, in shares of its upright width and height; it may reach beyond the picture."""

    x: float
    y: float
    width: float
    height: float


class Regions(_Answer):
    """Where the query's picture and the hit's agree, 0 to 1, by rows of a grid, and what of them each grid covers."""

    query: tuple[tuple[float, ...], ...]
    hit: tuple[tuple[float, ...], ...]
    query_box: Box | None = None
    hit_box: Box | None = None


class Hit(_Answer):
    """One look-alike; `score` is the cosine similarity."""

    rank: int
    score: float
    image: HitImage
    item: HitItem
    likeness: Likeness | None = None
    regions: Regions | None = None


class Other(_Answer):
    """An item that follows where there are few look-alikes."""

    image: HitImage
    item: HitItem


class Explanation(_Answer):
    """How an answer came about."""

    timings_ms: Mapping[str, float]
    candidates: int
    collection: str
    filtered_by: str
    no_regions: str | None = None


class SearchResult(_Answer):
    """Look-alikes, best first."""

    hits: tuple[Hit, ...]
    encoder: str
    index: int | None = None
    took_ms: float
    next_cursor: str | None = None
    explain: Explanation | None = None
    others: tuple[Other, ...] = ()


class Problem(_Answer):
    """What went wrong: a stable code, and one sentence for people."""

    code: str
    detail: str
    status: int


class SearchFailure(_Answer):
    """Why one search of several has no answer."""

    error: Problem


class SearchBatch(_Answer):
    """Answers in the order of the searches."""

    results: tuple[SearchResult | SearchFailure, ...]


class ErrorPage(_Answer):
    """Some failures of a job, and where the next ones begin."""

    data: tuple[JobError, ...]
    next_cursor: str | None = Field(None, coerce_numbers_to_str=True)


class DuplicatePicture(_Answer):
    """A picture of a cluster; `score` is its cosine to the nearest other one there."""

    image: HitImage
    item: HitItem
    score: float


class DuplicateCluster(_Answer):
    """Near-identical pictures: how many, the bytes of all but the largest, and the largest of them."""

    id: int
    count: int
    wasted_bytes: int
    images: tuple[DuplicatePicture, ...]


class Duplicates(_Answer):
    """Clusters of near-identical pictures, the largest first, and how much there is in all of them."""

    job_id: str
    threshold: float
    encoder: str
    found_at: str
    clusters: int
    count: int
    wasted_bytes: int
    data: tuple[DuplicateCluster, ...]
    next_cursor: str | None = None
