"""Audit of vectors: the ledger and the vector store, index by index, merged in the order of image ids.

Uploads, workers and deletes go on meanwhile. Why nothing is taken for wrong that is only on its way:

| what is seen                    | what may be going on           | why it is told apart                        |
| ------------------------------- | ------------------------------ | ------------------------------------------- |
| row `indexed`, then no vector   | deleted, embedded anew or put  | its row has changed: it is read again,      |
|                                 | back in between                | locked, before it counts                    |
|                                 | index retired in between       | its state is read again                     |
|                                 | its write is not visible yet   | a row is marked after the write, and the    |
|                                 |                                | read is Strong                              |
| vector, then no row             | upload                         | the row is committed before any worker sees |
|                                 |                                | the picture, and SQL is read last           |
|                                 | deleted in between             | the row goes after a Strong read proves the |
|                                 |                                | vector gone, so a second read finds none    |
|                                 | index retired in between       | its rows go after its state, read last      |
| row pending, leased or deleting | a worker is to write or delete | never an orphan                             |
| row `failed` and a vector       | a slow worker wrote it         | it is right; the next try replaces it       |
| living image, no row            | upload                         | both come in one transaction, and are read  |
|                                 |                                | by one statement                            |
|                                 | backfill of a building index   | counted as far as `backfilled_to` only      |
| no collection                   | nothing was ever indexed in it | rows are read first                         |
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from services.catalog import catalogs, comparison, ledger
from services.catalog.audits import Finding, Kind, Piece, Place
from services.catalog.comparison import Row
from services.catalog.models import IndexRow
from services.catalog.states import EmbeddingState, Priority
from services.errors import NotFound
from services.wiring import Services

# Images compared in one piece; a Strong read takes 0.2 s whatever its size.
AT_ONCE = 5_000
PREFIX = "akin_"


def compare(services: Services, repair: bool, place: Place) -> Piece:
    """The next images of the index `place["index"]`, beyond `after`, or the beginning of the next index.

    Raises:
        Unavailable: Milvus or the database is away.
    """
    with services.database.reading() as session:
        index = comparison.next_index(session, place.get("index", 0))
        if index is None:
            return Piece(0, None)
        begun = index.id == place.get("index") and "after" in place
        after, gone = (place["after"], place["gone"]) if begun else (-1, False)
        rows = comparison.page(session, index, after, AT_ONCE) if begun else []
        filled = comparison.any_indexed(session, index.id)
    if not begun:
        return _compare_collection(services, repair, index, filled)
    upper = rows[-1].image_id if len(rows) == AT_ONCE else None
    try:
        stored, upper = _stored(services, index.collection, after, upper)
    except NotFound:
        if filled and not gone:  # since the beginning of this index
            return Piece(0, {"index": index.id})
        stored = set()
    rows = [row for row in rows if upper is None or row.image_id <= upper]
    lost = [row for row in rows if row.state == EmbeddingState.INDEXED and row.image_id not in stored]
    rowless = [row.image_id for row in rows if row.state is None and comparison.should_have_row(index, row)]
    orphans = _delete_orphans(services, repair, index, stored - {row.image_id for row in rows})

    def settle(session: Session) -> Sequence[Finding]:
        if not comparison.is_maintained(session, index.id):
            return []
        opened = _open_rows(session, repair, index, rowless)
        returned = _put_back(session, repair, index, lost)
        return [*opened, *([] if gone else returned), *orphans]  # one finding stands for the whole collection

    onward = {"index": index.id + 1} if upper is None else {"index": index.id, "after": upper, "gone": gone}
    return Piece(len(rows), onward, settle=settle)


def _compare_collection(services: Services, repair: bool, index: IndexRow, filled: bool) -> Piece:
    """Whether an index's collection is there and holds vectors of its encoder's dimension."""
    finding = None
    try:
        dimension = services.vectors.dimension(index.collection)
    except NotFound:
        if filled:
            detail = f"Milvus lacks the collection {index.collection}: its pictures are to be embedded again"
            finding = Finding(Kind.MISSING_COLLECTION, _ref(index), detail, repair)
    else:
        if dimension != index.encoder.dimension:
            detail = f"the vectors of {index.collection} have {dimension} numbers, not {index.encoder.dimension}"
            finding = Finding(Kind.MISMATCHED_COLLECTION, _ref(index), detail, repair)
            if repair:  # nothing in it can be found or replaced
                services.vectors.drop(index.collection)
    gone = finding is not None and (repair or finding.kind is Kind.MISSING_COLLECTION)

    def settle(session: Session) -> Sequence[Finding]:
        return [finding] if finding and comparison.is_maintained(session, index.id) else []

    return Piece(0, {"index": index.id, "after": -1, "gone": gone}, settle=settle)


def _stored(services: Services, collection: str, after: int, upper: int | None) -> tuple[set[int], int | None]:
    """The ids of vectors beyond `after` up to `upper`, or up to less where there are many; and up to where."""
    found: list[int] = []
    for batch in services.vectors.ids(collection, after=after, batch=AT_ONCE):
        found += batch
        if upper is not None and found[-1] >= upper:
            break
        if len(found) >= AT_ONCE:
            upper = found[-1]
            break
    return {one for one in found if upper is None or one <= upper}, upper


def _delete_orphans(services: Services, repair: bool, index: IndexRow, suspects: set[int]) -> list[Finding]:
    if not suspects:
        return []
    with services.database.reading() as session:
        suspects = comparison.unexplained(session, index, suspects)
        if not suspects or not comparison.is_maintained(session, index.id):
            return []
    try:
        orphans = left = services.vectors.present(index.collection, sorted(suspects), strong=True)
        if repair and orphans:
            services.vectors.delete(index.collection, sorted(orphans))
            left = services.vectors.present(index.collection, sorted(orphans), strong=True)
    except NotFound:  # dropped with its index
        return []
    return [
        Finding(
            Kind.ORPHANED_VECTOR,
            f"vector {one} of {_ref(index)}",
            "Milvus holds a vector of no picture of this catalog",
            one not in left,
        )
        for one in sorted(orphans)
    ]


def _put_back(session: Session, repair: bool, index: IndexRow, lost: Sequence[Row]) -> list[Finding]:
    lost = comparison.still_indexed(session, lost)
    if repair:
        comparison.put_back(session, lost)
    return [
        Finding(Kind.MISSING_VECTOR, _image_ref(row.image_id, index), "Milvus lacks its vector", repair) for row in lost
    ]


def _open_rows(session: Session, repair: bool, index: IndexRow, rowless: Sequence[int]) -> list[Finding]:
    if not rowless:
        return []
    try:
        catalogs.lock_shared(session, index.catalog_id)
    except NotFound:  # deleted meanwhile
        return []
    rowless = comparison.still_without_row(session, index.id, rowless)
    if repair:
        ledger.open_rows(session, rowless, index.catalog_id, Priority.IMPORT)
    return [
        Finding(Kind.MISSING_ROW, _image_ref(one, index), "the ledger lacks its row, so nobody embeds it", repair)
        for one in rowless
    ]


def _ref(index: IndexRow) -> str:
    return f"index {index.id} in {index.catalog.name}"


def _image_ref(image_id: int, index: IndexRow) -> str:
    return f"image {image_id} in {index.catalog.name}, index {index.id}"


def list_unnamed(services: Services, _repair: bool, _place: Place) -> Piece:
    """Collections that look like ours and that no index names. They are never dropped.

    They may be another installation's, whose names look the same.

    Raises:
        Unavailable: Milvus or the database is away.
    """
    there = services.vectors.collections(PREFIX)
    with services.database.reading() as session:
        # Read last: the row of an index is committed before its collection is made.
        known = comparison.index_collections(session)
    unnamed = [name for name in there if name not in known]
    return Piece(
        0,
        None,
        findings=[
            Finding(
                Kind.ORPHANED_COLLECTION,
                f"collection {name}",
                "no index here names it: drop it yourself, unless another installation uses this Milvus",
                False,
            )
            for name in unnamed
            if services.vectors.exists(name)  # it may have been dropped before its row said so
        ],
    )
