"""Answers of searches as documented: plain dictionaries with the members of SearchOut and SimilarOut.

To make types of dozens of hits, with all checks, takes as long as the database does to find them. Tests compare.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from services.api import present
from services.catalog.found import Found
from services.encoders.calibration import Likeness
from services.search.answer import Answer, Match

Members = dict[str, Any]


def search(answer: Answer) -> Members:
    """Look-alikes."""
    explanation = answer.explanation
    return {
        "hits": [_hit(match) for match in answer.matches],
        "encoder": answer.index.encoder,
        "index": answer.index.id,
        "took_ms": round(answer.took_ms, 2),
        "next_cursor": answer.next_cursor,
        "explain": explanation and {
            "timings_ms": {stage: round(ms, 2) for stage, ms in explanation.timings_ms.items()},
            "candidates": explanation.candidates,
            "collection": explanation.collection,
            "filtered_by": explanation.filtered_by,
            "no_regions": explanation.no_regions,
        },
    }  # fmt: skip


def _hit(match: Match) -> Members:
    regions = asdict(match.regions) if match.regions else None
    return hit(match.rank, match.score, pictured(match.found), match.likeness, regions)


def hit(rank: int, score: float, shown: Members, likeness: Likeness | None, regions: Members | None = None) -> Members:
    """One look-alike.

    Args:
        shown: what `pictured` says of it.
    """
    told = likeness and {"kind": likeness.kind, "probability": likeness.probability}
    return {"rank": rank, "score": score, **shown, "likeness": told, "regions": regions}


def pictured(row: Found, attributes: Collection[str] | None = None) -> Members:
    """A picture of the catalog and its item, with those of its attributes that are shown, or with all."""
    return {
        "image": present.picture_members(row, row.item_id, row.image_created_at),
        "item": present.item_members(row, attributes),
    }
