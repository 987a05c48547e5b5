"""What every source of pictures offers: references in a stable order, and the bytes behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from services.catalog.items import ItemFields
from services.sources.names import PICTURE_SUFFIXES, suffix_of

# JSON values only; {} is the beginning.
Cursor = dict[str, Any]

# Codes of problems that are not about a picture's bytes, which have those of ImageReason.
ENCRYPTED: Final = "entry_encrypted"
UNSUPPORTED: Final = "entry_unsupported"
NOT_A_FILE: Final = "entry_not_a_file"
UNREADABLE: Final = "entry_unreadable"
INVALID: Final = "entry_invalid"

# Suffixes are the archive's to choose: beyond so many they are counted together.
_MAX_KINDS: Final = 100


@dataclass(frozen=True)
class Problem:
    """Why one entry fails at once; `code` for programs, `detail` one sentence for people."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Reference:
    """One picture of a source, or one item that is described without a picture.

    Attributes:
        ref: what people call it: a path in an archive or folder, an address, a line.
        item: what is known of the item that it belongs to.
        place: where `Source.read` finds its bytes.
        url: http(s) address to fetch it from.
        data: its bytes, where they cannot be read again at random.
        problem: it fails, for this reason.
    With none of the last four, only the item's fields are meant.
    """

    ref: str
    item: ItemFields
    place: str | None = None
    url: str | None = None
    data: bytes | None = None
    problem: Problem | None = None


# None where nothing was found since the step before.
Step = tuple[Reference | None, Cursor]


class Source(Protocol):
    """Pictures in a stable order; what implements it inherits from it. Used by one thread at a time.

    `skipped` counts, by suffix, the files that were passed over on the way to the latest reference, because they
    are hidden or named as no picture is.
    """

    skipped: Counter[str]

    def steps(self, cursor: Cursor) -> Iterator[Step]:
        """Each reference, with the cursor to go on after it; {} begins. Memory does not grow on the way.

        Between them comes None, so that no step takes long, however much is passed over.

        Raises:
            InvalidRequest: the source cannot be read, or read any further; what came before stands.
            Unavailable: the storage does not answer.
        """
        ...

    def walk(self, cursor: Cursor) -> Iterator[tuple[Reference, Cursor]]:
        """The references of `steps` alone."""
        for reference, after in self.steps(cursor):
            if reference is not None:
                yield reference, after

    def read(self, place: str, limit: int) -> bytes:
        """The bytes at a reference's place, at most `limit` of them.

        Raises:
            ImageRejected: they are more, damaged, or no longer there.
            Unavailable: the storage does not answer.
        """
        ...

    def close(self) -> None:
        """Give back what the source holds open."""
        ...


class Base(Source, Protocol):
    """A source that a manifest may name the files of."""

    def locate(self, path: str) -> str:
        """The place of a file, by its relative path without `..`."""
        ...


def is_passed_over(ref: str | None, skipped: Counter[str]) -> bool:
    """Say, and count, that a file is hidden (its reference is None) or named as no picture is."""
    suffix = "hidden" if ref is None else suffix_of(ref)
    if suffix in PICTURE_SUFFIXES:
        return False
    suffix = suffix or "no extension"
    skipped[suffix if suffix in skipped or len(skipped) < _MAX_KINDS else "other"] += 1
    return True
