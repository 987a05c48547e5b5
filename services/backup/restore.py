"""akin restore: a backup as a new catalog. How it stays out of sight until it is whole: services/backup/staging.py."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

from sqlalchemy import select, update

from services import writing
from services.backup import staging
from services.backup.check import Contents, check, limits, read_facts
from services.backup.layout import Facts, Kind, Progress, damaged
from services.backup.loading import load
from services.backup.staging import Staging, unfinished_rows
from services.backup.tar import members
from services.catalog import catalogs, encoders, ledger
from services.catalog.database import now
from services.catalog.fields import CATALOG_NAME
from services.catalog.models import Embedding, EncoderRow, Image
from services.catalog.states import EmbeddingState
from services.encoders.checkpoint import Checkpoint
from services.encoders.manifest import Manifest, parse_manifest
from services.errors import InvalidRequest, NotFound
from services.storage.blobs import key_of
from services.wiring import Services

RELEASED_AT_ONCE = 5_000
LOOKED_FOR_AT_ONCE = 1_000
LOOKING_THREADS = 16


@dataclass(frozen=True)
class Restored:
    """What became of a backup: pictures that can be found, that wait to be embedded, and whose bytes are nowhere."""

    name: str
    encoder: str
    items: int
    searchable: int
    waiting: int
    missing: int


def restore(
    services: Services,
    file: BinaryIO,
    *,
    name: str | None,
    encoder: str | None,
    progress: Progress,
) -> Restored:
    """Restore a backup as a new catalog, which appears whole or not at all. Safe to repeat after an interruption.

    Pictures whose bytes are neither in the file nor stored here are restored all the same: with a vector they are
    found, and their bytes may come back by other ways.

    Args:
        file: seekable; it is read twice.
        name: of the catalog; that in the backup unless given.
        encoder: registered encoder of the catalog; that in the backup unless given. With another one than the
            vectors are of, every picture is embedded anew.

    Raises:
        AkinError: the file is damaged or no backup; nothing was restored.
        InvalidRequest: no catalog can have the name.
        Conflict: there is a catalog of this name with something in it, or the backup's encoder has the name and
            version of another one.
        NotFound: the encoder is neither registered nor in the backup.
        Unavailable: a part does not answer; what was restored so far waits for the same call.
    """
    contents = check(file, services.settings.max_image_bytes, progress)
    name = name or contents.facts.name
    if not re.fullmatch(CATALOG_NAME, name):
        raise InvalidRequest(f"{name!r} is no name for a catalog: small letters, digits, - and _, at most 63")
    with services.database.transaction() as session:
        staging.check_free(session, name)
    chosen = _choose_encoder(services, file, contents, encoder)
    with services.database.transaction() as session:
        hidden = staging.staging_name(contents.facts.id, name, chosen.sha256)
        place = staging.open_staging(session, hidden, chosen.id)
    with_vectors = chosen.sha256 == contents.facts.encoder.sha256
    if with_vectors:
        services.vectors.create(place.collection, chosen.dimension)
    load(services, place, contents, file, progress, with_vectors=with_vectors)
    complete = contents.facts.with_blobs and not contents.done.missing_blobs
    missing = 0 if complete else _count_missing(services, place, progress)
    if with_vectors:
        # A search right after must see every vector that Milvus has acknowledged.
        services.vectors.barrier(place.collection)
        with services.database.reading() as session:
            written = ledger.counts(session, place.index_id)[EmbeddingState.INDEXED]
        writing.seal(services, place.collection, written)
    _release_rows(services, place)
    with services.database.reading() as session:
        items, images = catalogs.sizes(session, place.catalog_id)
        searchable = ledger.counts(session, place.index_id)[EmbeddingState.INDEXED]
    staging.publish(services, place, name)
    return Restored(name, chosen.ref, items, searchable, images - searchable, missing)


def abandon(services: Services, file: BinaryIO, *, name: str | None, encoder: str | None) -> None:
    """Remove what an interrupted restore with the same arguments has written.

    Raises:
        AkinError: the file begins like no backup.
        NotFound: there is nothing to remove, or no such encoder.
    """
    facts = read_facts(file)
    staging.discard(services, _hidden_name(services, facts, name, encoder))


def _hidden_name(services: Services, facts: Facts, name: str | None, encoder: str | None) -> str:
    with services.database.reading() as session:
        sha256 = encoders.by_ref(session, encoder).sha256 if encoder else facts.encoder.sha256
    return staging.staging_name(facts.id, name or facts.name, sha256)


def _choose_encoder(services: Services, file: BinaryIO, contents: Contents, ref: str | None) -> EncoderRow:
    wanted = contents.facts.encoder
    of_vectors = select(EncoderRow).where(EncoderRow.sha256 == wanted.sha256)
    with services.database.reading() as session:
        if ref is not None:
            return encoders.by_ref(session, ref)
        known = session.scalar(of_vectors)
    if known is None and not contents.facts.with_encoder:
        raise NotFound(
            f"the encoder {wanted.ref} is neither registered here nor in the backup: register it, or embed the "
            "pictures anew with another one (--encoder NAME)",
            code="encoder_not_found",
        )
    if known is None:
        services.encoders.register(_checkpoint(file, contents, services.settings.max_image_bytes))
        with services.database.reading() as session:
            known = session.scalars(of_vectors).one()
    if known.dimension != wanted.dimension:
        raise damaged(f"its vectors have {wanted.dimension} numbers, those of {known.ref} have {known.dimension}")
    return known


def _checkpoint(file: BinaryIO, contents: Contents, max_image_bytes: int) -> Checkpoint:
    manifest: Manifest | None = None
    for member in members(file, limits(max_image_bytes)):
        if member.kind is Kind.MANIFEST:
            manifest = parse_manifest(member.data)
            if manifest.weights_sha256 != contents.facts.encoder.sha256:
                break
        elif member.kind is Kind.WEIGHTS and manifest is not None:
            return Checkpoint(manifest, member.data)
    raise damaged("the encoder in it is not the one whose vectors it has")


def _count_missing(services: Services, place: Staging, progress: Progress) -> int:
    """How many pictures have no bytes in the blob store."""
    query = select(Image.id, Image.sha256).where(Image.catalog_id == place.catalog_id).order_by(Image.id)
    with services.database.reading() as session:
        _, total = catalogs.sizes(session, place.catalog_id)
    after, looked, missing = 0, 0, 0
    with ThreadPoolExecutor(LOOKING_THREADS, thread_name_prefix="blobs") as pool:
        while True:
            with services.database.reading() as session:
                page = session.execute(query.where(Image.id > after).limit(LOOKED_FOR_AT_ONCE)).all()
            if not page:
                return missing
            there = pool.map(services.blobs.exists, [key_of(row.sha256) for row in page])
            missing += sum(not found for found in there)
            after, looked = page[-1].id, looked + len(page)
            progress("looking for pictures", looked, total)


def _release_rows(services: Services, place: Staging) -> None:
    """Give pictures without a vector to the workers; from now on they may write to the collection."""
    some = select(Embedding.id).where(*unfinished_rows(place)).limit(RELEASED_AT_ONCE)
    released = True
    while released:
        with services.database.transaction() as session:
            staging.check_unpublished(session, place)
            ids = session.scalars(
                update(Embedding)
                .where(Embedding.id.in_(some))
                .values(state=EmbeddingState.PENDING, error_code=None, updated_at=now())
                .returning(Embedding.id)
                .execution_options(synchronize_session=False)
            ).all()
        released = bool(ids)
