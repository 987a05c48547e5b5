"""Whether a file is a whole backup, all of it, before anything is restored from it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ValidationError

from services.backup.layout import (
    DONE,
    LARGEST_JSON,
    LARGEST_PART,
    LARGEST_WEIGHTS,
    MEGABYTE,
    Done,
    Facts,
    Kind,
    Progress,
    blob_name,
    damaged,
    part_name,
)
from services.backup.parts import image_batches, item_batches, rows, vectors_of
from services.backup.tar import Member, members
from services.catalog.fields import check_item, check_storable, parse_json
from services.encoders.manifest import parse_manifest
from services.images.formats import AVIF, BMP, GIF, HEIC, JPEG, PNG, TIFF, WEBP

Model = TypeVar("Model", bound=BaseModel)

_MEDIA_TYPES = {known.name: known.media_type for known in (JPEG, PNG, GIF, WEBP, BMP, TIFF, AVIF, HEIC)}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST_NUMBER = 2**31 - 1
_LARGEST_SIZE = 2**53


@dataclass(frozen=True)
class Contents:
    """What a whole backup holds."""

    facts: Facts
    done: Done


def limits(max_image_bytes: int) -> dict[Kind, int]:
    """Bytes that a member of each kind may have."""
    return {
        Kind.CATALOG: MEGABYTE,
        Kind.MANIFEST: MEGABYTE,
        Kind.WEIGHTS: LARGEST_WEIGHTS,
        Kind.ITEMS: LARGEST_PART,
        Kind.IMAGES: LARGEST_PART,
        Kind.BLOB: max_image_bytes,
        Kind.DONE: LARGEST_JSON,
    }


def check(file: BinaryIO, max_image_bytes: int, progress: Progress) -> Contents:
    """Read a backup from end to end: its members and their SHA-256, every row, every number.

    Raises:
        AkinError: it is damaged, cut off, of another format, or no backup; the message says where.
    """
    length = file.seek(0, os.SEEK_END)
    checker = _Checker()
    for member in members(file, limits(max_image_bytes)):
        checker.take(member)
        progress("checking", member.end, length)
    return checker.contents()


def read_facts(file: BinaryIO) -> Facts:
    """What a file says that it is the backup of; the rest of it is not looked at.

    Raises:
        AkinError: it begins like no backup.
    """
    for member in members(file, limits(0)):
        if member.kind is Kind.CATALOG:
            return _parse(Facts, member)
        break
    raise damaged("it does not begin like a backup")


def check_blob(member: Member) -> None:
    """
    Raises:
        AkinError: the bytes are not those that their name says.
    """
    if member.name != blob_name(member.sha256):
        raise damaged(f"the bytes of {member.name} are others")


class _Checker:
    """Holds what was seen so far: counts, digests, and the last member, as they come in a fixed order."""

    def __init__(self) -> None:
        self._facts: Facts | None = None
        self._done: Done | None = None
        self._last_kind, self._last_name = Kind.CATALOG, ""
        self._counts: Counter[Kind] = Counter()
        self._rows: Counter[Kind] = Counter()
        self._vectors = 0
        self._blob_bytes = 0
        self._digests: dict[str, str] = {}

    def take(self, member: Member) -> None:
        """Check the next member."""
        self._check_order(member)
        self._last_kind, self._last_name = member.kind, member.name
        if member.kind is Kind.DONE:
            self._done = _parse(Done, member)
        elif member.kind is Kind.BLOB:
            check_blob(member)
            self._blob_bytes += len(member.data)
        else:
            self._digests[member.name] = member.sha256
            self._look_into(member)
        self._counts[member.kind] += 1

    def _check_order(self, member: Member) -> None:
        """Kinds follow each other, parts are counted without a gap, blobs ascend, all else is there once."""
        first = self._counts[member.kind] == 0
        if member.kind in (Kind.ITEMS, Kind.IMAGES):
            good = member.name == part_name(member.kind, self._counts[member.kind])
        elif member.kind is Kind.BLOB and not first:
            good = member.name > self._last_name
        else:
            good = first
        if not good or member.kind < self._last_kind or (member.kind is Kind.CATALOG) != (self._facts is None):
            raise damaged(f"{member.name} is out of its order")

    def _look_into(self, member: Member) -> None:
        if member.kind is Kind.CATALOG:
            self._facts = _parse(Facts, member)
        elif member.kind is Kind.MANIFEST:
            parse_manifest(member.data)
        elif member.kind is Kind.ITEMS:
            for batch in item_batches(member):
                self._check_rows(member, batch, _check_item)
        elif member.kind is Kind.IMAGES:
            for batch in image_batches(member, self._known.encoder.dimension):
                self._check_rows(member, batch, _check_image)
                self._vectors += _check_vectors(batch, member.name)

    def _check_rows(self, member: Member, batch: pa.RecordBatch, check_row: Callable[[dict[str, Any]], None]) -> None:
        for row in rows(batch):
            try:
                check_row(row)
            except ValueError as error:
                raise damaged(f"row {self._rows[member.kind]} of {member.kind.name.lower()}: {error}") from error
            self._rows[member.kind] += 1

    @property
    def _known(self) -> Facts:
        assert self._facts is not None
        return self._facts

    def contents(self) -> Contents:
        """What was checked, once every member was."""
        if self._facts is None or self._done is None:
            raise damaged(f"it is cut off: {DONE} is missing")
        facts, done = self._facts, self._done
        found = done.model_copy(
            update={
                "items": self._rows[Kind.ITEMS],
                "images": self._rows[Kind.IMAGES],
                "vectors": self._vectors,
                "blobs": self._counts[Kind.BLOB],
                "blob_bytes": self._blob_bytes,
                "members": self._digests,
            }
        )
        if found != done:
            wrong = [name for name in type(done).model_fields if getattr(found, name) != getattr(done, name)]
            raise damaged(f"it is not what was written: {', '.join(wrong)} differ from {DONE}")
        encoder = [self._counts[Kind.MANIFEST], self._counts[Kind.WEIGHTS]]
        if encoder != [facts.with_encoder] * 2 or (done.items, done.images) != (facts.items, facts.images):
            raise damaged("its members are not those that it says")
        return Contents(facts, done)


def _parse(model: type[Model], member: Member) -> Model:
    try:
        return model.model_validate_json(member.data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or member.name
        raise damaged(f"this release cannot read its {member.name} ({where}: {first['msg']})") from error


def _check_item(row: dict[str, Any]) -> None:
    check_item(row["item_id"], row["title"], row["url"], parse_json(row["attributes"]))


def _check_image(row: dict[str, Any]) -> None:
    if not _SHA256.fullmatch(row["sha256"]):
        raise ValueError("sha256 is none")
    # It becomes the Content-Type of the picture's bytes.
    if _MEDIA_TYPES.get(row["format"]) != row["media_type"]:
        raise ValueError("format and media_type are of no picture that is accepted")
    if not (0 < row["width"] <= _LARGEST_NUMBER and 0 < row["height"] <= _LARGEST_NUMBER):
        raise ValueError("width and height must be above 0")
    if not 0 < row["size_bytes"] <= _LARGEST_SIZE:
        raise ValueError("size_bytes is no size")
    for name in ("item_id", "origin", "etag", "last_modified"):
        check_storable(row[name])


def _check_vectors(batch: pa.RecordBatch, name: str) -> int:
    positions, vectors = vectors_of(batch)
    with np.errstate(invalid="ignore"):
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if not np.all(np.isfinite(lengths) & (lengths > 0)):
        raise damaged(f"a vector of {name} is zero or not finite")
    return len(positions)
