"""Answers of searches as documented."""

from __future__ import annotations

from urllib.parse import quote

from services.api.schemas import ImageOut, ItemOut
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
        ),
    )  # fmt: skip


def _hit(match: Match) -> HitOut:
    likeness, regions = match.likeness, match.regions
    return HitOut(
        rank=match.rank,
        score=match.score,
        image=image(match.found),
        item=item(match.found),
        likeness=likeness and LikenessOut(kind=likeness.kind, probability=likeness.probability),
        regions=regions and RegionsOut(query=regions.query, hit=regions.hit),
    )


def image(row: Found) -> ImageOut:
    """A picture of the catalog."""
    path = f"/v1/images/{row.id}"
    return ImageOut(
        id=row.id,
        item_id=row.item_id,
        sha256=row.sha256,
        format=row.format,
        width=row.width,
        height=row.height,
        size_bytes=row.size_bytes,
        created_at=row.image_created_at,
        links={
            "self": path,
            "content": f"{path}/content",
            "thumbnail": f"{path}/thumbnail",
            "item": f"/v1/items/{quote(row.item_id, safe='')}",
        },
    )


def item(row: Found) -> ItemOut:
    """The item of a picture."""
    path = f"/v1/items/{quote(row.item_id, safe='')}"
    return ItemOut(
        item_id=row.item_id,
        title=row.title,
        url=row.url,
        attributes=row.attributes,
        created_at=row.created_at,
        updated_at=row.updated_at,
        links={"self": path, "similar": f"{path}/similar"},
    )
