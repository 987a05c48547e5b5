"""What the vector store keeps of an item, so that it can filter, and filters in these terms.

A vector store knows only tokens and numbers (services/vectors/conditions.py). An item has a token for each fact that
a filter can ask for:

| fact                                        | token of                  | beside it  |
| ------------------------------------------- | ------------------------- | ---------- |
| the field is this value, or an array with it | `value`, field, value     |            |
| the field has a value that is not null      | `exists`, field           |            |
| the field is a number, or a time            | `number`, field           | the number |

A condition is met by every item that the filter matches, once the vector store has what was changed a moment ago:
until then such an item is as it was before, and only strong searches look for it (services/search/filtering.py).
Others may meet it too: of texts there is no order, and an item may have more facts than are kept. So whoever searches
looks at every hit again, in the database.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from services.catalog.filters import (
    MAX_NAMES,
    MAX_TEXT,
    MEMBERS,
    Among,
    And,
    Attribute,
    Exists,
    Filter,
    ItemLike,
    Leaf,
    Member,
    Not,
    Or,
    Scalar,
    Within,
    typed,
)
from services.vectors.conditions import MAX_TOKENS, All, Any, Bound, Compare, Condition, Facets, HasAny, HasNot

# More of them the server would read for longer than a search may take.
MAX_CONDITION_TOKENS = 10_000
# Seconds from 1970 up to which doubles tell microseconds apart.
EXACT_SECONDS = 2.0**33

BOUNDS: Final[Mapping[str, Bound]] = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
OPPOSITE: Final[Mapping[Bound, Bound]] = {">": "<=", ">=": "<", "<": ">=", "<=": ">"}
LOOSE: Final[Mapping[Bound, Bound]] = {">": ">=", ">=": ">=", "<": "<=", "<=": "<="}

Field = Member | Attribute


@lru_cache(1024)
def _place(field: Field) -> str:
    return json.dumps(field.name if isinstance(field, Member) else field.path)


@lru_cache(1024)
def _token_of(kind: str, field: Field) -> int:
    return _hashed(f'["{kind}",{_place(field)}]')


def _token_of_value(field: Field, value: str | float | bool) -> int:
    return _hashed(f'["value",{_place(field)},{json.dumps(value) if isinstance(value, str) else repr(value)}]')


def _hashed(fact: str) -> int:
    """The first 62 bits of a hash over an encoding that no two facts share."""
    return int.from_bytes(blake2b(fact.encode(), digest_size=8).digest()) >> 2


# Of an item with this token some facts are not kept.
OVERFLOW: Final = _hashed('["overflow"]')


def facets_of(item: ItemLike) -> Facets:
    """All that a filter can ask of an item; of more than MAX_TOKENS facts the first, without numbers."""
    tokens: dict[int, None] = {}
    numbers: dict[int, float] = {}
    for token, number in _facts(item):
        tokens[token] = None
        if number is not None and math.isfinite(number):
            numbers[token] = number
        elif number is not None:  # an integer beyond all doubles
            tokens[OVERFLOW] = None
        if len(tokens) > MAX_TOKENS:
            return Facets(frozenset([*list(tokens)[: MAX_TOKENS - 1], OVERFLOW]))
    return Facets(frozenset(tokens), numbers)


Fact = tuple[int, float | None]


def _facts(item: ItemLike) -> Iterator[Fact]:
    for name in MEMBERS:
        yield from _facts_of(Member(name), getattr(item, name))
    for name, value in item.attributes.items():
        yield from _facts_below((name,), value)


def _facts_below(path: tuple[str, ...], value: object) -> Iterator[Fact]:
    if len(path) > MAX_NAMES or len(path[-1]) > MAX_TEXT:  # no filter can name it
        return
    yield from _facts_of(Attribute(path), value)
    if isinstance(value, Mapping):
        for name, member in value.items():
            yield from _facts_below((*path, name), member)


def _facts_of(field: Field, value: object) -> Iterator[Fact]:
    if value is None:
        return
    yield _token_of("exists", field), None
    for member in value if isinstance(value, list) else [value]:
        if (plain := _plain(member)) is not None:
            yield _token_of_value(field, plain), None
    kind, number = typed(value)
    if kind is datetime:
        yield _token_of("number", field), number.timestamp()
    elif kind is float:
        yield _token_of("number", field), number


def _plain(value: object) -> str | float | bool | None:
    """A value as it is hashed, equal where `eq` says so; None where no filter can ask for it."""
    kind, plain = typed(value)
    if kind is float:
        return (plain or 0.0) if math.isfinite(plain) else None  # 0.0 is -0.0
    known = kind is bool or (kind is str and len(plain) <= MAX_TEXT)
    return plain if known else None


def condition(wanted: Filter) -> Condition | None:
    """What every item that matches meets in the vector store; None where that is nothing, or too much to ask."""
    said = _said(wanted, True)
    return said if said is not None and _size(said) <= MAX_CONDITION_TOKENS else None


def _said(wanted: Filter, holds: bool) -> Condition | None:
    """What can be said of items for which a filter holds, or does not."""
    match wanted:
        case Not(part):
            return _said(part, not holds)
        case And(parts) | Or(parts):
            said = [_said(part, holds) for part in parts]
            known = tuple(part for part in said if part is not None)
            if isinstance(wanted, And) is holds:
                return All(known) if known else None
            return Any(known) if len(known) == len(said) else None
    return _said_of_leaf(wanted, holds)


def _said_of_leaf(leaf: Leaf, holds: bool) -> Condition | None:
    match leaf:
        case Exists(field):
            return _has([_token_of("exists", field)], holds)
        case Among(field, (datetime() as moment,)):
            return _within(field, (("gte", moment), ("lte", moment)), holds)
        case Among(field, values):
            known = [plain for plain in map(_plain, values) if plain is not None]
            return _has([_token_of_value(field, plain) for plain in known], holds)
        case Within(field, ((_, str()), *_)):
            return _has([_token_of("exists", field)], True) if holds else None
        case Within(field, bounds):
            return _within(field, bounds, holds)


def _has(tokens: list[int], holds: bool) -> Condition:
    # An item with too many facts may have any of them; those that are kept of it are true.
    return HasAny(tuple(dict.fromkeys([*tokens, OVERFLOW]))) if holds else HasNot(tuple(dict.fromkeys(tokens)))


def _within(field: Field, bounds: tuple[tuple[str, Scalar], ...], holds: bool) -> Condition:
    token = _token_of("number", field)
    kept = tuple(_compare(token, BOUNDS[name], bound, holds) for name, bound in bounds)
    if holds:
        return Any((All(kept), HasAny((OVERFLOW,))))
    return Any((*kept, HasNot((token,)), HasAny((OVERFLOW,))))


def _compare(token: int, bound: Bound, value: Scalar, holds: bool) -> Compare:
    bound = bound if holds else OPPOSITE[bound]
    if isinstance(value, datetime):
        seconds = value.timestamp()
        return Compare(token, bound if abs(seconds) < EXACT_SECONDS else LOOSE[bound], seconds)
    return Compare(token, bound, typed(value)[1])


def _size(said: Condition) -> int:
    match said:
        case HasAny(tokens) | HasNot(tokens):
            return len(tokens)
        case Compare():
            return 1
        case All(parts) | Any(parts):
            return sum(map(_size, parts))
