"""Workers whose clocks are wrong: what they have written must not keep others waiting."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.client import ImportOptions
from tests.integration.conftest import picture
from tests.reliability.chaos import HOUR
from tests.reliability.proof import prove_audited, prove_complete
from tests.reliability.stack import PATIENCE, running_stack, with_clock
from tests.servers import wait_until

PICTURES = 1_200
LISTED_AT_ONCE = 1_000


@pytest.mark.full
@pytest.mark.faults
@pytest.mark.timeout(600)
def test_an_import_goes_on_when_a_worker_whose_clock_is_ahead_was_killed(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for seed in range(PICTURES):
        (pictures / f"{seed}.jpg").write_bytes(picture(seed))
    with running_stack(tmp_path / "akin", {"AKIN_IMPORT_ROOTS": str(pictures), "AKIN_EMBED_BATCH": "32"}) as stack:
        right = stack.process("worker-imports")
        right.suspend()
        with stack.client() as client, stack.beside(with_clock(stack.program("worker-imports"), HOUR)) as wrong:
            job = client.import_location(str(pictures), ImportOptions())
            wait_until(lambda: client.job(job.id).total >= LISTED_AT_ONCE, "the import is listed", PATIENCE)
            wrong.kill()
            right.resume()
            wait_until(lambda: client.job(job.id).over, "the import is over", PATIENCE)
            assert client.job(job.id).indexed == PICTURES
            prove_complete(stack, PICTURES)
            prove_audited(client)
