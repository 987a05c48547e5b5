"""What the widget of a shop's pages sends, and what it is answered."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from services.api.fields import ItemId, Text
from services.api.schemas import ImageOut, ItemOut, Schema
from services.api.schemas_search import SearchOut, SimilarQuery
from services.catalog import filters
from services.catalog.events import Seen
from services.catalog.filters import Attribute, Exists
from services.catalog.states import EventKind
from services.errors import InvalidRequest

MOST_EVENTS = 50
# The widget shows as many at most.
MOST_SHOWN = 50
MOST_SHOWN_TEXT = 8_192

Number = Annotated[int, Field(ge=1, le=2**63 - 1)]


def _check_attribute(name: str) -> str:
    try:
        attribute_of(name)
    except InvalidRequest as error:
        raise ValueError(error.detail) from error
    return name


def attribute_of(name: str) -> Attribute:
    """An attribute by the name that filters have for it.

    Raises:
        InvalidRequest: it names none.
    """
    match filters.parse({"field": name, "exists": True}):
        case Exists(Attribute() as attribute):
            return attribute
    raise InvalidRequest("must name an attribute, not a member of the item")


class ShelfQuery(SimilarQuery):
    """Which look-alikes of an item are wanted, and what follows where there are few."""

    fill_by: Annotated[Text, Field(min_length=1, max_length=200), AfterValidator(_check_attribute)] | None = Field(
        None,
        description="an attribute, such as category: where there are fewer hits than limit, `others` has the newest "
        "items with the same value",
    )


class OtherOut(Schema):
    """An item that is shown for want of look-alikes."""

    image: ImageOut
    item: ItemOut


class SimilarOut(SearchOut):
    """Look-alikes of an item, best first, and others that fill the places left."""

    others: list[OtherOut]


def _check_short(item_ids: list[str]) -> list[str]:
    if sum(map(len, item_ids)) > MOST_SHOWN_TEXT:
        raise ValueError(f"the ids have more than {MOST_SHOWN_TEXT} characters together")
    return item_ids


class EventIn(Schema):
    """What a visitor did."""

    kind: EventKind = Field(description="impression: similar items came into view; click: the visitor went to one")
    item_id: ItemId = Field(description="whose page it was")
    shown: Annotated[list[ItemId], AfterValidator(_check_short)] = Field(
        min_length=1, max_length=MOST_SHOWN, description="the items shown, in order; of a click the one item"
    )
    rank: Annotated[int, Field(ge=1, le=MOST_SHOWN)] | None = Field(
        None, description="of a click, the item's place among those shown"
    )
    index: Number | None = Field(None, description="`index` of the answer that was shown")

    def seen(self) -> Seen:
        """As the catalog keeps it."""
        return Seen(self.kind, self.item_id, self.shown, self.rank, self.index)


class EventsIn(Schema):
    """What visitors of a page did, in order."""

    events: list[EventIn] = Field(min_length=1, max_length=MOST_EVENTS)
