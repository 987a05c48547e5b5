"""What a vector store can filter by: tokens and numbers that are kept beside each vector.

A token is a number that stands for one fact of an item ("brand is Acme"), made from it by hashing: nothing that a
client wrote ever becomes part of an expression, and every server compares whole numbers alike. Conditions have no
general negation: who translates a filter pushes `not` down to the tokens, where its meaning is certain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# Of an item with more of them the others are left out, which whoever makes the tokens marks with one of them.
MAX_TOKENS = 1024

Bound = Literal["<", "<=", ">", ">="]


@dataclass(frozen=True)
class Facets:
    """What is kept beside a vector: `tokens` in 0..2**62, and finite `numbers` by the token of their field."""

    tokens: frozenset[int] = frozenset()
    numbers: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class HasAny:
    """One of the tokens is there."""

    tokens: tuple[int, ...]


@dataclass(frozen=True)
class HasNot:
    """None of the tokens is there."""

    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Compare:
    """There is a number under this token, and it keeps to the bound."""

    token: int
    bound: Bound
    value: float


@dataclass(frozen=True)
class All:
    """Every part holds."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Any:
    """Some part holds."""

    parts: tuple[Condition, ...]


Condition = HasAny | HasNot | Compare | All | Any
