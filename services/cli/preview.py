"""What `akin ingest --dry-run` says of a source: what it holds and what is wrong with it, without a server."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from services.answers import JobError
from services.cli.importing import addresses_of, lines_of
from services.cli.kinds import Given, Kind
from services.cli.manifests import LocalManifest
from services.cli.pictures import Picture, Source, Unreadable
from services.errors import ImageReason, InvalidRequest
from services.sources.archive import open_archive
from services.sources.base import Reference
from services.sources.names import item_id_of

EXAMPLES: Final = 5
UNCOUNTED: Final = "the server lists it: what is there cannot be counted from here"


class Names:
    """Names that come more than once; of each only a number is held."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._doubled: set[int] = set()
        self.examples: list[str] = []

    def add(self, name: str) -> None:
        """Take in another."""
        number = hash(name)
        if number in self._seen and number not in self._doubled:
            self._doubled.add(number)
            self.examples += [name] if len(self.examples) < EXAMPLES else []
        self._seen.add(number)

    @property
    def doubled(self) -> int:
        """How many different names came more than once."""
        return len(self._doubled)


@dataclass
class Preview:
    """What a source holds. `plan` says what would be done with it, `names` are ids of items, or addresses."""

    plan: str
    counts: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    problems: list[JobError] = field(default_factory=list)
    names: Names = field(default_factory=Names)

    def as_json(self) -> dict[str, Any]:
        """The preview as a JSON document."""
        return {
            "plan": self.plan,
            "counts": dict(self.counts),
            "skipped": dict(self.skipped.most_common()),
            "named_more_than_once": self.names.doubled,
            "problems": [problem.model_dump() for problem in self.problems],
        }


def preview(given: Given, base: str | None, max_image_bytes: int) -> Preview:
    """Look at a source as far as it lies here.

    Raises:
        InvalidRequest: it cannot be read at all.
    """
    match given.kind:
        case Kind.PICTURES:
            return _pictures(given, max_image_bytes)
        case Kind.ARCHIVE:
            return _archive(given, max_image_bytes)
        case Kind.MANIFEST:
            return _manifest(given, base, max_image_bytes)
        case Kind.ADDRESSES:
            return _addresses(given)
        case Kind.WEB:
            return Preview(f"the server would fetch it and import what it holds; {UNCOUNTED}")
        case Kind.PLACE:
            return Preview(f"the server would import what lies there; {UNCOUNTED}")


def _pictures(given: Given, limit: int) -> Preview:
    found = Preview("would be uploaded in batches, picture by picture")
    source = Source(given.path)
    for picture in source.pictures():
        found.names.add(picture.item.get("item_id") or item_id_of(picture.ref))
        _weigh(found, picture, limit)
    found.skipped = source.skipped
    found.counts["described by items.jsonl"] = source.described
    return found


def _weigh(found: Preview, picture: Picture, limit: int) -> None:
    """Count a picture that would be uploaded, or what is in the way; nothing but its beginning is read."""
    found.counts["pictures"] += 1
    found.counts["bytes"] += picture.size
    try:
        picture.read(0)
    except Unreadable as error:
        found.problems.append(JobError(ref=picture.ref, code=error.code, detail=str(error)))
        return
    if picture.size > limit:
        detail = f"{picture.size:,} bytes are more than {limit:,} (AKIN_MAX_IMAGE_BYTES)"
        found.problems.append(JobError(ref=picture.ref, code=ImageReason.TOO_MANY_BYTES.value, detail=detail))


def _archive(given: Given, limit: int) -> Preview:
    found = Preview("would be uploaded as it is, as one job", Counter(bytes=given.path.stat().st_size))
    with given.path.open("rb") as file:
        try:
            source = open_archive(file, limit)
            found.skipped = source.skipped
            for reference, _ in source.walk({}):
                found.counts["pictures"] += reference.problem is None
                found.names.add(reference.item.item_id)
                _note(found, reference)
        except InvalidRequest as error:  # what came before it would be imported
            found.problems.append(JobError(ref=given.name, code=error.code, detail=error.detail))
    return found


def _manifest(given: Given, base: str | None, limit: int) -> Preview:
    found = Preview("would be sent as one job")
    manifest = LocalManifest(given.path, given.media_type)
    latest = 0
    for entry in manifest.entries():
        reference = entry.reference
        _note(found, reference)
        if entry.line != latest:
            found.counts["lines"] += 1
            if reference.problem is None:
                found.names.add(reference.item.item_id)
        latest = entry.line
        kind = "addresses" if reference.url else "paths" if reference.place else "items without a picture"
        found.counts[kind] += reference.problem is None
    if base is None and found.counts["paths"]:
        found.plan = "pictures with a path would be uploaded from here, the rest sent as one job"
        for picture in manifest.pictures():
            if picture.fingerprint:
                _weigh(found, picture, limit)
    return found


def _addresses(given: Given) -> Preview:
    found = Preview("the server would fetch each address")
    with lines_of(given.name) as lines:
        for address in addresses_of(lines, found.problems):
            found.counts["addresses"] += 1
            found.names.add(address)
    return found


def _note(found: Preview, reference: Reference) -> None:
    if reference.problem is not None:
        problem = reference.problem
        found.problems.append(JobError(ref=reference.ref, code=problem.code, detail=problem.detail))
