"""A filter over items: JSON that is checked, then translated to SQL or applied to one item.

    {"field": "brand", "eq": "Acme"}                  {"field": "brand", "in": ["Acme", "Bolt"]}
    {"field": "price", "gte": 10, "lt": 50}           {"field": "sale_price", "exists": true}
    {"and": [{"field": "size.eu", "eq": 42}, {"not": {"field": "tags", "eq": "used"}}]}

Fields. `item_id`, `title`, `url`, `created_at` and `updated_at` are members of the item. Any other text names an
attribute, with dots between the names of nested ones; `attributes.` may stand before it, and must where the
attribute has the name of a member: `attributes.title`. Names that contain dots are given as a list, in which
every name is taken as it is, below the attributes: `["size.eu"]`, `["dimensions", "w.h"]`.

Leaves. `eq` and `in` match an attribute that is one of the values, or an array that contains one of them. `gt`,
`gte`, `lt` and `lte` compare numbers, texts (by code point) and moments. `exists` asks whether there is a value
that is not null. Times are ISO 8601 with a zone; they take bounds and `eq`.

Types. Numbers match numbers only, texts texts, booleans booleans; an attribute of another type does not match, which
is no error. Each leaf is true or false, never unknown, so `not` matches the items that lack a field too.

Numbers are compared as double-precision floats: 1, 1.0 and 1e0 are equal, and so are integers beyond 2**53 that
round to the same double. SQLite may read decimals of more than 15 digits, and integers of more than 64 bits,
as the double beside the nearest one.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, Protocol

from services.errors import InvalidRequest

MAX_DEPTH = 8
MAX_LEAVES = 100
MAX_VALUES = 1000
MAX_TEXT = 1000
MAX_NAMES = 8

MOMENTS: Final = ("created_at", "updated_at")
MEMBERS: Final = ("item_id", "title", "url", *MOMENTS)
# These compare Python values and SQL expressions alike.
BOUNDS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}

Scalar = str | int | float | bool | datetime


@dataclass(frozen=True)
class Member:
    """A member of the item itself."""

    name: str


@dataclass(frozen=True)
class Attribute:
    """An attribute by the names that lead to it."""

    path: tuple[str, ...]


@dataclass(frozen=True)
class Among:
    """The field is one of the values, or an array that contains one."""

    field: Member | Attribute
    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Within:
    """The field keeps to every bound; bounds are pairs of an operator and a value, all of one type."""

    field: Member | Attribute
    bounds: tuple[tuple[str, Scalar], ...]


@dataclass(frozen=True)
class Exists:
    """The field has a value that is not null."""

    field: Member | Attribute


@dataclass(frozen=True)
class And:
    """Every part matches."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Or:
    """Some part matches."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Not:
    """The part does not match."""

    part: Filter


Leaf = Among | Within | Exists
Filter = Leaf | And | Or | Not


@dataclass(frozen=True, eq=False)
class AsWritten:
    """A filter, or none, that equals those alone that are written the same: to Python 1, 1.0 and True are equal."""

    wanted: Filter | None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsWritten) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


class ItemLike(Protocol):
    """What a filter looks at."""

    @property
    def item_id(self) -> str: ...
    @property
    def title(self) -> str | None: ...
    @property
    def url(self) -> str | None: ...
    @property
    def attributes(self) -> Mapping[str, Any]: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def updated_at(self) -> datetime: ...


def leaves(wanted: Filter | None) -> Iterator[Leaf]:
    """The conditions that a filter is made of."""
    match wanted:
        case And(parts) | Or(parts):
            for part in parts:
                yield from leaves(part)
        case Not(part):
            yield from leaves(part)
        case Among() | Within() | Exists():
            yield wanted


def parse(body: object) -> Filter:
    """Check a filter as it came from JSON.

    Raises:
        InvalidRequest: it is not a filter, or larger than the limits; the detail names the place, as `and.0.gte`.
    """
    return _node(body, (), iter(range(MAX_LEAVES)))


Place = tuple[str | int, ...]


def _refuse(at: Place, message: str) -> NoReturn:
    field = ".".join(map(str, ("filter", *at)))
    raise InvalidRequest(f"{field}: {message}", code="invalid_filter", errors=[{"field": field, "message": message}])


def _node(body: object, at: Place, leaves: Iterator[int]) -> Filter:
    if not isinstance(body, dict):
        _refuse(at, "must be an object")
    if "field" in body:
        if next(leaves, None) is None:
            _refuse(at, f"must not be: a filter has at most {MAX_LEAVES} conditions on fields")
        return _leaf(body, at)
    # Every member of the place is an operator or a number in its list.
    if sum(isinstance(step, str) for step in at) + 2 > MAX_DEPTH:
        _refuse(at, f"must not be nested deeper than {MAX_DEPTH} levels")
    match list(body.items()):
        case [("not", part)]:
            return Not(_node(part, (*at, "not"), leaves))
        case [("and" | "or" as name, list(parts))] if parts:
            kind = And if name == "and" else Or
            return kind(tuple(_node(part, (*at, name, number), leaves) for number, part in enumerate(parts)))
        case [("and" | "or" as name, _)]:
            _refuse((*at, name), "must be a list of at least one filter")
    _refuse(at, "must have the member field, or exactly one of and, or, not")


def _leaf(body: dict[str, Any], at: Place) -> Filter:
    field = _field(body["field"], (*at, "field"))
    given = {name: value for name, value in body.items() if name != "field"}
    match list(given.items()):
        case [("exists", bool(wanted))]:
            return Exists(field) if wanted else Not(Exists(field))
        case [("exists", _)]:
            _refuse((*at, "exists"), "must be true or false")
        case [("eq", value)]:
            return Among(field, (_scalar(value, field, (*at, "eq")),))
        case [("in", list(values))] if 0 < len(values) <= MAX_VALUES:
            if isinstance(field, Member) and field.name in MOMENTS:
                _refuse((*at, "in"), "is not for times; use gte and lt")
            return Among(field, tuple(_scalar(value, field, (*at, "in", n)) for n, value in enumerate(values)))
        case [("in", _)]:
            _refuse((*at, "in"), f"must be a list of 1 to {MAX_VALUES} values")
    if not given or not given.keys() <= BOUNDS.keys():
        _refuse(at, "must have, beside field, one of eq, in and exists, or bounds: gt, gte, lt, lte")
    return Within(field, _bounds(given, field, at))


def _bounds(given: dict[str, Any], field: Member | Attribute, at: Place) -> tuple[tuple[str, Scalar], ...]:
    bounds = tuple((name, _scalar(value, field, (*at, name))) for name, value in given.items())
    if {"gt", "gte"} <= given.keys() or {"lt", "lte"} <= given.keys():
        _refuse(at, "must have one lower and one upper bound at most")
    kinds = {typed(value)[0] for _, value in bounds}
    if len(kinds) > 1 or bool in kinds:
        _refuse(at, "must have bounds that are all numbers or all text")
    return bounds


def _field(value: object, at: Place) -> Member | Attribute:
    if isinstance(value, str):
        if value in MEMBERS:
            return Member(value)
        path = _text(value, at).removeprefix("attributes.").split(".")
        if not all(path) or value == "attributes":
            _refuse(at, "must be a name, or names with dots between them; names that contain dots go in a list")
    elif isinstance(value, list) and value:
        path = [_text(name, (*at, number)) for number, name in enumerate(value)]
    else:
        _refuse(at, "must be the name of a field, or a list of names")
    if len(path) > MAX_NAMES:
        _refuse(at, f"must not have more than {MAX_NAMES} names")
    return Attribute(tuple(path))


def _scalar(value: object, field: Member | Attribute, at: Place) -> Scalar:
    if isinstance(field, Member):
        return _moment(value, at) if field.name in MOMENTS else _text(value, at)
    if isinstance(value, str):
        return _text(value, at)
    if not isinstance(value, bool | int | float):
        _refuse(at, "must be text, a number, true or false (null is asked for with exists)")
    if not math.isfinite(_double(value)):
        _refuse(at, "must be a finite number, and one that a double-precision float can hold")
    return value


def _text(value: object, at: Place) -> str:
    if not isinstance(value, str):
        _refuse(at, "must be text")
    if len(value) > MAX_TEXT:
        _refuse(at, f"must not be longer than {MAX_TEXT} characters")
    # PostgreSQL stores neither NUL in text nor lone surrogates, which UTF-8 cannot encode.
    try:
        storable = b"\x00" not in value.encode()
    except UnicodeEncodeError:
        storable = False
    if not storable:
        _refuse(at, "must be valid Unicode without NUL characters")
    return value


def _moment(value: object, at: Place) -> datetime:
    try:
        moment = datetime.fromisoformat(_text(value, at))
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass  # the same words for all that is not a moment
    _refuse(at, "must be a time in ISO 8601 with its zone, such as 2026-05-01T00:00:00Z")


def matches(wanted: Filter, item: ItemLike) -> bool:
    """Whether an item matches: what `to_sql` means."""
    match wanted:
        case And(parts):
            return all(matches(part, item) for part in parts)
        case Or(parts):
            return any(matches(part, item) for part in parts)
        case Not(part):
            return not matches(part, item)
    return _holds(wanted, _value_of(wanted.field, item))


def _holds(leaf: Leaf, value: Any) -> bool:
    match leaf:
        case Exists():
            return value is not None
        case Among(_, values):
            members = value if isinstance(value, list) else [value]
            return not {typed(member) for member in members}.isdisjoint(map(typed, values))
        case Within(_, bounds):
            kind, comparable = typed(value)
            pairs = [(BOUNDS[name], typed(bound)) for name, bound in bounds]
            return all(kind is of and compare(comparable, bound) for compare, (of, bound) in pairs)


def _value_of(field: Member | Attribute, item: ItemLike) -> Any:
    if isinstance(field, Member):
        return getattr(item, field.name)
    value: Any = item.attributes
    for name in field.path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def typed(value: object) -> tuple[type, Any]:
    """A value with its type: equal where `eq` says so. Arrays, objects and null are like nothing that is asked for."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float, _double(value)
    return (type(value), value) if isinstance(value, str | bool | datetime) else (type(None), None)


def _double(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
