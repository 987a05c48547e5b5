"""The bytes of an import's entries: stored ones, ones that lie in its source, and ones that servers give."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from services.catalog import items
from services.catalog.items import Origin
from services.catalog.models import Image, Job, JobEntry
from services.content import PIECE_BYTES
from services.errors import (
    FetchFailed,
    FetchQueued,
    FetchRefused,
    Forbidden,
    ImageReason,
    ImageRejected,
    InvalidRequest,
    NotFound,
    TooLarge,
    Unavailable,
)
from services.fetch.client import Version
from services.listing import SOURCE_AWAY, open_source
from services.sources.base import Source
from services.storage.blobs import key_of
from services.wiring import Services

# Servers and storage that are slow must not hold a worker for longer than a task may take.
GATHERING_SECONDS = 15.0


@dataclass(frozen=True)
class Found:
    """The bytes of an entry; `stored` where the blob store holds them already."""

    data: bytes
    stored: bool = False
    origin: Origin | None = None


@dataclass(frozen=True)
class Unmodified:
    """A server says that the picture is still the one that was fetched before."""

    image_id: int


@dataclass(frozen=True)
class FieldsOnly:
    """The entry has no picture: it changes its item's fields."""


@dataclass(frozen=True)
class NotYet:
    """A server or storage did not give the picture now, and may later; the code is that of giving up."""

    code: str
    detail: str


@dataclass(frozen=True)
class NotAsked(NotYet):
    """So many others were asking the same server that it was not asked."""


@dataclass(frozen=True)
class Refused:
    """There is no way to this picture."""

    code: str
    detail: str


Gathered = Found | Unmodified | FieldsOnly | NotYet | Refused


def gather(services: Services, job: Job, entries: Sequence[JobEntry]) -> Iterator[list[tuple[JobEntry, Gathered]]]:
    """The bytes of entries, a bounded amount at a time. Entries for which the time did not suffice do not come.

    Raises:
        Unavailable: the storage, or that of the source, does not answer.
    """
    stored = [entry for entry in entries if entry.url is None]
    fetched = [entry for entry in entries if entry.url is not None]
    piece: list[tuple[JobEntry, Gathered]] = []
    size = 0
    until = time.monotonic() + GATHERING_SECONDS
    for entry in stored:
        if time.monotonic() > until:
            break
        outcome = _read(services, job, entry)
        piece.append((entry, outcome))
        size += len(outcome.data) if isinstance(outcome, Found) else 0
        if size >= PIECE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece
    if fetched:
        yield from _fetch_all(services, job, fetched)


def _read(services: Services, job: Job, entry: JobEntry) -> Gathered:
    if entry.sha256 is not None:
        try:
            return Found(services.blobs.get(key_of(entry.sha256)), stored=True, origin=_origin(job, entry))
        except NotFound:
            if entry.place is None:
                return Refused(ImageReason.MISSING, "the stored bytes are gone")
    if entry.place is None:
        return FieldsOnly()
    try:
        source: Source = open_source(services, job)
        data = source.read(entry.place, services.settings.max_image_bytes)
    except ImageRejected as error:
        return Refused(error.code, error.detail)
    except NotFound:
        return Refused(ImageReason.MISSING, "the archive that it was in is gone")
    except (InvalidRequest, Forbidden) as error:
        return Refused(error.code, error.detail)
    except Unavailable as error:
        if not _is_elsewhere(job):
            raise
        return NotYet(SOURCE_AWAY, error.detail)
    return Found(data, origin=_origin(job, entry))


def _place(job: Job) -> str:
    return str(job.source.get("location") or job.source.get("base") or "").rstrip("/")


def _is_elsewhere(job: Job) -> bool:
    """Whether the pictures lie in storage that is not Akin's own."""
    return bool(_place(job))


def _origin(job: Job, entry: JobEntry) -> Origin | None:
    """Files of an upload have names that need not mean anything; those of a source say where a picture lies."""
    return None if job.source.get("kind") == "files" else Origin(f"{_place(job)}#{entry.ref}")


def _fetch_all(services: Services, job: Job, entries: Sequence[JobEntry]) -> Iterator[list[tuple[JobEntry, Gathered]]]:
    with services.database.reading() as session:
        known = items.from_origins(
            session, job.catalog_id, {(entry.item["item_id"], entry.url or "") for entry in entries}
        )
    until = time.monotonic() + GATHERING_SECONDS
    threads = services.settings.fetch_threads
    with ThreadPoolExecutor(threads, thread_name_prefix="fetch") as pool:
        for start in range(0, len(entries), threads):
            if time.monotonic() > until:
                return
            some = entries[start : start + threads]
            fetched = list(zip(some, pool.map(lambda entry: _fetch(services, entry, known), some), strict=True))
            # Of a server that answers, only slowly, the others are asked later; one that does not is not waited for.
            answering = {_host(entry) for entry, outcome in fetched if not isinstance(outcome, NotYet)}
            yield [(e, outcome) for e, outcome in fetched if type(outcome) is not NotAsked or _host(e) not in answering]


def _host(entry: JobEntry) -> str:
    return (entry.url or "").partition("://")[2].partition("/")[0]


def _fetch(services: Services, entry: JobEntry, known: Mapping[tuple[str, str], Image]) -> Gathered:
    assert entry.url is not None
    image = known.get((entry.item["item_id"], entry.url))
    version = Version(image.etag, image.last_modified) if image and (image.etag or image.last_modified) else None
    try:
        fetched = services.fetcher.get(entry.url, max_bytes=services.settings.max_image_bytes, known=version)
    except FetchRefused as error:
        return Refused(error.code, error.detail)
    except FetchQueued as error:
        return NotAsked(error.code, error.detail)
    except FetchFailed as error:
        return NotYet(error.code, error.detail) if error.passing else Refused(error.code, error.detail)
    except TooLarge as error:
        return Refused(ImageReason.TOO_MANY_BYTES, error.detail)
    if fetched is None:
        assert image is not None
        return Unmodified(image.id)
    return Found(fetched.content, origin=Origin(entry.url, fetched.version.etag, fetched.version.last_modified))
