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


class Hit(_Answer):
    """One look-alike; `score` is the cosine similarity."""

    rank: int
    score: float
    image: HitImage
    item: HitItem


class SearchResult(_Answer):
    """Look-alikes, best first."""

    hits: tuple[Hit, ...]
    encoder: str
    took_ms: float


class ErrorPage(_Answer):
    """Some failures of a job, and where the next ones begin."""

    data: tuple[JobError, ...]
    next_cursor: str | None = Field(None, coerce_numbers_to_str=True)
