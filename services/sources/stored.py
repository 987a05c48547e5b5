"""A stored file that an import reads: an archive, or a manifest."""

from __future__ import annotations

from typing import BinaryIO

from services.errors import InvalidRequest
from services.sources.archive import open_archive
from services.sources.base import Base, Source
from services.sources.manifest import Manifest
from services.sources.tar import is_tar

ARCHIVE = "archive"
MANIFEST = "manifest"
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")


def open_stored(
    reader: BinaryIO, *, form: str | None, media_type: str | None, base: Base | None, max_bytes: int
) -> Source:
    """The source that a file is; closing it closes the file.

    Args:
        form: ARCHIVE or MANIFEST, as the client says; None: as its first bytes do.
        media_type: of a manifest, as far as known.
        base: where paths of a manifest begin.
        max_bytes: the most that one picture may have.

    Raises:
        InvalidRequest: it cannot be read as that.
    """
    if form is None:
        form = ARCHIVE if _is_archive(reader) else MANIFEST
    try:
        return open_archive(reader, max_bytes) if form == ARCHIVE else Manifest(reader, media_type or "", base)
    except InvalidRequest:
        reader.close()
        raise


def _is_archive(reader: BinaryIO) -> bool:
    reader.seek(0)
    return reader.read(4) in _ZIP_STARTS or is_tar(reader)
