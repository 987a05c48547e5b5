"""Facets and conditions: nothing that a filter matches is lost, and nothing that a client wrote reaches Milvus."""

from __future__ import annotations

import operator
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services import facets
from services.catalog.filters import Filter, Not, matches, parse
from services.catalog.models import Item
from services.facets import OVERFLOW, condition, facets_of
from services.vectors import conditions
from services.vectors.conditions import MAX_TOKENS, Compare, Condition, Facets, HasAny, HasNot
from services.vectors.expressions import render
from tests.integration.test_filters import FILTERS, HOSTILE, ITEMS, SHOP, TABLE, field, item

COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def holds(wanted: Condition | None, kept: Facets) -> bool:
    """What a condition means."""
    match wanted:
        case None:
            return True
        case HasAny(tokens):
            return not kept.tokens.isdisjoint(tokens)
        case HasNot(tokens):
            return kept.tokens.isdisjoint(tokens)
        case Compare(token, bound, value):
            return token in kept.numbers and COMPARE[bound](kept.numbers[token], value)
        case conditions.All(parts):
            return all(holds(part, kept) for part in parts)
        case conditions.Any(parts):
            return any(holds(part, kept) for part in parts)


def orders_text(body: Any) -> bool:
    """Whether a filter has a text range, of which facets know nothing."""
    if isinstance(body, list):
        return any(map(orders_text, body))
    if not isinstance(body, dict):
        return False
    if body.get("field") in ("created_at", "updated_at"):
        return False
    return any(name in {"gt", "gte", "lt", "lte"} and isinstance(value, str) for name, value in body.items()) or any(
        map(orders_text, body.values())
    )


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(items=ITEMS, bodies=st.lists(FILTERS, min_size=4, max_size=8))
@example(items=list(SHOP), bodies=[body for body, _ in TABLE])
def test_every_item_that_matches_meets_the_condition_and_no_other_does(
    items: list[Item], bodies: list[dict[str, Any]]
) -> None:
    filters = [(body, wanted, condition(wanted), condition(Not(wanted))) for body in bodies for wanted in [parse(body)]]
    for each in items:
        kept = facets_of(each)
        assert all(0 <= token < 2**62 for token in kept.tokens)
        for body, wanted, said, denied in filters:
            met, unmet = holds(said, kept), holds(denied, kept)
            if orders_text(body) or OVERFLOW in kept.tokens:
                assert met or not matches(wanted, each), body
                assert unmet or matches(wanted, each), body
            else:
                assert met is matches(wanted, each), body
                assert unmet is not matches(wanted, each), body


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(items=ITEMS, bodies=st.lists(FILTERS, min_size=4, max_size=8), most=st.integers(1, 12))
def test_no_match_is_lost_where_there_are_too_many_facts_to_keep(
    items: list[Item], bodies: list[dict[str, Any]], most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(facets, "MAX_TOKENS", most)
        for each in items:
            kept = facets_of(each)
            assert len(kept.tokens) <= most
            for wanted in [form for body in bodies for form in (parse(body), Not(parse(body)))]:
                assert holds(condition(wanted), kept) or not matches(wanted, each), wanted


def test_of_too_many_facts_as_many_are_kept_as_may_be() -> None:
    few = facets_of(item("few", {"tags": list(range(900))}))
    many = facets_of(item("many", {"price": 3, "tags": list(range(5000))}))

    assert OVERFLOW not in few.tokens
    assert len(few.numbers) == 2
    assert len(many.tokens) == MAX_TOKENS
    assert OVERFLOW in many.tokens
    assert many.numbers == {}
    assert holds(condition(parse(field("price", gte=2, lt=4))), many)
    assert holds(condition(parse(field("tags", eq=4999))), many)


def test_numbers_beyond_every_double_are_found_by_every_bound() -> None:
    kept = facets_of(item("big", {"n": 10**400}))

    assert holds(condition(parse(field("n", gt=1.7e308))), kept)
    assert all(abs(number) < 1e12 for number in kept.numbers.values())


def test_what_no_filter_can_ask_for_takes_no_room() -> None:
    nested: Any = "deep"
    for name in "abcdefghi":
        nested = {name: nested}
    bare = facets_of(item("same", {"a": {}})).tokens
    kept = facets_of(item("same", {"a": {}, "x" * 1001: 1})).tokens

    assert kept == bare
    assert len(facets_of(item("same", nested)).tokens) == len(facets_of(item("same")).tokens) + 8
    assert len(facets_of(item("same", {"a": "x" * 1001})).tokens) == len(bare)


ALIKE: list[dict[str, Any]] = [
    {"a": 1},
    {"a": "1"},
    {"a": True},
    {"a": "true"},
    {"a": "1.0"},
    {"a": {"b": 1}},
    {"a": {"b": "1"}},
    {"a.b": 1},
    {"b": 1},
    {"title": "1"},
    {"a": '["1"]'},
    {"a": [["1"]]},
    {"a": {"": 1}},
]


def test_facts_that_look_alike_have_different_tokens() -> None:
    values = [facets_of(item("x", attributes)).tokens for attributes in ALIKE]

    assert len(set(values)) == len(ALIKE)
    assert facets_of(item("x", {"a": [1, -0.0]})) == facets_of(item("x", {"a": [1.0, 0]}))
    assert facets_of(item("a", title="b")).tokens != facets_of(item("b", title="a")).tokens


def test_a_token_never_changes() -> None:
    """Collections keep them for years, and are searched by releases to come."""
    wanted = [field("brand", eq="Ácme"), field(["size.eu"], gt=-1.5), field("title", exists=True), field("b", eq=True)]

    assert [render(said) for said in map(condition, map(parse, wanted)) if said is not None] == [
        "array_contains_any(tokens, [438816503214736527, 4351847963881903857])",
        '(numbers["n3294335326195234127"] > -1.5 or array_contains_any(tokens, [4351847963881903857]))',
        "array_contains_any(tokens, [2374660958635842525, 4351847963881903857])",
        "array_contains_any(tokens, [878364610165745688, 4351847963881903857])",
    ]


LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)


@pytest.mark.parametrize("moment", [LONG_AGO, LATEST - timedelta(microseconds=1), datetime(2500, 1, 1, tzinfo=UTC)])
def test_moments_that_doubles_cannot_tell_apart_are_found(moment: datetime) -> None:
    later = moment + timedelta(microseconds=1)
    kept = facets_of(item("late", created_at=later))

    for body in (
        field("created_at", gt=moment.isoformat()),
        field("created_at", gte=later.isoformat()),
        {"not": field("created_at", lte=moment.isoformat())},
        {"not": field("created_at", eq=moment.isoformat())},
        field("created_at", eq=later.isoformat()),
    ):
        assert matches(parse(body), item("late", created_at=later))
        assert holds(condition(parse(body)), kept), body


WORDS = {"array_contains_any", "tokens", "numbers", "not", "and", "or"}
HOSTILE_TEXTS = [
    HOSTILE,
    '"] or id >= 0 or numbers["',
    "'\\'",
    'a\\"b',
    "x]) || (1 == 1",
    "\n\r\t{{}}%s$a",
    "größe 😀",
    "id",
]


def assert_numbers_only(wanted: Filter) -> None:
    said = condition(wanted)
    expression = render(said) if said is not None else ""
    assert set(re.sub(r'"n\d+"', "", expression)) <= set("abcdefghijklmnopqrstuvwxyz_0123456789.+-[](), <>=")
    assert set(re.findall(r"[a-z_]+", re.sub(r'"n\d+"|\de[+-]\d', "", expression))) <= WORDS


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=FILTERS)
def test_an_expression_has_nothing_but_numbers(body: dict[str, Any]) -> None:
    assert_numbers_only(parse(body))


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
@pytest.mark.parametrize("name", HOSTILE_TEXTS)
def test_nothing_of_names_and_values_stands_in_an_expression(name: str, text: str) -> None:
    leaves = [field([name], eq=text), field([name, name], among=[text, 1]), field([name], gt=1e-300, lte=-1e300)]
    leaves += [field([name], gte=text), field([name], exists=True), field("title", eq=text)]

    assert_numbers_only(parse({"or": [*leaves, {"not": {"and": leaves}}]}))


def test_what_the_server_would_read_for_too_long_is_not_said() -> None:
    leaf = field("sku", among=list(range(1000)))

    assert condition(parse({"and": [leaf] * 9})) is not None
    assert condition(parse({"and": [leaf] * 11})) is None
