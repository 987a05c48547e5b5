"""Rows of items and images as Parquet files of bounded size."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from services.backup.layout import (
    ITEMS,
    ITEMS_AT_ONCE,
    LARGEST_UNPACKED,
    PART_BYTES,
    PART_ROWS,
    Kind,
    damaged,
    images_at_once,
    images_schema,
    part_name,
)
from services.backup.tar import Member, TarWriter
from services.vectors.base import Vectors

# Of these a part has few different values; of all others each is another.
_REPEATED = ["format", "media_type"]


class PartWriter:
    """Collects batches of rows in memory and adds a part to the tar file when there are enough."""

    def __init__(self, tar: TarWriter, kind: Kind, schema: pa.Schema) -> None:
        self._tar = tar
        self._kind = kind
        self._schema = schema
        self._buffer = io.BytesIO()
        self._writer: pq.ParquetWriter | None = None
        self._rows = 0
        self._parts = 0

    def write(self, columns: Mapping[str, pa.Array | Sequence[object]]) -> None:
        """Append a batch, given by columns of equal length."""
        arrays = [
            column if isinstance(column, pa.Array) else pa.array(column, field.type)
            for field in self._schema
            for column in [columns[field.name]]
        ]
        batch = pa.record_batch(arrays, schema=self._schema)
        if self._writer is None:
            repeated = [name for name in _REPEATED if name in self._schema.names]
            self._writer = pq.ParquetWriter(
                self._buffer, self._schema, compression="zstd", use_dictionary=repeated, write_statistics=False
            )
        self._writer.write_batch(batch)
        self._rows += batch.num_rows
        if self._rows >= PART_ROWS or self._buffer.tell() >= PART_BYTES:
            self.close()

    def close(self) -> None:
        """Add what is collected as a part."""
        if self._writer is None:
            return
        self._writer.close()
        self._tar.add(part_name(self._kind, self._parts), self._buffer.getbuffer())
        self._parts += 1
        self._buffer, self._writer, self._rows = io.BytesIO(), None, 0


def item_batches(member: Member) -> Iterator[pa.RecordBatch]:
    """Rows of a part of items, some at a time.

    Raises:
        AkinError: it is no Parquet file with these columns, or holds more than a part may.
    """
    return _batches(member, ITEMS, ITEMS_AT_ONCE)


def image_batches(member: Member, dimension: int) -> Iterator[pa.RecordBatch]:
    """Rows of a part of pictures, some at a time.

    Raises:
        AkinError: it is no Parquet file with these columns, or holds more than a part may.
    """
    return _batches(member, images_schema(dimension), images_at_once(dimension))


def _batches(member: Member, schema: pa.Schema, size: int) -> Iterator[pa.RecordBatch]:
    name = member.name
    try:
        file = pq.ParquetFile(pa.BufferReader(member.data))
        metadata = file.metadata
        claimed = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
        if not file.schema_arrow.equals(schema):
            raise damaged(f"the columns of {name} are not those of this release")
        if metadata.num_rows > 2 * PART_ROWS or claimed > LARGEST_UNPACKED:
            raise damaged(f"{name} holds {metadata.num_rows:,} rows of {claimed:,} bytes, more than a part has")
        yield from file.iter_batches(size)
    except (pa.ArrowException, OSError) as error:
        raise damaged(f"{name} is no Parquet file that can be read") from error


def rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """A batch as Python values, without its vectors."""
    plain: list[dict[str, Any]] = batch.select([name for name in batch.schema.names if name != "vector"]).to_pylist()
    return plain


def vector_column(found: Mapping[int, Vectors], ids: Sequence[int], dimension: int) -> pa.Array:
    """The vectors of these ids as a column, null where there is none."""
    present = np.array([one in found for one in ids], bool)
    flat = np.zeros((len(ids), dimension), np.float32)
    for row, one in enumerate(ids):
        if one in found:
            flat[row] = found[one]
    kind = pa.list_(pa.field("element", pa.float32(), nullable=False), dimension)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), type=kind, mask=pa.array(~present))


def vectors_of(batch: pa.RecordBatch) -> tuple[list[int], Vectors]:
    """Positions of the rows that have a vector, and these vectors (n, d)."""
    column = batch.column("vector")
    has_one = column.is_valid()
    flat = column.filter(has_one).flatten().to_numpy(zero_copy_only=False)
    positions = np.flatnonzero(has_one.to_numpy(zero_copy_only=False))
    return positions.tolist(), np.asarray(flat, np.float32).reshape(len(positions), column.type.list_size)
