"""Which answers a browser shows to the pages of a shop: those of the routes that publishable keys are for.

| answer | Access-Control-Allow-Origin |
| --- | --- |
| to a publishable key from one of its origins | that origin |
| to the question before a request (OPTIONS), which has no key yet | the origin that asks |
| an error | the origin that asks, so that the page's author can read what is wrong |
| any other, such as to a secret key, which does not belong in a page | none |

Cookies never come along: no answer has Access-Control-Allow-Credentials.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from flask import Flask, Response, g, request

from services.api.contract import Operation
from services.catalog.keys import Scope

HEADERS = "Authorization, Content-Type, If-None-Match"
EXPOSED = "ETag, Retry-After"
# How long a browser need not ask again; some cap it at two hours.
MAX_AGE = "7200"


def install(app: Flask, operations: Iterable[Operation]) -> None:
    """Add the headers to the answers of the routes that take publishable keys."""
    methods = {o.path: o.method for o in operations if o.scope is Scope.WIDGET}

    def share(response: Response) -> Response:
        rule = request.url_rule
        if rule is None or rule.rule not in methods:
            return response
        origin = request.headers.get("Origin")
        headers = response.headers
        # As a text: parsed, added to and written again it takes as long as the rest of this.
        vary = headers.get("Vary")
        headers["Vary"] = "Origin" if vary is None else f"{vary}, Origin"
        if origin is None:
            return response
        if request.method == "OPTIONS":
            headers["Access-Control-Allow-Methods"] = methods[rule.rule]
            headers["Access-Control-Allow-Headers"] = HEADERS
            headers["Access-Control-Max-Age"] = MAX_AGE
        elif response.status_code < HTTPStatus.BAD_REQUEST and "allowed_origin" not in g:
            return response
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = EXPOSED
        return response

    app.after_request(share)
