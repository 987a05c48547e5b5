"""Search by an uploaded picture."""

from __future__ import annotations

from services import search
from services.api import present
from services.api.contract import FORM, JSON, Call, Router
from services.api.schemas import SearchOut, SearchUpload
from services.catalog.keys import Scope
from services.errors import ImageRejected, Overloaded

router = Router("search")


@router.route(
    "POST",
    "/v1/search",
    scope=Scope.SEARCH,
    body=SearchUpload,
    accepts=(FORM, JSON),
    files=("image",),
    returns=SearchOut,
    errors=(ImageRejected, Overloaded),
)
def search_by_image(call: Call[None, SearchUpload]) -> SearchOut:
    """Pictures of the catalog that look like the uploaded one. It is not kept."""
    body = call.body
    answer = search.by_image(
        call.services, call.caller.catalog_id, body.image, limit=body.limit, min_score=body.min_score
    )
    return present.search(answer)
