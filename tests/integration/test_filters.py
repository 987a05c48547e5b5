"""The filter language: what it refuses, and that SQLite, PostgreSQL and `matches` agree on what it finds."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select

from services.catalog.database import Database
from services.catalog.filter_sql import to_sql
from services.catalog.filters import matches, parse
from services.catalog.models import Base, Catalog, Item
from services.errors import InvalidRequest

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOSTILE = """'"; DROP TABLE items; --\\ %s %(x)s :x ? {} $."a"[0] """


def item(item_id: str, attributes: dict[str, Any] | None = None, **members: Any) -> Item:
    times = {"created_at": NOON, "updated_at": NOON}
    return Item(catalog_id=1, item_id=item_id, attributes=attributes or {}, **{**times, **members})


SHOP = (
    item("bare"),
    item("nulls", {"price": None, "brand": None, "size": None, "tags": None}),
    item("boot", {"price": 49.95, "brand": "Acme", "in_stock": True, "size": {"eu": 42}, "tags": ["red", "new"]}),
    item("shoe", {"price": 50, "brand": "Bolt", "in_stock": False, "size": {"eu": 43.5}, "tags": []}),
    item("text", {"price": "50", "brand": 50, "in_stock": "true", "size": "eu", "tags": "red"}),
    item("bits", {"price": True, "brand": True, "in_stock": 1, "size": ["eu"], "tags": [True, 0, None, ["red"]]}),
    item("deep", {"price": {"eq": 50}, "brand": ["Acme", 50.0], "size": {"eu": {"wide": [42]}}, "tags": [{"red": 1}]}),
    item(
        "clash", {"title": "Inner", "attributes": {"title": "Third"}, "a.b": 1, "a": {"b": 2, "c.d": 3}}, title="Outer"
    ),
    item(
        "odd", {"": {"": "empty"}, HOSTILE: HOSTILE, "größe": "größte 😀", "$": 1, "[0]": 2, 'say "hi"': 3, "back\\": 4}
    ),
    item("big", {"n": 2**53 + 1, "huge": 10**400, "low": -(10**400), "long": 2**63, "max": int(sys.float_info.max)}),
    item("small", {"n": 2.0**53, "huge": 1e308, "low": -1e308, "long": -5e-324, "max": sys.float_info.max}),
    item("early", {}, title="", url="https://shop/1", created_at=NOON - timedelta(days=1, microseconds=1)),
    item("late", {"z": "z", "é": "e\u0301"}, title="Zebra", url=HOSTILE, updated_at=NOON + timedelta(microseconds=1)),
)
EVERY = {each.item_id for each in SHOP}


def field(name: str | list[str], **test: Any) -> dict[str, Any]:
    return {"field": name, **({"in": test.pop("among")} if "among" in test else test)}


# A filter, and the items of the shop that it finds.
TABLE: list[tuple[dict[str, Any], set[str]]] = [
    (field("price", gte=10, lt=50), {"boot"}),
    (field("price", gte=49.95, lte=50.0), {"boot", "shoe"}),
    (field("price", gt=49.95), {"shoe"}),
    (field("price", eq=50), {"shoe"}),
    (field("price", eq="50"), {"text"}),
    (field("price", eq=True), {"bits"}),
    (field("price", gte="1"), {"text"}),
    ({"not": field("price", gte=10)}, EVERY - {"boot", "shoe"}),
    (field("in_stock", eq=True), {"boot"}),
    (field("in_stock", eq=False), {"shoe"}),
    (field("in_stock", eq=1), {"bits"}),
    (field("in_stock", among=[True, False]), {"boot", "shoe"}),
    (field("brand", among=["Acme", "Bolt"]), {"boot", "shoe", "deep"}),
    (field("brand", among=["Bolt", 50, True]), {"shoe", "text", "bits", "deep"}),
    (field("brand", eq="acme"), set()),
    (field("brand", exists=True), {"boot", "shoe", "text", "bits", "deep"}),
    ({"and": [field("brand", exists=False), field("item_id", lt="c")]}, {"bare", "big"}),
    (field("tags", eq="red"), {"boot", "text"}),
    (field("tags", eq=True), {"bits"}),
    (field("tags", eq=False), set()),
    (field("tags", eq=0), {"bits"}),
    (field("tags", gte="a"), {"text"}),
    (field("tags", exists=True), {"boot", "shoe", "text", "bits", "deep"}),
    (field("size.eu", among=[42, 43.5]), {"boot", "shoe"}),
    (field("size.eu", gt=42), {"shoe"}),
    (field("size.eu", exists=True), {"boot", "shoe", "deep"}),
    (field("size.eu.wide", eq=42), {"deep"}),
    (field("attributes.size.eu", eq=42), {"boot"}),
    (field("size.0", eq="eu"), set()),
    (field("title", eq="Outer"), {"clash"}),
    (field("title", among=["", "Zebra"]), {"early", "late"}),
    ({"not": field("title", among=["", "Zebra"])}, EVERY - {"early", "late"}),
    (field("title", gte="P"), {"late"}),
    ({"not": field("title", gte="P")}, EVERY - {"late"}),
    (field("title", exists=True), {"clash", "early", "late"}),
    (field("attributes.title", eq="Inner"), {"clash"}),
    (field(["title"], eq="Inner"), {"clash"}),
    (field(["attributes", "title"], eq="Third"), {"clash"}),
    (field("attributes.attributes.title", eq="Third"), {"clash"}),
    (field("attributes.attributes", exists=True), {"clash"}),
    (field("a.b", eq=2), {"clash"}),
    (field(["a.b"], eq=1), {"clash"}),
    (field(["a", "c.d"], eq=3), {"clash"}),
    (field(["", ""], eq="empty"), {"odd"}),
    (field([HOSTILE], eq=HOSTILE), {"odd"}),
    (field(HOSTILE.replace(".", ""), eq=HOSTILE), set()),
    (field("url", eq=HOSTILE), {"late"}),
    (field("item_id", eq="' OR 1=1 --"), set()),
    (field("größe", eq="größte 😀"), {"odd"}),
    (field("größe", gte="größte \uffff"), {"odd"}),
    (field("$", eq=1), {"odd"}),
    (field("[0]", eq=2), {"odd"}),
    (field('say "hi"', eq=3), {"odd"}),
    (field("back\\", eq=4), {"odd"}),
    (field("é", eq="é"), set()),
    (field("z", lt="é"), {"late"}),
    (field("n", eq=2**53), {"big", "small"}),
    (field("n", gt=2**53), set()),
    (field("huge", gt=1e308), {"big"}),
    (field("low", lte=-1e308), {"big", "small"}),
    (field("long", gte=2**63), {"big"}),
    (field("long", lt=0), {"small"}),
    (field("max", eq=sys.float_info.max), {"big", "small"}),
    (field("created_at", lt="2026-05-01T00:00:00Z"), {"early"}),
    (field("created_at", eq="2026-05-01T14:00:00+02:00"), EVERY - {"early"}),
    (field("created_at", gte="0001-01-01T00:00:00Z", lte="9999-12-31T23:59:59Z"), EVERY),
    (field("updated_at", gt="2026-05-01T12:00:00+00:00"), {"late"}),
    (field("updated_at", exists=True), EVERY),
    ({"or": [field("item_id", eq="bare"), {"not": field("item_id", gte="boot")}]}, {"bare", "big", "bits"}),
    ({"not": {"not": {"and": [field("price", exists=True), field("price", lt=50)]}}}, {"boot"}),
]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    Base.metadata.create_all(database.engine)
    with database.transaction() as session:
        session.add(Catalog(id=1, name="default"))
    yield database
    database.close()


def found(database: Database, filters: list[dict[str, Any]], items: list[Item]) -> list[dict[str, bool | None]]:
    """What each filter is to the database for each item, which it forgets again."""
    conditions = [to_sql(parse(each)).label(f"filter_{number}") for number, each in enumerate(filters)]
    columns = ("item_id", "title", "url", "attributes", "created_at", "updated_at")
    rows = [{"catalog_id": 1, **{name: getattr(each, name) for name in columns}} for each in items]
    with database.reading() as session:
        session.execute(Item.__table__.insert(), rows)
        answers = session.execute(select(Item.item_id, *conditions)).all()
    return [{answer.item_id: answer[1 + number] for answer in answers} for number in range(len(filters))]


@pytest.mark.parametrize(("body", "wanted"), TABLE)
def test_a_filter_matches_what_the_table_says(body: dict[str, Any], wanted: set[str]) -> None:
    assert {each.item_id for each in SHOP if matches(parse(body), each)} == wanted


def test_the_database_finds_what_the_table_says(database: Database) -> None:
    answers = found(database, [body for body, _ in TABLE], list(SHOP))

    for (body, wanted), answer in zip(TABLE, answers, strict=True):
        assert answer == {item_id: item_id in wanted for item_id in EVERY}, body


# Few keys and values, so that items and filters meet; each is one that a database may take for another.
KEYS = st.sampled_from(["a", "b", "", "a.b", "title", "attributes", "é", '"', "\\", "'", "$", "[0]", "0", "%s"])
TEXTS = st.sampled_from(["", "0", "1", "true", "null", "a", "A", "é", "z", "\uffff", "😀", "{}", "[1]", '"', "\\", "%"])
NUMBERS = st.sampled_from(
    [0, -0.0, 1, 1.0, 0.1, 0.1 + 0.2, 0.3, 19.99, -1, 2**53, 2**53 + 1, 2.0**53, 2**63, -(2**63), 1e22, 10**22, 1e300]
) | st.integers(-(2**63), 2**63 - 1)
SCALARS = TEXTS | NUMBERS | st.booleans()
UNSEARCHABLE = st.none() | st.just(10**400) | st.just(-(10**400))
VALUES = st.recursive(
    SCALARS | UNSEARCHABLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
MOMENTS = st.datetimes(timezones=st.just(UTC)) | st.sampled_from([NOON, NOON + timedelta(microseconds=1)])
OPTIONAL = st.none() | TEXTS

ITEMS = st.lists(
    st.builds(
        item,
        item_id=TEXTS,
        attributes=st.dictionaries(KEYS, VALUES, max_size=6),
        title=OPTIONAL,
        url=OPTIONAL,
        created_at=MOMENTS,
        updated_at=MOMENTS,
    ),
    min_size=5,
    max_size=15,
    unique_by=lambda each: each.item_id,
)


def bounds(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    lower = st.none() | st.tuples(st.sampled_from(["gt", "gte"]), values)
    upper = st.none() | st.tuples(st.sampled_from(["lt", "lte"]), values)
    return st.tuples(lower, upper).filter(any).map(lambda pair: dict(filter(None, pair)))


def any_test(values: st.SearchStrategy[Any], *ordered: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    among = st.lists(values, min_size=1, max_size=4)
    plain = st.fixed_dictionaries({"eq": values}) | st.fixed_dictionaries({"in": among})
    return st.one_of(plain, st.fixed_dictionaries({"exists": st.booleans()}), *map(bounds, ordered))


def leaves(fields: st.SearchStrategy[Any], tests: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[Any]:
    return st.builds(lambda name, test: {"field": name, **test}, fields, tests)


ATTRIBUTE_NAMES = st.lists(KEYS, min_size=1, max_size=3) | st.sampled_from(["a", "b", "a.b", "attributes.title", "0"])
TIMES = MOMENTS.map(datetime.isoformat)
LEAVES = (
    leaves(ATTRIBUTE_NAMES, any_test(SCALARS, NUMBERS, TEXTS))
    | leaves(st.sampled_from(["item_id", "title", "url"]), any_test(TEXTS, TEXTS))
    | leaves(st.sampled_from(["created_at", "updated_at"]), bounds(TIMES) | st.fixed_dictionaries({"eq": TIMES}))
)
FILTERS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.map(lambda part: {"not": part}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"and": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"or": parts}),
    ),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(items=ITEMS, filters=st.lists(FILTERS, min_size=4, max_size=8))
@example(items=list(SHOP), filters=[field("price", eq=50)])
def test_the_database_agrees_with_matches(database: Database, items: list[Item], filters: list[dict[str, Any]]) -> None:
    expected = [{each.item_id: matches(parse(body), each) for each in items} for body in filters]

    assert found(database, filters, items) == expected


def test_the_largest_filter_there_may_be_is_answered(database: Database) -> None:
    names = [f"level {number}" for number in range(8)]
    attributes: Any = ["x" * 1000]
    for name in reversed(names):
        attributes = {name: attributes}
    values = [number * 10.0**300 for number in range(500)] + ["y" * 10 + str(number) for number in range(499)]
    leaf = field(names, among=[*values, "x" * 1000])
    ors: dict[str, Any] = {"and": [leaf] * 94}
    for name in ("or", "and", "or", "and", "or", "and"):
        ors = {name: [leaf, ors]}
    nots: dict[str, Any] = {"not": {"and": [leaf] * 98}}
    nots = {"not": {"or": [{"not": leaf}, nots]}}
    nots = {"not": {"not": {"and": [leaf, nots]}}}

    answers = found(database, [ors, nots], [item("match", attributes), item("other")])

    assert answers == [{"match": True, "other": False}] * 2


def test_items_are_deleted_by_a_filter(database: Database) -> None:
    with database.transaction() as session:
        session.add_all([item("boot", {"brand": "Acme"}), item("shoe", {"brand": "Bolt"})])
    with database.transaction() as session:
        session.execute(delete(Item).where(Item.catalog_id == 1, to_sql(parse(field("brand", eq="Acme")))))

    with database.reading() as session:
        assert session.scalars(select(Item.item_id)).all() == ["shoe"]


def nested(depth: int) -> dict[str, Any]:
    return field("a", eq=1) if depth == 1 else {"not": nested(depth - 1)}


REFUSED: list[tuple[object, str]] = [
    (None, "filter: must be an object"),
    ([], "filter: must be an object"),
    ({}, "filter: must have the member field"),
    ({"and": []}, "filter.and: must be a list of at least one"),
    ({"or": field("a", eq=1)}, "filter.or: must be a list"),
    ({"not": [field("a", eq=1)]}, "filter.not: must be an object"),
    ({"and": [field("a", eq=1)], "or": [field("a", eq=1)]}, "exactly one of and, or, not"),
    ({"xor": []}, "exactly one of and, or, not"),
    ({"and": [field("a", eq=1), {"not": field("a", eq=None)}]}, r"filter\.and\.1\.not\.eq: must be text, a number"),
    (field("a"), "must have, beside field, one of"),
    (field("a", eq=1, exists=True), "must have, beside field, one of"),
    (field("a", eq=1, gt=0), "must have, beside field, one of"),
    (field("a", like="x%"), "must have, beside field, one of"),
    (field("a", eq=1) | {"and": []}, "must have, beside field, one of"),
    (field("a", exists=1), "filter.exists: must be true or false"),
    (field("a", eq=[1]), "filter.eq: must be text, a number"),
    (field("a", eq={"$ne": 1}), "filter.eq: must be text, a number"),
    (field("a", among=[]), "filter.in: must be a list of 1 to 1000"),
    (field("a", among="abc"), "filter.in: must be a list of 1 to 1000"),
    (field("a", among=[0] * 1001), "filter.in: must be a list of 1 to 1000"),
    (field("a", among=[1, None]), r"filter\.in\.1: must be text"),
    (field("a", gt=1, gte=1), "one lower and one upper bound"),
    (field("a", gt=1, lt="z"), "all numbers or all text"),
    (field("a", gt=True), "all numbers or all text"),
    (field("a", eq=math.nan), "finite number"),
    (field("a", lt=math.inf), "finite number"),
    (field("a", lt=10**400), "finite number"),
    (field("a", eq="x" * 1001), "longer than 1000 characters"),
    (field("a", eq="a\x00"), "filter.eq: must be valid Unicode"),
    (field("a", among=["\ud800"]), "filter.in.0: must be valid Unicode"),
    (field("a\udfff", eq=1), "filter.field: must be valid Unicode"),
    (field(["a", "\x00"], eq=1), "filter.field.1: must be valid Unicode"),
    (field("x" * 1001, eq=1), "filter.field: must not be longer"),
    (field("", eq=1), "filter.field: must be a name"),
    (field("a..b", eq=1), "filter.field: must be a name"),
    (field("attributes", eq=1), "filter.field: must be a name"),
    (field("attributes.", eq=1), "filter.field: must be a name"),
    (field([], eq=1), "filter.field: must be the name of a field"),
    ({"field": 3, "eq": 1}, "filter.field: must be the name of a field"),
    ({"field": ["a", 0], "eq": 1}, "filter.field.1: must be text"),
    (field(["a"] * 9, eq=1), "more than 8 names"),
    (field("title", eq=1), "filter.eq: must be text"),
    (field("item_id", gt=1), "filter.gt: must be text"),
    (field("created_at", gt="yesterday"), "filter.gt: must be a time in ISO 8601"),
    (field("created_at", gt="2026-05-01T00:00:00"), "filter.gt: must be a time in ISO 8601 with its zone"),
    (field("created_at", gt="0001-01-01T00:00:00+14:00"), "filter.gt: must be a time in ISO 8601"),
    (field("created_at", gt=0), "filter.gt: must be text"),
    (field("updated_at", among=["2026-05-01T00:00:00Z"]), "filter.in: is not for times"),
    (nested(9), "deeper than 8 levels"),
    ({"and": [{"and": [field("a", eq=1)] * 50}] * 3}, r"filter\.and\.2\.and\.0: .* at most 100 conditions"),
]


@pytest.mark.parametrize(("body", "message"), REFUSED)
def test_what_is_no_filter_is_refused_by_name(body: object, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as refused:
        parse(body)
    assert refused.value.code == "invalid_filter"


def test_the_limits_themselves_are_allowed() -> None:
    parse(nested(8))
    parse({"or": [field("a", among=["x" * 1000] * 1000)] * 100})
    parse(field(["a"] * 8, lt=sys.float_info.max))


def test_a_filter_nested_without_end_is_refused_early() -> None:
    body: dict[str, Any] = field("a", eq=1)
    for _ in range(100_000):
        body = {"not": body}
    with pytest.raises(InvalidRequest, match="deeper than 8 levels"):
        parse(body)
