"""The folders and prefixes of object storage that imports may read from, which only the configuration names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.errors import ConfigurationError, Forbidden
from services.sources.base import Base
from services.sources.folder import Folder
from services.sources.prefix import Prefix
from services.storage.blobs import CLOUD_SCHEMES, opener


@dataclass(frozen=True)
class _Root:
    """`beginning` is "" for folders, scheme://bucket for storage; below it count whole segments."""

    entry: str
    beginning: str
    segments: tuple[str, ...]

    def source(self, below: tuple[str, ...]) -> Base:
        if self.beginning:
            return Prefix(opener(self.entry), "/".join(below))
        return Folder(Path(self.entry), Path(*below))


class Roots:
    """Opens what lies below a root.

    Args:
        entries: absolute folders, and s3://BUCKET/PREFIX, gs://…, az://…; of none nothing is allowed.

    Raises:
        ConfigurationError: an entry is neither.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self._roots = [_root(entry) for entry in entries]

    def open(self, location: str) -> Base:
        """The source at a location, which is written as a root is; nothing is connected to.

        Raises:
            Forbidden: it lies below no root (code root_not_allowed).
        """
        split = _split(location)
        if split is not None:
            beginning, segments = split
            for root in self._roots:
                if (beginning, segments[: len(root.segments)]) == (root.beginning, root.segments):
                    return root.source(segments[len(root.segments) :])
        raise Forbidden("Imports may read nothing at this location.", code="root_not_allowed")


def _root(entry: str) -> _Root:
    split = _split(entry)
    if split is None:
        raise ConfigurationError(
            f"{entry!r} is no root of imports: an absolute folder or s3://, gs:// or az://BUCKET/PREFIX without `..`"
        )
    beginning, segments = split
    if beginning:
        opener(entry)
    return _Root(entry, beginning, segments)


def _split(location: str) -> tuple[str, tuple[str, ...]] | None:
    """Beginning and segments; None for what is neither an absolute path nor an address, or may mean another place."""
    beginning, path = "", location
    if "://" in location:
        scheme, _, rest = location.partition("://")
        bucket, _, path = rest.partition("/")
        beginning = f"{scheme}://{bucket}"
        if scheme not in CLOUD_SCHEMES or not bucket:
            return None
    elif not location.startswith("/"):
        return None
    segments = tuple(path.strip("/").split("/")) if path.strip("/") else ()
    if any(segment in ("", ".", "..") or "\x00" in segment for segment in segments):
        return None
    return beginning, segments
