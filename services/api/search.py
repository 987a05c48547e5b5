"""Search: by pictures, addresses, items, words, one or several at a time."""

from __future__ import annotations

from typing import Any

from services.api import present_search
from services.api.contract import FORM, JSON, Call, Router
from services.api.errors import described
from services.api.present_search import Members
from services.api.schemas import Problem
from services.api.schemas_search import BatchOut, BatchRequest, SearchBody, SearchOut, SearchRequest
from services.catalog.keys import Scope
from services.errors import (
    AkinError,
    Conflict,
    FetchFailed,
    FetchRefused,
    Gone,
    ImageRejected,
    Overloaded,
)
from services.search import pages, run
from services.search.request import Search

router = Router("search")

ERRORS = (ImageRejected, Overloaded, Conflict, FetchRefused, FetchFailed)


@router.route(
    "POST",
    "/v1/search",
    scope=Scope.SEARCH,
    body=SearchRequest,
    accepts=(FORM, JSON),
    files=("image",),
    bulk=True,
    returns=SearchOut,
    errors=(*ERRORS, Gone),
)
def search_by_image(call: Call[None, SearchRequest]) -> Members:
    """Pictures of the catalog that look like what is sent or named.

    Pictures that are sent are not kept. What the query names of the catalog is not among the hits. In a form `crop`,
    `query` and `filter` are JSON text.
    """
    body, services, catalog_id = call.body, call.services, call.caller.catalog_id
    if body.cursor is not None:
        return present_search.search(pages.page(services, catalog_id, body.cursor, body.limit))
    wanted = body.search(explain=body.explain)
    if body.paged:
        return present_search.search(run.first_page(services, catalog_id, wanted, body.filter))
    return present_search.search(run.search(services, catalog_id, wanted))


@router.route(
    "POST", "/v1/search/batch", scope=Scope.SEARCH, body=BatchRequest, bulk=True, returns=BatchOut, errors=ERRORS
)
def search_batch(call: Call[None, BatchRequest]) -> Members:
    """Several searches at once: faster than one after the other. Each has its own answer or error."""
    asked = [_search(body) for body in call.body.searches]
    searches = [search for search in asked if isinstance(search, Search)]
    answers = iter(run.batch(call.services, call.caller.catalog_id, searches))
    outcomes: list[Any] = [next(answers) if isinstance(search, Search) else search for search in asked]
    return {
        "results": [
            {"error": Problem.model_validate(described(outcome))}
            if isinstance(outcome, AkinError)
            else present_search.search(outcome)
            for outcome in outcomes
        ]
    }


def _search(body: SearchBody) -> Search | AkinError:
    try:
        return body.search()
    except AkinError as error:
        return error
