"""Searches from request to answer: one at a time, page by page, or several together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.catalog import found
from services.catalog.found import LiveIndex
from services.errors import AkinError, NotFound
from services.search import pages, parts, ranked
from services.search.answer import Answer, Explanation, Match, Ranking
from services.search.neighbours import Found
from services.search.parts import Prepared
from services.search.ranked import first_depth
from services.search.regions import with_regions
from services.search.request import Search
from services.search.stages import Stages
from services.wiring import Services


def search(services: Services, catalog_id: int, wanted: Search) -> Answer:
    """The best pictures of a catalog.

    Raises:
        ImageRejected: a picture cannot be embedded.
        InvalidRequest: the encoder embeds no text, a crop is too small, or the parts take each other away.
        NotFound: the catalog has no such image or item, or was deleted.
        Conflict: an image or item that is named is not embedded yet.
        FetchRefused: an address is not fetched.
        FetchFailed: the server there did not give a picture.
        Overloaded: too many searches are waiting to be encoded.
        Unavailable: a part of the service does not answer.
    """
    run = _begin(services, catalog_id, wanted)
    ranking = run.rank(wanted.options.limit)
    return run.answer(ranking, run.matches(ranking))


def first_page(services: Services, catalog_id: int, wanted: Search, filter_body: Mapping[str, Any] | None) -> Answer:
    """The same, ranked once for all pages, of which this is the first; `pages.page` has the others.

    Args:
        filter_body: the filter of the search as JSON values, to keep with the ranking.

    Raises:
        Unavailable: also where the cache does not answer.
    """
    run = _begin(services, catalog_id, wanted)
    ranking = run.rank(pages.MOST_RANKED)
    frozen = pages.Frozen(catalog_id, run.index.id, filter_body, run.prepared.calibrated, ranking.scores)
    with run.stages.stage("answer"):
        matches, cursor = pages.freeze(services, run.index, frozen, wanted.options.limit)
    return run.answer(ranking, matches, cursor)


def batch(services: Services, catalog_id: int, searches: Sequence[Search]) -> list[Answer | AkinError]:
    """Several searches, each with its answer or its own error.

    The live index is read once; what is to be encoded is encoded side by side, and vectors are searched together
    where their searches ask for the same.

    Raises:
        NotFound: the catalog was deleted.
        Unavailable: the database or the vector store does not answer.
    """
    if not searches:
        return []
    stages = Stages()
    with services.database.rows() as connection:
        index = found.live_index(connection, catalog_id)
        catalogued = parts.look_up(connection, catalog_id, searches)
    prepared = parts.prepare(services, index, catalogued, searches)
    first = _first_together(services, index, searches, prepared)
    answers: list[Answer | AkinError] = []
    for position, (wanted, query) in enumerate(zip(searches, prepared, strict=True)):
        try:
            if isinstance(query, AkinError):
                raise query
            run = _Run(services, catalog_id, index, wanted, query, stages)
            ranking = run.rank(wanted.options.limit, first.get(position))
            answers.append(run.answer(ranking, run.matches(ranking)))
        except AkinError as error:
            answers.append(error)
    return answers


@dataclass(frozen=True)
class _Run:
    """A search whose query is prepared."""

    services: Services
    catalog_id: int
    index: LiveIndex
    wanted: Search
    prepared: Prepared
    stages: Stages

    def rank(self, most: int, first: Found | None = None) -> Ranking:
        scope = ranked.Scope(self.services, self.catalog_id, self.index, self.stages)
        return ranked.rank(scope, self.prepared.query, self.wanted.options, wanted=most, first=first)

    def matches(self, ranking: Ranking) -> list[Match]:
        options = self.wanted.options
        with self.stages.stage("answer"):
            return ranked.matches(
                self.services, self.catalog_id, self.index, ranking.scores, wanted=options.filter,
                limit=options.limit, rows=ranking.rows, calibrated=self.prepared.calibrated,
            )  # fmt: skip

    def answer(self, ranking: Ranking, matches: list[Match], cursor: str | None = None) -> Answer:
        explanation = None
        if self.wanted.explain:
            with self.stages.stage("regions"):
                matches, missing = with_regions(self.services, self.index, self.prepared.picture, matches)
            explanation = Explanation(
                self.stages.ms, ranking.candidates, self.index.collection, ranking.filtered_by, missing
            )
        return Answer(matches, self.index, self.stages.total_ms, cursor, explanation)


def _begin(services: Services, catalog_id: int, wanted: Search) -> _Run:
    stages = Stages()
    with stages.stage("index"), services.database.rows() as connection:
        index = found.live_index(connection, catalog_id)
        catalogued = parts.look_up(connection, catalog_id, [wanted])
    with stages.stage("query"):
        (prepared,) = parts.prepare(services, index, catalogued, [wanted])
    if isinstance(prepared, AkinError):
        raise prepared
    return _Run(services, catalog_id, index, wanted, prepared, stages)


def _first_together(
    services: Services, index: LiveIndex, searches: Sequence[Search], prepared: Sequence[Prepared | AkinError]
) -> dict[int, Found]:
    """The first neighbours of those searches that ask the vector store for the same, by their position."""
    alike: dict[tuple[int, bool], list[tuple[int, Prepared]]] = defaultdict(list)
    for position, (wanted, query) in enumerate(zip(searches, prepared, strict=True)):
        if isinstance(query, Prepared) and wanted.options.filter is None:
            depth = first_depth(query.query, wanted.options, wanted.options.limit)
            alike[depth, wanted.options.strong].append((position, query))
    first: dict[int, Found] = {}
    for (depth, strong), members in alike.items():
        if len(members) == 1:
            continue
        vectors = np.concatenate([query.query.vectors for _, query in members])
        try:
            hits = services.vectors.search(index.collection, vectors, depth, strong=strong)
        except NotFound:  # no picture was ever embedded
            return {}
        for position, query in members:
            own = len(query.query.vectors)
            first[position], hits = hits[:own], hits[own:]
    return first
