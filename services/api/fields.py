"""Members of requests: their types, each with the values that it refuses and what it says of itself."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema

from services.catalog import fields
from services.catalog.filters import MAX_TEXT
from services.catalog.keys import LOCAL

MAX_LIMIT = 200


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("must be base64 text")
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError("is not valid base64") from error


def parsed(value: object) -> object:
    """Members of forms are JSON text; of JSON bodies they are values already."""
    return fields.parse_json(value) if isinstance(value, str) else value


def _that(check: Callable[[Any], None]) -> Callable[[Any], Any]:
    """A validator that passes on what a check takes."""

    def validate(value: Any) -> Any:
        check(value)
        return value

    return validate


def _check_address(value: str) -> None:
    try:
        host = urlsplit(value).hostname
    except ValueError as error:
        raise ValueError("is no web address") from error
    if not host:
        raise ValueError("is no web address: it has no host")


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
Text = Annotated[str, BeforeValidator(_that(fields.check_storable))]
ItemId = Annotated[
    Text,
    Field(min_length=1, max_length=fields.MAX_ITEM_ID, description="your own id, unique in the catalog"),
    AfterValidator(_that(fields.check_addressable)),
]
# In a form the attributes are JSON text.
Attributes = Annotated[
    dict[str, Any],
    AfterValidator(_that(fields.check_small)),
    BeforeValidator(_that(fields.check_storable)),
    BeforeValidator(parsed),
    Field(description="any JSON object: price, brand, in_stock …"),
]
AttributeName = Annotated[Text, Field(min_length=1, max_length=MAX_TEXT)]
Title = Annotated[Text, Field(max_length=fields.MAX_TITLE)]
Link = Annotated[Text, Field(max_length=fields.MAX_URL)]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT)]
KeyName = Annotated[Text, Field(min_length=1, max_length=100), AfterValidator(_own_name)]
Location = Annotated[Text, Field(min_length=1, max_length=4000)]
WebAddress = Annotated[
    Text, Field(min_length=8, max_length=4000, pattern=r"^https?://"), AfterValidator(_that(_check_address))
]
