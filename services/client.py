"""The HTTP API as Python calls: imports, jobs, searches, catalogs, with retries and typed errors."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self, TypeVar, Unpack
from urllib.parse import quote

from pydantic import BaseModel

from services.answers import (
    Catalog,
    CatalogPage,
    Deletion,
    DuplicateCluster,
    Duplicates,
    ErrorPage,
    Job,
    JobError,
    JobPage,
    JobStarted,
    SearchBatch,
    SearchFailure,
    SearchResult,
    WebhookSecret,
)
from services.connection import Connection, Waiting
from services.queries import Query, Wanted, WantedSimilar, parts_of

URLS_AT_ONCE: Final = 10_000  # pictures of one import_urls
# Of the time that a job has taken, as the pause before it is asked for again where it is not known how long it will …
SHARE: Final = 0.05
# … but no more than so many times the shortest pause.
SLOWEST: Final = 4
UPSERT: Final = "upsert"
HITS: Final = 10
PAGE: Final = 200  # entries of a list in one answer

Answer = TypeVar("Answer", bound=BaseModel)


@dataclass(frozen=True)
class UploadFile:
    """One picture of an import: its reference, its bytes and what the manifest says of its item."""

    ref: str
    content: bytes
    item: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ImportOptions:
    """What an import does with what is there (upsert, create or replace), and who is told when it is over."""

    mode: str = UPSERT
    webhook: str | None = None

    def members(self) -> dict[str, str]:
        """As members of a request."""
        return {"mode": self.mode, **({"webhook": self.webhook} if self.webhook else {})}


class AkinClient:
    """A connection to one Akin server; safe to share between threads.

    Answers 429, 502, 503, 504 and broken connections are tried again, as late as Retry-After asks, until
    `patience` seconds have gone by; repeating a request is harmless, as it has an Idempotency-Key.

    Args:
        base_url: the server's address, for example http://127.0.0.1:8080.
        key: an API key.
        catalog: the catalog to work in, for keys that are not bound to one.
        patience: seconds for which one request is tried again.
        timeout: seconds that one try may take between two received bytes.
    """

    def __init__(
        self, base_url: str, key: str, *, catalog: str | None = None, patience: float = 60.0, timeout: float = 60.0
    ) -> None:
        self._connection = Connection(base_url, key, catalog, patience, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; calls that wait for another try give up."""
        self._connection.close()

    def wait_out(self, notice: Waiting) -> None:
        """From now on wait as long as the server asks for it (429), and tell `notice` why and for how many seconds.

        `notice` is called from whichever thread waits.
        """
        self._connection.on_waiting = notice

    def ready(self) -> bool:
        """Whether the server answers and every part of it works, asked once."""
        return self._connection.ready()

    def import_files(self, files: Sequence[UploadFile]) -> Job:
        """Upload pictures in one request; the answer comes as soon as they are stored.

        Raises:
            AkinError: the server refused the request as a whole, or cannot be reached.
        """
        parts: list[tuple[str, tuple[str | None, bytes, str]]] = [
            ("files", (file.ref, file.content, "application/octet-stream")) for file in files
        ]
        if any(file.item for file in files):
            manifest = json.dumps([dict(file.item) for file in files], ensure_ascii=False)
            parts.append(("manifest", (None, manifest.encode(), "application/json")))
        return self._post(Job, "/v1/imports", files=parts)

    def import_archive(
        self, file: Path, media_type: str, options: ImportOptions, on_progress: Callable[[int], None] = lambda _: None
    ) -> Job:
        """Upload a zip, tar or tar.gz file as it is; `on_progress` gets the bytes sent so far.

        Raises:
            InvalidRequest: the file cannot be read, or changes meanwhile.
            TooLarge: the server takes none of this size.
        """
        return self._connection.upload(
            Job, "/v1/imports/archive", file, media_type, params=options.members(), on_progress=on_progress
        )

    def import_manifest(
        self,
        file: Path,
        media_type: str,
        options: ImportOptions,
        on_progress: Callable[[int], None] = lambda _: None,
        *,
        base: str | None = None,
    ) -> Job:
        """Upload a list of items with the places of their pictures, as JSON Lines or CSV.

        Args:
            base: where its relative paths begin: a folder or prefix that the server may read.

        Raises:
            Forbidden: the server may read nothing at `base`.
        """
        params = {**options.members(), **({"base": base} if base else {})}
        return self._connection.upload(
            Job, "/v1/imports/manifest", file, media_type, params=params, on_progress=on_progress
        )

    def import_location(self, location: str, options: ImportOptions) -> Job:
        """Import a folder or s3://, gs://, az:// prefix that the server may read.

        Raises:
            Forbidden: it may not.
        """
        return self._post(Job, "/v1/imports/source", json={"location": location, **options.members()})

    def import_address(self, url: str, options: ImportOptions, *, base: str | None = None) -> Job:
        """Import the manifest or archive at an http(s) address, which the server fetches."""
        body = {"url": url, **({"base": base} if base else {}), **options.members()}
        return self._post(Job, "/v1/imports/source", json=body)

    def import_urls(self, urls: Sequence[str], options: ImportOptions) -> Job:
        """Import up to URLS_AT_ONCE pictures of other servers; their items are named by host and path."""
        body = {"pictures": [{"image": url} for url in urls], **options.members()}
        return self._post(Job, "/v1/imports/urls", json=body)

    def job(self, job_id: str) -> Job:
        """The present state of a job."""
        return self._connection.json(Job, "GET", _job_path(job_id))

    def jobs(self, limit: int = 20) -> tuple[Job, ...]:
        """The latest jobs, newest first."""
        return self._connection.json(JobPage, "GET", "/v1/jobs", params={"limit": limit}).data

    def cancel_job(self, job_id: str) -> Job:
        """Stop an import, a deletion or a search for duplicates; what was done before stays.

        Raises:
            Conflict: it is over, or neither of them.
        """
        return self._post(Job, f"{_job_path(job_id)}/cancel")

    def retry_job(self, job_id: str) -> Job:
        """Give the failed entries of an import that is over another try.

        Raises:
            Conflict: it still runs, was cancelled, or is no import.
        """
        return self._post(Job, f"{_job_path(job_id)}/retry")

    def job_errors(self, job_id: str) -> Iterator[JobError]:
        """Every failure of a job, read page by page."""
        cursor: str | None = None
        while True:
            params = {"limit": 100, **({"cursor": cursor} if cursor else {})}
            page = self._connection.json(ErrorPage, "GET", f"{_job_path(job_id)}/errors", params=params)
            yield from page.data
            cursor = page.next_cursor
            if cursor is None:
                return

    def wait(self, job_id: str, callback: Callable[[Job], None] | None = None, *, interval: float = 0.5) -> Job:
        """Ask for a job until it is over, less often the longer it takes, or will by what the server expects.

        `callback` gets what is known each time.
        """
        path, began = _job_path(job_id), time.monotonic()
        known: dict[str, str] = {}
        job: Job | None = None
        told = began
        while True:
            response = self._connection.send("GET", path, headers=known)
            if job is None or response.status_code != HTTPStatus.NOT_MODIFIED:
                job, told = self._connection.read(Job, path, response), time.monotonic()
                known = {"If-None-Match": response.headers["ETag"]} if "ETag" in response.headers else {}
            if callback is not None:
                callback(job)
            if job.over:
                return job
            moment = time.monotonic()
            left = 0.0 if job.eta_seconds is None else job.eta_seconds - (moment - told)
            pause = left / 2 if left > 0 else (moment - began) * SHARE
            self._connection.pause(min(max(interval, pause), SLOWEST * interval))

    def delete_items(self, chosen: Mapping[str, Any], *, dry_run: bool = False) -> Deletion:
        """Delete items with their pictures; `dry_run` only counts them.

        Args:
            chosen: {"item_ids": [...]}, or {"filter": {...}}.

        Raises:
            InvalidRequest: the filter is none, or an id cannot be one.
        """
        return self._post(Deletion, "/v1/deletions", json={**chosen, "dry_run": dry_run})

    def catalogs(self) -> tuple[Catalog, ...]:
        """The catalogs that the key may use."""
        return self._connection.json(CatalogPage, "GET", "/v1/catalogs").data

    def create_catalog(self, name: str, encoder: str | None = None) -> Catalog:
        """Create a catalog, embedded with an encoder (name or name@version) or the server's default.

        Raises:
            Conflict: there is one of this name.
        """
        body = {"name": name, **({"encoder": encoder} if encoder else {})}
        return self._post(Catalog, "/v1/catalogs", json=body)

    def delete_catalog(self, name: str) -> str:
        """Delete a catalog with all it holds; returns the id of the job that removes it.

        Raises:
            Conflict: it is the default catalog, or the one that this client works in.
        """
        path = f"/v1/catalogs/{quote(name, safe='')}"
        return self._connection.json(JobStarted, "DELETE", path).job_id

    def webhook_secret(self) -> str:
        """What signatures of webhooks of this catalog's jobs are checked with."""
        return self._connection.json(WebhookSecret, "GET", "/v1/webhooks/secret").secret

    def reindex(self, encoder: str) -> str:
        """Start to embed the catalog anew with another encoder; returns the job's id.

        Raises:
            Conflict: a reindex is running, or the live index has this encoder.
        """
        return self._post(JobStarted, "/v1/admin/reindex", json={"encoder": encoder}).job_id

    def audit(self, *, repair: bool = False, deep: bool = False) -> str:
        """Start to compare database, vectors and stored bytes of all catalogs; returns the job's id.

        Raises:
            Conflict: an audit is running.
        """
        return self._post(JobStarted, "/v1/admin/audits", json={"repair": repair, "deep": deep}).job_id

    def find_duplicates(self, threshold: float | None = None) -> str:
        """Start to look for near-identical pictures in the catalog; returns the job's id.

        Args:
            threshold: cosine from which on two are, 0.5 to 1; None for that of the live encoder.

        Raises:
            Conflict: such a job of the catalog is running.
        """
        return self._post(JobStarted, "/v1/duplicates", json={"threshold": threshold}).job_id

    def duplicates(self, job_id: str | None = None, *, across_items: bool = False, limit: int = 20) -> Duplicates:
        """The largest clusters of near-identical pictures, as the latest finished job found them.

        Args:
            job_id: must be that job.
            across_items: leave out clusters whose pictures all belong to one item.
            limit: how many.

        Raises:
            NotFound: none has finished.
            Conflict: another has finished since, or this one has not.
        """
        named = {**({"job": job_id} if job_id else {}), "across_items": str(across_items).lower()}
        clusters: list[DuplicateCluster] = []
        cursor: str | None = None
        while True:
            params = {**named, "limit": min(limit - len(clusters), PAGE), **({"cursor": cursor} if cursor else {})}
            page = self._connection.json(Duplicates, "GET", "/v1/duplicates", params=params)
            clusters += page.data
            cursor = page.next_cursor
            if cursor is None or len(clusters) == limit:
                return page.model_copy(update={"data": tuple(clusters)})

    def search(self, query: Query, **wanted: Unpack[Wanted]) -> SearchResult:
        """Pictures that look like one, given as bytes or a file, or like the weighted sum of several parts.

        Raises:
            ImageRejected: the bytes are not a picture that can be searched with.
            InvalidRequest: a part or a filter is none, the encoder embeds no text, or the parts take each other away.
            NotFound: the catalog has no such image or item.
            Conflict: an image or item that is named is not searchable yet.
        """
        return self._search(query, wanted)

    def search_pages(self, query: Query, **wanted: Unpack[Wanted]) -> Iterator[SearchResult]:
        """The same page by page, up to 1,000 hits as they were ranked when the first page was asked for.

        Raises:
            Gone: ten minutes have passed since then.
            AkinError: as `search` does.
        """
        page = self._search(query, {**wanted, "paged": True})
        yield page
        while page.next_cursor is not None:
            body = {"cursor": page.next_cursor, "limit": wanted.get("limit", HITS)}
            page = self._connection.json(SearchResult, "POST", "/v1/search", json=body)
            yield page

    def search_batch(self, searches: Sequence[tuple[Query, Wanted]]) -> tuple[SearchResult | SearchFailure, ...]:
        """Up to 32 searches in one request; each has its own answer or failure."""
        body = {"searches": [{"query": parts_of(query), "limit": HITS, **wanted} for query, wanted in searches]}
        return self._connection.json(SearchBatch, "POST", "/v1/search/batch", json=body).results

    def similar(self, item_id: str, **wanted: Unpack[WantedSimilar]) -> SearchResult:
        """Pictures of other items that look like those of this one, one of each item.

        Raises:
            NotFound: the catalog has no such item.
        """
        path = f"/v1/items/{quote(item_id, safe='')}/similar"
        return self._connection.json(SearchResult, "GET", path, params=_as_text({"limit": HITS, **wanted}))

    def _search(self, query: Query, wanted: Mapping[str, Any]) -> SearchResult:
        members = {"limit": HITS, **wanted}
        if not isinstance(query, bytes | Path):
            body = {"query": parts_of(query), **members}
            return self._connection.json(SearchResult, "POST", "/v1/search", json=body)
        # In a form a file needs no base64.
        content, name = (query.read_bytes(), query.name) if isinstance(query, Path) else (query, "query")
        files = {"image": (name, content)}
        return self._connection.json(SearchResult, "POST", "/v1/search", data=_as_text(members), files=files)

    def thumbnail(self, image_id: str, size: int = 256) -> bytes:
        """A stored picture reduced to fit a square of `size` pixels (WebP)."""
        path = f"/v1/images/{quote(image_id, safe='')}/thumbnail"
        return self._connection.send("GET", path, params={"size": size}).content

    def _post(self, answer: type[Answer], path: str, **request: Any) -> Answer:
        return self._connection.json(answer, "POST", path, once=True, **request)


def _as_text(members: Mapping[str, Any]) -> dict[str, str]:
    """Members of a form or an address: what is no text is JSON."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in members.items()}


def _job_path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"
