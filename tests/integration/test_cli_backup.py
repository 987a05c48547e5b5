"""`akin export` and `akin restore` as commands, and how much memory they take."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import insert, select

from services.bootstrap import create_catalog
from services.catalog import catalogs
from services.catalog.models import Image, Item
from services.cli.backup import export, restore
from services.stack.state import ProcessRef, RunState
from services.wiring import Services
from tests.integration.conftest import Akin, picture

# Each has 8 KB of attributes: 40 MB, which fill several parts, and 160 MB.
SMALL, LARGE = 5_000, 20_000
MOST_GROWTH = 40 * 1000 * 1000


@pytest.fixture
def here(akin: Akin, monkeypatch: pytest.MonkeyPatch) -> Akin:
    """A service with one picture, whose data directory the commands find."""
    monkeypatch.setenv("AKIN_DATA_DIR", str(akin.services.settings.data_dir))
    akin.upload(picture(1), "first")
    akin.work()
    return akin


@pytest.fixture
def with_milvus(here: Akin, monkeypatch: pytest.MonkeyPatch) -> Akin:
    """The same, with a configured Milvus."""
    monkeypatch.setenv("AKIN_MILVUS_URI", here.services.settings.milvus)
    return here


def run(*arguments: str | Path) -> Result:
    command, *rest = (str(one) for one in arguments)
    return CliRunner().invoke({"export": export, "restore": restore}[command], rest)


def test_a_catalog_goes_into_a_file_that_only_its_owner_reads_and_comes_back(with_milvus: Akin, tmp_path: Path) -> None:
    file = tmp_path / "shop.tar"
    exported = run("export", "default", file, "--blobs")
    assert exported.exit_code == 0, exported.output
    assert "1 items, 1 pictures, 1 of them with their vector" in exported.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.glob("shop.*")] == ["shop.tar"]
    restored = run("restore", file, "--as", "again")
    assert restored.exit_code == 0, restored.output
    assert "again: 1 items, 1 pictures are searchable" in restored.stdout
    assert with_milvus.get("/v1/items/first?catalog=again")["item_id"] == "first"


def test_a_backup_goes_to_standard_output(with_milvus: Akin, tmp_path: Path) -> None:
    file = tmp_path / "piped.tar"
    file.write_bytes(run("export", "default", "-").stdout_bytes)
    assert run("restore", file, "--as", "again").exit_code == 0


def test_a_failed_export_leaves_the_older_backup_as_it_was(with_milvus: Akin, tmp_path: Path) -> None:
    file = tmp_path / "shop.tar"
    file.write_bytes(b"of yesterday")
    refused = run("export", "nowhere", file)
    assert refused.exit_code == 1
    assert "there is no catalog 'nowhere' [catalog_not_found]" in refused.stderr
    assert file.read_bytes() == b"of yesterday"
    assert [path.name for path in tmp_path.glob("shop.*")] == ["shop.tar"]


def test_a_file_that_is_no_backup_is_named_as_such(with_milvus: Akin, tmp_path: Path) -> None:
    file = tmp_path / "other.tar"
    file.write_bytes(b"something else" * 100)
    refused = run("restore", file)
    assert refused.exit_code == 1
    assert "[backup_damaged]" in refused.stderr


def test_the_milvus_of_the_stack_that_runs_here_is_found(here: Akin, tmp_path: Path) -> None:
    settings = here.services.settings
    own = ProcessRef.of(os.getpid())
    state = RunState(
        pid=own.pid,
        started=own.started,
        api_url="http://127.0.0.1:1",
        api_key="k",
        redis_url=settings.redis,
        milvus_uri=settings.milvus,
        children={},
    )
    state.write(settings.data_dir)
    assert run("export", "default", tmp_path / "shop.tar").exit_code == 0


def test_without_any_milvus_it_says_what_to_do(here: Akin, tmp_path: Path) -> None:
    refused = run("export", "default", tmp_path / "shop.tar")
    assert refused.exit_code == 1
    assert "set AKIN_MILVUS_URI, or run `akin up`" in refused.stderr


def test_a_restore_that_was_not_interrupted_cannot_be_abandoned(with_milvus: Akin, tmp_path: Path) -> None:
    file = tmp_path / "shop.tar"
    assert run("export", "default", file).exit_code == 0
    refused = run("restore", file, "--as", "again", "--abandon")
    assert refused.exit_code == 1
    assert "[restore_not_found]" in refused.stderr


# Prints by how much the peak of memory grows from a small catalog to a large one, first of exports, then of restores.
MEASURED = """
    import sys
    from pathlib import Path
    from services.backup.export import export
    from services.backup.restore import restore
    from services.config import load_settings
    from services.wiring import build

    def peak():
        # Not getrusage, which counts what the process was before it became this program.
        (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    def back_up(catalog):
        with (folder / catalog).open("wb") as out:
            export(services, catalog, out, with_blobs=True, with_encoder=False, progress=quiet)
        return peak()

    def bring_back(catalog):
        with (folder / catalog).open("rb") as backup:
            restored = restore(services, backup, name=f"{catalog}-again", encoder=None, progress=quiet)
        assert restored.waiting == 0
        return peak()

    services, folder, quiet = build(load_settings()), Path(sys.argv[1]), lambda *_: None
    print(-back_up("small") + back_up("large"), -bring_back("small") + bring_back("large"), peak())
"""


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of its memory from /proc")
def test_memory_does_not_grow_with_the_catalog(with_milvus: Akin, tmp_path: Path) -> None:
    services = with_milvus.services
    grow(services, "small", SMALL)
    grow(services, "large", LARGE)
    measured = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEASURED), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    exported, restored, _ = map(int, measured.stdout.split())
    assert exported < MOST_GROWTH, measured.stdout
    assert restored < MOST_GROWTH, measured.stdout
    assert (tmp_path / "large").stat().st_size > 2 * MOST_GROWTH


def grow(services: Services, name: str, size: int) -> None:
    """A catalog of so many items with large attributes, a picture and a vector each."""
    noise = random.Random(1)
    with services.database.transaction() as session:
        catalog = create_catalog(session, name, services.settings.default_encoder)
        index = catalogs.live_index(session, catalog.id)
        for start in range(0, size, 1000):
            items = [
                {"catalog_id": catalog.id, "item_id": f"i{one}", "attributes": {"text": noise.randbytes(4096).hex()}}
                for one in range(start, start + 1000)
            ]
            pks = session.scalars(insert(Item).returning(Item.id), items).all()
            picture = {"format": "jpeg", "media_type": "image/jpeg", "width": 10, "height": 10, "size_bytes": 10}
            images = [{**picture, "catalog_id": catalog.id, "item_pk": pk, "sha256": f"{pk:064x}"} for pk in pks]
            session.execute(insert(Image), images)
        ids = session.scalars(select(Image.id).where(Image.catalog_id == catalog.id)).all()
    vectors = np.random.default_rng(1).normal(size=(size, index.encoder.dimension)).astype(np.float32)
    services.vectors.create(index.collection, index.encoder.dimension)
    services.vectors.upsert(index.collection, ids, vectors)
