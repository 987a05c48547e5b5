"""What an argument of `akin ingest` is: something here that is uploaded, or a place that the server reads by itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final

from services.errors import InvalidRequest
from services.sources.names import MANIFEST_NAME, PICTURE_SUFFIXES

TARS: Final = {".tar": "application/x-tar", ".tar.gz": "application/gzip", ".tgz": "application/gzip"}
ZIP: Final = ".zip"
MANIFESTS: Final = {".jsonl": "application/x-ndjson", ".ndjson": "application/x-ndjson", ".csv": "text/csv"}
STORES: Final = ("s3://", "gs://", "az://")
WEB: Final = ("http://", "https://")
STDIN: Final = "-"


class Kind(Enum):
    """How a source gets to the server."""

    PICTURES = auto()  # a folder, zip or picture here: read here and uploaded in batches, each a job
    ARCHIVE = auto()  # an archive here: uploaded as it is
    MANIFEST = auto()  # a list here of items with the places of their pictures
    ADDRESSES = auto()  # a list here of addresses of pictures, which the server fetches
    WEB = auto()  # the address of a manifest or archive, which the server fetches
    PLACE = auto()  # a folder or prefix that the server may read


@dataclass(frozen=True)
class Given:
    """A source as it was given."""

    kind: Kind
    name: str

    @property
    def path(self) -> Path:
        """Of what lies here."""
        return Path(self.name)

    @property
    def media_type(self) -> str:
        """Of archives and manifests."""
        suffix = _suffix(self.path)
        return TARS.get(suffix) or MANIFESTS.get(suffix) or "application/zip"


def recognise(source: str, *, as_archive: bool) -> Given:
    """Tell by its name what a source is.

    Raises:
        InvalidRequest: it is nothing that can be imported, or is not there.
    """
    if source.lower().startswith(WEB):
        return Given(Kind.WEB, source)
    if source.startswith(STORES):
        return Given(Kind.PLACE, source)
    path = Path(source)
    if "://" in source:
        raise InvalidRequest(f"{source}: sources with an address begin with {', '.join(WEB + STORES)}")
    if not path.exists():
        raise InvalidRequest(f"{source} does not exist here; for a folder of the server give --on-server {source}")
    suffix = _suffix(path)
    if path.is_file() and (suffix in TARS or (as_archive and suffix == ZIP)):
        return Given(Kind.ARCHIVE, source)
    if as_archive:
        raise InvalidRequest(f"{source}: --as-archive is for {ZIP} files; pack what else there is into one")
    if path.is_file() and suffix in MANIFESTS:
        if path.name == MANIFEST_NAME:
            raise InvalidRequest(f"{source} describes the pictures beside it: give their folder, {path.parent}")
        return Given(Kind.MANIFEST, source)
    if path.is_dir() or suffix == ZIP or suffix in PICTURE_SUFFIXES:
        return Given(Kind.PICTURES, source)
    raise InvalidRequest(
        f"{source} is no folder, picture, archive ({ZIP}, {', '.join(TARS)}) or list of pictures"
        f" ({', '.join(MANIFESTS)}; plain addresses with --urls)"
    )


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return next((suffix for suffix in TARS if name.endswith(suffix)), path.suffix.lower())
