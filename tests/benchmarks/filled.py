"""A stack whose catalog holds the real embeddings of many pictures, put there without the uploads."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from pymilvus import MilvusClient
from rich.progress import Progress
from sqlalchemy import update

from services import additions, kept_vectors
from services.catalog import catalogs, items
from services.catalog.items import ItemFields, Picture
from services.catalog.models import Embedding
from services.catalog.states import EmbeddingState, Priority
from services.config import load_settings
from services.datasets.source import open_source
from services.encoders.torch_encoder import TorchEncoder
from services.errors import ImageRejected, InvalidRequest
from services.facets import facets_of
from services.images.decode import Limits
from services.images.preprocess import Preprocessing, preprocess
from services.samples import write_samples
from services.stack.background import background_stack
from services.stack.state import RunState
from services.wiring import Services, build
from tests.servers import milvus_server, running, wait_until

LITE, MILVUS = "lite", "2.3.5"
PIECE = 1000
# Within a minute after an import Milvus puts segments together and indexes them anew, which takes all cores: it rests
# once it has taken less than this share of one core for so long.
RESTS_SECONDS = 40.0
RESTS_SHARE = 0.25
LOOK_SECONDS = 5.0
ENCODED_AT_ONCE = 256
# Members of a filter by the share of items that match it.
SHARES = {0.5: ("half", 2), 0.05: ("twentieth", 20), 0.005: ("two_hundredth", 200)}


@dataclass(frozen=True)
class Pictures:
    """Encoded pictures: `files` holds the bytes of those that ask, `vectors` (n, d) has a row for every one."""

    files: Sequence[bytes]
    vectors: NDArray[np.float32]
    hashes: Sequence[str]


@dataclass(frozen=True)
class Filled:
    """A running stack with `ids` (n), the images of the rows of `vectors` (n, d)."""

    state: RunState
    milvus: Sequence[psutil.Process]
    services: Services
    catalog_id: int
    collection: str
    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]


def encode(specs: Sequence[str], encoder: TorchEncoder, count: int, queries: int, kept: Path | None = None) -> Pictures:
    """Encode up to `count` pictures of these sources (drawn ones without any), and keep `queries` more whole.

    Args:
        kept: a file that an earlier run left with as many pictures or more, or that this one is to leave.
    """
    if kept is not None and kept.exists():
        return _read(kept, encoder, count + queries, queries)
    preprocessing, limits = encoder.manifest.preprocessing, Limits(2**25, 2**27)
    files: list[bytes] = []
    vectors: list[NDArray[np.float32]] = []
    hashes: list[str] = []
    with ExitStack() as opened, Progress() as progress, ThreadPoolExecutor(2) as pool:
        if not specs:
            folder = opened.enter_context(tempfile.TemporaryDirectory())
            write_samples(Path(folder))
            specs = [folder]
        sources = [one for spec in specs for one in opened.enter_context(open_source(spec)).pictures]
        # Spread over all of them: sources are in the order of their classes.
        chosen = np.random.default_rng(7).permutation(len(sources))[: count + queries]
        task = progress.add_task("encoding", total=len(chosen))
        for start in range(0, len(chosen), ENCODED_AT_ONCE):
            some = [sources[position].content() for position in chosen[start : start + ENCODED_AT_ONCE]]
            decoded = [
                one for one in pool.map(lambda data: _pixels(data, preprocessing, limits), some) if one is not None
            ]
            if decoded:
                vectors.append(encoder.encode(np.stack([pixels for _, pixels in decoded])))
            hashes += [hashlib.sha256(data).hexdigest() for data, _ in decoded]
            files += [data for data, _ in decoded] if len(files) < queries else []
            progress.advance(task, len(some))
    if len(hashes) <= queries:
        raise InvalidRequest("too few of these files are pictures that can be decoded")
    pictures = Pictures(files[:queries], np.concatenate(vectors), hashes)
    if kept is not None:
        _write(kept, encoder, pictures)
    return pictures


def _write(kept: Path, encoder: TorchEncoder, pictures: Pictures) -> None:
    files = {f"file_{number}": np.frombuffer(data, np.uint8) for number, data in enumerate(pictures.files)}
    with kept.open("wb") as target:
        np.savez(
            target,
            encoder=encoder.manifest.weights_sha256,
            vectors=pictures.vectors,
            hashes=np.asarray(pictures.hashes),
            **files,
        )


def _read(kept: Path, encoder: TorchEncoder, most: int, queries: int) -> Pictures:
    with np.load(kept, allow_pickle=False) as stored:
        if str(stored["encoder"]) != encoder.manifest.weights_sha256:
            raise InvalidRequest(f"{kept} holds the vectors of another encoder")
        files = [stored[f"file_{number}"].tobytes() for number in range(queries)]
        return Pictures(files, stored["vectors"][:most], stored["hashes"][:most].tolist())


def _pixels(data: bytes, preprocessing: Preprocessing, limits: Limits) -> tuple[bytes, NDArray[np.uint8]] | None:
    with suppress(ImageRejected):
        return data, preprocess(data, preprocessing, limits)
    return None


@contextmanager
def filled_stack(pictures: Pictures, milvus: str) -> Iterator[Filled]:
    """Run a stack on Milvus Lite or on the Milvus of the wheel, and fill it with all but the queries."""
    skipped = len(pictures.files)
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        # Visitors are counted as always, against a limit that is not reached.
        environment = {"AKIN_WIDGET_RATE": "1000000000"}
        server = None
        if milvus == MILVUS:
            (folder / "milvus").mkdir()
            server, uri = milvus_server(folder / "milvus", Path(tempfile.gettempdir()) / "akin-milvus-2.3.5")
            held.enter_context(running(server))
            environment["AKIN_MILVUS_URI"] = uri
        state = held.enter_context(background_stack(folder / "data", environment=environment))
        settings = load_settings(
            data_dir=folder / "data", redis_url=state.redis_url, cache_url=state.cache_url, milvus_uri=state.milvus_uri
        )
        services = held.enter_context(closing(build(settings)))
        leader = server.process.pid if server and server.process else state.children["milvus"].pid
        process = psutil.Process(leader)
        with services.database.reading() as session:
            catalog_id = catalogs.by_name(session, catalogs.DEFAULT).id
            collection = catalogs.live_index(session, catalog_id).collection
        vectors = pictures.vectors[skipped:]
        services.vectors.create(collection, vectors.shape[1])
        ids: list[int] = []
        with Progress() as progress:
            task = progress.add_task("filling", total=len(vectors))
            for start in range(0, len(vectors), PIECE):
                rows = range(start, min(start + PIECE, len(vectors)))
                hashes = pictures.hashes[skipped:]
                ids += _add(services, catalog_id, collection, rows, [hashes[row] for row in rows], vectors[list(rows)])
                progress.advance(task, len(rows))
        services.vectors.barrier(collection)
        services.vectors.seal(collection)
        processes = [process, *process.children(recursive=True)]
        _wait_for_index(state.milvus_uri, collection, len(vectors), processes)
        yield Filled(state, processes, services, catalog_id, collection, np.asarray(ids), vectors)


def _wait_for_index(uri: str, collection: str, count: int, milvus: Sequence[psutil.Process]) -> None:
    """Until all is indexed, as it is a minute after an import, and the server has loaded that."""
    with closing(MilvusClient(uri)) as client:
        if client.get_server_version().startswith("milvus_lite"):
            return
        wait_until(
            lambda: client.describe_index(collection, "vector")["indexed_rows"] >= count,
            "the index of all vectors",
            600,
        )
    rested = 0.0
    while rested < RESTS_SECONDS:
        before = cpu_seconds(milvus)
        time.sleep(LOOK_SECONDS)
        busy = cpu_seconds(milvus) - before > RESTS_SHARE * LOOK_SECONDS
        rested = 0.0 if busy else rested + LOOK_SECONDS


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """CPU seconds that these have taken so far."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def _add(
    services: Services,
    catalog_id: int,
    collection: str,
    rows: range,
    hashes: Sequence[str],
    vectors: NDArray[np.float32],
) -> list[int]:
    """Items, images, ledger rows and vectors as an import leaves them."""
    wanted = [
        (
            ItemFields(
                f"item-{row}",
                title=f"Item {row}",
                attributes={"price": row % 500 / 4, "in_stock": row % 10 > 0}
                | {name: row % share for name, share in SHARES.values()},
            ),
            Picture(sha256, "jpeg", "image/jpeg", 256, 256, 10_000),
        )
        for row, sha256 in zip(rows, hashes, strict=True)
    ]
    with services.database.transaction() as session:
        catalogs.lock_shared(session, catalog_id)
        added = additions.add(session, catalog_id, wanted, Priority.IMPORT)
        ids = [one.image_id for one in added]
        session.execute(update(Embedding).where(Embedding.image_id.in_(ids)).values(state=EmbeddingState.INDEXED))
        images = items.images_by_id(session, catalog_id, ids)
        facets = [facets_of(item) for one in ids if (item := images[one].item) is not None]
        kept = facets if services.vectors.filters(collection) else None
        services.vectors.upsert(collection, ids, vectors, kept)
        kept_vectors.keep_written(services, collection, ids, vectors)
    return ids
