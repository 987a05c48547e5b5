"""Items: what the client knows by its own ids."""

from __future__ import annotations

from http import HTTPStatus

from pydantic import TypeAdapter, ValidationError

from services import deletion
from services.api import present
from services.api.contract import Call, Router
from services.api.errors import invalid
from services.api.fields import ItemId
from services.api.schemas import (
    DeletionRequest,
    DeletionStarted,
    ItemChange,
    ItemDetail,
    ItemOut,
    Page,
    PageQuery,
)
from services.catalog import catalogs, items
from services.catalog.items import ItemFields
from services.catalog.keys import Scope
from services.queue import Task

router = Router("items")


@router.route("GET", "/v1/items", scope=Scope.SEARCH, query=PageQuery, returns=Page[ItemOut])
def list_items(call: Call[PageQuery, None]) -> Page[ItemOut]:
    """List items in the order they were created."""
    query = call.query
    with call.services.database.reading() as session:
        rows = items.page(session, call.caller.catalog_id, after=query.cursor, limit=query.limit)
        last = str(rows[-1].id) if len(rows) == query.limit else None
        return Page(data=[present.item(row) for row in rows], next_cursor=last)


@router.route("GET", "/v1/items/<item:item_id>", scope=Scope.SEARCH, returns=ItemDetail)
def get_item(call: Call[None, None], item_id: str) -> ItemDetail:
    """One item with its pictures."""
    with call.services.database.reading() as session:
        return present.item_detail(session, items.get(session, call.caller.catalog_id, item_id))


@router.route("PUT", "/v1/items/<item:item_id>", scope=Scope.INGEST, body=ItemChange, returns=ItemDetail)
def put_item(call: Call[None, ItemChange], item_id: str) -> ItemDetail:
    """Create an item or change what is known of it; its pictures stay as they are."""
    try:
        TypeAdapter(ItemId).validate_python(item_id)
    except ValidationError as error:
        raise invalid(error) from error
    body, catalog_id = call.body, call.caller.catalog_id
    with call.services.database.transaction() as session:
        items.upsert(session, catalog_id, [ItemFields(item_id, body.title, body.url, body.attributes)])
        detail = present.item_detail(session, items.get(session, catalog_id, item_id))
    # What filters see of it in the vector store is written anew.
    call.services.queue.wake(Task.EMBED)
    return detail


@router.route("DELETE", "/v1/items/<item:item_id>", scope=Scope.INGEST, status=HTTPStatus.NO_CONTENT)
def delete_item(call: Call[None, None], item_id: str) -> None:
    """Delete an item and its pictures: gone from searches at once."""
    with call.services.database.transaction() as session:
        catalogs.lock_shared(session, call.caller.catalog_id)
        items.remove(session, call.caller.catalog_id, item_id)


@router.route(
    "POST",
    "/v1/deletions",
    scope=Scope.INGEST,
    body=DeletionRequest,
    status=HTTPStatus.ACCEPTED,
    returns=DeletionStarted,
)
def delete_items(call: Call[None, DeletionRequest]) -> DeletionStarted:
    """Delete the items of a filter, or those named, with their pictures.

    Try it with `dry_run` first: it answers how many there are. Items created after the request are left alone.
    """
    body, catalog_id = call.body, call.caller.catalog_id
    selection = {"filter": body.filter} if body.filter is not None else {"item_ids": body.item_ids}
    matched = deletion.count(call.services, catalog_id, selection)
    if body.dry_run:
        return DeletionStarted(matched=matched, job_id=None, links={})
    job_id = deletion.start(call.services, catalog_id, selection)
    return DeletionStarted(matched=matched, job_id=job_id, links={"job": f"/v1/jobs/{job_id}"})
