"""Adding pictures that were looked at: items, images and, for new images, ledger rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.orm import Session

from services.catalog import items, ledger
from services.catalog.items import ItemFields, Picture
from services.catalog.states import EmbeddingState, EntryState, Priority


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
    ledger.retry_failed(session, [image_id for image_id, created in images if not created])
    return [
        Added(item_pks[fields.item_id], image_id, created)
        for (fields, _), (image_id, created) in zip(wanted, images, strict=True)
    ]


def entry_state(session: Session, added: Added) -> EntryState:
    """Where the entry that brought a picture goes: unchanged if it was searchable before."""
    row = None if added.created else ledger.live_row(session, added.image_id)
    searchable = row is not None and row.state == EmbeddingState.INDEXED
    return EntryState.UNCHANGED if searchable else EntryState.ACCEPTED
