"""Pages for people: search at /, sign-in, and the documentation of the API."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from flask import Blueprint, Response, current_app, jsonify, redirect, render_template, request, session
from pydantic import ValidationError
from werkzeug.wrappers import Response as BaseResponse

from services.api.auth import SESSION_KEY
from services.api.contract import json_body
from services.api.errors import STATUS, invalid
from services.api.schemas import SessionCreate
from services.catalog import keys
from services.errors import (
    AkinError,
    Conflict,
    Forbidden,
    ImageReason,
    ImageRejected,
    InvalidRequest,
    NotFound,
    Unauthorized,
)
from services.wiring import Services

blueprint = Blueprint("pages", __name__)

MAX_SIGN_IN = 4096

# Codes that are narrower than their class's own.
SPECIFIC_CODES: Final[dict[str, tuple[type[AkinError], str]]] = {
    "invalid_json": (InvalidRequest, "The body is not JSON."),
    "invalid_idempotency_key": (InvalidRequest, "The Idempotency-Key is empty, too long, or has control characters."),
    "idempotency_key_reused": (InvalidRequest, "The Idempotency-Key was sent with another request."),
    "missing_scope": (Forbidden, "The key lacks the scope that the operation needs."),
    "other_catalog": (Forbidden, "The key is bound to another catalog."),
    "other_origin": (Forbidden, "Another site's page tried to use a signed-in browser."),
    "catalog_not_found": (NotFound, "There is no catalog of this name."),
    "item_not_found": (NotFound, "The catalog has no item with this id."),
    "image_not_found": (NotFound, "The catalog has no picture with this id."),
    "job_not_found": (NotFound, "The catalog has no job with this id."),
    "key_not_found": (NotFound, "There is no key with this id."),
    "encoder_not_found": (NotFound, "No encoder of this name is registered."),
    "catalog_exists": (Conflict, "There is a catalog of this name already."),
    "reindex_running": (Conflict, "The catalog is being reindexed already."),
    "reindex_same_encoder": (Conflict, "The live index has this encoder already."),
    "job_running": (Conflict, "The job still runs: what failed is retried when it is over."),
    "job_over": (Conflict, "The job is over, or was cancelled."),
    "not_an_import": (Conflict, "Only imports are cancelled and retried."),
    "idempotency_key_at_work": (Conflict, "The same request is at work: ask again for its answer."),
}
IMAGE_CODES: Final[dict[ImageReason, str]] = {
    ImageReason.EMPTY: "The file has no bytes.",
    ImageReason.UNRECOGNISED: "The bytes are not a picture of a known format.",
    ImageReason.UNSUPPORTED: "A picture, but of a format or kind that cannot be embedded.",
    ImageReason.BROKEN: "The picture is damaged or cut off.",
    ImageReason.TOO_MANY_BYTES: "The file is larger than AKIN_MAX_IMAGE_BYTES.",
    ImageReason.TOO_MANY_PIXELS: "Width × height is over AKIN_MAX_IMAGE_PIXELS.",
    ImageReason.TIMEOUT: "Decoding took longer than AKIN_DECODE_TIMEOUT.",
    ImageReason.CRASHED: "The decoder crashed on this file; nothing else was affected.",
    ImageReason.MISSING: "The stored bytes of the picture are gone.",
}
# Codes of job entries only: no request is answered with them.
ENTRY_CODES: Final[dict[str, str]] = {
    "image_deleted": "The picture was deleted before it was embedded.",
    "attempts_exhausted": "Embedding was tried AKIN_MAX_ATTEMPTS times in vain.",
}
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


@dataclass(frozen=True)
class ProblemCode:
    """A row of the documentation's table of error codes; `status` is None where no request is answered so."""

    code: str
    status: HTTPStatus | None
    meaning: str


def problem_codes() -> list[ProblemCode]:
    """Every code that a problem document or a job's entry may have."""
    general = [ProblemCode(kind.code, status, (kind.__doc__ or "").splitlines()[0]) for kind, status in STATUS.items()]
    specific = [ProblemCode(code, STATUS[kind], meaning) for code, (kind, meaning) in SPECIFIC_CODES.items()]
    images = [ProblemCode(code.value, STATUS[ImageRejected], meaning) for code, meaning in IMAGE_CODES.items()]
    bug = ProblemCode("internal", HTTPStatus.INTERNAL_SERVER_ERROR, "An unexpected error; the server's log has it.")
    method = HTTPStatus.METHOD_NOT_ALLOWED
    http = [bug, ProblemCode(method.name.lower(), method, "The address exists, but not for this method.")]
    answers = sorted([*general, *specific, *images, *http], key=lambda row: (row.status or 0, row.code))
    return [*answers, *(ProblemCode(code, None, meaning) for code, meaning in ENTRY_CODES.items())]


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
        server=request.host_url.rstrip("/"),
    )


def _document() -> dict[str, Any]:
    document: dict[str, Any] = current_app.extensions["akin.openapi"]
    return document
