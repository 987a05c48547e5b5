"""A running stack under observation: every answer is checked, no process may be replaced, and memory is measured."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
from sqlalchemy import func, select

from services.answers import Job
from services.catalog.database import Database
from services.catalog.models import Embedding
from services.catalog.states import EmbeddingState
from services.client import AkinClient
from services.stack.state import RunState

logger = logging.getLogger(__name__)

MEBIBYTE = 1024 * 1024
# Most resident memory that a process of its kind may ever have, in MiB. Measured at most, with `metric-photo` on a CPU
# of x86-64: 544, 616, 906, 601, 102 and 1,627.
BOUNDS = {
    "api": 900,
    "query": 950,
    "worker-embed": 1300,
    "worker-imports": 900,
    "scheduler": 200,
    # The kernel keeps this one: AKIN_DECODE_MEMORY, and what a decoding process starts with.
    "decoder": 2200,
}
_SAMPLE_SECONDS = 0.1
_PATIENCE = 600.0


class HostileStack:
    """Sends what is hostile to a stack, and measures its memory for the length of the block."""

    def __init__(self, state: RunState, data_dir: Path) -> None:
        self.state = state
        self.data_dir = data_dir
        self.codes: Counter[str] = Counter()
        self.peaks: dict[str, int] = {}
        self._client = AkinClient(state.api_url, state.api_key)
        headers = {"Authorization": f"Bearer {state.api_key}"}
        self._http = httpx.Client(base_url=state.api_url, headers=headers, timeout=300.0)
        self._stop = threading.Event()
        self._watching = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._watching.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._watching.join()
        self._http.close()
        self._client.close()

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """An answer that is a success, or a refusal that says why; a full queue is waited for."""
        until = time.monotonic() + _PATIENCE
        while True:
            response = self._http.request(method, path, **request)
            assert response.status_code // 100 in (2, 4), f"{method} {path}: {response.status_code} {response.text}"
            if response.status_code >= 400:
                assert response.headers["Content-Type"] == "application/problem+json"
                assert response.json()["code"] and response.json()["detail"]
            if response.status_code != 429 or time.monotonic() > until:
                return response
            time.sleep(float(response.headers["Retry-After"]))

    def upload(self, name: str, data: bytes, item_id: str) -> str:
        """Upload one picture; the code of its refusal, or "ok"."""
        return self._noted(
            self.ask("POST", "/v1/images", data={"item_id": item_id}, files={"image": (name, data)}), "upload"
        )

    def search(self, name: str, data: bytes) -> str:
        """Search with a picture; the code of its refusal, or "ok"."""
        return self._noted(self.ask("POST", "/v1/search", files={"image": (name, data)}), "search")

    def start(self, files: Sequence[tuple[str, bytes]]) -> str:
        """Import files in one request; returns the id of the job."""
        parts = [("files", (name, data, "image/jpeg")) for name, data in files]
        response = self.ask("POST", "/v1/imports", files=parts)
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    def start_archive(self, data: bytes, media_type: str) -> str:
        """Import an archive; returns the id of the job."""
        return self._start("/v1/imports/archive", data, media_type)

    def start_manifest(self, data: bytes, media_type: str) -> str:
        """Import a manifest; returns the id of the job."""
        return self._start("/v1/imports/manifest", data, media_type)

    def _start(self, path: str, data: bytes, media_type: str) -> str:
        response = self.ask("POST", path, content=data, headers={"Content-Type": media_type})
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    def over(self, job_id: str) -> Job:
        """The job when it is over: every entry accounted for, each failure with its reason."""
        job = self._client.wait(job_id, interval=0.2)
        errors = list(self._client.job_errors(job_id))
        assert job.state in {"finished", "finished_with_errors", "failed"}
        assert (job.state == "failed") == (job.error is not None)
        assert job.indexed + job.unchanged + job.failed == job.total == job.done
        assert len(errors) == job.failed
        assert all(error.code and error.detail for error in errors)
        assert Counter(error.code for error in errors) == job.failed_by_code
        self.codes.update({f"import: {code}": count for code, count in job.failed_by_code.items()})
        self.codes["import: ok"] += job.indexed + job.unchanged
        return job

    def retry(self, job_id: str) -> None:
        """Give what failed another try."""
        self._client.retry_job(job_id)

    @contextmanager
    def unharmed(self) -> Iterator[None]:
        """No process may end or come newly within the block, none may take too much, and afterwards all works."""
        before, began = self.processes(), time.monotonic()
        yield
        logger.info("%.0f s; %s; peaks in MiB: %s", time.monotonic() - began, dict(self.codes), self.peaks)
        assert self.processes() == before
        assert {name: peak for name, peak in self.peaks.items() if peak > BOUNDS[name]} == {}
        self._all_is_settled()

    def processes(self) -> Mapping[str, frozenset[int]]:
        """Pids of the stack's programs and of their children, other than those that decode."""
        return {
            name: frozenset({parent.pid, *(child.pid for child in children if not _decodes(child))})
            for name, parent, children in self._programs()
        }

    def attempts(self, code: str) -> list[int]:
        """How often each picture was tried that ended with this reason."""
        with closing(self._database()) as database, database.reading() as session:
            return list(session.scalars(select(Embedding.attempts).where(Embedding.error_code == code)))

    def _all_is_settled(self) -> None:
        """Nothing waits to be embedded, nothing failed without a reason, and no program met what it did not expect."""
        with closing(self._database()) as database, database.reading() as session:
            waiting = Embedding.state.in_([EmbeddingState.PENDING, EmbeddingState.LEASED])
            unexplained = (Embedding.state == EmbeddingState.FAILED) & Embedding.error_code.is_(None)
            assert session.scalar(select(func.count()).where(waiting | unexplained)) == 0
        logs = "".join(path.read_text(errors="replace") for path in sorted((self.data_dir / "logs").iterdir()))
        assert "Traceback" not in logs, logs[logs.index("Traceback") :]

    def _database(self) -> Database:
        return Database(f"sqlite:///{self.data_dir / 'akin.db'}")

    def _noted(self, response: httpx.Response, what: str) -> str:
        code = "ok" if response.is_success else str(response.json()["code"])
        self.codes[f"{what}: {code}"] += 1
        return code

    def _programs(self) -> Iterator[tuple[str, psutil.Process, list[psutil.Process]]]:
        state = RunState.read(self.data_dir)
        assert state is not None
        for name, child in state.children.items():
            if name in BOUNDS:
                parent = psutil.Process(child.pid)
                yield name, parent, parent.children(recursive=True)

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            try:
                for name, parent, children in self._programs():
                    self._note(name, [parent, *(child for child in children if not _decodes(child))])
                    self._note("decoder", [child for child in children if _decodes(child)])
            except psutil.NoSuchProcess:  # a decoding process that was replaced at this moment
                continue

    def _note(self, name: str, processes: Iterable[psutil.Process]) -> None:
        self.peaks[name] = max([self.peaks.get(name, 0), *map(_peak, processes)])


def _decodes(process: psutil.Process) -> bool:
    return "services.images.process" in " ".join(process.cmdline())


def _peak(process: psutil.Process) -> int:
    """Most resident memory that a process has had since it started, in MiB (Linux: VmHWM)."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except FileNotFoundError:
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) // 1024 if found else 0
