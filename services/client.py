"""The HTTP API as Python calls: uploads, jobs and searches, with retries and typed errors."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from services import errors
from services.answers import ErrorPage, Job, JobError, JobPage, JobStarted, SearchResult
from services.errors import AkinError

RETRIED_STATUSES: Final = frozenset({429, 502, 503, 504})
STATUS_ERRORS: Final[dict[int, type[AkinError]]] = {
    400: errors.InvalidRequest,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    413: errors.TooLarge,
    415: errors.InvalidRequest,
    422: errors.InvalidRequest,
}
MAX_PAUSE: Final = 10.0  # seconds between two tries, however long the server asks for

Answer = TypeVar("Answer", bound=BaseModel)


@dataclass(frozen=True)
class UploadFile:
    """One picture of an import: its reference, its bytes and what the manifest says of its item."""

    ref: str
    content: bytes
    item: Mapping[str, Any] = field(default_factory=dict)


class AkinClient:
    """A connection to one Akin server; safe to share between threads.

    Answers 429, 502, 503, 504 and broken connections are tried again, as late as Retry-After asks, until
    `patience` seconds have gone by; repeating a request is harmless, as the same bytes of the same
    item are stored once.

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
        self.base_url = base_url.rstrip("/")
        self._patience = patience
        self._closed = threading.Event()
        try:
            self._http = httpx.Client(
                base_url=self.base_url,
                headers={"Authorization": f"Bearer {key}", "Accept": "application/json"},
                params={"catalog": catalog} if catalog else None,
                timeout=httpx.Timeout(timeout, connect=5.0),
                transport=httpx.HTTPTransport(limits=httpx.Limits(max_connections=32)),
            )
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise errors.ConfigurationError(f"not a usable server address or key: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; calls that wait for another try give up."""
        self._closed.set()
        self._http.close()

    def ready(self) -> bool:
        """Whether the server answers and every part of it works, asked once."""
        try:
            return self._http.get("/readyz", timeout=5.0).status_code == 200
        except httpx.TransportError:
            return False

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
        return self._json(Job, "POST", "/v1/imports", files=parts)

    def job(self, job_id: str) -> Job:
        """The present state of a job."""
        return self._json(Job, "GET", f"/v1/jobs/{quote(job_id, safe='')}")

    def jobs(self, limit: int = 20) -> tuple[Job, ...]:
        """The latest jobs, newest first."""
        return self._json(JobPage, "GET", "/v1/jobs", params={"limit": limit}).data

    def cancel_job(self, job_id: str) -> Job:
        """Stop an import; what was accepted before stays.

        Raises:
            Conflict: it is over, or is no import.
        """
        return self._json(Job, "POST", f"/v1/jobs/{quote(job_id, safe='')}/cancel")

    def retry_job(self, job_id: str) -> Job:
        """Give the failed entries of an import that is over another try.

        Raises:
            Conflict: it still runs, was cancelled, or is no import.
        """
        return self._json(Job, "POST", f"/v1/jobs/{quote(job_id, safe='')}/retry")

    def job_errors(self, job_id: str) -> Iterator[JobError]:
        """Every failure of a job, read page by page."""
        cursor: str | None = None
        while True:
            page = self._json(
                ErrorPage,
                "GET",
                f"/v1/jobs/{quote(job_id, safe='')}/errors",
                params={"limit": 100, **({"cursor": cursor} if cursor else {})},
            )
            yield from page.data
            cursor = page.next_cursor
            if cursor is None:
                return

    def wait(self, job_id: str, callback: Callable[[Job], None] | None = None, *, interval: float = 0.5) -> Job:
        """Ask for a job until it is over; `callback` gets each answer."""
        while True:
            job = self.job(job_id)
            if callback is not None:
                callback(job)
            if job.over:
                return job
            self._pause(interval)

    def reindex(self, encoder: str) -> str:
        """Start to embed the catalog anew with another encoder; returns the job's id.

        Raises:
            Conflict: a reindex is running, or the live index has this encoder.
        """
        return self._json(JobStarted, "POST", "/v1/admin/reindex", json={"encoder": encoder}).job_id

    def search(self, image: bytes | Path, *, limit: int = 10, min_score: float | None = None) -> SearchResult:
        """Pictures that look like this one.

        Raises:
            ImageRejected: the bytes are not a picture that can be searched with.
        """
        content, name = (image.read_bytes(), image.name) if isinstance(image, Path) else (image, "query")
        data = {"limit": str(limit), **({} if min_score is None else {"min_score": str(min_score)})}
        return self._json(SearchResult, "POST", "/v1/search", data=data, files={"image": (name, content)})

    def similar(self, item_id: str, *, limit: int = 10) -> SearchResult:
        """Pictures of other items that look like those of this one."""
        return self._json(SearchResult, "GET", f"/v1/items/{quote(item_id, safe='')}/similar", params={"limit": limit})

    def thumbnail(self, image_id: str, size: int = 256) -> bytes:
        """A stored picture reduced to fit a square of `size` pixels (WebP)."""
        path = f"/v1/images/{quote(image_id, safe='')}/thumbnail"
        return self._send("GET", path, params={"size": size}).content

    def _json(self, answer: type[Answer], method: str, path: str, **request: Any) -> Answer:
        response = self._send(method, path, **request)
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            raise errors.Unavailable(f"{self.base_url}{path} did not answer like an Akin server") from error

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send until it is answered, refused for good, or `patience` is over."""
        give_up = time.monotonic() + self._patience
        pause = 0.25
        while True:
            failure: AkinError
            wanted = 0.0
            try:
                response = self._http.request(method, path, **request)
            except httpx.TransportError as error:
                failure = errors.Unavailable(f"{self.base_url} cannot be reached ({error or type(error).__name__})")
            else:
                if response.is_success:
                    return response
                failure = _problem(response)
                if response.status_code not in RETRIED_STATUSES:
                    raise failure
                wanted = _retry_after(response)
            # A random share keeps many refused clients from coming back at the same moment.
            wait = min(MAX_PAUSE, max(wanted, pause * random.uniform(0.5, 1.0)))  # noqa: S311
            if time.monotonic() + wait > give_up:
                raise failure
            self._pause(wait)
            pause *= 2

    def _pause(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise errors.Unavailable("the client was closed")


def _retry_after(response: httpx.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0


def _problem(response: httpx.Response) -> AkinError:
    """The typed error of a problem document (RFC 9457), or of a bare status from a proxy."""
    status = response.status_code
    try:
        body = response.json()
    except ValueError:
        body = None
    document: dict[str, Any] = body if isinstance(body, dict) else {}
    detail = str(document.get("detail") or document.get("title") or f"HTTP {status} {response.reason_phrase}")
    code = str(document["code"]) if "code" in document else None
    if code in set(errors.ImageReason):
        return errors.ImageRejected(errors.ImageReason(code), detail)
    if status == 429:
        return errors.Overloaded(detail, retry_after=round(_retry_after(response)) or 1)
    kind = STATUS_ERRORS.get(status) or (errors.Unavailable if status in RETRIED_STATUSES else AkinError)
    return kind(detail, code=code)
