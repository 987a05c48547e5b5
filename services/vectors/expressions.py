"""Conditions in Milvus's expression language. Nothing but numbers, written by Python, becomes part of one."""

from __future__ import annotations

import typing
from collections.abc import Sequence

from services.vectors.conditions import All, Any, Compare, Condition, Facets, HasAny, HasNot

TOKENS = "tokens"
NUMBERS = "numbers"


def is_among(ids: Sequence[int]) -> str:
    """That the id is one of these."""
    return f"id in {_list(ids)}"


def render(condition: Condition) -> str:
    """That the fields TOKENS (an array) and NUMBERS (a JSON object) meet a condition."""
    match condition:
        case HasAny(tokens):
            return f"array_contains_any({TOKENS}, {_list(tokens)})"
        case HasNot(tokens):
            return f"not array_contains_any({TOKENS}, {_list(tokens)})"
        case Compare(token, bound, value):
            # A row without the key does not meet it.
            return f'{NUMBERS}["{_key(token)}"] {bound} {float(value)!r}'
        case All(parts):
            return _joined(" and ", parts)
        case Any(parts):
            return _joined(" or ", parts)


def facet_fields(facets: Facets) -> dict[str, typing.Any]:
    """The fields as a row has them."""
    return {
        TOKENS: list(facets.tokens),
        NUMBERS: {_key(token): float(number) for token, number in facets.numbers.items()},
    }


def _key(token: int) -> str:
    return f"n{int(token)}"


def _joined(operator: str, parts: Sequence[Condition]) -> str:
    # As a balanced tree: Milvus reads a chain as levels in one another, and gives up beyond about 45.
    if len(parts) == 1:
        return render(parts[0])
    middle = len(parts) // 2
    return f"({_joined(operator, parts[:middle])}{operator}{_joined(operator, parts[middle:])})"


def _list(numbers: Sequence[int]) -> str:
    return f"[{', '.join(str(int(one)) for one in numbers)}]"
