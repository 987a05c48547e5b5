"""What a backup is: the members of its tar file in their order, and what is in each.

    catalog.json                  Facts: format, name, encoder, counts
    encoder/manifest.json         the encoder, as `akin encoders register` takes it; may be left out
    encoder/weights.safetensors
    items/00000.parquet …         ITEMS, in the order in which they were created
    images/00000.parquet …        images_schema(dimension), likewise; no vector where a picture has none
    blobs/<SHA-256> …             bytes of each different picture, ascending; may be left out
    done.json                     Done: what was written, and the SHA-256 of every member but the blobs, which are
                                  named by theirs

Parts of items and images are read and written whole, so their size bounds the memory that is needed. Parquet is
parsed in this process: a backup is the administrator's own file, and the limits here are for damaged ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Final, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from services.catalog.fields import CATALOG_NAME
from services.encoders.manifest import Sha256
from services.errors import AkinError

CATALOG: Final = "catalog.json"
MANIFEST: Final = "encoder/manifest.json"
WEIGHTS: Final = "encoder/weights.safetensors"
DONE: Final = "done.json"

MEGABYTE: Final = 1024 * 1024
# A part is closed when it has so many rows or bytes; what is read may be larger by the batch that closed it.
PART_ROWS: Final = 10_000
PART_BYTES: Final = 8 * MEGABYTE
# Rows that are in memory at once: attributes may have 64 KiB, a vector 128 KiB.
ITEMS_AT_ONCE: Final = 250
IMAGES_AT_ONCE: Final = 1_000
VECTORS_AT_ONCE: Final = 4 * MEGABYTE
LARGEST_PART: Final = 128 * MEGABYTE
LARGEST_UNPACKED: Final = 1024 * MEGABYTE
LARGEST_JSON: Final = 64 * MEGABYTE
LARGEST_WEIGHTS: Final = 4096 * MEGABYTE

# How far something is: what is done, and how much of how much.
Progress = Callable[[str, int, int], None]
Count = Annotated[int, Field(ge=0)]


class Kind(IntEnum):
    """Kinds of members, in the order in which they stand in the file."""

    CATALOG = 0
    MANIFEST = 1
    WEIGHTS = 2
    ITEMS = 3
    IMAGES = 4
    BLOB = 5
    DONE = 6


_NAMES: Final = (
    (re.compile(r"catalog\.json"), Kind.CATALOG),
    (re.compile(r"encoder/manifest\.json"), Kind.MANIFEST),
    (re.compile(r"encoder/weights\.safetensors"), Kind.WEIGHTS),
    (re.compile(r"items/\d{5,9}\.parquet"), Kind.ITEMS),
    (re.compile(r"images/\d{5,9}\.parquet"), Kind.IMAGES),
    (re.compile(r"blobs/[0-9a-f]{64}"), Kind.BLOB),
    (re.compile(r"done\.json"), Kind.DONE),
)


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EncoderFacts(_Facts):
    """The encoder whose vectors a backup has."""

    ref: Annotated[str, Field(max_length=120)]
    sha256: Sha256
    dimension: int = Field(ge=1, le=32_768)


class Facts(_Facts):
    """catalog.json: what the file is to hold. `id` is random, so that no two backups have the same."""

    format_version: Literal[1] = 1
    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    name: str = Field(pattern=CATALOG_NAME)
    encoder: EncoderFacts
    with_encoder: bool
    with_blobs: bool
    items: Count
    images: Count
    created_at: str


class Done(_Facts):
    """done.json: what the file holds. `blob_bytes` is their sum, `missing_blobs` were gone when it was written."""

    items: Count
    images: Count
    vectors: Count
    blobs: Count
    blob_bytes: Count
    missing_blobs: Count
    members: dict[str, Sha256]


ITEMS: Final = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("url", pa.string()),
        pa.field("attributes", pa.string(), nullable=False),  # JSON
        pa.field("created_at", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("updated_at", pa.timestamp("us", "UTC"), nullable=False),
    ]
)


def images_schema(dimension: int) -> pa.Schema:
    """Columns of a picture; `vector` has `dimension` float32 numbers, or is null."""
    return pa.schema(
        [
            pa.field("item_id", pa.string(), nullable=False),
            pa.field("sha256", pa.string(), nullable=False),
            pa.field("format", pa.string(), nullable=False),
            pa.field("media_type", pa.string(), nullable=False),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            pa.field("size_bytes", pa.int64(), nullable=False),
            pa.field("created_at", pa.timestamp("us", "UTC"), nullable=False),
            pa.field("origin", pa.string()),
            pa.field("etag", pa.string()),
            pa.field("last_modified", pa.string()),
            pa.field("vector", pa.list_(pa.field("element", pa.float32(), nullable=False), dimension)),
        ]
    )


def images_at_once(dimension: int) -> int:
    """How many pictures are in memory at once."""
    return max(1, min(IMAGES_AT_ONCE, VECTORS_AT_ONCE // (4 * dimension)))


def kind_of(name: str) -> Kind | None:
    """What a member of this name is; None where a backup has no such member."""
    return next((kind for pattern, kind in _NAMES if pattern.fullmatch(name)), None)


def part_name(kind: Kind, number: int) -> str:
    """Name of a part of items or images, counted from 0."""
    return f"{kind.name.lower()}/{number:05}.parquet"


def blob_name(sha256: str) -> str:
    """Name of a picture's bytes."""
    return f"blobs/{sha256}"


def damaged(what: str) -> AkinError:
    """The error for a file that is not, or no longer, what `akin export` wrote."""
    return AkinError(f"the backup cannot be restored: {what}", code="backup_damaged")
