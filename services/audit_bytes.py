"""Audit of bytes: pictures, thumbnails, archives of imports and weights, against what SQL refers to.

A listing comes in no order, so pictures are compared folder by folder (blobs/ab/cd/…): the whole store at once while
it is small, else each first or second pair of digits, so that no more than `AT_ONCE` lie in memory until there are
65,536 times as many.

Uploads go on meanwhile: bytes are stored before the rows that refer to them, so only old ones are orphans, and they
are noted rather than deleted; whether anything refers to them is looked at again when they are collected. A
collection may take bytes between the two, which the request puts back at once, so only images that are not brand-new
lack theirs.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import islice
from typing import TypeVar

from sqlalchemy.orm import Session

from services.catalog import comparison, encoders, jobs, removal
from services.catalog.audits import Finding, Kind, Piece, Place
from services.catalog.comparison import Wanted
from services.catalog.database import now
from services.content import GRACE
from services.errors import NotFound
from services.images.thumbnails import SIZES
from services.storage.blobs import Blob, key_of
from services.wiring import Services

One = TypeVar("One")

AT_ONCE = 5_000
CHUNK = 1_000
PIECE_SECONDS = 2.0
# Longer than a request that stores a picture.
BRAND_NEW = timedelta(minutes=10)
_NAME = re.compile(r"([0-9a-f]{64})(?:\.webp)?")


def compare_pictures(services: Services, repair: bool, place: Place) -> Piece:
    """The pictures whose SHA-256 begins with `place["prefix"]`; those of longer beginnings where they are many.

    Raises:
        Unavailable: the storage or the database is away.
    """
    prefix = place.get("prefix", "")
    limit = None if len(prefix) == 4 else AT_ONCE + 1
    with services.database.reading() as session:
        wanted = comparison.wanted(session, prefix, "", limit)
    stored = _listed(services, "blobs", prefix, limit)
    if limit is not None and max(len(wanted), len(stored)) >= limit:
        return Piece(0, {"prefix": prefix + "00"})
    lost, resized = _differences(services, wanted, stored)
    old = now() - GRACE
    strange = {one for one, blob in stored.items() if one not in wanted and blob.modified < old}
    with services.database.reading() as session:
        suspects = _unreferenced(session, strange)
    if suspects:  # a collection may have taken both the bytes and their row since they were listed
        suspects &= _listed(services, "blobs", prefix, limit).keys()

    def settle(session: Session) -> Sequence[Finding]:
        orphans = sorted(_unreferenced(session, suspects))
        if repair:
            removal.note_orphans(session, orphans)
        detail = "no picture refers to these bytes: they are collected after the grace period"
        return [Finding(Kind.ORPHANED_BLOB, key_of(one), detail, repair) for one in orphans]

    checked = sum(one.images for one in wanted.values())
    return Piece(checked, _next(prefix), [*lost, *resized], settle)


def _differences(
    services: Services, wanted: Mapping[str, Wanted], stored: Mapping[str, Blob]
) -> tuple[list[Finding], list[Finding]]:
    """Bytes that are gone, and bytes of another size than they had."""
    recent = now() - BRAND_NEW
    gone = {sha: one for sha, one in wanted.items() if sha not in stored and one.since < recent}
    resized = {sha: one for sha, one in wanted.items() if sha in stored and stored[sha].size != one.size_bytes}
    missing = _describe(services, gone, Kind.MISSING_BLOB, lambda sha: f"its bytes {key_of(sha)} are gone")
    mismatched = _describe(
        services,
        resized,
        Kind.MISMATCHED_BLOB,
        lambda sha: f"its bytes {key_of(sha)} are {stored[sha].size:,}, and were {wanted[sha].size_bytes:,}",
    )
    return missing, mismatched


def compare_contents(services: Services, _repair: bool, place: Place) -> Piece:
    """The pictures whose SHA-256 comes after `place["after"]`, read in full.

    Raises:
        Unavailable: the storage or the database is away.
    """
    until = time.monotonic() + PIECE_SECONDS
    with services.database.reading() as session:
        wanted = comparison.wanted(session, "", place.get("after", ""), CHUNK)
    damaged: dict[str, Wanted] = {}
    read: dict[str, Wanted] = {}
    for sha256, one in wanted.items():
        if time.monotonic() > until and read:
            break
        read[sha256] = one
        try:
            with services.blobs.open(key_of(sha256)) as file:
                size = file.seek(0, 2)
                file.seek(0)
                # Those of another size are found by their size.
                if size == one.size_bytes and hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    damaged[sha256] = one
        except NotFound:
            continue  # found by the listing
    finished = len(read) == len(wanted) < CHUNK
    findings = _describe(
        services,
        damaged,
        Kind.MISMATCHED_BLOB,
        lambda sha: f"its bytes {key_of(sha)} have another SHA-256, so delete them first",
    )
    return Piece(sum(one.images for one in read.values()), None if finished else {"after": max(read)}, findings)


def compare_thumbnails(services: Services, repair: bool, place: Place) -> Piece:
    """The thumbnails of the size `place["size"]` whose picture's SHA-256 begins with `prefix`.

    Raises:
        Unavailable: the storage or the database is away.
    """
    size, prefix = place.get("size", SIZES[0]), place.get("prefix", "")
    listing = services.blobs.list(_folder(f"thumbnails/{size}", prefix))
    if not prefix:
        first = list(islice(listing, AT_ONCE + 1))
        if len(first) > AT_ONCE:
            return Piece(0, {"size": size, "prefix": "00"})
        listing = iter(first)
    findings = []
    for chunk in _chunks(listing):
        named = {match[1]: blob.key for blob in chunk if (match := _NAME.fullmatch(_last(blob.key)))}
        with services.database.reading() as session:
            orphans = comparison.unreferenced(session, named.keys())
        for key in sorted(named[one] for one in orphans):
            if services.blobs.exists(key):  # a collection may have taken it since it was listed
                findings.append(_deleted(services, repair, Kind.ORPHANED_THUMBNAIL, key, "its picture is gone"))
    onward = _next(prefix)
    if onward is not None:
        return Piece(0, {"size": size, **onward}, findings)
    later = [other for other in SIZES if other > size]
    return Piece(0, {"size": later[0]} if later else None, findings)


def compare_sources(services: Services, repair: bool, _place: Place) -> Piece:
    """Archives and manifests of imports that nobody knows any more.

    Raises:
        Unavailable: the storage or the database is away.
    """
    findings = []
    old = now() - GRACE  # an archive is stored before its job is there
    for chunk in _chunks(blob for blob in services.blobs.list("sources") if blob.modified < old):
        keys = {_last(blob.key): blob.key for blob in chunk}
        with services.database.reading() as session:
            unknown = keys.keys() - jobs.known(session, keys.keys())
        findings += [
            _deleted(services, repair, Kind.ORPHANED_SOURCE, keys[one], "its import is no longer known")
            for one in sorted(unknown)
        ]
    return Piece(0, None, findings)


def compare_weights(services: Services, _repair: bool, _place: Place) -> Piece:
    """Encoders whose weights are gone.

    Raises:
        Unavailable: the storage or the database is away.
    """
    with services.database.reading() as session:
        rows = encoders.all_of(session)
    there = {blob.key.split("/")[1] for blob in services.blobs.list("encoders")}
    return Piece(
        0,
        None,
        [
            Finding(Kind.MISSING_WEIGHTS, f"encoder {row.ref}", "its weights are gone: register it again", False)
            for row in rows
            if row.sha256 not in there
        ],
    )


def _deleted(services: Services, repair: bool, kind: Kind, key: str, detail: str) -> Finding:
    if repair:
        services.blobs.delete(key)
    return Finding(kind, key, detail, repair)


def _describe(services: Services, found: Mapping[str, Wanted], kind: Kind, said: Callable[[str], str]) -> list[Finding]:
    """Bytes that an audit cannot heal, with one of the pictures that they are."""
    with services.database.reading() as session:
        names = comparison.catalog_names(session, [one.image_id for one in found.values()])
    return [
        Finding(
            kind,
            f"image {one.image_id} in {names.get(one.image_id, '?')}",
            f"{said(sha256)}; upload the picture again" + (f" ({one.images:,} images)" if one.images > 1 else ""),
            False,
        )
        for sha256, one in found.items()
    ]


def _unreferenced(session: Session, hashes: Iterable[str]) -> set[str]:
    return {one for chunk in _chunks(hashes) for one in comparison.unreferenced(session, chunk)}


def _listed(services: Services, folder: str, prefix: str, limit: int | None) -> dict[str, Blob]:
    """Objects by the SHA-256 that they are named after, in no order, up to a limit."""
    found = islice(services.blobs.list(_folder(folder, prefix)), limit)
    return {match[1]: blob for blob in found if (match := _NAME.fullmatch(_last(blob.key)))}


def _folder(folder: str, prefix: str) -> str:
    return "/".join([folder, *(prefix[at : at + 2] for at in range(0, len(prefix), 2))])


def _next(prefix: str) -> Place | None:
    """The beginning that comes after all that begin with this one; None after the last."""
    while prefix.endswith("ff"):
        prefix = prefix[:-2]
    return {"prefix": prefix[:-2] + f"{int(prefix[-2:], 16) + 1:02x}"} if prefix else None


def _last(key: str) -> str:
    return key.rpartition("/")[2]


def _chunks(found: Iterable[One]) -> Iterator[list[One]]:
    rest = iter(found)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk
