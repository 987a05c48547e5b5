"""From the file into the hidden catalog: items, pictures with their vectors, bytes. Every step may be repeated."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from services.backup.check import Contents, check_blob, limits
from services.backup.layout import Kind, Progress, damaged
from services.backup.parts import image_batches, item_batches, rows, vectors_of
from services.backup.staging import UNFINISHED, Staging, check_unpublished, unfinished_rows
from services.backup.tar import Member, members
from services.catalog import items, removal
from services.catalog.database import now
from services.catalog.models import Embedding, Image, Item
from services.catalog.states import EmbeddingState, Priority
from services.catalog.upserts import insert
from services.facets import facets_of
from services.storage.blobs import key_of
from services.vectors.base import Vectors
from services.vectors.conditions import Facets
from services.wiring import Services

# Pictures that are in memory while they are stored.
BLOBS_AT_ONCE = 8


def load(
    services: Services, place: Staging, contents: Contents, file: BinaryIO, progress: Progress, *, with_vectors: bool
) -> None:
    """Write what a checked backup holds into the hidden catalog; its vectors only if they are of its encoder.

    Raises:
        AkinError: the file has changed since it was checked.
        Conflict: the catalog was published or discarded by somebody else.
        Unavailable: a part does not answer.
    """
    length = file.seek(0, os.SEEK_END)
    storing: deque[Future[None]] = deque()
    with ThreadPoolExecutor(BLOBS_AT_ONCE, thread_name_prefix="blobs") as pool:
        for member in members(file, limits(services.settings.max_image_bytes)):
            if member.kind is Kind.BLOB:
                check_blob(member)
                key = key_of(member.sha256)
                storing.append(pool.submit(services.blobs.put, key, member.data))
                if len(storing) > BLOBS_AT_ONCE:
                    storing.popleft().result()
            elif member.kind is not Kind.DONE:
                _check_unchanged(member, contents)
                if member.kind is Kind.ITEMS:
                    for batch in item_batches(member):
                        _load_items(services, place, rows(batch))
                elif member.kind is Kind.IMAGES:
                    for batch in image_batches(member, contents.facts.encoder.dimension):
                        _load_images(services, place, batch, with_vectors)
            progress("restoring", member.end, length)
        for waiting in storing:
            waiting.result()


def _check_unchanged(member: Member, contents: Contents) -> None:
    if contents.done.members.get(member.name) != member.sha256:
        raise damaged(f"{member.name} has changed while it was read")


def _load_items(services: Services, place: Staging, items: Sequence[dict[str, Any]]) -> None:
    values = [{**item, "catalog_id": place.catalog_id, "attributes": json.loads(item["attributes"])} for item in items]
    with services.database.transaction() as session:
        check_unpublished(session, place)
        session.execute(insert(session, Item).on_conflict_do_nothing(index_elements=["catalog_id", "item_id"]), values)


def _load_images(services: Services, place: Staging, batch: pa.RecordBatch, with_vectors: bool) -> None:
    images = rows(batch)
    with services.database.transaction() as session:
        check_unpublished(session, place)
        ids = _insert_images(session, place, images)
        unfinished = _open_rows(session, place, ids)
    if not with_vectors:
        return
    positions, vectors = vectors_of(batch)
    found = {ids[at]: vectors[row] for row, at in enumerate(positions) if ids[at] in unfinished}
    if found:
        _write_vectors(services, place, found)


def _insert_images(session: Session, place: Staging, images: Sequence[dict[str, Any]]) -> list[int]:
    """The id of each, made now or before."""
    item_pks = _item_pks(session, place, {image["item_id"] for image in images})
    values = [{**image, "catalog_id": place.catalog_id, "item_pk": item_pks[image["item_id"]]} for image in images]
    for value in values:
        del value["item_id"]
    session.execute(
        insert(session, Image).on_conflict_do_nothing(
            index_elements=["item_pk", "sha256"], index_where=Image.deleted_at.is_(None)
        ),
        values,
    )
    hashes = {image["sha256"] for image in images}
    removal.keep_orphans(session, hashes)
    there = session.execute(
        select(Image.id, Image.item_pk, Image.sha256).where(
            Image.item_pk.in_(item_pks.values()), Image.sha256.in_(hashes), Image.deleted_at.is_(None)
        )
    )
    ids = {(row.item_pk, row.sha256): row.id for row in there}
    return [ids[value["item_pk"], value["sha256"]] for value in values]


def _item_pks(session: Session, place: Staging, item_ids: Collection[str]) -> dict[str, int]:
    found = session.execute(
        select(Item.item_id, Item.id).where(Item.catalog_id == place.catalog_id, Item.item_id.in_(item_ids))
    )
    pks = {row.item_id: row.id for row in found}
    unknown = sorted(item_ids - pks.keys())
    if unknown:
        raise damaged(f"it has pictures of the item {unknown[0]!r}, but not the item")
    return pks


def _open_rows(session: Session, place: Staging, image_ids: Sequence[int]) -> set[int]:
    """Give images a ledger row that no worker takes; returns the ids of those whose vector is not written yet."""
    row = {
        "index_id": place.index_id,
        "state": EmbeddingState.FAILED,
        "priority": Priority.IMPORT,
        "attempts": 0,
        "error_code": UNFINISHED,
        "updated_at": now(),
    }
    values = [{**row, "image_id": image_id} for image_id in image_ids]
    session.execute(insert(session, Embedding).on_conflict_do_nothing(), values)
    return set(
        session.scalars(select(Embedding.image_id).where(Embedding.image_id.in_(image_ids), *unfinished_rows(place)))
    )


def _write_vectors(services: Services, place: Staging, found: Mapping[int, Vectors]) -> None:
    facets = None
    if services.vectors.filters(place.collection):
        with services.database.reading() as session:
            images = items.images_by_id(session, place.catalog_id, list(found))
        there = {image_id: image.item for image_id, image in images.items()}
        facets = [facets_of(item) if (item := there.get(image_id)) else Facets() for image_id in found]
    services.vectors.upsert(place.collection, list(found), np.stack(list(found.values())), facets)
    with services.database.transaction() as session:
        check_unpublished(session, place)
        session.execute(
            update(Embedding)
            .where(Embedding.image_id.in_(found), *unfinished_rows(place))
            .values(state=EmbeddingState.INDEXED, error_code=None, updated_at=now())
        )
