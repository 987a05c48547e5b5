"""Items and their images."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session, joinedload
from sqlalchemy.orm.attributes import flag_modified

from services.catalog import removal, revisions
from services.catalog.database import now
from services.catalog.models import Image, Item
from services.catalog.upserts import insert
from services.errors import NotFound

# Without it an insert of many rows is a statement for each run of rows that lack the same values.
ALIKE: Final[Mapping[str, Any]] = {"render_nulls": True}


@dataclass(frozen=True)
class ItemFields:
    """What a client says of an item; None leaves what is known."""

    item_id: str
    title: str | None = None
    url: str | None = None
    attributes: dict[str, Any] | None = field(default=None)

    def given(self) -> dict[str, Any]:
        """The columns that are to be written."""
        named = {"title": self.title, "url": self.url, "attributes": self.attributes}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class Origin:
    """Where an import found a picture, and what the server there called this version of it."""

    place: str
    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True)
class Picture:
    """What is known of a picture's bytes once they were looked at."""

    sha256: str
    format: str
    media_type: str
    width: int
    height: int
    size_bytes: int
    origin: Origin | None = None


def upsert(session: Session, catalog_id: int, wanted: Sequence[ItemFields]) -> dict[str, int]:
    """Create items or change what is given; returns their primary keys by the client's ids.

    What filters see of changed items is written to the vector store soon after.

    The rows stay locked until the transaction ends, so that a delete waits for the images that follow. They are
    locked in the order of their ids, so that two batches with the same items do not lock each other out.
    """
    given: dict[str, dict[str, Any]] = {}
    for fields in wanted:
        given.setdefault(fields.item_id, {}).update(fields.given())
    moment = now()
    own: dict[str, Any] = {"catalog_id": catalog_id, "title": None, "url": None, "attributes": {}}
    created: dict[str, int] = {}
    known: dict[str, Item] = {}
    while left := sorted(given.keys() - created.keys() - known.keys()):
        rows = [
            {**own, "item_id": item_id, "created_at": moment, "updated_at": moment, **given[item_id]}
            for item_id in left
        ]
        statement = insert(session, Item).on_conflict_do_nothing(index_elements=["catalog_id", "item_id"])
        inserted = session.execute(statement.returning(Item.item_id, Item.id), rows, execution_options=ALIKE)
        created |= {row.item_id: row.id for row in inserted}
        if there := [item_id for item_id in left if item_id not in created]:
            # One that is deleted before it is locked is made anew.
            locked = session.scalars(
                select(Item)
                .where(Item.catalog_id == catalog_id, Item.item_id.in_(there))
                .order_by(Item.item_id)
                .with_for_update()
            )
            known |= {item.item_id: item for item in locked}
    changed: set[int] = set()
    for item_id, item in known.items():
        for name, value in given[item_id].items():
            if not _same(getattr(item, name), value):
                setattr(item, name, value)
                flag_modified(item, name)  # SQLAlchemy too takes 1 for true
                changed.add(item.id)
    if changed:
        revisions.change(session, changed)
    return created | {item_id: item.id for item_id, item in known.items()}


def _same(known: object, given: object) -> bool:
    """Whether two values are the same JSON: to Python 1, 1.0 and true are equal."""
    return known == given and json.dumps(known, sort_keys=True) == json.dumps(given, sort_keys=True)


def get(session: Session, catalog_id: int, item_id: str) -> Item:
    """Find an item by the client's id.

    Raises:
        NotFound: this catalog has none.
    """
    item = session.scalar(select(Item).where(Item.catalog_id == catalog_id, Item.item_id == item_id))
    if item is None:
        raise NotFound(f"there is no item {item_id!r} in this catalog", code="item_not_found")
    return item


def page(session: Session, catalog_id: int, *, after: int, limit: int) -> Sequence[Item]:
    """Items in the order they were created, from the one after primary key `after`."""
    return session.scalars(
        select(Item).where(Item.catalog_id == catalog_id, Item.id > after).order_by(Item.id).limit(limit)
    ).all()


def remove(session: Session, catalog_id: int, item_id: str) -> int:
    """Delete an item at once and tombstone its images; returns how many images.

    Raises:
        NotFound: this catalog has none.
    """
    item = session.scalar(select(Item).where(Item.catalog_id == catalog_id, Item.item_id == item_id).with_for_update())
    if item is None:
        raise NotFound(f"there is no item {item_id!r} in this catalog", code="item_not_found")
    images = removal.delete_images(session, _ids_of(item.id))
    session.execute(delete(Item).where(Item.id == item.id))
    return images


def remove_image(session: Session, catalog_id: int, image_id: int) -> None:
    """Tombstone an image.

    Its item is locked first, as `upsert` does: an upload of the same bytes comes before or after, not between.

    Raises:
        NotFound: this catalog has none.
    """
    image = get_image(session, catalog_id, image_id)
    session.execute(select(Item.id).where(Item.id == image.item_pk).with_for_update())
    removal.delete_images(session, [image.id])


def add_images(session: Session, catalog_id: int, wanted: Sequence[tuple[int, Picture]]) -> list[tuple[int, bool]]:
    """Attach pictures to items, given by primary key, unless they have these very bytes.

    Returns for each the image's id and whether it is new.
    """
    # The same bytes twice in one batch are new once, and come from where they were found last.
    distinct: dict[tuple[int | None, str], Picture] = {}
    for item_pk, picture in wanted:
        if (item_pk, picture.sha256) not in distinct or picture.origin is not None:
            distinct[item_pk, picture.sha256] = picture
    rows = [
        {
            "catalog_id": catalog_id,
            "item_pk": item_pk,
            "sha256": sha256,
            "format": picture.format,
            "media_type": picture.media_type,
            "width": picture.width,
            "height": picture.height,
            "size_bytes": picture.size_bytes,
            **_origin_columns(picture.origin),
            "created_at": now(),
        }
        for (item_pk, sha256), picture in distinct.items()
    ]
    statement = insert(session, Image).on_conflict_do_nothing(
        index_elements=["item_pk", "sha256"], index_where=Image.deleted_at.is_(None)
    )
    inserted = session.execute(
        statement.returning(Image.item_pk, Image.sha256, Image.id), rows, execution_options=ALIKE
    )
    ids = {(row.item_pk, row.sha256): row.id for row in inserted}
    created = set(ids)
    if there := distinct.keys() - created:
        known = session.scalars(
            select(Image).where(
                Image.item_pk.in_({item_pk for item_pk, _ in there}),
                Image.sha256.in_({sha256 for _, sha256 in there}),
                Image.deleted_at.is_(None),
            )
        )
        for image in known:
            key = (image.item_pk, image.sha256)
            ids[key] = image.id
            given = distinct.get(key)
            if given is not None and given.origin is not None:
                _set_origin(image, given.origin)
    outcome = []
    for item_pk, picture in wanted:
        key = (item_pk, picture.sha256)
        outcome.append((ids[key], key in created))
        created.discard(key)
    return outcome


def _set_origin(image: Image, origin: Origin) -> None:
    for name, value in _origin_columns(origin).items():
        if getattr(image, name) != value:
            setattr(image, name, value)


def _origin_columns(origin: Origin | None) -> dict[str, str | None]:
    origin = origin or Origin("")
    return {"origin": origin.place or None, "etag": origin.etag, "last_modified": origin.last_modified}


def from_origins(
    session: Session, catalog_id: int, wanted: Collection[tuple[str, str]]
) -> dict[tuple[str, str], Image]:
    """The latest living image by the client's id of its item and the place where an import found it."""
    return {key: images[-1] for key, images in all_from_origins(session, catalog_id, wanted).items()}


def all_from_origins(
    session: Session, catalog_id: int, wanted: Collection[tuple[str, str]]
) -> dict[tuple[str, str], list[Image]]:
    """Living images, oldest first, by the client's id of their item and the place where an import found them.

    A place has several until one of them is searchable: then those before it go.
    """
    if not wanted:
        return {}
    found = session.execute(
        select(Item.item_id, Image)
        .join(Item, Item.id == Image.item_pk)
        .where(
            Item.catalog_id == catalog_id,
            Item.item_id.in_({item_id for item_id, _ in wanted}),
            Image.origin.in_({place for _, place in wanted}),
            Image.deleted_at.is_(None),
        )
        .order_by(Image.id)
    )
    images: defaultdict[tuple[str, str], list[Image]] = defaultdict(list)
    for item_id, image in found:
        images[item_id, image.origin or ""].append(image)
    return images


def older_than(session: Session, catalog_id: int, item_ids: Collection[str], moment: datetime) -> set[str]:
    """Those of the client's ids whose items were there before a moment."""
    return set(
        session.scalars(
            select(Item.item_id).where(
                Item.catalog_id == catalog_id, Item.item_id.in_(item_ids), Item.created_at < moment
            )
        )
    )


def get_image(session: Session, catalog_id: int, image_id: int) -> Image:
    """Find a living image, with its item.

    Raises:
        NotFound: this catalog has none.
    """
    image = session.scalar(
        select(Image)
        .where(Image.id == image_id, Image.catalog_id == catalog_id, Image.deleted_at.is_(None))
        .options(joinedload(Image.item))
    )
    if image is None:
        raise NotFound(f"there is no image {image_id} in this catalog", code="image_not_found")
    return image


def images_of(session: Session, item_pk: int, limit: int) -> Sequence[Image]:
    """An item's living images, oldest first."""
    return session.scalars(select(Image).where(Image.id.in_(_ids_of(item_pk))).order_by(Image.id).limit(limit)).all()


def image_ids_of(session: Session, item_pk: int) -> Sequence[int]:
    """Ids of all of an item's living images, oldest first."""
    return session.scalars(_ids_of(item_pk).order_by(Image.id)).all()


def _ids_of(item_pk: int) -> Select[int]:
    return select(Image.id).where(Image.item_pk == item_pk, Image.deleted_at.is_(None))


def images_by_id(session: Session, catalog_id: int, ids: Sequence[int]) -> dict[int, Image]:
    """The living among the images, with their items."""
    found = session.scalars(
        select(Image)
        .where(Image.id.in_(ids), Image.catalog_id == catalog_id, Image.deleted_at.is_(None))
        .options(joinedload(Image.item))
    )
    return {image.id: image for image in found}


def image_page(session: Session, catalog_id: int, *, after: int, limit: int) -> Sequence[Image]:
    """Living images in id order, from the one after `after`, with their items."""
    return session.scalars(
        select(Image)
        .where(Image.catalog_id == catalog_id, Image.id > after, Image.deleted_at.is_(None))
        .order_by(Image.id)
        .limit(limit)
        .options(joinedload(Image.item))
    ).all()


def random_images(session: Session, catalog_id: int, limit: int) -> Sequence[Image]:
    """Living images from all over the catalog, in random order, with their items.

    Random ids are drawn and the next living one is taken, so the cost does not grow with the catalog. Gaps
    make some coincide; where that leaves places free, the oldest of the other images fill them.
    """
    living = (Image.catalog_id == catalog_id, Image.deleted_at.is_(None))
    first, last = session.execute(select(func.min(Image.id), func.max(Image.id)).where(*living)).one()
    if first is None:
        return []
    points = random.sample(range(first, last + 1), min(limit, last - first + 1))
    nearest = (session.scalar(select(func.min(Image.id)).where(*living, Image.id >= point)) for point in points)
    drawn = {image_id for image_id in nearest if image_id is not None}
    others = select(Image.id).where(*living, Image.id.not_in(drawn)).order_by(Image.id).limit(limit - len(drawn))
    found = list(images_by_id(session, catalog_id, [*drawn, *session.scalars(others)]).values())
    random.shuffle(found)
    return found
