"""Pages for people: search, catalog, items, uploads, duplicates, sign-in, and the documentation of the API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlencode

from flask import Blueprint, Response, current_app, jsonify, make_response, redirect, render_template, request, session
from pydantic import ValidationError
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response as BaseResponse

from services.api import present
from services.api.auth import SESSION_KEY, granted
from services.api.codes import problem_codes
from services.api.contract import json_body
from services.api.errors import invalid
from services.api.schemas import SessionCreate
from services.catalog import catalogs, duplicates, keys
from services.errors import NotFound, Unauthorized
from services.wiring import Services

blueprint = Blueprint("pages", __name__)

MAX_SIGN_IN = 4096

# A picture that is searched with by its address is shown from there; all else comes from here, as on every page.
SEARCH_POLICY: Final = (
    "default-src 'self'; img-src 'self' blob: data: https: http:; object-src 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)

# What the documentation's example requests send.
EXAMPLES: Final[dict[str, Any]] = {
    "item_id": "mug-1",
    "image_id": 1,
    "job_id": "JOB_ID",
    "key_id": 2,
    "name": "shop",
    "title": "Blue mug",
    "encoder": "metric-photo",
    "scopes": ["search"],
    "image": "@mug.jpg",
    "files": "@mug.jpg",
}
# And where the members that are required are none, or say too little.
BODIES: Final[dict[str, dict[str, Any]]] = {
    "import_source": {"location": "s3://shop/photos"},
    "import_urls": {"pictures": [{"image": "https://example.com/mug.jpg", "item_id": "mug-1"}]},
    "delete_items": {"filter": {"field": "brand", "eq": "Acme"}, "dry_run": True},
    "start_audit": {"repair": True},
    "search_batch": {"searches": [{"query": [{"item_id": "mug-1"}]}, {"query": [{"image_id": 1}], "limit": 5}]},
    "find_duplicates": {"threshold": 0.98},
    "record_events": {"events": [{"kind": "click", "item_id": "mug-1", "shown": ["mug-2"], "rank": 1}]},
}
STREAMED: Final[dict[str, str]] = {"application/zip": "photos.zip", "application/x-ndjson": "items.jsonl"}


@blueprint.app_context_processor
def visitor() -> dict[str, Any]:
    """What every page's frame asks: whether this browser has signed in."""
    return {"signed_in": SESSION_KEY in session}


@blueprint.app_template_filter()
def two_decimals(number: float) -> str:
    """A price; an integer beyond all floats, which JSON may have, as it is."""
    try:
        return f"{number:.2f}"
    except OverflowError:
        return str(number)


@blueprint.get("/")
def search_page() -> BaseResponse:
    """Drop a picture, see its look-alikes."""
    page = _page("search.html", _searched_by_words)
    page.headers["Content-Security-Policy"] = SEARCH_POLICY
    return page


def _searched_by_words(database: Session, catalog_id: int) -> dict[str, bool]:
    return {"embeds_text": present.embeds_text(catalogs.live_index(database, catalog_id).encoder)}


@blueprint.get("/catalog")
def catalog_page() -> BaseResponse:
    """All pictures of the catalog."""
    return _page("catalog.html")


@blueprint.get("/item")
def item_page() -> BaseResponse:
    """One item; its id is the parameter `id`."""
    return _page("item.html")


@blueprint.get("/upload")
def upload_page() -> BaseResponse:
    """Add pictures, and follow the latest jobs."""
    return _page("upload.html")


@blueprint.get("/duplicates")
def duplicates_page() -> BaseResponse:
    """Pictures that the catalog has more than once."""
    return _page("duplicates.html", _searched_for_duplicates)


def _searched_for_duplicates(database: Session, catalog_id: int) -> dict[str, bool]:
    """Whether there is a result to ask the API for; to ask in vain would be an error in the browser's console."""
    try:
        duplicates.finished(database, catalog_id)
    except NotFound:
        return {"searched": False}
    return {"searched": True}


def _page(template: str, known: Callable[[Session, int], dict[str, bool]] | None = None) -> BaseResponse:
    """A page of a visitor who has signed in; others do so first and come back to the same address.

    Args:
        known: what the template is told of the visitor's catalog.
    """
    services: Services = current_app.extensions["akin"]
    with services.database.reading() as database:
        key = keys.signed_in(database.connection(), session[SESSION_KEY]) if SESSION_KEY in session else None
        if key is not None and not key.public:
            catalog_id = key.catalog_id or catalogs.by_name(database, catalogs.DEFAULT).id
            facts = known(database, catalog_id) if known else {}
            return make_response(render_template(template, scopes=sorted(granted(key)), **facts))
    asked = request.full_path.rstrip("?")
    return redirect("/signin" if asked == "/" else f"/signin?{urlencode({'next': asked})}")


@blueprint.get("/signin")
def signin_page() -> str:
    """Sign in with a key, typed or in the fragment of the link that `akin up` prints."""
    return render_template("signin.html")


@blueprint.post("/session")
def sign_in() -> Response:
    """Exchange a key for a session cookie. The cookie holds the key's id, so revoking the key ends it."""
    services: Services = current_app.extensions["akin"]
    request.max_content_length = MAX_SIGN_IN  # nobody has shown a key yet
    try:
        sent = SessionCreate.model_validate(json_body())
    except ValidationError as error:
        raise invalid(error) from error
    with services.database.rows() as database:
        key = keys.authenticate(database, sent.key)
    if key is None:
        raise Unauthorized("this key is unknown or revoked")
    if key.public:
        raise Unauthorized("a publishable key signs nobody in")
    session.clear()
    session[SESSION_KEY] = key.id
    return Response(status=204)


@blueprint.delete("/session")
def sign_out() -> Response:
    """Forget the browser."""
    session.clear()
    return Response(status=204)


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """The API's description for programs."""
    return jsonify(_document())


@blueprint.get("/docs")
def docs() -> str:
    """The API's description for people."""
    return render_template(
        "docs.html",
        document=_document(),
        codes=problem_codes(),
        examples=EXAMPLES,
        bodies=BODIES,
        streamed=STREAMED,
        server=request.host_url.rstrip("/"),
    )


def _document() -> dict[str, Any]:
    document: dict[str, Any] = current_app.extensions["akin.openapi"]
    return document
