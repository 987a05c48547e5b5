"""Similar items, for product pages: cached, conditional, and open to publishable keys."""

from __future__ import annotations

import hashlib
import json
from http import HTTPStatus

from flask import Response, request

from services import shelf
from services.api import present, present_search, rate_limit
from services.api.contract import JSON, Call, Router
from services.api.schemas_widget import ShelfQuery, SimilarOut, attribute_of
from services.catalog.found import Found
from services.catalog.keys import Scope
from services.errors import Overloaded
from services.shelf import Hit, Question, Shelf

router = Router("similar")

FRESHNESS = "max-age=60, stale-while-revalidate=600"


@router.route(
    "GET",
    "/v1/items/<path:item_id>/similar",
    scope=Scope.WIDGET,
    query=ShelfQuery,
    returns=SimilarOut,
    errors=(Overloaded,),
    versioned=True,
)
def similar_items(call: Call[ShelfQuery, None], item_id: str) -> Response:
    """Pictures of other items that look like this item; none as long as none of its own is searchable.

    What is ranked is kept for a minute; titles, prices and stock are those of this moment. A publishable key may stand
    in the address, `?key=pk_…`: a browser then asks without asking first whether it may, and shared caches may
    keep the answer.
    """
    query = call.query
    fill_by = attribute_of(query.fill_by) if query.fill_by is not None else None
    question = Question(call.caller.catalog_id, item_id, query.options(), fill_by)
    kept = rate_limit.admit(call.services, call.caller, request.remote_addr, question.key)
    found = shelf.fill(call.services, question, kept, _rendered)
    answer = _answer(found)
    tag = hashlib.sha256(answer.encode()).hexdigest()[:32]
    if request.if_none_match.contains_weak(tag):
        response = Response(status=HTTPStatus.NOT_MODIFIED)
    else:
        response = Response(f'{answer[:-1]},"took_ms":{found.took_ms:.2f}}}', mimetype=JSON)
    response.set_etag(tag, weak=True)
    # Without the key in it, an address is the same for every catalog.
    shared = call.caller.public and "key" in request.args
    response.headers["Cache-Control"] = f"{'public' if shared else 'private'}, {FRESHNESS}"
    if not shared:
        response.vary.update(("Authorization", "Cookie"))
    return response


def _rendered(row: Found) -> str:
    """The members of a hit that every answer with this picture has alike."""
    image, item = present_search.image(row), present.item(row)
    return f'"image":{image.model_dump_json()},"item":{item.model_dump_json()}'


def _answer(found: Shelf) -> str:
    """SimilarOut but for `took_ms`, put together from the pieces that are kept: making it of types takes as long as
    all else that such a request costs.
    """
    hits = (
        f'{{"rank":{rank},"score":{hit.score!r},{hit.shown},"likeness":{_likeness(hit)},"regions":null}}'
        for rank, hit in enumerate(found.hits, start=1)
    )
    others = (f"{{{other}}}" for other in found.others)
    return (
        f'{{"hits":[{",".join(hits)}],"others":[{",".join(others)}],"encoder":{json.dumps(found.encoder)},'
        f'"index":{found.index_id},"next_cursor":null,"explain":null}}'
    )


def _likeness(hit: Hit) -> str:
    return "null" if hit.likeness is None else json.dumps(hit.likeness._asdict())
