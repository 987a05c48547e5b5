"""What `akin search` searches with, out of its arguments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from services.queries import Crop, Part


def json_object(_context: click.Context, _option: click.Parameter, value: str | None) -> dict[str, Any] | None:
    """The JSON object that an option is.

    Raises:
        click.BadParameter: it is none.
    """
    if value is None:
        return None
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise click.BadParameter("must be a JSON object")
    return parsed


def crop_of_picture(_context: click.Context, _option: click.Parameter, value: str | None) -> Crop | None:
    """The part of a picture that an option is.

    Raises:
        click.BadParameter: it is none.
    """
    if value is None:
        return None
    try:
        x, y, width, height = map(float, value.split(","))
    except ValueError as error:
        raise click.BadParameter("must be four numbers from 0 to 1 with commas between them") from error
    return x, y, width, height


def weighted(parts: Sequence[Part], weights: Sequence[float], crop: Crop | None) -> list[Part]:
    """The parts with their weights, those left out 1, and the crop of the one picture among them.

    Raises:
        click.UsageError: there is nothing to search with, or no single thing that a weight or the crop is of.
    """
    if not parts:
        raise click.UsageError("name something to search with: a file, --picture-url, --item, --image-id or --text")
    if len(weights) > len(parts):
        raise click.UsageError(f"there are {len(weights)} weights for {len(parts)} things to search with")
    padded = [*weights, *[1.0] * (len(parts) - len(weights))]
    terms = [replace(part, weight=weight) for part, weight in zip(parts, padded, strict=True)]
    if crop is None:
        return terms
    pictures = [place for place, part in enumerate(parts) if part.item_id is None and part.text is None]
    if len(pictures) != 1:
        raise click.UsageError("--crop goes with one picture")
    terms[pictures[0]] = replace(terms[pictures[0]], crop=crop)
    return terms


def label(part: Part) -> str:
    """What to call a thing that is searched with."""
    named = part.url or part.item_id or part.text or (f"image {part.image_id}" if part.image_id else "")
    called = part.image.name if isinstance(part.image, Path) else named
    return called if part.weight == 1 else f"{part.weight:g} × {called}"
