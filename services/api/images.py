"""Pictures: upload, look up, look at, delete."""

from __future__ import annotations

from http import HTTPStatus

from flask import Response, request

from services import content, ingest
from services.api import present, rate_limit
from services.api.contract import FORM, JSON, Call, Router
from services.api.schemas import (
    ContentQuery,
    ImageAccepted,
    ImageListQuery,
    ImageOut,
    ImageState,
    ImageUpload,
    Page,
    ThumbnailQuery,
)
from services.catalog import catalogs, items
from services.catalog.items import ItemFields
from services.catalog.keys import Scope
from services.errors import Forbidden, ImageRejected, Overloaded
from services.images.thumbnails import MEDIA_TYPE
from services.ingest import Upload

router = Router("images")

# A picture never changes under its id, but it may be deleted: caches may keep it for a day, and shared ones, such as
# a CDN, those that anybody may see.
CACHE = "private, max-age=86400, immutable"


@router.route(
    "POST",
    "/v1/images",
    scope=Scope.INGEST,
    body=ImageUpload,
    accepts=(FORM, JSON),
    files=("image",),
    status=HTTPStatus.ACCEPTED,
    returns=ImageAccepted,
    errors=(ImageRejected, Overloaded),
)
def upload_image(call: Call[None, ImageUpload]) -> ImageAccepted:
    """Upload one picture of an item.

    The item is created if it is new; members left out stay as they are. The same bytes for the same item again
    are the same image, and nothing is done twice.
    """
    body = call.body
    ref = (call.files[0].filename or "").replace("\x00", "") if call.files else ""
    fields = ItemFields(body.item_id, body.title, body.url, body.attributes)
    accepted = ingest.accept(call.services, call.caller.catalog_id, Upload(ref or body.item_id, body.image, fields))
    return ImageAccepted(
        image_id=accepted.image_id,
        item_id=body.item_id,
        created=accepted.created,
        job_id=accepted.job_id,
        links={"self": f"/v1/images/{accepted.image_id}", "job": f"/v1/jobs/{accepted.job_id}"},
    )


@router.route("GET", "/v1/images", scope=Scope.SEARCH, query=ImageListQuery, returns=Page[ImageOut])
def list_images(call: Call[ImageListQuery, None]) -> Page[ImageOut]:
    """List pictures."""
    query, catalog_id = call.query, call.caller.catalog_id
    with call.services.database.reading() as session:
        if query.order == "random":
            rows = items.random_images(session, catalog_id, query.limit)
            return Page(data=[present.image(row) for row in rows], next_cursor=None)
        rows = items.image_page(session, catalog_id, after=query.cursor, limit=query.limit)
        last = str(rows[-1].id) if len(rows) == query.limit else None
        return Page(data=[present.image(row) for row in rows], next_cursor=last)


@router.route("GET", "/v1/images/<id64:image_id>", scope=Scope.SEARCH, returns=ImageState)
def get_image(call: Call[None, None], image_id: int) -> ImageState:
    """One picture and whether it is searchable."""
    with call.services.database.reading() as session:
        return present.image_state(session, items.get_image(session, call.caller.catalog_id, image_id))


@router.route("DELETE", "/v1/images/<id64:image_id>", scope=Scope.INGEST, status=HTTPStatus.NO_CONTENT)
def delete_image(call: Call[None, None], image_id: int) -> None:
    """Delete a picture: gone from searches at once, from the vector store and the blobs soon after."""
    with call.services.database.transaction() as session:
        catalogs.lock_shared(session, call.caller.catalog_id)
        items.remove_image(session, call.caller.catalog_id, image_id)


@router.route(
    "GET",
    "/v1/images/<id64:image_id>/thumbnail",
    scope=Scope.WIDGET,
    query=ThumbnailQuery,
    media_types=(MEDIA_TYPE,),
    errors=(ImageRejected, Overloaded),
)
def get_thumbnail(call: Call[ThumbnailQuery, None], image_id: int) -> Response:
    """A small WebP of the picture.

    With a publishable key, `?key=pk_…`, it is for `<img>` of the key's pages.
    """
    rate_limit.admit_picture(call.services, call.caller, request.remote_addr)
    with call.services.database.reading() as session:
        image = items.get_image(session, call.caller.catalog_id, image_id)
    response = _picture(content.thumbnail(call.services, image, call.query.size), MEDIA_TYPE)
    if call.caller.public:
        response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        if "key" in request.args:  # else the address does not say whose catalog it is
            response.headers["Cache-Control"] = CACHE.replace("private", "public")
    return response


@router.route(
    "GET",
    "/v1/images/<id64:image_id>/content",
    scope=Scope.SEARCH,
    query=ContentQuery,
    media_types=("image/*",),
    errors=(ImageRejected, Overloaded),
)
def get_content(call: Call[ContentQuery, None], image_id: int) -> Response:
    """The picture at full size.

    Encoded anew without metadata such as the place where it was taken; `original=true` gives the uploaded
    bytes and needs the scope `ingest`.
    """
    if call.query.original and Scope.INGEST not in call.caller.scopes:
        raise Forbidden("original bytes need a key with the scope `ingest`", code="missing_scope")
    with call.services.database.reading() as session:
        image = items.get_image(session, call.caller.catalog_id, image_id)
    data = content.image_bytes(call.services, image)
    if call.query.original:
        return _picture(data, image.media_type)
    return _picture(*call.services.decoder.rendition(data))


def _picture(data: bytes, media_type: str) -> Response:
    response = Response(data, mimetype=media_type)
    response.headers["Cache-Control"] = CACHE
    # Uploaded bytes must not run as a page of ours, whatever a browser takes them for.
    response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
    return response
