"""What the tests import: drawn pictures, a few of them broken, and the ways in which they are sent."""

from __future__ import annotations

import io
import json
import random
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from services.answers import Job
from services.client import AkinClient, ImportOptions, UploadFile
from services.connection import AT_WORK
from services.errors import Conflict
from tests.integration.conftest import picture

BATCH = 100
# One in so many pictures is broken, and one in so many addresses fails once before it answers.
BROKEN_ONE_IN = 33
FAILING_ONE_IN = 20
UPSERT = ImportOptions()


@dataclass(frozen=True)
class Pictures:
    """Files by name; those of `garbage` are no pictures, those of `torn` cannot be decoded to their end."""

    files: Mapping[str, bytes]
    garbage: frozenset[str]
    torn: frozenset[str]

    @property
    def broken(self) -> frozenset[str]:
        return self.garbage | self.torn


@dataclass(frozen=True)
class Sent:
    """An import, and the references of its entries that are to succeed and to fail."""

    job_id: str
    good: frozenset[str]
    broken: frozenset[str]


Sender = Callable[[AkinClient, Path, Pictures], list[Sent]]


def drawn(folder: str, seeds: Sequence[int]) -> Pictures:
    """Small pictures that no other seed has, about 3 % of them broken."""
    files = {f"{folder}/{seed:05}.jpg": picture(seed) for seed in seeds}
    draw = random.Random(seeds[0])
    broken = draw.sample(sorted(files), max(2, len(files) // BROKEN_ONE_IN))
    garbage, torn = frozenset(broken[::2]), frozenset(broken[1::2])
    files |= {name: b"no picture: " + name.encode() for name in garbage}
    files |= {name: files[name][: len(files[name]) * 2 // 3] for name in torn}
    return Pictures(files, garbage, torn)


def by_zip(client: AkinClient, folder: Path, pictures: Pictures) -> list[Sent]:
    """One zip archive."""
    path = folder / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in pictures.files.items():
            archive.writestr(name, data)
    return [_sent(_insist(lambda: client.import_archive(path, "application/zip", UPSERT)), pictures)]


def by_tar_gz(client: AkinClient, folder: Path, pictures: Pictures) -> list[Sent]:
    """One tar.gz archive, which is read from its beginning to its end."""
    path = folder / "pictures.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in pictures.files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return [_sent(_insist(lambda: client.import_archive(path, "application/gzip", UPSERT)), pictures)]


def by_batches(client: AkinClient, _folder: Path, pictures: Pictures) -> list[Sent]:
    """Requests with a hundred files each."""
    names = list(pictures.files)
    sent = []
    for start in range(0, len(names), BATCH):
        some = {name: pictures.files[name] for name in names[start : start + BATCH]}
        files = [UploadFile(name, data) for name, data in some.items()]
        part = Pictures(some, pictures.garbage & some.keys(), pictures.torn & some.keys())
        sent.append(_sent(_insist(lambda files=files: client.import_files(files)), part))
    return sent


def by_folder(client: AkinClient, folder: Path, pictures: Pictures) -> list[Sent]:
    """A folder that the workers may read."""
    for name, data in pictures.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    location = str(path.parent)
    return [_sent(_insist(lambda: client.import_location(location, UPSERT)), pictures, lambda name: Path(name).name)]


def by_addresses(server: str) -> Sender:
    """A manifest with addresses of a server."""

    def send(client: AkinClient, folder: Path, pictures: Pictures) -> list[Sent]:
        path = folder / "pictures.jsonl"
        lines = [json.dumps({"item_id": name, "image": f"{server}/{name}"}) for name in pictures.files]
        path.write_text("\n".join(lines))
        job = _insist(lambda: client.import_manifest(path, "application/x-ndjson", UPSERT))
        return [_sent(job, pictures, lambda name: f"{server}/{name}")]

    return send


@contextmanager
def serving(pictures: Pictures) -> Iterator[str]:
    """The address of a web server with these pictures that answers some requests with 503, or not at all, once."""
    draw = random.Random(len(pictures.files))
    failing = set(draw.sample(sorted(pictures.files), len(pictures.files) // FAILING_ONE_IN))
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            with lock:
                fails = name in failing
                failing.discard(name)
            if fails:
                if draw.random() < 0.5:
                    self.send_error(503)
                return  # without an answer the connection is closed
            data = pictures.files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _sent(job: Job, pictures: Pictures, ref: Callable[[str], str] = str) -> Sent:
    good = pictures.files.keys() - pictures.broken
    return Sent(job.id, frozenset(map(ref, good)), frozenset(map(ref, pictures.broken)))


def _insist(send: Callable[[], Job]) -> Job:
    """As a client does whose request was at work when the API was killed: send it once more, under another name."""
    try:
        return send()
    except Conflict as conflict:
        if conflict.code != AT_WORK:
            raise
        return send()
