"""Routes as declarations: scope, input, output and errors, from which requests are checked and OpenAPI is made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from http import HTTPStatus
from inspect import cleandoc
from typing import Any, Generic, TypeVar

from flask import Blueprint, Response, current_app, request
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from werkzeug.datastructures import FileStorage, MultiDict

from services.api.auth import Caller, authenticate
from services.api.errors import invalid
from services.api.idempotency import HEADER, fingerprint_of, once
from services.api.schemas import NoQuery
from services.catalog.fields import parse_json
from services.catalog.keys import Scope
from services.errors import AkinError, InvalidRequest
from services.wiring import Services

QueryT = TypeVar("QueryT", bound=BaseModel | None)
BodyT = TypeVar("BodyT", bound=BaseModel | None)

JSON = "application/json"
FORM = "multipart/form-data"
# JSON all the same: what a page may send to another origin without asking first.
TEXT = "text/plain"
CHUNK_BYTES = 1024 * 1024
# What a page of a shop may send at once.
VISITOR_BYTES = 256 * 1024


@dataclass(frozen=True)
class Call(Generic[QueryT, BodyT]):
    """A checked request: what a route's function gets."""

    services: Services
    caller: Caller
    query: QueryT
    body: BodyT
    files: tuple[FileStorage, ...]
    # The body as it arrives, of routes that are declared as streams; `media_type` is what the client calls it.
    chunks: Iterator[bytes]
    media_type: str


@dataclass(frozen=True)
class Operation:
    """What a route declares; the OpenAPI document is written from these."""

    method: str
    path: str
    name: str
    summary: str
    description: str
    scope: Scope
    query: type[BaseModel] | None
    body: type[BaseModel] | None
    accepts: tuple[str, ...]
    file_fields: tuple[str, ...]
    status: HTTPStatus
    returns: type[BaseModel] | None
    media_types: tuple[str, ...]
    errors: tuple[type[AkinError], ...]
    repeatable: bool
    stream: bool
    versioned: bool


class Router:
    """Collects operations and makes Flask views of them."""

    def __init__(self, name: str) -> None:
        self.blueprint = Blueprint(name, __name__)
        self.operations: list[Operation] = []

    def route(
        self,
        method: str,
        path: str,
        *,
        scope: Scope,
        query: type[BaseModel] | None = None,
        body: type[BaseModel] | None = None,
        accepts: tuple[str, ...] = (JSON,),
        files: tuple[str, ...] = (),
        bulk: bool = False,
        status: HTTPStatus = HTTPStatus.OK,
        returns: type[BaseModel] | None = None,
        media_types: tuple[str, ...] = (),
        errors: tuple[type[AkinError], ...] = (),
        repeatable: bool = True,
        stream: bool = False,
        versioned: bool = False,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Declare a route.

        Args:
            files: members of `body` that are files of a form.
            bulk: the body may be as large as AKIN_MAX_REQUEST_BYTES, instead of about one picture.
            returns: the answer's type, of which the function may return the members as a dictionary; without it and
                without `media_types` the answer is empty.
            media_types: what the function's own Response may contain instead of JSON.
            errors: beyond those that every route can raise.
            repeatable: a POST may have an Idempotency-Key; not where the answer is a secret, which is not kept.
            stream: the body is read by the function, piece by piece, and may be of AKIN_MAX_ARCHIVE_BYTES.
            versioned: the answer has an ETag, made of the answer's `version()`, and is 304 to who has it.
        """

        def declare(function: Callable[..., Any]) -> Callable[..., Any]:
            summary, _, description = cleandoc(function.__doc__ or "").partition("\n")
            self.operations.append(
                Operation(
                    method, path, function.__name__, summary, description.strip(), scope, query, body, accepts, files,
                    status, returns, media_types, errors, repeatable and method == "POST", stream, versioned,
                )
            )  # fmt: skip

            @wraps(function)
            def view(**path_arguments: Any) -> Response:
                services: Services = current_app.extensions["akin"]
                caller = authenticate(services, request, scope)
                if bulk:
                    request.max_content_length = services.settings.max_request_bytes
                # What `authenticate` reads is no parameter of the route.
                ignored = ("catalog", "key") if scope is Scope.WIDGET else ("catalog",)
                if scope is Scope.WIDGET:
                    request.max_content_length = VISITOR_BYTES
                checked = _checked(query or NoQuery, _each_once(request.args), ignored)
                sent: Any = {}
                attached: tuple[FileStorage, ...] = ()
                if stream:
                    _check_type(accepts)
                    request.max_content_length = services.settings.max_archive_bytes
                    # The bytes themselves are not known yet when an earlier answer is looked for.
                    sent = {"length": request.content_length, "type": request.mimetype}
                elif body:
                    sent, attached = _body(accepts, files)
                name = request.headers.get(HEADER) if method == "POST" and repeatable else None
                call = Call(
                    services,
                    caller,
                    checked if query else None,
                    _checked(body, sent) if body else None,
                    attached,
                    _chunks(),
                    request.mimetype,
                )

                def do() -> Response:
                    return _answer(function(call, **path_arguments), status, versioned)

                if name is None:
                    return do()
                return once(services, caller.key_id, name, fingerprint_of(request, sent, attached), do)

            self.blueprint.add_url_rule(path, function.__name__, view, methods=[method])
            return function

        return declare


def _body(accepts: tuple[str, ...], files: tuple[str, ...]) -> tuple[Any, tuple[FileStorage, ...]]:
    """What was sent, as the members of the body's type, and its files."""
    _check_type(accepts)
    if request.mimetype in (JSON, TEXT):
        return json_body(), ()
    sent: dict[str, Any] = _each_once(request.form)
    attached: list[FileStorage] = []
    for name, parts in request.files.lists():
        attached += parts
        # A text member, such as a manifest, may be sent as a file.
        sent[name] = [part.read() for part in parts] if name == "files" else _single(name, parts, name in files)
    return sent, tuple(attached)


def _each_once(sent: MultiDict[str, str]) -> dict[str, Any]:
    """The parameters of the address, or the text members of a form.

    Raises:
        InvalidRequest: one is there several times.
    """
    for name, values in sent.lists():
        if len(values) > 1:
            raise InvalidRequest(f"{name}: was sent {len(values)} times")
    return sent.to_dict()


def _check_type(accepts: tuple[str, ...]) -> None:
    if request.mimetype not in accepts:
        raise InvalidRequest(f"send {' or '.join(accepts)}, not {request.mimetype or 'a body without a type'}")


def _chunks() -> Iterator[bytes]:
    while chunk := request.stream.read(CHUNK_BYTES):
        yield chunk


def json_body() -> object:
    """The request's body as Python values.

    Raises:
        InvalidRequest: it is not JSON.
    """
    try:
        return parse_json(request.get_data(cache=False))
    except ValueError as error:
        raise InvalidRequest(f"the body {error}", code="invalid_json") from error


def _single(name: str, parts: list[FileStorage], binary: bool) -> bytes | str:
    if len(parts) > 1:
        raise InvalidRequest(f"{name}: was sent {len(parts)} times")
    data: bytes = parts[0].read()
    try:
        return data if binary else data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{name}: is not UTF-8 text") from error


def _checked(model: type[BaseModel], sent: Mapping[str, Any], ignored: tuple[str, ...] = ()) -> BaseModel:
    if not isinstance(sent, dict):
        raise InvalidRequest("the body must be a JSON object")
    try:
        return model.model_validate({name: value for name, value in sent.items() if name not in ignored})
    except ValidationError as error:
        raise invalid(error) from error


def _answer(result: Any, status: HTTPStatus, versioned: bool = False) -> Response:
    if isinstance(result, Response):
        return result
    if result is None:
        return Response(status=status)
    text = to_json(result) if isinstance(result, dict) else result.model_dump_json()
    response = Response(text, status, mimetype=JSON)
    if versioned:
        response.set_etag(hashlib.sha256(repr(result.version()).encode()).hexdigest()[:32], weak=True)
        response.headers["Cache-Control"] = "private, no-cache"
        response.make_conditional(request)
    return response


def check_address() -> None:
    """Refuse an address with a NUL character, which PostgreSQL cannot even compare with.

    Raises:
        InvalidRequest: it has one.
    """
    if "\x00" in request.path or any("\x00" in value for value in request.args.values()):
        raise InvalidRequest("the address must not contain NUL characters")
