"""What the widget of product pages needs beside similar items: its script, its events, and pages that show it."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from flask import Blueprint, Response, current_app, make_response, redirect, render_template, request
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response as BaseResponse

from services.api import rate_limit
from services.api.auth import Caller, authenticate
from services.api.contract import JSON, TEXT, Call, Router
from services.api.schemas_widget import EventsIn
from services.catalog import catalogs, events, items, keys
from services.catalog.keys import Scope
from services.errors import NotFound, Overloaded, Unauthorized
from services.wiring import Services

router = Router("widget")
blueprint = Blueprint("shop", __name__)

# The publishable keys that Akin's own pages make themselves.
OWN_PAGES: Final = "Akin's own pages"
SCRIPT_CACHE: Final = "public, max-age=86400, stale-while-revalidate=604800"


@router.route(
    "POST",
    "/v1/events",
    scope=Scope.WIDGET,
    body=EventsIn,
    accepts=(JSON, TEXT),
    status=HTTPStatus.NO_CONTENT,
    errors=(Overloaded,),
    repeatable=False,
)
def record_events(call: Call[None, EventsIn]) -> None:
    """Say what visitors did with similar items. For the limit of a visitor's requests each event counts as one.

    Kept for AKIN_EVENT_DAYS, and not at all where that is 0. As `text/plain` it is JSON, too: so
    a page may send it without asking first.
    """
    rate_limit.admit(call.services, call.caller, request.remote_addr, requests=len(call.body.events))
    if call.services.settings.event_days:
        seen = [event.seen() for event in call.body.events]
        with call.services.database.transaction() as session:
            events.record(session, call.caller.catalog_id, seen)


class _Script(NamedTuple):
    plain: bytes
    compressed: bytes
    tag: str


@cache
def _script() -> _Script:
    plain = (Path(__file__).parent / "static" / "widget.js").read_bytes()
    return _Script(plain, gzip.compress(plain, 9, mtime=0), hashlib.sha256(plain).hexdigest()[:32])


@blueprint.get("/widget.js")
def script() -> BaseResponse:
    """The script of `<akin-similar>`, for any page."""
    source = _script()
    compressed = request.accept_encodings.quality("gzip") > 0
    response = Response(source.compressed if compressed else source.plain, mimetype="text/javascript")
    if compressed:
        response.headers["Content-Encoding"] = "gzip"
    response.vary.add("Accept-Encoding")
    response.set_etag(source.tag, weak=True)
    response.headers["Cache-Control"] = SCRIPT_CACHE
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    # As a module, or with `integrity`, a script of another origin is run only if that shares it.
    response.headers["Access-Control-Allow-Origin"] = "*"
    return response.make_conditional(request)


@blueprint.get("/demo/product/<path:item_id>")
def product_page(item_id: str) -> BaseResponse:
    """How an item's page in a shop may look: the item, and similar ones by the widget."""
    return _page("product.html", item_id)


@blueprint.get("/widget")
def widget_page() -> BaseResponse:
    """Try the widget, and take the lines for a shop's pages."""
    return _page("widget.html", request.args.get("item"))


def _page(template: str, item_id: str | None) -> BaseResponse:
    """A page of a visitor who has signed in; others do so first and come back. Of an unknown item, one that says so."""
    services: Services = current_app.extensions["akin"]
    try:
        caller = authenticate(services, request, Scope.SEARCH)
    except Unauthorized:
        return redirect(f"/signin?{urlencode({'next': request.full_path.rstrip('?')})}")
    facts: dict[str, Any] = {"item": None, "images": []}
    with services.database.reading() as session:
        if item_id is None:
            facts["examples"] = items.page(session, caller.catalog_id, after=0, limit=50)
        else:
            try:
                facts["item"] = items.get(session, caller.catalog_id, item_id)
            except NotFound:
                page = render_template("missing.html", scopes=sorted(caller.scopes), item_id=item_id)
                return make_response(page, HTTPStatus.NOT_FOUND)
            facts["images"] = items.images_of(session, facts["item"].id, 1)
    own = keys.origin_of(request.host_url)
    page = render_template(
        template, scopes=sorted(caller.scopes), key=_own_key(services, caller, own), origin=own, **facts
    )
    return make_response(page)


def _own_key(services: Services, caller: Caller, origin: str) -> str | None:
    """The publishable key of Akin's own pages at this address, made when an administrator first needs it."""
    catalog_id = caller.catalog_id
    with services.database.reading() as session:
        key = _made(session, catalog_id, origin)
    if key is None and Scope.ADMIN in caller.scopes:
        with services.database.transaction() as session:
            # Of two first visits at once the second finds what the first has made.
            catalogs.lock_exclusive(session, catalog_id)
            key = _made(session, catalog_id, origin)
            key = key or keys.create_publishable(session, OWN_PAGES, catalog_id, [origin])
    return key


def _made(session: Session, catalog_id: int, origin: str) -> str | None:
    made = [key for key in keys.publishable(session, catalog_id) if key.name == OWN_PAGES]
    return next((key.public for key in made if key.origins == [origin]), None)
