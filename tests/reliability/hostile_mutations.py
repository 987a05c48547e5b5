"""Damage to files, the same for the same seed: flipped bits, cuts, spliced headers, numbers that are too large."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

# Most of what a decoder believes stands at the beginning.
_HEAD = 256
_NUMBERS = (
    b"\0\0",
    b"\xff\xff",
    b"\x7f\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\0",
)
_Mutation = Callable[[random.Random, bytes, bytes], bytes]


def _flip(rng: random.Random, data: bytes, _other: bytes) -> bytes:
    changed = bytearray(data)
    reach = rng.choice([min(_HEAD, len(data)), len(data)])
    for _ in range(rng.choice([1, 2, 8, 64])):
        changed[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng: random.Random, data: bytes, _other: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def _splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """The beginning of one file before the rest of another."""
    return data[: rng.randrange(1, _HEAD)] + other[rng.randrange(min(_HEAD, len(other))) :]


def _exaggerate(rng: random.Random, data: bytes, _other: bytes) -> bytes:
    """Extreme numbers where sizes, counts and offsets stand."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 2, 4])):
        number = rng.choice(_NUMBERS)
        at = rng.randrange(min(_HEAD, len(data)))
        changed[at : at + len(number)] = number
    return bytes(changed)


_MUTATIONS: tuple[_Mutation, ...] = (_flip, _cut, _splice, _exaggerate)


def mutations(files: Mapping[str, bytes], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """So many damaged versions of files, each with a name that says what was done to which."""
    rng = random.Random(seed)
    sound = [(name, data) for name, data in sorted(files.items()) if data]
    for number in range(count):
        (name, data), (_, other) = rng.choice(sound), rng.choice(sound)
        mutation = rng.choice(_MUTATIONS)
        yield f"{number:05}-{mutation.__name__.strip('_')}-{name}", mutation(rng, data, other)
