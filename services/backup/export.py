"""akin export: a catalog's items, pictures and vectors, as one view of the database sees them, into a tar file."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, BinaryIO

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from services.backup.layout import (
    CATALOG,
    DONE,
    ITEMS,
    ITEMS_AT_ONCE,
    MANIFEST,
    WEIGHTS,
    Done,
    EncoderFacts,
    Facts,
    Kind,
    Progress,
    blob_name,
    images_at_once,
    images_schema,
)
from services.backup.parts import PartWriter, vector_column
from services.backup.tar import TarWriter
from services.catalog import catalogs
from services.catalog.database import now
from services.catalog.models import Image, IndexRow, Item
from services.errors import NotFound
from services.storage.blobs import key_of
from services.wiring import Services

# Pictures that are read ahead of the one that is written.
BLOBS_AHEAD = 8
_DIGEST = 32


def export(
    services: Services,
    catalog: str,
    file: BinaryIO,
    *,
    with_blobs: bool,
    with_encoder: bool,
    progress: Progress,
) -> Done:
    """Write a backup of a catalog to a file, which need not be seekable; returns what is in it.

    Uploads and deletes go on meanwhile and are not in it, but for this: a picture that is deleted and gone from
    Milvus or the blob store before its turn comes is written without its vector or bytes.

    Raises:
        NotFound: there is no such catalog.
        Unavailable: the database, Milvus or the blob store does not answer.
    """
    with tempfile.TemporaryFile() as hashes:
        # The view is held while vectors are fetched, which takes minutes for a million pictures, and given up before
        # their bytes are, which may take hours: PostgreSQL cannot clean up what it might still be asked for.
        with _snapshot(services) as session:
            found = catalogs.by_name(session, catalog)
            index = catalogs.live_index(session, found.id)
            items, images = catalogs.sizes(session, found.id)
            moment = now()
            facts = Facts(
                id=uuid.uuid4().hex,
                name=found.name,
                encoder=EncoderFacts(
                    ref=index.encoder.ref, sha256=index.encoder.sha256, dimension=index.encoder.dimension
                ),
                with_encoder=with_encoder,
                with_blobs=with_blobs,
                items=items,
                images=images,
                created_at=moment.isoformat(),
            )
            tar = TarWriter(file, int(moment.timestamp()))
            tar.add(CATALOG, facts.model_dump_json(indent=2).encode())
            if with_encoder:
                _write_encoder(services, tar, facts)
            _write_items(session, tar, found.id, facts, progress)
            vectors = _write_images(services, session, tar, index, facts=facts, progress=progress)
            if with_blobs:
                _spool_hashes(session, found.id, hashes)
        blobs, blob_bytes, missing = _write_blobs(services, tar, hashes, progress)
    done = Done(
        items=items,
        images=images,
        vectors=vectors,
        blobs=blobs,
        blob_bytes=blob_bytes,
        missing_blobs=missing,
        members=tar.digests,
    )
    tar.add(DONE, done.model_dump_json(indent=2).encode())
    tar.finish()
    return done


@contextmanager
def _snapshot(services: Services) -> Iterator[Session]:
    with services.database.reading() as session:
        if session.get_bind().dialect.name == "postgresql":  # whose statements would each see a state of their own
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        yield session


def _write_encoder(services: Services, tar: TarWriter, facts: Facts) -> None:
    checkpoint = services.encoders.checkpoint(facts.encoder.ref)
    tar.add(MANIFEST, checkpoint.manifest.to_json().encode())
    tar.add(WEIGHTS, checkpoint.weights)


def _write_items(session: Session, tar: TarWriter, catalog_id: int, facts: Facts, progress: Progress) -> None:
    part = PartWriter(tar, Kind.ITEMS, ITEMS)
    after, done = 0, 0
    columns = [Item.id, *(getattr(Item, name) for name in ITEMS.names)]
    query = select(*columns).where(Item.catalog_id == catalog_id).order_by(Item.id).limit(ITEMS_AT_ONCE)
    while page := session.execute(query.where(Item.id > after)).all():
        batch = {name: [getattr(row, name) for row in page] for name in ITEMS.names}
        batch["attributes"] = [json.dumps(attributes, ensure_ascii=False) for attributes in batch["attributes"]]
        part.write(batch)
        after, done = page[-1].id, done + len(page)
        progress("items", done, facts.items)
    part.close()


def _write_images(
    services: Services, session: Session, tar: TarWriter, index: IndexRow, *, facts: Facts, progress: Progress
) -> int:
    """Returns how many have a vector."""
    dimension = facts.encoder.dimension
    schema = images_schema(dimension)
    part = PartWriter(tar, Kind.IMAGES, schema)
    names = [name for name in schema.names if name not in ("item_id", "vector")]
    query = (
        select(Image.id, Item.item_id, *(getattr(Image, name) for name in names))
        .join(Item, Item.id == Image.item_pk)
        .where(*_living(index.catalog_id))
        .order_by(Image.id)
        .limit(images_at_once(dimension))
    )
    has_vectors = _settle(services, index.collection)
    after, done, vectors = 0, 0, 0
    while page := session.execute(query.where(Image.id > after)).all():
        ids = [row.id for row in page]
        found = services.vectors.fetch(index.collection, ids) if has_vectors else {}
        batch = {name: [getattr(row, name) for row in page] for name in ["item_id", *names]}
        part.write({**batch, "vector": vector_column(found, ids, dimension)})
        after, done, vectors = ids[-1], done + len(page), vectors + len(found)
        progress("pictures", done, facts.images)
    part.close()
    return vectors


def _settle(services: Services, collection: str) -> bool:
    """Wait until Milvus shows all that was written before; False where nothing ever was."""
    try:
        services.vectors.barrier(collection)
    except NotFound:
        return False
    return True


def _living(catalog_id: int) -> tuple[ColumnElement[bool], ...]:
    return (Image.catalog_id == catalog_id, Image.deleted_at.is_(None))


def _spool_hashes(session: Session, catalog_id: int, hashes: IO[bytes]) -> None:
    query = select(Image.sha256).where(*_living(catalog_id)).distinct().order_by(Image.sha256)
    for sha256 in session.scalars(query.execution_options(yield_per=10_000)):
        hashes.write(bytes.fromhex(sha256))


def _write_blobs(services: Services, tar: TarWriter, hashes: IO[bytes], progress: Progress) -> tuple[int, int, int]:
    """Returns how many there are, their bytes, and how many are missing."""
    total = hashes.tell() // _DIGEST
    hashes.seek(0)
    blobs, size, missing = 0, 0, 0
    for sha256, data in _read_ahead(services, hashes):
        if data is None:
            missing += 1
        else:
            tar.add(blob_name(sha256), data)
            blobs, size = blobs + 1, size + len(data)
        progress("bytes of pictures", blobs + missing, total)
    return blobs, size, missing


def _read_ahead(services: Services, hashes: IO[bytes]) -> Iterator[tuple[str, bytes | None]]:
    def read(sha256: str) -> bytes | None:
        try:
            return services.blobs.get(key_of(sha256))
        except NotFound:
            return None

    waiting: deque[tuple[str, Future[bytes | None]]] = deque()
    with ThreadPoolExecutor(BLOBS_AHEAD, thread_name_prefix="blobs") as pool:
        while digest := hashes.read(_DIGEST):
            waiting.append((digest.hex(), pool.submit(read, digest.hex())))
            if len(waiting) > BLOBS_AHEAD:
                sha256, data = waiting.popleft()
                yield sha256, data.result()
        while waiting:
            sha256, data = waiting.popleft()
            yield sha256, data.result()
