"""Latency, throughput and recall of searches, beside bare calls of the same Milvus in the same run.

    make bench-search                                          # drawn pictures on Milvus Lite
    make bench-search IMAGES=folder-or-zip COUNT=20000         # your own
    make bench-search IMAGES=folder-or-zip MILVUS=2.3.5        # on the real Milvus of the wheel
    make bench-search IMAGES=... KEPT=vectors.npz              # encoded once, for several runs

Similar items are asked for as a shop's pages do, with a publishable key, for items that nobody asked for before, so
that no ranking is warm (their vectors are where workers have left them, in the cache), and once more for a few. Rounds
of the bare calls and of the service alternate, so that both meet the same noise.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import click
import numpy as np
import psutil
from pymilvus import MilvusClient
from rich.console import Console
from rich.table import Table

from services.cli.encoders import find_checkpoint
from services.cli.terminal import reporting_errors
from services.config import load_settings
from services.encoders.torch_encoder import TorchEncoder
from services.evaluation.speed import device_name
from services.images.decode import Limits
from services.images.preprocess import preprocess
from services.vectors.milvus import MIN_EF
from tests.benchmarks.filled import LITE, MILVUS, SHARES, Filled, cpu_seconds, encode, filled_stack
from tests.benchmarks.lean import Connection, request
from tests.torch_threads import torch_threads

QUERIES = 64
LIMIT = 20
ROUNDS = 5
CALLS = 40  # of one round
CLIENTS = (1, 8, 32)
SECONDS = 5.0  # that many clients ask at the same time
WITHIN = {"similar items": 4.0, "search by image": 8.0}  # ms beyond the bare calls
SHARE = 0.7
PAGES_KEY: dict[str, Any] = {"name": "benchmark", "scopes": ["widget"], "origins": ["https://shop.example"]}
RECALL_AT = 10
RECALL_QUERIES = 200


@dataclass(frozen=True)
class Work:
    """A way to ask: `call` takes a number, by which it chooses what to ask for."""

    name: str
    call: Callable[[int], Any]


@click.command()
@click.option("--images", multiple=True, help="Folder, zip file, or part of one as PATH#FOLDER; may be repeated.")
@click.option("--count", type=click.IntRange(min=500), default=20_000, show_default=True, help="Pictures at most.")
@click.option("--milvus", type=click.Choice([LITE, MILVUS]), default=LITE, show_default=True)
@click.option(
    "--kept", type=click.Path(path_type=Path, dir_okay=False), help="File for vectors, to encode once for several runs."
)
@reporting_errors
def bench_search(*, images: Sequence[str], count: int, milvus: str, kept: Path | None) -> None:
    """Measure searches beside bare Milvus."""
    settings = load_settings()
    encoder = TorchEncoder(*find_checkpoint(settings.default_encoder), device=settings.device)
    pictures = encode(images, encoder, count, QUERIES, kept)
    with filled_stack(pictures, milvus) as filled:
        console = Console(width=110)
        console.print(
            f"{encoder.manifest.ref}, {len(filled.ids):,} embeddings of {encoder.manifest.dimension} dimensions, "
            f"Milvus {milvus}, {device_name(str(encoder.device))}, {psutil.cpu_count()} cores",
            highlight=False,
        )
        bare = Bare(filled, encoder, pictures.files)
        service = Service(filled, pictures.files)
        _latency(console, bare, service)
        _throughput(console, bare, service, filled)
        _recall(console, service, filled)


class Bare:
    """A script over pymilvus that wants ids and scores and nothing else."""

    def __init__(self, filled: Filled, encoder: TorchEncoder, files: Sequence[bytes]) -> None:
        self._filled, self._encoder, self._files = filled, encoder, files
        self._limits = Limits(2**25, 2**27)
        self._client = MilvusClient(filled.state.milvus_uri)

    def similar(self, number: int) -> object:
        """Fetch one vector, search with it."""
        found = self._client.get(
            self._filled.collection,
            ids=[int(self._filled.ids[number % len(self._filled.ids)])],
            output_fields=["vector"],
        )
        return self._search([found[0]["vector"]])

    def by_image(self, number: int) -> object:
        """Decode, encode, search."""
        pixels = preprocess(self._files[number % len(self._files)], self._encoder.manifest.preprocessing, self._limits)
        return self._search(self._encoder.encode(pixels[None]))

    def _search(self, vectors: Any) -> object:
        return self._client.search(
            self._filled.collection,
            data=vectors,
            limit=LIMIT,
            output_fields=["id"],
            search_params={"metric_type": "COSINE", "params": {"ef": MIN_EF}},
        )


class Service:
    """The HTTP API, over one kept connection for each thread. To parse an answer is the business of who asked."""

    def __init__(self, filled: Filled, files: Sequence[bytes]) -> None:
        address = urlsplit(filled.state.api_url)
        self._host, self._port = address.hostname or "", address.port or 80
        self._files = files
        self._local = threading.local()
        self._count = len(filled.ids)
        host = {"Host": address.netloc}
        self._headers = {**host, "Authorization": f"Bearer {filled.state.api_key}"}
        made = json.loads(self._ask("POST", "/v1/admin/keys", json.dumps(PAGES_KEY).encode(), "application/json"))
        self._page = {**host, "Authorization": f"Bearer {made['key']}", "Origin": PAGES_KEY["origins"][0]}

    def similar(self, number: int) -> bytes:
        """Similar items of an item."""
        path = f"/v1/items/{quote(f'item-{number % self._count}', safe='')}/similar?limit={LIMIT}"
        return self._ask("GET", path, headers=self._page)

    def by_image(self, number: int) -> bytes:
        """Search by an uploaded picture; bytes behind its end make it another, so that no answer is remembered."""
        data = self._files[number % len(self._files)] + str(number).encode()
        boundary = "akin-bench"
        body = b"".join(
            [
                f'--{boundary}\r\nContent-Disposition: form-data; name="limit"\r\n\r\n{LIMIT}\r\n'.encode(),
                f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="q.jpg"\r\n\r\n'.encode(),
                data,
                f"\r\n--{boundary}--\r\n".encode(),
            ]
        )
        return self._ask("POST", "/v1/search", body, f"multipart/form-data; boundary={boundary}")

    def nearest(self, item: int, wanted: dict[str, Any] | None) -> list[int]:
        """Row numbers of the items most alike to one, under a filter."""
        body = {"query": [{"item_id": f"item-{item}"}], "limit": RECALL_AT, "collapse": "none"}
        if wanted:
            body["filter"] = wanted
        answer = json.loads(self._ask("POST", "/v1/search", json.dumps(body).encode(), "application/json"))
        return [int(hit["item"]["item_id"].removeprefix("item-")) for hit in answer["hits"]]

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        media_type: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = Connection(self._host, self._port)
        headers = {**(headers or self._headers), **({"Content-Type": media_type} if media_type else {})}
        status, content = connection.ask(request(method, path, headers, body))
        if status not in (200, 201):
            raise click.ClickException(f"{method} {path}: {status} {content[:200]!r}")
        return content


def _latency(console: Console, bare: Bare, service: Service) -> None:
    table = _table("one client, ms", "bare p50", "bare p95", "Akin p50", "Akin p95", "beyond, p50", "allowed")
    numbers = iter(range(10**9))
    for name, plain, asked in (
        ("similar items", bare.similar, service.similar),
        ("search by image", bare.by_image, service.by_image),
    ):
        for call in (plain, asked):
            _timed(call, [next(numbers) for _ in range(CALLS // 2)])
        times: dict[str, list[float]] = {"bare": [], "akin": []}
        for _ in range(ROUNDS):
            times["bare"] += _timed(plain, [next(numbers) for _ in range(CALLS)])
            times["akin"] += _timed(asked, [next(numbers) for _ in range(CALLS)])
        beyond = statistics.median(times["akin"]) - statistics.median(times["bare"])
        table.add_row(name, *_two(times["bare"]), *_two(times["akin"]), f"{beyond:+.1f}", f"+{WITHIN[name]:.0f}")
    warm = [number for _ in range(ROUNDS) for number in range(8)]
    _timed(service.similar, range(8))
    table.add_row("similar items, asked before", "", "", *_two(_timed(service.similar, warm)), "", "")
    console.print(table)


def _throughput(console: Console, bare: Bare, service: Service, filled: Filled) -> None:
    table = _table("answers/s", *(f"{clients} clients" for clients in CLIENTS), "bare CPU ms", "2 cores would", "share")
    numbers = iter(range(10**6, 10**9))
    for name, plain, asked in (
        ("similar items", bare.similar, service.similar),
        ("search by image", bare.by_image, service.by_image),
    ):
        # On one core, as threads that wait for each other spin. The median of rounds: what Milvus does in the
        # background for seconds, such as compacting, is in few of them.
        with torch_threads(1):
            cpu = statistics.median(
                _cpu_seconds(plain, [next(numbers) for _ in range(CALLS)], filled.milvus) for _ in range(ROUNDS)
            )
        rates = [_rate(asked, clients, numbers) for clients in CLIENTS]
        ideal = (psutil.cpu_count() or 1) / cpu
        table.add_row(
            name, *(f"{rate:,.0f}" for rate in rates), f"{1000 * cpu:.1f}", f"{ideal:,.0f}", f"{rates[-1] / ideal:.0%}"
        )
    console.print(table)
    console.print(f"wanted: {SHARE:.0%} or more at {CLIENTS[-1]} clients, which share the cores with the server")


def _recall(console: Console, service: Service, filled: Filled) -> None:
    table = _table(f"recall@{RECALL_AT} against exact search", "matching", "recall", "wanted")
    rows = np.random.default_rng(1).permutation(len(filled.ids))[:RECALL_QUERIES]
    unit = filled.vectors / np.linalg.norm(filled.vectors, axis=1, keepdims=True)
    everything = np.arange(len(unit))
    cases: list[tuple[str, dict[str, Any] | None, Any, float]] = [("no filter", None, everything >= 0, 0.99)]
    for share, (name, every) in SHARES.items():
        cases.append((f"filter: {share:.1%}", {"field": name, "eq": 0}, everything % every == 0, 0.98))
    for label, wanted, matching, least in cases:
        found = []
        for row in rows:
            scores = np.where(matching, unit @ unit[row], -2.0)
            scores[row] = -2.0
            exact = np.sort(scores)[::-1][:RECALL_AT]
            answered = service.nearest(int(row), wanted)
            # Of equal scores either may be answered; float32 sums differ in the last places.
            good = sum(scores[one] >= exact[-1] - 1e-6 for one in answered)
            found.append(good / min(RECALL_AT, int((exact > -2).sum())))
        table.add_row(label, f"{int(matching.sum()):,}", f"{statistics.mean(found):.4f}", f"{least}")
    console.print(table)


def _timed(call: Callable[[int], object], numbers: Sequence[int] | range) -> list[float]:
    """Milliseconds of each call."""
    times = []
    for number in numbers:
        started = time.perf_counter()
        call(number)
        times.append(1000 * (time.perf_counter() - started))
    return times


def _rate(call: Callable[[int], object], clients: int, numbers: Iterator[int]) -> float:
    """Answers a second while so many threads ask one after the other."""
    until = time.perf_counter() + SECONDS
    lock = threading.Lock()
    answered: list[int] = []
    failures: list[BaseException] = []

    def work() -> None:
        count = 0
        try:
            while time.perf_counter() < until:
                with lock:
                    number = next(numbers)
                call(number)
                count += 1
        except BaseException as error:  # noqa: BLE001
            failures.append(error)
        answered.append(count)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(answered) / (time.perf_counter() - started)


def _cpu_seconds(call: Callable[[int], object], numbers: Sequence[int], milvus: Sequence[psutil.Process]) -> float:
    """CPU seconds that one call takes of this process and of Milvus."""

    def used() -> float:
        return time.process_time() + cpu_seconds(milvus)

    before = used()
    _timed(call, numbers)
    return (used() - before) / len(numbers)


def _two(times: Sequence[float]) -> tuple[str, str]:
    return f"{statistics.median(times):.1f}", f"{statistics.quantiles(times, n=20)[-1]:.1f}"


def _table(*columns: str) -> Table:
    table = Table(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


if __name__ == "__main__":
    bench_search()
