"""Where the picture that is searched with and the first hits agree."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.catalog.found import Known, LiveIndex
from services.errors import AkinError
from services.images.preprocess import Pixels
from services.search.answer import Grid, Match, Regions
from services.search.known import manifest_of
from services.search.request import Picture
from services.storage.blobs import key_of
from services.wiring import Services

MOST_EXPLAINED: Final = 5
DIGITS: Final = 4


def with_regions(
    services: Services, index: LiveIndex, picture: Picture | Known | None, matches: Sequence[Match]
) -> list[Match]:
    """The matches, the first of them with their regions.

    An answer is worth more than its explanation: where that cannot be had, because the encoder has no feature grid,
    bytes are gone or the query process is busy, regions are None.
    """
    first = matches[:MOST_EXPLAINED]
    if picture is None or not first:
        return list(matches)
    explainer = _Explainer(services, index)
    try:
        query = explainer.pixels(picture)
    except AkinError:
        return list(matches)
    with ThreadPoolExecutor(len(first), thread_name_prefix="regions") as pool:
        found = list(pool.map(lambda match: explainer.regions(query, match), first))
    shown = [replace(match, regions=regions) for match, regions in zip(first, found, strict=True)]
    return [*shown, *matches[MOST_EXPLAINED:]]


class _Explainer:
    def __init__(self, services: Services, index: LiveIndex) -> None:
        self._services = services
        self._sha256 = index.encoder_sha256
        self._preprocessing = manifest_of(services, index).preprocessing

    def pixels(self, picture: Picture | Known) -> Pixels:
        if isinstance(picture, Picture):
            return self._services.decoder.preprocess(picture.data, self._preprocessing, picture.crop)
        return self._services.decoder.preprocess(self._services.blobs.get(key_of(picture.sha256)), self._preprocessing)

    def regions(self, query: Pixels, match: Match) -> Regions | None:
        try:
            pixels = self.pixels(Known(match.found.id, match.found.item_pk, match.found.sha256))
            first, second = self._services.query_encoder.agreement(self._sha256, query, pixels)
        except AkinError:
            return None
        return Regions(_rounded(first), _rounded(second))


def _rounded(grid: NDArray[np.float32]) -> Grid:
    return [[round(value, DIGITS) for value in row] for row in grid.tolist()]
