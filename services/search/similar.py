"""Pictures of other items that look like those of one item. No encoder: the vectors are there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from services.catalog.found import ItemInIndex
from services.search import ranked
from services.search.answer import Ranking
from services.search.ranked import Query, Scope
from services.search.request import Options
from services.search.stages import Stages
from services.wiring import Services

# Ranked beyond what is wanted, so that a ranking that was kept for a while still fills a page when some are gone.
SPARE = 4


def rank(
    services: Services,
    catalog_id: int,
    item: ItemInIndex,
    vectors: Mapping[int, NDArray[np.float32]],
    options: Options,
) -> Ranking:
    """The best `options.limit` pictures, and SPARE more; empty while no picture of the item is embedded.

    Args:
        vectors: of those of the item's pictures that are, by id.

    Raises:
        Unavailable: Milvus does not answer.
    """
    if not vectors:
        return Ranking(())
    query = Query(np.stack([vectors[image_id] for image_id in sorted(vectors)]), frozenset([item.item_pk]))
    scope = Scope(services, catalog_id, item.index, Stages())
    return ranked.rank(scope, query, options, wanted=options.limit + SPARE)
