"""An import that is killed again and again goes on where it was: nothing that was done is done twice."""

from __future__ import annotations

import zipfile
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from services.catalog.database import Database
from services.catalog.models import Embedding, Image, JobEntry
from services.client import ImportOptions
from services.embedding import TASK_SECONDS
from tests.integration.conftest import picture
from tests.reliability.chaos import Chaos
from tests.reliability.proof import prove_audited
from tests.reliability.stack import Progress, Stack, running_stack, tell

BATCH = 64
# A worker has as many batches in its hands: one that it prepares, one that it encodes, one that it writes.
IN_HAND = 3
# A quick encoder for small pictures, and leases that no slow machine outlasts: what is claimed twice was killed.
VARIABLES = {
    "AKIN_DEFAULT_ENCODER": "conv-ae-64",
    "AKIN_EMBED_BATCH": str(BATCH),
    "AKIN_LEASE_SECONDS": str(TASK_SECONDS),
}
PICTURES = 50_000
KILLS = 4  # of each process


@pytest.mark.full
@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_resuming_an_import_after_kills_repeats_nothing_that_was_done(tmp_path: Path) -> None:
    archive = tmp_path / "pictures.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for seed in range(PICTURES):
            file.writestr(f"{seed:05}.jpg", picture(seed, (32, 32)))

    with (
        running_stack(tmp_path / "akin", VARIABLES) as stack,
        stack.client() as client,
        Chaos(stack, "resuming") as chaos,
    ):
        job = client.import_archive(archive, "application/zip", ImportOptions())
        strikes = {
            "kill -9 worker-imports": lambda: stack.kill_part("worker-imports"),
            "kill -9 worker-embed": lambda: stack.kill_part("worker-embed"),
            "kill -9 akin up": stack.kill,
        }
        with closing(Database(stack.settings.database)) as database:
            chaos.strike(strikes, KILLS * len(strikes), Progress(database, PICTURES))
            ended = client.wait(job.id)
            assert (ended.state, ended.total, ended.indexed) == ("finished", PICTURES, PICTURES)
            _nothing_was_done_twice(database, PICTURES, chaos.struck)
        _every_picture_has_one_vector(stack, PICTURES)
        prove_audited(client)


def _nothing_was_done_twice(database: Database, pictures: int, struck: list[str]) -> None:
    """Ids are never used again, so a last id that is the count says that no row was ever made in vain."""
    with database.reading() as session:
        for table in (JobEntry, Image, Embedding):
            assert session.scalar(select(func.count()).select_from(table)) == pictures
            last = text("SELECT seq FROM sqlite_sequence WHERE name = :name")
            assert session.scalar(last, {"name": table.__tablename__}) == pictures
        again = session.scalar(select(func.sum(Embedding.attempts - 1)))
    killed = len([name for name in struck if name != "kill -9 worker-imports"])
    tell(f"{again} of {pictures} pictures were claimed again after {killed} kills of who held some")
    assert again <= killed * IN_HAND * BATCH


def _every_picture_has_one_vector(stack: Stack, pictures: int) -> None:
    with stack.services() as services:
        with services.database.reading() as session:
            ids = set(session.scalars(select(Image.id)))
        (collection,) = services.vectors.collections("akin_")
        stored = [one for batch in services.vectors.ids(collection) for one in batch]
        assert len(stored) == pictures == services.vectors.count(collection)
        assert set(stored) == ids
