"""Uploading a source through the API: batches in flight, jobs followed until every picture is settled."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Final

from services.answers import Job, JobError
from services.cli.journal import Journal
from services.cli.pictures import Picture, Pictures, Unreadable
from services.client import AkinClient, UploadFile
from services.errors import AkinError, ImageReason, ImageRejected, InvalidRequest, NotFound, TooLarge

MEGABYTE: Final = 1024 * 1024
BATCH_FILES: Final = 64
BATCH_BYTES: Final = 16 * MEGABYTE
IN_FLIGHT: Final = 4  # with BATCH_BYTES, what bounds the memory of an ingest
POLL_SECONDS: Final = 0.5
POLLED_JOBS: Final = 4  # unfinished jobs asked for at a time; the server works through them in order


Batch = Sequence[tuple[Picture, bytes]]
Outcome = Job | JobError


@dataclass
class Report:
    """Where every picture of an ingest ended; while it runs, how far it is.

    When it is over, found = unreadable + refused + accepted and accepted = indexed + unchanged + failed + unawaited.
    `accepted` includes `resumed`, what an interrupted run before had uploaded. `failures` lists every
    unreadable, refused and failed picture, `jobs` the state of each job.
    """

    expected: int = 0
    found: int = 0
    described: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0
    refused: int = 0
    accepted: int = 0
    resumed: int = 0
    indexed: int = 0
    unchanged: int = 0
    failed: int = 0
    failures: list[JobError] = field(default_factory=list)
    jobs: dict[str, str] = field(default_factory=dict)
    unawaited: int = 0
    settled_before: int = 0
    seconds: float = 0.0

    @property
    def uploaded(self) -> int:
        """Pictures whose way to the server is over."""
        return self.unreadable + self.refused + self.accepted

    @property
    def settled(self) -> int:
        """Pictures about which nothing more will happen."""
        return self.unreadable + self.refused + self.indexed + self.unchanged + self.failed

    @property
    def waiting(self) -> int:
        """Accepted pictures whose end is not known."""
        return self.accepted - self.indexed - self.unchanged - self.failed

    @property
    def all_well(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    @property
    def rate(self) -> float:
        """Pictures settled by this run per second."""
        return (self.settled - self.settled_before) / self.seconds if self.seconds > 0 else 0.0

    @property
    def adds_up(self) -> bool:
        """Whether no picture is unaccounted for, as far as somebody waited for it."""
        return (
            self.found == self.unreadable + self.refused + self.accepted
            and self.waiting == self.unawaited
            and len(self.failures) == self.unreadable + self.refused + self.failed
        )

    def as_json(self) -> dict[str, Any]:
        """The report as a JSON document."""
        names = ("found", "described", "unreadable", "refused", "accepted", "resumed", "indexed", "unchanged", "failed")
        return {
            **{name: getattr(self, name) for name in names},
            "waiting": self.waiting,
            "skipped": dict(self.skipped.most_common()),
            "seconds": round(self.seconds, 3),
            "pictures_per_second": round(self.rate, 1),
            "jobs": [{"id": job_id, "state": state} for job_id, state in self.jobs.items()],
            "failures": [failure.model_dump() for failure in self.failures],
        }


class Ingest:
    """One run over one source.

    Args:
        client: the server to upload to.
        source: what to upload.
        journal: what earlier, interrupted runs got accepted.
        max_image_bytes: larger pictures are listed as failures without being uploaded.
        on_progress: called from the running thread after every step.
    """

    def __init__(
        self,
        client: AkinClient,
        source: Pictures,
        journal: Journal,
        max_image_bytes: int,
        on_progress: Callable[[Report], None],
    ) -> None:
        self._client = client
        self._source = source
        self._journal = journal
        self._max_image_bytes = max_image_bytes
        self._on_progress = on_progress
        self._jobs: dict[str, Job] = {}
        self._open: deque[str] = deque()
        self._polled = 0.0
        self._started = time.monotonic()
        self.report = Report()

    def run(self, *, follow: bool = True) -> Report:
        """Upload what is not uploaded yet and wait until every picture is indexed or has failed.

        Args:
            follow: wait for that; otherwise the report says what was accepted.

        Raises:
            AkinError: the server cannot be reached or refuses this client; a later run goes on from here.
        """
        self.report.expected = self._source.count()
        known = self._resume()
        # What an earlier run uploaded counts as found, even where the file is gone by now.
        self.report.found = self.report.resumed
        pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="upload")
        pending: set[Future[list[Outcome]]] = set()
        try:
            for batch in self._batches(known):
                pending.add(pool.submit(self._upload, batch))
                while len(pending) >= IN_FLIGHT:
                    pending = self._step(pending)
            while pending or (follow and self._open):
                pending = self._step(pending)
        except AkinError:
            wait(pending)  # an upload that is under way may yet be accepted, and is then remembered
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        self.report.unawaited = 0 if follow else self.report.waiting
        self.report.skipped = self._source.skipped.copy()
        self.report.described = self._source.described
        self._journal.forget()
        return self.report

    def _resume(self) -> dict[str, str]:
        """Take up the jobs of an interrupted run; returns their pictures' fingerprints by reference."""
        known: dict[str, str] = {}
        for job_id, pictures in self._journal.read().items():
            try:
                self._follow(self._client.job(job_id))
            except NotFound:
                continue
            known.update(pictures)
        self.report.resumed = self.report.accepted
        self.report.settled_before = self.report.settled
        return known

    def _batches(self, known: dict[str, str]) -> Iterator[list[tuple[Picture, bytes]]]:
        """Pictures with their bytes, up to BATCH_FILES and BATCH_BYTES at a time."""
        batch: list[tuple[Picture, bytes]] = []
        size = 0
        for picture in self._source.pictures():
            if known.get(picture.ref) == picture.fingerprint:
                continue
            self.report.found += 1
            content = self._read(picture)
            if content is None:
                continue
            if batch and (len(batch) >= BATCH_FILES or size + len(content) > BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append((picture, content))
            size += len(content)
        if batch:
            yield batch

    def _read(self, picture: Picture) -> bytes | None:
        try:
            content = picture.read(self._max_image_bytes)
        except Unreadable as error:
            failure = JobError(ref=picture.ref, code=error.code, detail=str(error))
        else:
            if len(content) <= self._max_image_bytes:
                return content
            limit = f"more than {self._max_image_bytes:,} bytes (AKIN_MAX_IMAGE_BYTES)"
            failure = JobError(ref=picture.ref, code=ImageReason.TOO_MANY_BYTES.value, detail=limit)
        self.report.unreadable += 1
        self.report.failures.append(failure)
        return None

    def _upload(self, batch: Batch) -> list[Outcome]:
        """Upload a batch; where it is refused, halve it until the picture that is at fault stands alone."""
        pictures = [picture for picture, _ in batch]
        try:
            job = self._client.import_files(
                [UploadFile(picture.ref, content, picture.item) for picture, content in batch]
            )
        except (TooLarge, InvalidRequest, ImageRejected) as error:
            if len(batch) == 1:
                return [JobError(ref=pictures[0].ref, code=error.code, detail=error.detail)]
            middle = len(batch) // 2
            return self._upload(batch[:middle]) + self._upload(batch[middle:])
        self._journal.add(job.id, pictures)
        return [job]

    def _step(self, pending: set[Future[list[Outcome]]]) -> set[Future[list[Outcome]]]:
        """Take in uploads that are through and the progress of jobs; returns the uploads still under way."""
        if pending:
            finished, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for outcome in (outcome for future in finished for outcome in future.result()):
                if isinstance(outcome, JobError):
                    self.report.refused += 1
                    self.report.failures.append(outcome)
                else:
                    self._follow(outcome)
        else:
            time.sleep(max(0.0, self._polled + POLL_SECONDS - time.monotonic()))
        if time.monotonic() - self._polled >= POLL_SECONDS:
            self._poll()
        self.report.seconds = time.monotonic() - self._started
        self._on_progress(self.report)
        return pending

    def _poll(self) -> None:
        """Ask for the oldest open jobs, as far as they are still at work."""
        unfinished = 0
        for job_id in list(self._open):
            job = self._client.job(job_id)
            self._follow(job)
            unfinished += not job.over
            if unfinished == POLLED_JOBS:
                break
        self._polled = time.monotonic()

    def _follow(self, job: Job) -> None:
        """Bring the report up to date with what a job says."""
        before = self._jobs.get(job.id)
        if before is None:
            self._open.append(job.id)
        self._jobs[job.id] = job
        self.report.jobs[job.id] = job.state
        for name, counter in (
            ("total", "accepted"),
            ("indexed", "indexed"),
            ("unchanged", "unchanged"),
            ("failed", "failed"),
        ):
            change = getattr(job, name) - (getattr(before, name) if before else 0)
            setattr(self.report, counter, getattr(self.report, counter) + change)
        if not job.over:
            return
        self._open.remove(job.id)
        if job.failed:
            self.report.failures.extend(self._client.job_errors(job.id))
        for _ in range(job.total - job.indexed - job.unchanged - job.failed):
            self.report.failed += 1
            stopped = f"the job ended as {job.state} before this picture's turn"
            self.report.failures.append(JobError(ref=f"(job {job.id})", code=f"job_{job.state}", detail=stopped))
