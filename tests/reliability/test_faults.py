"""Faults at random moments of imports: nothing lost, nothing twice, nothing wrong afterwards."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.catalog.database import Database
from tests.reliability.chaos import Chaos, Fault, full_disk, server_fault
from tests.reliability.conftest import Disk
from tests.reliability.material import (
    Sender,
    by_addresses,
    by_batches,
    by_folder,
    by_tar_gz,
    by_zip,
    drawn,
    serving,
)
from tests.reliability.proof import prove_accounted, prove_audited, prove_complete
from tests.reliability.stack import Progress, Stack, running_stack, tell
from tests.servers import Server

# That by addresses depends on the server that a run starts.
WAYS: Mapping[str, Sender] = {"zip": by_zip, "tar.gz": by_tar_gz, "batches": by_batches, "folder": by_folder}


@dataclass(frozen=True)
class Size:
    """How long a run is: pictures, faults, and seconds for which a server or the disk is away."""

    pictures: int
    faults: int
    away: float


SHORT = pytest.param(Size(480, 15, 3.0), id="short", marks=pytest.mark.timeout(600))
LONG = pytest.param(
    Size(2_001, 34, 20.0), id="long", marks=[pytest.mark.full, pytest.mark.faults, pytest.mark.timeout(1800)]
)


def survive(stack: Stack, folder: Path, run: str, size: Size, ways: Sequence[str], others: Mapping[str, Fault]) -> None:
    """Send pictures in several ways at once while faults strike, wait for the imports, and prove what came of them."""
    began = time.monotonic()
    share = size.pictures // len(ways)
    parts = {way: drawn(way, range(n * share, (n + 1) * share)) for n, way in enumerate(ways)}
    with ExitStack() as held:
        database = held.enter_context(closing(Database(stack.settings.database)))
        client = held.enter_context(stack.client())
        senders = dict(WAYS)
        if "addresses" in parts:
            senders["addresses"] = by_addresses(held.enter_context(serving(parts["addresses"])))
        pool = held.enter_context(ThreadPoolExecutor(len(ways)))
        done = Progress(database, share * len(ways))
        with Chaos(stack, run) as chaos:
            sending = [pool.submit(senders[way], client, folder, pictures) for way, pictures in parts.items()]

            def progress() -> float:
                for one in sending:
                    if one.done():
                        one.result()  # an import that nobody took ends the run
                stack.alive()
                return done()

            chaos.strike({**chaos.process_faults(), **chaos.queue_faults(), **others}, size.faults, progress)
            sent = [one for way in sending for one in way.result()]
            prove_accounted(client, sent)
        broken = sum(len(one.broken) for one in sent)
        torn = sum(len(pictures.torn) for pictures in parts.values())
        prove_complete(stack, share * len(ways) - broken, torn)
        prove_audited(client)
    tell(f"{run}: {size.pictures} pictures, {len(chaos.struck)} faults, {time.monotonic() - began:.0f} s")


def filled(disk: Disk, stack: Stack, seconds: float) -> dict[str, Fault]:
    """A full disk, and a process that has to be started again on it; nothing where no small one could be had."""
    if not disk.small:
        return {}
    return {"a full disk": full_disk(disk.path, seconds, lambda: stack.kill_part("scheduler"))}


@pytest.mark.postgres
@pytest.mark.parametrize("size", [SHORT, LONG])
def test_an_import_survives_every_kind_of_fault(
    size: Size, disk: Disk, postgres: tuple[Server, str], tmp_path: Path
) -> None:
    server, url = postgres
    with running_stack(disk.path, {"AKIN_DATABASE_URL": url}) as stack:
        others = {"no database": server_fault(server, size.away), **filled(disk, stack, size.away)}
        survive(stack, tmp_path, "everything", size, ("zip", "batches", "addresses"), others)


@pytest.mark.parametrize("size", [LONG])
def test_an_import_on_one_machine_survives_every_kind_of_fault(size: Size, disk: Disk, tmp_path: Path) -> None:
    with running_stack(disk.path, {"AKIN_IMPORT_ROOTS": str(tmp_path)}) as stack:
        others = filled(disk, stack, size.away)
        survive(stack, tmp_path, "one machine", size, ("tar.gz", "batches", "folder"), others)


@pytest.mark.milvus
@pytest.mark.postgres
@pytest.mark.parametrize("size", [LONG])
def test_an_import_into_servers_of_their_own_survives_every_kind_of_fault(
    size: Size, postgres: tuple[Server, str], milvus: tuple[Server, str], tmp_path: Path
) -> None:
    server, url = postgres
    others = {"no database": server_fault(server, size.away), "no Milvus": server_fault(milvus[0], size.away)}
    variables = {"AKIN_DATABASE_URL": url, "AKIN_MILVUS_URI": milvus[1], "AKIN_IMPORT_ROOTS": str(tmp_path)}
    with running_stack(tmp_path / "akin", variables) as stack:
        survive(stack, tmp_path, "production", size, ("folder", "zip", "addresses"), others)
