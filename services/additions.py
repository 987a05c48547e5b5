"""Adding pictures that were looked at: items, images and, for new images, ledger rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.orm import Session

from services.catalog import items, ledger
from services.catalog.items import ItemFields, Picture
from services.catalog.states import EntryState, Priority


class Added(NamedTuple):
    """What became of a picture; `created` is False where its item had these bytes before."""

    item_pk: int
    image_id: int
    created: bool


def add(
    session: Session, catalog_id: int, wanted: Sequence[tuple[ItemFields, Picture]], priority: Priority
) -> list[Added]:
    """Items are created or changed, pictures attached, and new ones given to the ledger.

    The caller holds `catalogs.lock_shared`.
    """
    if not wanted:
        return []
    item_pks = items.upsert(session, catalog_id, [fields for fields, _ in wanted])
    images = items.add_images(session, catalog_id, [(item_pks[fields.item_id], picture) for fields, picture in wanted])
    ledger.open_rows(session, [image_id for image_id, created in images if created], catalog_id, priority)
    if known := [image_id for image_id, created in images if not created]:
        ledger.retry_failed(session, known)
    return [
        Added(item_pks[fields.item_id], image_id, created)
        for (fields, _), (image_id, created) in zip(wanted, images, strict=True)
    ]


def entry_states(session: Session, added: Sequence[Added]) -> list[EntryState]:
    """Where the entries that brought pictures go: unchanged if theirs was searchable before."""
    known = {one.image_id for one in added if not one.created}
    before = ledger.searchable(session, known) if known else set()
    return [
        EntryState.UNCHANGED if not one.created and one.image_id in before else EntryState.ACCEPTED for one in added
    ]
