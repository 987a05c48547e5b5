"""Answers of searches as documented."""

from __future__ import annotations

from services.api import present
from services.api.schemas import ImageOut
from services.api.schemas_search import ExplanationOut, HitOut, LikenessOut, RegionsOut, SearchOut
from services.catalog.found import Found
from services.search.answer import Answer, Match


def search(answer: Answer) -> SearchOut:
    """Look-alikes."""
    explanation = answer.explanation
    return SearchOut(
        hits=[_hit(match) for match in answer.matches],
        encoder=answer.index.encoder,
        index=answer.index.id,
        took_ms=round(answer.took_ms, 2),
        next_cursor=answer.next_cursor,
        explain=explanation and ExplanationOut(
            timings_ms={stage: round(ms, 2) for stage, ms in explanation.timings_ms.items()},
            candidates=explanation.candidates,
            collection=explanation.collection,
            filtered_by=explanation.filtered_by,
            no_regions=explanation.no_regions,
        ),
    )  # fmt: skip


def _hit(match: Match) -> HitOut:
    likeness, regions = match.likeness, match.regions
    return HitOut(
        rank=match.rank,
        score=match.score,
        image=image(match.found),
        item=present.item(match.found),
        likeness=likeness and LikenessOut(kind=likeness.kind, probability=likeness.probability),
        regions=regions and RegionsOut(query=regions.query, hit=regions.hit),
    )


def image(row: Found) -> ImageOut:
    """A picture of the catalog."""
    return present.picture(row, row.item_id, row.image_created_at)
