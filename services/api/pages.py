"""Pages for people: search at /, sign-in, and the documentation of the API."""

from __future__ import annotations

from typing import Any, Final

from flask import Blueprint, Response, current_app, jsonify, redirect, render_template, request, session
from pydantic import ValidationError
from werkzeug.wrappers import Response as BaseResponse

from services.api.auth import SESSION_KEY
from services.api.codes import problem_codes
from services.api.contract import json_body
from services.api.errors import invalid
from services.api.schemas import SessionCreate
from services.catalog import keys
from services.errors import (
    Unauthorized,
)
from services.wiring import Services

blueprint = Blueprint("pages", __name__)

MAX_SIGN_IN = 4096

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
}
STREAMED: Final[dict[str, str]] = {"application/zip": "photos.zip", "application/x-ndjson": "items.jsonl"}


@blueprint.get("/")
def search_page() -> BaseResponse | str:
    """Drop a picture, see its look-alikes."""
    services: Services = current_app.extensions["akin"]
    with services.database.reading() as database:
        if SESSION_KEY not in session or keys.by_id(database, session[SESSION_KEY]) is None:
            # The query string goes along, so that a link to an item still leads there after signing in.
            query = request.query_string.decode("ascii", "ignore")
            return redirect(f"/signin?{query}" if query else "/signin")
    return render_template("search.html")


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
    with services.database.reading() as database:
        key = keys.authenticate(database, sent.key)
    if key is None:
        raise Unauthorized("this key is unknown or revoked")
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
