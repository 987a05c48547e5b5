"""A small HTTP server that speaks the import, job and search part of the API, with faults on demand."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, Response, request
from PIL import Image
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.serving import make_server

KEY = "test-key"
ENCODER = "metric-photo@1"


@dataclass
class ApiServer:
    """What the server knows and how it shall behave.

    `faults` are answers given, one each, before anything is looked at. Pictures whose bytes begin with
    `broken` fail in their job; a request with one that begins with `poison` is refused as a whole. After
    `imports_left` imports every further one answers 401. With `searches_miss` the first hit of a search is
    another picture. A job ends when it was asked for `polls_until_done` times, and says `eta_seconds` until then.
    """

    url: str = ""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    imports: list[list[tuple[str, bytes]]] = field(default_factory=list)
    manifests: list[Any] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    faults: deque[Response] = field(default_factory=deque)
    imports_left: int = 10**9
    searches_miss: bool = False
    polls_until_done: int = 1
    eta_seconds: float | None = None

    @property
    def refs(self) -> list[str]:
        """Every reference that was uploaded, in order of its name."""
        return sorted(ref for files in self.imports for ref, _ in files)

    @property
    def pictures(self) -> dict[str, bytes]:
        return dict(file for files in self.imports for file in files)


def problem(status: int, code: str, detail: str, retry_after: str | None = None) -> Response:
    document = {"type": "about:blank", "title": code, "status": status, "detail": detail, "code": code}
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return Response(json.dumps(document), status, headers, mimetype="application/problem+json")


@contextmanager
def api_server(port: int = 0) -> Iterator[ApiServer]:
    """Serve on loopback for the length of the block."""
    state = ApiServer()
    server = make_server("127.0.0.1", port, _app(state), threaded=True)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _app(state: ApiServer) -> Flask:
    app = Flask("api_server")
    lock = threading.Lock()

    @app.before_request
    def answer_with_fault() -> Response | None:
        with lock:
            state.requests.append(f"{request.method} {request.full_path.rstrip('?')}")
            if state.faults:
                return state.faults.popleft()
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return problem(401, "unauthorized", "unknown key")
        return None

    @app.errorhandler(HTTPException)
    def describe(error: HTTPException) -> Response:
        return problem(error.code or 500, "not_found", error.description or "")

    @app.get("/readyz")
    def readyz() -> str:
        return "ready"

    def start_job(refs: list[str], failed: list[str]) -> tuple[dict[str, Any], int]:
        job: dict[str, Any] = {
            "id": uuid.uuid4().hex,
            "kind": "import",
            "state": "queued",
            "total": len(refs),
            "created_at": "now",
        }
        with lock:
            state.jobs[job["id"]] = {"job": job, "failed": failed, "polls": 0}
        return job, 202

    @app.post("/v1/imports")
    def start_import() -> tuple[dict[str, Any], int] | Response:
        files = [(file.filename or "", file.read()) for file in request.files.getlist("files")]
        if any(content.startswith(b"poison") for _, content in files):
            return problem(422, "invalid_request", "a file name is too long")
        with lock:
            if len(state.imports) >= state.imports_left:
                return problem(401, "unauthorized", "the key was revoked")
            state.imports.append(files)
            state.manifests.append(json.loads(request.form.get("manifest", "null")))
        return start_job([ref for ref, _ in files], [ref for ref, content in files if content.startswith(b"broken")])

    @app.post("/v1/imports/archive")
    def import_archive() -> tuple[dict[str, Any], int]:
        # Like Akin's own, it answers no upload before its last byte.
        request.get_data(cache=False)
        return start_job([], [])

    @app.get("/v1/jobs/<job_id>")
    def show_job(job_id: str) -> dict[str, Any]:
        if job_id not in state.jobs:
            raise NotFound(f"no job {job_id}")
        record = state.jobs[job_id]
        record["polls"] += 1
        if record["polls"] <= state.polls_until_done:
            return {**record["job"], "state": "running", "eta_seconds": state.eta_seconds}
        total, failed = record["job"]["total"], len(record["failed"])
        ended = "finished_with_errors" if failed else "finished"
        return {**record["job"], "state": ended, "done": total, "indexed": total - failed, "failed": failed}

    @app.get("/v1/jobs/<job_id>/errors")
    def show_errors(job_id: str) -> dict[str, Any]:
        start, limit = int(request.args.get("cursor", 0)), int(request.args["limit"])
        failed = state.jobs[job_id]["failed"]
        page = [{"ref": ref, "code": "image_broken", "detail": "cut off"} for ref in failed[start : start + limit]]
        return {"data": page, "next_cursor": start + limit if start + limit < len(failed) else None}

    def hits(best: str, limit: int) -> dict[str, Any]:
        others = [ref for ref in state.refs if ref != best]
        found = [
            {
                "rank": rank,
                "score": 1.0 - 0.1 * (rank - 1),
                "image": {
                    "id": state.refs.index(ref) + 1,
                    "width": 8,
                    "height": 8,
                    "sha256": hashlib.sha256(state.pictures[ref]).hexdigest(),
                },
                "item": {
                    "item_id": ref.rpartition(".")[0],
                    "title": None,
                    "url": None,
                    "attributes": {"price": 9.95, "currency": "EUR", "brand": "Northwick"},
                },
            }
            for rank, ref in enumerate([best, *others][:limit], start=1)
        ]
        return {"hits": found, "index": 1, "encoder": ENCODER, "took_ms": 1.5}

    @app.post("/v1/search")
    def search() -> dict[str, Any] | Response:
        content = request.files["image"].read()
        if content.startswith(b"broken"):
            return problem(422, "image_broken", "the picture is cut off")
        best = next(ref for ref, stored in state.pictures.items() if (stored == content) != state.searches_miss)
        return hits(best, int(request.form["limit"]))

    @app.get("/v1/items/<path:item_id>/similar")
    def similar(item_id: str) -> dict[str, Any]:
        return hits(next(ref for ref in state.refs if ref.rpartition(".")[0] == item_id), int(request.args["limit"]))

    @app.get("/v1/images/<int:image_id>/thumbnail")
    def thumbnail(image_id: int) -> Response:
        buffer = io.BytesIO()
        Image.new("RGB", (int(request.args["size"]),) * 2, (image_id * 40 % 256, 90, 120)).save(buffer, "WEBP")
        return Response(buffer.getvalue(), mimetype="image/webp")

    return app
