"""What must hold after an import, whatever struck it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from sqlalchemy import func, select

from services.catalog import catalogs
from services.catalog.models import Embedding, Image
from services.catalog.states import EmbeddingState
from services.client import AkinClient
from services.errors import Unavailable
from services.vectors.base import VectorStore
from tests.reliability.material import Sent
from tests.reliability.stack import PATIENCE, Stack
from tests.servers import wait_until

CLEAN = "0 missing, 0 orphaned, 0 stale, 0 mismatched"


def prove_accounted(client: AkinClient, sent: Sequence[Sent]) -> None:
    """Every entry of every import is searchable or a listed failure, and the failures are the broken pictures."""
    for one in sent:
        job = client.wait(one.job_id, interval=0.2)
        failures = [error.ref for error in client.job_errors(one.job_id)]
        assert sorted(failures) == sorted(one.broken), job.failed_by_code
        assert job.state == ("finished_with_errors" if one.broken else "finished")
        assert (job.total, job.cancelled) == (len(one.good) + len(one.broken), 0)
        assert (job.indexed + job.unchanged, job.failed) == (len(one.good), len(one.broken))


def prove_complete(stack: Stack, good: int, undecodable: int = 0) -> None:
    """One vector for each good picture in the live index, none beside them, and each picture finds itself.

    Args:
        undecodable: pictures that were taken in by their header, and failed when they were to be embedded.
    """
    with stack.services() as services:
        with services.database.reading() as session:
            index = catalogs.live_index(session, catalogs.by_name(session, catalogs.DEFAULT).id)
            assert session.scalar(select(func.count()).select_from(Image)) == good + undecodable
            states = Counter(session.scalars(select(Embedding.state).where(Embedding.index_id == index.id)))
            in_index = (Embedding.index_id == index.id, Embedding.state == EmbeddingState.INDEXED)
            ids = session.scalars(select(Embedding.image_id).where(*in_index)).all()
        assert states == Counter(
            {state: n for state, n in ((EmbeddingState.INDEXED, good), (EmbeddingState.FAILED, undecodable)) if n}
        )
        vectors = services.vectors
        wait_until(lambda: _answers(vectors, index.collection), "Milvus answers again", PATIENCE)
        assert vectors.count(index.collection, strong=True) == good
        stored = [one for batch in vectors.ids(index.collection) for one in batch]
        assert Counter(stored) == Counter(ids)
        _every_picture_finds_itself(vectors, index.collection, ids)


def _answers(vectors: VectorStore, collection: str) -> bool:
    try:
        vectors.count(collection)
    except Unavailable:
        return False
    return True


def _every_picture_finds_itself(vectors: VectorStore, collection: str, ids: Sequence[int]) -> None:
    for start in range(0, len(ids), 200):
        some = vectors.fetch(collection, ids[start : start + 200], strong=True)
        found = vectors.search(collection, np.stack(list(some.values())), 5, strong=True)
        for image_id, hits in zip(some, found, strict=True):
            assert hits[0].score >= 0.999
            # Pictures that the encoder cannot tell apart tie with it; it must be among the first even so.
            assert image_id in [hit.id for hit in hits if hits[0].score - hit.score < 1e-5]


def prove_audited(client: AkinClient) -> None:
    """An audit that reads everything, and repairs nothing, has nothing to say."""
    job = client.wait(client.audit(deep=True), interval=0.2)
    findings = [f"{error.code}: {error.ref}: {error.detail}" for error in client.job_errors(job.id)]
    assert (job.state, job.result["summary"]) == ("finished", CLEAN), findings[:20]
