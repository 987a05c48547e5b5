"""Requests a second of the widget's cached answer, beside those of an empty Flask route under the same gunicorn.

    make bench-widget

A whole stack is started as `akin up` does, with drawn products, and beside it gunicorn with a Flask application whose
one route answers an empty text. Clients with connections that stay open ask for the empty route, for one item's
similar items, which are ranked once a minute and looked up in SQL every time, and for them again with the ETag of the
answer before (304). Rounds alternate, so that all meet the same noise; beside the rates stands the CPU time that the
server spent on a request, which hardly depends on what else the machine does.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import click
import httpx
import psutil
from flask import Flask
from rich.console import Console
from rich.table import Table

from services.client import AkinClient, UploadFile
from services.config import load_settings
from services.samples import MANIFEST_NAME, write_samples
from services.stack.background import background_stack
from services.stack.plan import api_command
from services.stack.state import RunState
from tests.benchmarks.lean import Connection, request
from tests.servers import free_ports, wait_until

ORIGIN = "https://shop.example"
EMPTY, CACHED, UNCHANGED = "an empty route", "similar items, kept ranking", "the same, unchanged (304)"
SECONDS = 3.0
ROUNDS = 3
WANTED = 0.3


def empty() -> Flask:
    """What gunicorn runs for comparison."""
    app = Flask(__name__)
    app.add_url_rule("/", view_func=lambda: "")
    return app


@contextmanager
def empty_server() -> Iterator[tuple[int, psutil.Process]]:
    """gunicorn as `akin up` starts it, on the empty application; its port and process."""
    (port,) = free_ports(1)
    command = [*api_command(load_settings(port=port))[:-1], "tests.benchmarks.bench_widget:empty()"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _answers(port), "gunicorn")
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
    except httpx.TransportError:
        return False


def fill(state: RunState, folder: Path, pictures: int) -> tuple[str, str]:
    """Products, and a publishable key; returns the id of an item, and the key."""
    write_samples(folder, pictures)
    records = [json.loads(line) for line in (folder / MANIFEST_NAME).read_text().splitlines()]
    item_id: str = records[0]["item_id"]
    files = [
        UploadFile(file, (folder / file).read_bytes(), record) for record in records for file in [record.pop("file")]
    ]
    with AkinClient(state.api_url, state.api_key) as client:
        client.wait(client.import_files(files).id, interval=0.2)
    body = {"name": "benchmark", "scopes": ["widget"], "origins": [ORIGIN]}
    headers = {"Authorization": f"Bearer {state.api_key}"}
    made = httpx.post(f"{state.api_url}/v1/admin/keys", json=body, headers=headers).raise_for_status()
    key: str = made.json()["key"]
    return item_id, key


def rate(port: int, question: bytes, status: int, clients: int, server: psutil.Process) -> tuple[float, float]:
    """Requests a second of so many clients, and the server's CPU milliseconds for one."""
    until = time.perf_counter() + SECONDS
    counts = [0] * clients

    def ask(number: int) -> None:
        with closing(Connection("127.0.0.1", port)) as connection:
            while time.perf_counter() < until:
                answered, _ = connection.ask(question)
                assert answered == status, answered
                counts[number] += 1

    before, began = _cpu_seconds(server), time.perf_counter()
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(counts)
    assert total, "nothing was answered"
    return total / (time.perf_counter() - began), (_cpu_seconds(server) - before) / total * 1000


def _cpu_seconds(server: psutil.Process) -> float:
    times = [process.cpu_times() for process in (server, *server.children())]
    return sum(one.user + one.system for one in times)


@click.command()
@click.option("--pictures", default=400, show_default=True, help="Drawn pictures, four of each item.")
@click.option("--clients", default=8, show_default=True, help="Connections that ask at the same time.")
def bench_widget(*, pictures: int, clients: int) -> None:
    """Measure the widget's path beside an empty route."""
    (port,) = free_ports(1)
    # Requests are counted as always, against a limit that is not reached.
    environment = {"AKIN_PORT": str(port), "AKIN_WIDGET_RATE": "1000000000"}
    with tempfile.TemporaryDirectory() as name, background_stack(Path(name) / "data", environment=environment) as state:
        item_id, key = fill(state, Path(name) / "samples", pictures)
        with empty_server() as (empty_port, empty_process):
            address = urlsplit(f"{state.api_url}/v1/items/{item_id}/similar?limit=8&key={key}")
            api = psutil.Process(state.children["api"].pid)
            answer = httpx.get(address.geturl(), headers={"Origin": ORIGIN}).raise_for_status()
            path, headers = f"{address.path}?{address.query}", {"Host": address.netloc, "Origin": ORIGIN}
            again = {**headers, "If-None-Match": answer.headers["ETag"]}
            asked = {
                EMPTY: (empty_port, request("GET", "/", {"Host": f"127.0.0.1:{empty_port}"}), 200, empty_process),
                CACHED: (port, request("GET", path, headers), 200, api),
                UNCHANGED: (port, request("GET", path, again), 304, api),
            }
            measured: dict[str, list[tuple[float, float]]] = {name: [] for name in asked}
            for _ in range(ROUNDS):
                for what, (to, question, status, process) in asked.items():
                    measured[what].append(rate(to, question, status, clients, process))
    _print(measured, len(answer.json()["hits"]), len(answer.content), clients)


def _print(measured: dict[str, list[tuple[float, float]]], hits: int, size: int, clients: int) -> None:
    rates = {name: statistics.median(one[0] for one in rounds) for name, rounds in measured.items()}
    cpu = {name: statistics.median(one[1] for one in rounds) for name, rounds in measured.items()}
    table = Table(
        "", "requests/s", "of the empty", "CPU ms", "of the empty",
        title=f"{hits} hits in {size:,} bytes, {clients} clients, {os.cpu_count()} cores",
    )  # fmt: skip
    for name in measured:
        share, cheap = rates[name] / rates[EMPTY], cpu[EMPTY] / cpu[name]
        table.add_row(name, f"{rates[name]:,.0f}", f"{share:.0%}", f"{cpu[name]:.2f}", f"{cheap:.0%}")
    Console().print(table)
    Console().print(f"wanted: at least {WANTED:.0%} of the empty route's rate")


if __name__ == "__main__":
    bench_widget()
