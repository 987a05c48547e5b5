"""Members of requests: their types, each with the values that it refuses and what it says of itself."""

from __future__ import annotations

import base64
import binascii
import json
import math
import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema

from services.catalog.keys import LOCAL

MAX_LIMIT = 200
MAX_DEPTH = 32
MAX_ATTRIBUTES = 64 * 1024


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("must be base64 text")
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError("is not valid base64") from error


def parse_json(text: str | bytes) -> object:
    """JSON as Python values.

    Raises:
        ValueError: it is not JSON (NaN and Infinity are not), or nested too deeply to be read.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"is not valid JSON: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def parsed(value: object) -> object:
    """Members of forms are JSON text; of JSON bodies they are values already."""
    return parse_json(value) if isinstance(value, str) else value


def _storable(value: object, depth: int = 0) -> object:
    """Refuse what the database, or the answer that shows it, cannot hold."""
    if depth > MAX_DEPTH:
        raise ValueError(f"must not be nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must not have numbers that are infinite or not a number")
    if isinstance(value, str):
        # PostgreSQL stores neither NUL in text nor lone surrogates.
        if "\x00" in value:
            raise ValueError("must not contain NUL characters")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError("must be valid Unicode") from error
    elif isinstance(value, dict):
        for name, member in value.items():
            _storable(name, depth + 1)
            _storable(member, depth + 1)
    elif isinstance(value, list):
        for member in value:
            _storable(member, depth + 1)
    return value


def _small(value: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(value)) > MAX_ATTRIBUTES:
        raise ValueError(f"must not be longer than {MAX_ATTRIBUTES} characters as JSON")
    return value


def _addressable(item_id: str) -> str:
    """Ids stand in addresses: `/v1/items/{item_id}` and `…/similar` must mean this item and nothing else."""
    if any(segment in ("", ".", "..") for segment in item_id.split("/")) or item_id.endswith("/similar"):
        raise ValueError("must not have empty, `.` or `..` segments between slashes, nor end in `/similar`")
    if any(unicodedata.category(character) == "Cc" for character in item_id):
        raise ValueError("must not have control characters")
    return item_id


def _own_name(name: str) -> str:
    if name == LOCAL:
        raise ValueError("this name is kept for the key of `akin up`")
    return name


# In JSON the bytes as base64, in a form the file itself.
PictureBytes = Annotated[
    bytes,
    PlainValidator(_bytes),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "the picture's bytes"}),
]
Text = Annotated[str, BeforeValidator(_storable)]
ItemId = Annotated[
    Text,
    Field(min_length=1, max_length=512, description="your own id, unique in the catalog"),
    AfterValidator(_addressable),
]
# In a form the attributes are JSON text.
Attributes = Annotated[
    dict[str, Any],
    AfterValidator(_small),
    BeforeValidator(_storable),
    BeforeValidator(parsed),
    Field(description="any JSON object: price, brand, in_stock …"),
]
Title = Annotated[Text, Field(max_length=2000)]
Link = Annotated[Text, Field(max_length=4000)]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT)]
KeyName = Annotated[Text, Field(min_length=1, max_length=100), AfterValidator(_own_name)]
