"""The OpenAPI 3.1 document, written from the declared operations and the types that check requests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services.api.contract import JSON, Operation
from services.api.errors import STATUS
from services.api.idempotency import HEADER, LONGEST, REPLAYED
from services.api.schemas import Problem
from services.catalog.keys import Scope
from services.errors import (
    AkinError,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    TooLarge,
    Unauthorized,
    Unavailable,
)

PROBLEM = "application/problem+json"
REF = "#/components/schemas/{model}"
# What any route may answer: keys, catalogs, and parts that are away.
COMMON: tuple[type[AkinError], ...] = (InvalidRequest, Unauthorized, Forbidden, NotFound, Unavailable)

_PARAMETER = re.compile(r"<(?:(?P<converter>\w+)(?:\([^)]*\))?:)?(?P<name>\w+)>")


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The document of all operations."""
    models = sorted({m for o in operations for m in (o.query, o.body, o.returns) if m} | {Problem}, key=_name)
    inputs = {m for o in operations for m in (o.query, o.body) if m}
    refs, definitions = models_json_schema(
        [(m, "validation" if m in inputs else "serialization") for m in models], ref_template=REF
    )
    schemas = {model: refs[model, mode] for model, mode in refs if issubclass(model, BaseModel)}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = _PARAMETER.sub(lambda match: "{" + match["name"] + "}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Akin",
            "version": version("akin"),
            "summary": "What looks like this?",
            "description": "Upload pictures, ask for their look-alikes. Every error is a problem document (RFC 9457).",
        },
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"key": _KEY, "publishable_key": _PUBLISHABLE_KEY},
        },
        "security": [{"key": []}],
    }


def _operation(operation: Operation, schemas: dict[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": f"{operation.description}\n\nScope: `{operation.scope.value}`.".strip(),
        "parameters": [
            *_path_parameters(operation.path),
            *_query_parameters(operation),
            _CATALOG,
            *([_IDEMPOTENCY_KEY] if operation.repeatable else []),
        ],
        "responses": _responses(operation, schemas),
    }
    if operation.scope is Scope.WIDGET:
        described["security"] = [{"key": []}, {"publishable_key": []}]
    if operation.body:
        described["requestBody"] = {
            "required": True,
            "content": {media: {"schema": _body_schema(operation, media, schemas)} for media in operation.accepts},
        }
    elif operation.stream:
        described["requestBody"] = {"required": True, "content": {media: {} for media in operation.accepts}}
    return described


_KEY = {"type": "http", "scheme": "bearer", "description": "an API key: akin_…, or pk_… where that suffices"}
_PUBLISHABLE_KEY = {
    "type": "apiKey",
    "in": "query",
    "name": "key",
    "description": "a publishable key, pk_…, for pages of its origins; other keys may not stand in an address",
}

_CATALOG = {
    "name": "catalog",
    "in": "query",
    "description": "name of the catalog, where the key is not bound to one; default: `default`",
    "schema": {"type": "string"},
}


_IDEMPOTENCY_KEY = {
    "name": HEADER,
    "in": "header",
    "description": "any text of yours, another for each request: the same request with the same text is done once, "
    f"and answered as the first time, with the header `{REPLAYED}: true`, for a day",
    "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST, "pattern": "^[!-~]+$"},
}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    types = {
        "id64": {"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
        "item": {"type": "string", "minLength": 1, "maxLength": 512},
    }
    return [
        {"name": m["name"], "in": "path", "required": True, "schema": types.get(m["converter"], {"type": "string"})}
        for m in _PARAMETER.finditer(path)
    ]


def _query_parameters(operation: Operation) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    schema = operation.query.model_json_schema(ref_template=REF)
    return [
        {"name": name, "in": "query", "required": name in schema.get("required", []), "schema": member}
        for name, member in schema["properties"].items()
    ]


def _body_schema(operation: Operation, media: str, schemas: dict[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    """In JSON the type itself; in a form the same members, pictures as files."""
    assert operation.body
    if media == JSON:
        return schemas[operation.body]
    form = operation.body.model_json_schema(ref_template=REF)
    form.pop("$defs", None)
    binary = {"type": "string", "contentMediaType": "application/octet-stream"}
    for name in operation.file_fields:
        many = form["properties"][name].get("type") == "array"
        form["properties"][name] = {"type": "array", "items": binary, "minItems": 1} if many else binary
    return form


def _responses(operation: Operation, schemas: dict[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    success: dict[str, Any] = {"description": operation.status.phrase}
    if operation.returns:
        success["content"] = {JSON: {"schema": schemas[operation.returns]}}
    elif operation.media_types:
        success["content"] = {media: {"schema": {}} for media in operation.media_types}
    answers = {str(operation.status.value): success}
    limits: tuple[type[AkinError], ...] = (TooLarge,) if operation.body or operation.stream else ()
    if operation.versioned:
        answers["304"] = {"description": "Not changed since the ETag of `If-None-Match`"}
    statuses: dict[HTTPStatus, list[str]] = {}
    again: tuple[type[AkinError], ...] = (Conflict,) if operation.repeatable else ()
    for error in dict.fromkeys((*COMMON, *limits, *again, *operation.errors)):
        statuses.setdefault(STATUS[error], []).append((error.__doc__ or "").strip().splitlines()[0])
    for status, texts in sorted(statuses.items()):
        answers[str(status.value)] = {
            "description": " ".join(texts),
            "content": {PROBLEM: {"schema": schemas[Problem]}},
        }
    return answers


def _name(model: type[BaseModel]) -> str:
    return model.__name__
