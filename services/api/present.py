"""Rows of the catalog as documented answers."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import quote

from sqlalchemy.orm import Session

from services import reindex
from services.api.schemas import (
    CatalogOut,
    EncoderOut,
    EntryError,
    ImageOut,
    ImageState,
    IndexOut,
    ItemDetail,
    ItemOut,
    JobOut,
    WebhookOut,
)
from services.catalog import catalogs, entries, indexes, items, jobs, ledger
from services.catalog.database import now
from services.catalog.found import Found
from services.catalog.models import Catalog, EncoderRow, Image, IndexRow, Item, Job, Webhook
from services.catalog.states import EmbeddingState, EntryState, JobState
from services.encoders.manifest import Manifest

FIRST_ERRORS = 10
MOST_IMAGES = 100


def item(row: Item | Found, shown: Collection[str] | None = None) -> ItemOut:
    """An item without its pictures, with those of its attributes that are shown, or with all."""
    return ItemOut(**item_members(row, shown))


def item_members(row: Item | Found, shown: Collection[str] | None = None) -> dict[str, Any]:
    """The same as a plain dictionary: searches show dozens at once, and to make types of them takes three times as
    long.
    """
    path = f"/v1/items/{quote(row.item_id, safe='')}"
    attributes = row.attributes
    if shown is not None:
        attributes = {name: value for name, value in attributes.items() if name in shown}
    return {
        "item_id": row.item_id,
        "title": row.title,
        "url": row.url,
        "attributes": attributes,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "links": {"self": path, "similar": f"{path}/similar"},
    }


def item_detail(session: Session, row: Item) -> ItemDetail:
    """An item with its pictures."""
    pictures = [picture(one, row.item_id, one.created_at) for one in items.images_of(session, row.id, MOST_IMAGES)]
    return ItemDetail(**item(row).model_dump(), images=pictures)


def image(row: Image) -> ImageOut:
    """A living picture whose item is loaded."""
    assert row.item is not None
    return picture(row, row.item.item_id, row.created_at)


def picture(row: Image | Found, item_id: str, created_at: datetime) -> ImageOut:
    """A picture and the client's id of its item; rows of searches call their two moments otherwise."""
    return ImageOut(**picture_members(row, item_id, created_at))


def picture_members(row: Image | Found, item_id: str, created_at: datetime) -> dict[str, Any]:
    """The same as a plain dictionary."""
    path = f"/v1/images/{row.id}"
    return {
        "id": row.id,
        "item_id": item_id,
        "sha256": row.sha256,
        "format": row.format,
        "width": row.width,
        "height": row.height,
        "size_bytes": row.size_bytes,
        "created_at": created_at,
        "links": {
            "self": path,
            "content": f"{path}/content",
            "thumbnail": f"{path}/thumbnail",
            "item": f"/v1/items/{quote(item_id, safe='')}",
        },
    }


def image_state(session: Session, row: Image) -> ImageState:
    """A living picture with its state in the live index."""
    found = ledger.live_row(session, row.id)
    failed = found is not None and found.state == EmbeddingState.FAILED
    indexed = found is not None and found.state == EmbeddingState.INDEXED
    error = None
    if found is not None and failed:
        error = EntryError(ref=str(row.id), code=found.error_code or "", detail=found.error_detail or "")
    return ImageState(
        **image(row).model_dump(), state="failed" if failed else "indexed" if indexed else "pending", error=error
    )


def job_errors(session: Session, row: Job, *, after: int, limit: int) -> tuple[list[EntryError], int | None]:
    """What failed in a job after failure number `after`, and the number to go on from if there may be more."""
    if row.kind != jobs.REINDEX:
        failed = entries.failed(session, row.id, after=after, limit=limit)
        found = [(e.id, _error(e.ref, e.error_code, e.error_detail)) for e in failed]
    else:
        built = indexes.of_job(session, row.id)
        rows = ledger.failed_rows(session, built.id, after=after, limit=limit) if built else []
        found = [
            (r.id, _error(f"image {r.image_id} of item {item_id}", r.error_code, r.error_detail)) for r, item_id in rows
        ]
    return [error for _, error in found], found[-1][0] if len(found) == limit else None


def _error(ref: str, code: str | None, detail: str | None) -> EntryError:
    return EntryError(ref=ref, code=code or "", detail=detail or "")


def job(session: Session, row: Job) -> JobOut:
    """A job with its counts of this moment."""
    counts = _counts(session, row)
    done = counts.indexed + counts.unchanged + counts.failed + counts.cancelled
    if row.kind not in (jobs.IMPORT, jobs.REINDEX):
        done = row.cursor.get("done", 0)
    total = max(row.total, counts.pending + counts.accepted + done)  # a reindex grows by the uploads meanwhile
    elapsed = ((row.finished_at or now()) - row.started_at).total_seconds() if row.started_at else 0.0
    rate = done / elapsed if elapsed > 0 and done else None
    return JobOut(
        id=row.id,
        kind=row.kind,
        state=row.state,
        mode=row.mode,
        source=_source(row),
        listed=row.listed_at is not None,
        total=total,
        done=done,
        **counts._asdict(),
        rate=rate,
        eta_seconds=(total - done) / rate if rate and row.finished_at is None and row.listed_at else None,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        result=row.result,
        error=EntryError(ref=row.id, code=row.error_code, detail=row.error_detail or "") if row.error_code else None,
        errors=job_errors(session, row, after=0, limit=FIRST_ERRORS)[0],
        failed_by_code=entries.failures_by_code(session, row.id) if counts.failed and row.kind != jobs.REINDEX else {},
        webhook=_webhook(session, row.id),
        links={"self": f"/v1/jobs/{row.id}", "errors": f"/v1/jobs/{row.id}/errors"},
    )


def _source(row: Job) -> dict[str, Any]:
    """Where from, or what of; of many ids their number."""
    return {name: len(value) if isinstance(value, list) else value for name, value in row.source.items()}


def _webhook(session: Session, job_id: str) -> WebhookOut | None:
    found = session.get(Webhook, job_id)
    return None if found is None else WebhookOut.model_validate(found)


class _Counts(NamedTuple):
    pending: int = 0
    accepted: int = 0
    indexed: int = 0
    unchanged: int = 0
    failed: int = 0
    cancelled: int = 0


def _counts(session: Session, row: Job) -> _Counts:
    if row.kind == jobs.IMPORT:
        return _import_counts(session, row)
    if row.kind == jobs.REINDEX:
        return _reindex_counts(session, row)
    return _Counts(failed=entries.counts(session, row.id)[EntryState.FAILED])


def _import_counts(session: Session, row: Job) -> _Counts:
    counts = entries.counts(session, row.id)
    found = _Counts(**{state.value: count for state, count in counts.items()})
    if row.state == JobState.CANCELLED:  # what nobody has looked at will be left out
        found = found._replace(pending=0, cancelled=found.pending + found.cancelled)
    return found


def _reindex_counts(session: Session, row: Job) -> _Counts:
    if row.finished_at is not None:  # the rows go when the index is retired
        return _Counts(indexed=row.result["indexed"], failed=row.result["failed"])
    counts = reindex.progress(session, row)
    waiting = counts.get(EmbeddingState.PENDING, 0) + counts.get(EmbeddingState.LEASED, 0)
    indexed, failed = counts.get(EmbeddingState.INDEXED, 0), counts.get(EmbeddingState.FAILED, 0)
    unasked = max(0, row.total - waiting - indexed - failed)
    return _Counts(pending=unasked, accepted=waiting, indexed=indexed, failed=failed)


def encoder(row: EncoderRow) -> EncoderOut:
    """A registered encoder."""
    return EncoderOut(
        ref=row.ref,
        dimension=row.dimension,
        embeds_text=embeds_text(row),
        sha256=row.sha256,
        created_at=row.created_at,
    )


def embeds_text(row: EncoderRow) -> bool:
    """Whether searches may have parts of text."""
    return Manifest.model_validate(row.manifest).embeds_text


def index(row: IndexRow) -> IndexOut:
    """A generation of vectors whose encoder is loaded."""
    return IndexOut(
        id=row.id,
        state=row.state,
        encoder=row.encoder.ref,
        dimension=row.encoder.dimension,
        embeds_text=embeds_text(row.encoder),
        created_at=row.created_at,
        activated_at=row.activated_at,
    )


def catalog(session: Session, row: Catalog) -> CatalogOut:
    """A catalog with its sizes and indexes."""
    item_count, image_count = catalogs.sizes(session, row.id)
    return CatalogOut(
        name=row.name,
        items=item_count,
        images=image_count,
        live_index=index(catalogs.live_index(session, row.id)),
        indexes=[index(found) for found in indexes.of_catalog(session, row.id)],
        created_at=row.created_at,
    )
