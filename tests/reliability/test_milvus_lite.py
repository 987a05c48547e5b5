"""The Milvus Lite of `akin up` on a data directory on which it was cut short."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from services.errors import Unavailable
from services.stack.probes import milvus_probe
from services.stack.servers import find_milvus
from services.vectors.milvus import MilvusStore
from tests.reliability.chaos import full_disk
from tests.reliability.conftest import Disk
from tests.servers import Server, free_ports, require, running

VECTORS = np.random.default_rng(1).random((500, 64), np.float32)


@contextmanager
def lite(directory: Path) -> Iterator[tuple[Server, MilvusStore]]:
    """The server as `akin up` runs it, with its data in a directory, and a client."""
    directory.mkdir(exist_ok=True)
    (port,) = free_ports(1)
    uri = f"http://127.0.0.1:{port}"
    command = [*find_milvus(), "--host", "127.0.0.1", "--port", str(port), "--data-dir", str(directory / "data")]
    server = Server(command, directory, lambda: milvus_probe(uri)() is None)
    with running(server), closing(MilvusStore(uri)) as store:
        yield server, store


def test_a_collection_whose_creation_was_cut_short_is_made_at_the_next_try(tmp_path: Path) -> None:
    half_made = tmp_path / "data" / "collections" / "akin_1"
    half_made.mkdir(parents=True)
    (half_made / "schema.json.tmp").touch()

    with lite(tmp_path) as (_, store):
        store.create("akin_1", 64)
        store.upsert("akin_1", [1], VECTORS[:1])
        store.create("akin_1", 64)
        assert store.count("akin_1") == 1, "what was made is kept"


def test_what_is_acknowledged_after_the_disk_was_full_survives_a_kill(disk: Disk) -> None:
    if not disk.small:
        require("disk", "no file system to fill can be mounted")
    with lite(disk.path) as (server, store):

        def refused_on_a_full_disk() -> None:
            with pytest.raises(Unavailable):
                store.upsert("akin_1", range(200, 500), VECTORS[200:])

        store.create("akin_1", 64)
        store.upsert("akin_1", range(100), VECTORS[:100])
        full_disk(disk.path, 0.0, refused_on_a_full_disk)()
        assert server.process is not None
        if server.process.poll() is not None:  # as the supervisor does
            server.kill()
            server.start()
        store.upsert("akin_1", range(100, 200), VECTORS[100:200])
        acknowledged = store.count("akin_1")
        server.kill()
        server.start()
        assert store.count("akin_1") == acknowledged >= 200
