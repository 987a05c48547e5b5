"""A list of pictures that lies here: what it names by path is uploaded, addresses are for the server to fetch."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from services.catalog.items import ItemFields
from services.cli.pictures import Picture, Unreadable, disk_file
from services.errors import ImageReason, ImageRejected
from services.sources.base import Base, Cursor, Problem, Reference, Step
from services.sources.manifest import Manifest


class _Beside(Base):
    """The folder of a manifest as the base of its paths, which are opened by who uploads them."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()

    def steps(self, _cursor: Cursor) -> Iterator[Step]:
        return iter(())

    def read(self, place: str, _limit: int) -> bytes:
        raise ImageRejected(ImageReason.MISSING, f"{place} is not read here.")

    def locate(self, path: str) -> str:
        return path

    def close(self) -> None:
        return


@dataclass(frozen=True)
class Listed:
    """One picture or item of a manifest, and the line that names it."""

    line: int
    reference: Reference


class LocalManifest:
    """A JSON Lines or CSV file with paths relative to where it lies, read anew for each walk.

    As pictures to upload it has those with paths, and malformed lines, which cannot be read.
    """

    def __init__(self, path: Path, media_type: str) -> None:
        self.skipped: Counter[str] = Counter()
        self.described = 0
        self._path = path
        self._media_type = media_type

    def entries(self) -> Iterator[Listed]:
        """Everything that it lists, as the server would read it.

        Raises:
            InvalidRequest: it is no such file, or a column is unknown.
        """
        with self._path.open("rb") as file:
            for reference, after in Manifest(file, self._media_type, _Beside()).walk({}):
                # After the last picture of a record the cursor stands at the next line.
                yield Listed(after["line"] - ("image" not in after), reference)

    def names_files(self) -> bool:
        """Whether it names anything by path."""
        return any(entry.reference.place is not None for entry in self.entries())

    def count(self) -> int:
        """How many pictures it names by path, or lines are malformed."""
        return sum(_is_local(entry.reference) for entry in self.entries())

    def pictures(self) -> Iterator[Picture]:
        """Those, one after the other."""
        for entry in self.entries():
            if _is_local(entry.reference):
                yield self._picture(entry.reference)

    def write_rest(self, file: IO[bytes]) -> int:
        """Write what is to be sent as a manifest; returns how many entries that are."""
        count = 0
        for entry in self.entries():
            if not _is_local(entry.reference):
                url = entry.reference.url
                record = _members(entry.reference.item) | ({} if url is None else {"image": url})
                file.write(json.dumps(record).encode() + b"\n")
                count += 1
        return count

    def _picture(self, reference: Reference) -> Picture:
        if reference.problem is not None:
            return Picture(reference.ref, 0, "", {}, _refusing(reference.problem))
        item = _members(reference.item)
        file = disk_file(self._path.parent / (reference.place or ""), reference.ref)
        # What the line says may change as well as the file.
        said = hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()[:16]
        return Picture(file.ref, file.size, f"{file.fingerprint}-{said}", item, file.read)


def _is_local(reference: Reference) -> bool:
    return reference.place is not None or reference.problem is not None


def _members(item: ItemFields) -> dict[str, Any]:
    fields = {"item_id": item.item_id, "title": item.title, "url": item.url, "attributes": item.attributes}
    return {name: value for name, value in fields.items() if value is not None}


def _refusing(problem: Problem) -> Callable[[int], bytes]:
    def read(_limit: int) -> bytes:
        raise Unreadable(problem.detail, problem.code)

    return read
