"""Where the picture that is searched with and the first hits agree."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.catalog.found import Found, Known, LiveIndex
from services.errors import AkinError
from services.images.preprocess import Box, Pixels, covered
from services.search.answer import Grid, Match, Regions
from services.search.known import manifest_of
from services.search.request import Picture
from services.storage.blobs import key_of
from services.wiring import Services

MOST_EXPLAINED: Final = 5
DIGITS: Final = 4


def with_regions(
    services: Services, index: LiveIndex, picture: Picture | Known | None, matches: Sequence[Match]
) -> tuple[list[Match], str | None]:
    """The matches, the first of them with their regions, and why none has any.

    An answer is worth more than its explanation: where that cannot be had, because the encoder has no feature grid,
    bytes are gone or the query process is busy, regions are None.
    """
    first = matches[:MOST_EXPLAINED]
    if not first:
        return [], None
    if picture is None:
        return list(matches), "the query is not one picture"
    explainer = _Explainer(services, index)
    try:
        query = explainer.seen(picture)
    except AkinError as error:
        return list(matches), error.detail
    with ThreadPoolExecutor(len(first), thread_name_prefix="regions") as pool:
        found = list(pool.map(lambda match: explainer.regions(query, match), first))
    shown = [
        match if isinstance(regions, AkinError) else replace(match, regions=regions)
        for match, regions in zip(first, found, strict=True)
    ]
    missing = [regions.detail for regions in found if isinstance(regions, AkinError)]
    return [*shown, *matches[MOST_EXPLAINED:]], missing[0] if len(missing) == len(first) else None


@dataclass(frozen=True)
class _Seen:
    """What an encoder is given of a picture, and which part of it that is."""

    pixels: Pixels
    box: Box


class _Explainer:
    def __init__(self, services: Services, index: LiveIndex) -> None:
        self._services = services
        self._sha256 = index.encoder_sha256
        self._preprocessing = manifest_of(services, index).preprocessing

    def seen(self, picture: Picture | Known | Found) -> _Seen:
        if isinstance(picture, Picture):
            data, crop = picture.data, picture.crop
        else:
            data, crop = self._services.blobs.get(key_of(picture.sha256)), None
        # What is stored has been looked at before.
        sized = picture if isinstance(picture, Found) else self._services.decoder.inspect(data)
        pixels = self._services.decoder.preprocess(data, self._preprocessing, crop)
        return _Seen(pixels, covered((sized.width, sized.height), self._preprocessing, crop))

    def regions(self, query: _Seen, match: Match) -> Regions | AkinError:
        try:
            hit = self.seen(match.found)
            first, second = self._services.query_encoder.agreement(self._sha256, query.pixels, hit.pixels)
        except AkinError as error:
            return error
        return Regions(_rounded(first), _rounded(second), query.box, hit.box)


def _rounded(grid: NDArray[np.float32]) -> Grid:
    return [[round(value, DIGITS) for value in row] for row in grid.tolist()]
