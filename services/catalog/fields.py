"""What an item may hold, wherever it comes from: requests, manifests, names of files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Final

MAX_ITEM_ID = 512
CATALOG_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
MAX_TITLE = 2000
MAX_URL = 4000
MAX_DEPTH = 32
MAX_ATTRIBUTES = 64 * 1024
# Control characters: the whole of Unicode's category Cc.
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_item(item_id: object, title: object, url: object, attributes: object) -> None:
    """Refuse fields that the database, an address or an answer cannot hold; None stands for what is not given.

    Raises:
        ValueError: says which field, and why.
    """
    _check("item_id", item_id, check_item_id)
    if title is not None:
        _check("title", title, check_title)
    if url is not None:
        _check("url", url, check_url)
    if attributes is not None:
        _check("attributes", attributes, check_attributes)


def check_item_id(item_id: object) -> None:
    """Ids stand in addresses: `/v1/items/{item_id}` and `…/similar` must mean this item and nothing else.

    Raises:
        ValueError: it is no text, empty, too long, or would be another address.
    """
    text = _text(item_id, MAX_ITEM_ID)
    if not text:
        raise ValueError("must not be empty")
    check_addressable(text)


def check_addressable(item_id: str) -> None:
    """The part of `check_item_id` that is about addresses.

    Raises:
        ValueError: it would be another address, or cannot stand in one.
    """
    if any(segment in ("", ".", "..") for segment in item_id.split("/")) or item_id.endswith("/similar"):
        raise ValueError("must not have empty, `.` or `..` segments between slashes, nor end in `/similar`")
    if CONTROL.search(item_id):
        raise ValueError("must not have control characters")


def check_title(title: object) -> None:
    """Raise ValueError unless it is text that can be stored, of at most MAX_TITLE characters."""
    _text(title, MAX_TITLE)


def check_url(url: object) -> None:
    """Raise ValueError unless it is text that can be stored, of at most MAX_URL characters."""
    _text(url, MAX_URL)


def check_attributes(attributes: object) -> None:
    """Raise ValueError unless it is a JSON object that can be stored, of at most MAX_ATTRIBUTES characters."""
    if not isinstance(attributes, dict):
        raise ValueError("must be a JSON object")
    check_storable(attributes)
    check_small(attributes)


def check_small(attributes: dict[str, object]) -> None:
    """Raise ValueError if these values, which are storable, are longer than MAX_ATTRIBUTES as JSON."""
    if len(json.dumps(attributes)) > MAX_ATTRIBUTES:
        raise ValueError(f"must not be longer than {MAX_ATTRIBUTES} characters as JSON")


def check_storable(value: object, depth: int = 0) -> None:
    """Refuse what the database, or the answer that shows it, cannot hold.

    Raises:
        ValueError: nested too deeply, a number that JSON lacks, NUL, or text that is not Unicode.
    """
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
            check_storable(name, depth + 1)
            check_storable(member, depth + 1)
    elif isinstance(value, list):
        for member in value:
            check_storable(member, depth + 1)


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


def _check(name: str, value: object, check: Callable[[object], None]) -> None:
    try:
        check(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _text(value: object, longest: int) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")
    if len(value) > longest:
        raise ValueError(f"must not be longer than {longest} characters")
    check_storable(value)
    return value
