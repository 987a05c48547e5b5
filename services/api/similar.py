"""Similar items, for product pages: cached, conditional, and open to publishable keys."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Final
from zlib import crc32

from flask import Response, request

from services import shelf
from services.api import present, present_search, rate_limit
from services.api.contract import JSON, Call, Router
from services.api.schemas_widget import ShelfQuery, SimilarOut, attribute_of
from services.catalog.found import Found
from services.catalog.keys import Scope
from services.errors import Forbidden, InvalidRequest, Overloaded
from services.shelf import Choice, Hit, Question

router = Router("similar")

RELEASE: Final = version("akin")
# Of a filter that a visitor of a shop sends.
MOST_CONDITIONS: Final = 10
FRESHNESS = "max-age=60, stale-while-revalidate=600"


@router.route(
    "GET",
    "/v1/items/<item:item_id>/similar",
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
    keep the answer. Such a key shows its own `attributes` of items, and may filter and fill by no others.
    """
    query, attributes = call.query, call.caller.shown
    if attributes is not None and not query.asks_about() <= attributes:
        raise Forbidden(f"this key shows no attribute but {sorted(attributes)}", code="hidden_attribute")
    if call.caller.public and query.conditions() > MOST_CONDITIONS:
        raise InvalidRequest(f"a filter of a web page has {MOST_CONDITIONS} conditions at most", code="invalid_filter")
    fill_by = attribute_of(query.fill_by) if query.fill_by is not None else None
    question = Question(call.caller.catalog_id, item_id, query.options(), fill_by)
    rate_limit.admit(call.services, call.caller, request.remote_addr)
    began = time.perf_counter()
    choice = shelf.choose(call.services, question)
    # What a release shows of a choice may differ from what the last one did.
    tag = f"{choice.version}-{_of(attributes)}{RELEASE}"
    if request.if_none_match.contains_weak(tag):
        response = Response(status=HTTPStatus.NOT_MODIFIED)
    else:
        shown = shelf.shown(call.services, call.caller.catalog_id, choice, attributes, _rendered)
        took_ms = 1000 * (time.perf_counter() - began)
        response = Response(_answer(choice, shown, took_ms), mimetype=JSON)
    response.set_etag(tag, weak=True)
    # Without the key in it, an address is the same for every catalog.
    shared = call.caller.public and "key" in request.args
    response.headers["Cache-Control"] = (
        "no-store" if choice.early else f"{'public' if shared else 'private'}, {FRESHNESS}"
    )
    if not shared:
        response.vary.update(("Authorization", "Cookie"))
    return response


def _of(attributes: frozenset[str] | None) -> str:
    """Of a tag, what differs between keys that show different attributes."""
    return "" if attributes is None else f"{crc32(json.dumps(sorted(attributes)).encode()):08x}-"


def _rendered(row: Found, attributes: frozenset[str] | None) -> str:
    """The members of a hit that every answer with this picture and these attributes has alike."""
    image, item = present_search.image(row), present.item(row, attributes)
    return f'"image":{image.model_dump_json()},"item":{item.model_dump_json()}'


def _answer(choice: Choice, shown: Mapping[int, str], took_ms: float) -> str:
    """SimilarOut, put together from the pieces that are kept: making it of types takes as long as all else that such a
    request costs.
    """
    living = [hit for hit in choice.hits if hit.image_id in shown]
    hits = (
        f'{{"rank":{rank},"score":{hit.score!r},{shown[hit.image_id]},"likeness":{_likeness(hit)},"regions":null}}'
        for rank, hit in enumerate(living, start=1)
    )
    others = (f"{{{shown[image_id]}}}" for image_id in choice.others if image_id in shown)
    return (
        f'{{"hits":[{",".join(hits)}],"others":[{",".join(others)}],"encoder":{json.dumps(choice.encoder)},'
        f'"index":{choice.index_id},"next_cursor":null,"explain":null,"took_ms":{took_ms:.2f}}}'
    )


def _likeness(hit: Hit) -> str:
    told = hit.likeness
    # A kind is a plain word.
    return "null" if told is None else f'{{"kind":"{told.kind}","probability":{told.probability!r}}}'
