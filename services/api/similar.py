"""Similar items, for product pages: cached, conditional, and open to publishable keys."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection
from functools import lru_cache
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from flask import Response, request
from pydantic_core import to_json
from werkzeug.datastructures import Headers

from services import shelf
from services.api import present_search, rate_limit
from services.api.contract import JSON, Call, Router
from services.api.schemas_widget import ShelfQuery, SimilarOut, attribute_of
from services.caching import Recent
from services.catalog.filters import Attribute, Filter, leaves
from services.catalog.keys import Scope
from services.errors import Forbidden, InvalidRequest, Overloaded
from services.shelf import Choice, Question

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

router = Router("similar")

RELEASE: Final = version("akin")
# Of a filter that a visitor of a shop sends.
MOST_CONDITIONS: Final = 10
FRESHNESS = "max-age=60, stale-while-revalidate=600"
BODY_BYTES: Final = 16 * 1024 * 1024

# Of answers, all but the time they took, by their tags. (Names of collections, which are part of those, are random:
# another database's answers cannot be met.)
_bodies: Recent[str, bytes] = Recent(BODY_BYTES, seconds=600)


class Unchanged(Response):
    """A 304, which has no body and no headers of one."""

    default_status = HTTPStatus.NOT_MODIFIED
    default_mimetype = None

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        """The headers as they are: there is nothing to correct or to remove, which takes as long as to send a body."""
        return self.headers


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
    attributes, options = call.caller.shown, call.query.options()
    fill_by = attribute_of(call.query.fill_by) if call.query.fill_by is not None else None
    if attributes is not None:
        _check_visitors(options.filter, fill_by, attributes)
    question = Question(call.caller.catalog_id, item_id, options, fill_by)
    rate_limit.admit(call.services, call.caller, request.remote_addr)
    began = time.perf_counter()
    choice = shelf.choose(call.services, question)
    # What a release shows of a choice may differ from what the last one did.
    tag = f"{choice.version}-{_of(attributes)}{RELEASE}"
    # As a text: tags of ours stand in no other tag, and to parse the header takes as long as to send an answer.
    held = request.headers.get("If-None-Match", "")
    if f'"{tag}"' in held or held == "*":
        response: Response = Unchanged()
    else:
        body = _bodies.get(tag) or _body(call, choice, tag)
        took_ms = 1000 * (time.perf_counter() - began)
        response = Response(b'%b"took_ms":%.2f}' % (body, took_ms), mimetype=JSON)
    response.set_etag(tag, weak=True)
    # Without the key in it, an address is the same for every catalog.
    shared = call.caller.public and "key" in request.args
    response.headers["Cache-Control"] = (
        "no-store" if choice.early else f"{'public' if shared else 'private'}, {FRESHNESS}"
    )
    if not shared:
        response.headers["Vary"] = "Authorization, Cookie"
    return response


def _check_visitors(wanted: Filter | None, fill_by: Attribute | None, shown: Collection[str]) -> None:
    """Refuse what a publishable key may not ask for."""
    conditions = list(leaves(wanted))
    fields = [*(leaf.field for leaf in conditions), *([fill_by] if fill_by is not None else [])]
    hidden = [field for field in fields if isinstance(field, Attribute) and field.path[0] not in shown]
    if hidden:
        allowed = ", ".join(sorted(shown)) or "none"
        raise Forbidden(f"of attributes this key shows: {allowed}", code="hidden_attribute")
    if len(conditions) > MOST_CONDITIONS:
        raise InvalidRequest(f"a filter of a web page has {MOST_CONDITIONS} conditions at most", code="invalid_filter")


@lru_cache(1000)
def _of(attributes: frozenset[str] | None) -> str:
    """Of a tag, what differs between keys that show different attributes."""
    if attributes is None:
        return ""
    return hashlib.sha256(json.dumps(sorted(attributes)).encode()).hexdigest()[:32] + "-"


def _body(call: Call[ShelfQuery, None], choice: Choice, tag: str) -> bytes:
    """SimilarOut up to `took_ms`, which is its last member."""
    rows = shelf.shown(call.services, call.caller.catalog_id, choice)
    pictured = {image_id: present_search.pictured(row, call.caller.shown) for image_id, row in rows.items()}
    living = [hit for hit in choice.hits if hit.image_id in rows]
    members = {
        "hits": [
            present_search.hit(rank, hit.score, pictured[hit.image_id], hit.likeness)
            for rank, hit in enumerate(living, start=1)
        ],
        "others": [pictured[image_id] for image_id in choice.others if image_id in rows],
        "encoder": choice.encoder,
        "index": choice.index_id,
        "next_cursor": None,
        "explain": None,
    }
    body = to_json(members).removesuffix(b"}") + b","
    # Not what changed meanwhile: the tag tells what was before.
    if {image_id: row.updated_at for image_id, row in rows.items()} == choice.changed_at:
        _bodies.put(tag, body, len(body))
    return body
