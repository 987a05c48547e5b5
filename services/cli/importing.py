"""Imports that the server reads by itself: of an archive or list that is sent to it, or of a place that it reaches."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final
from urllib.parse import urlsplit

from rich.console import Console

from services.answers import Job, JobError
from services.catalog.fields import check_url
from services.cli.display import sending
from services.cli.following import follow
from services.cli.kinds import STDIN, WEB, Given
from services.cli.manifests import LocalManifest
from services.client import UPSERT, URLS_AT_ONCE, AkinClient, ImportOptions
from services.errors import InvalidRequest

COUNTED: Final = ("indexed", "unchanged", "failed", "cancelled")
REQUEST_CHARACTERS: Final = 8_000_000  # of the addresses of one request
INVALID_LINE: Final = "entry_invalid"


@dataclass
class Imported:
    """What became of the jobs of one source.

    `unreadable` are lines that were never sent. Where nobody waited for the jobs, the counts are those of their
    beginning. `failures` lists every failed entry, or the first of each job if not all were asked for.
    """

    jobs: list[Job] = field(default_factory=list)
    failures: list[JobError] = field(default_factory=list)
    unreadable: int = 0
    seconds: float = 0.0

    @property
    def found(self) -> int:
        """Entries of the source, as far as they are known."""
        return self.unreadable + sum(job.total for job in self.jobs)

    @property
    def waiting(self) -> int:
        """Entries whose end nobody waited for."""
        return self.found - self.unreadable - sum(self.count(name) for name in COUNTED)

    @property
    def broken(self) -> bool:
        """Whether a job failed as a whole."""
        return any(job.state == "failed" for job in self.jobs)

    @property
    def failed_by_code(self) -> Counter[str]:
        """How many failed for which reason."""
        counts = Counter({INVALID_LINE: self.unreadable}) if self.unreadable else Counter()
        for job in self.jobs:
            counts.update(job.failed_by_code)
        return counts

    @property
    def all_well(self) -> bool:
        """Whether nothing failed and nothing was left out."""
        return not (self.broken or self.unreadable or any(job.failed or job.cancelled for job in self.jobs))

    def count(self, name: str) -> int:
        """Entries that ended so, one of COUNTED."""
        return sum(getattr(job, name) for job in self.jobs)

    def as_json(self) -> dict[str, Any]:
        """The outcome as a JSON document."""
        return {
            "found": self.found,
            "unreadable": self.unreadable,
            **{name: self.count(name) for name in COUNTED},
            "waiting": self.waiting,
            "seconds": round(self.seconds, 3),
            "jobs": [
                {
                    "id": job.id,
                    "state": job.state,
                    "mode": job.mode,
                    "error": job.error.model_dump() if job.error else None,
                    "result": dict(job.result),
                }
                for job in self.jobs
            ],
            "failures": [failure.model_dump() for failure in self.failures],
        }


class Importer:
    """Starts imports and follows them.

    Args:
        options: of every import.
        wait: follow each until it is over.
        every_failure: ask for all failures, not only the first.
    """

    def __init__(
        self, client: AkinClient, console: Console, options: ImportOptions, *, wait: bool, every_failure: bool
    ) -> None:
        self._client = client
        self._console = console
        self._options = options
        self._wait = wait
        self._every_failure = every_failure

    def archive(self, given: Given) -> Imported:
        """Upload an archive as it is."""
        with sending(self._console, given.path) as on_progress:
            job = self._client.import_archive(given.path, given.media_type, self._options, on_progress)
        return self._follow([job])

    def manifest(self, given: Given, base: str | None) -> Imported:
        """Upload a list whose pictures the server finds by itself."""
        return self._send_manifest(given.path, given.media_type, base)

    def rest_of(self, manifest: LocalManifest) -> Imported | None:
        """Send what a list names that does not lie here; None if there is nothing."""
        with NamedTemporaryFile(prefix="akin-", suffix=".jsonl") as file:
            count = manifest.write_rest(file)
            file.flush()
            return self._send_manifest(Path(file.name), "application/x-ndjson", None) if count else None

    def address(self, url: str, base: str | None) -> Imported:
        """Have the server fetch a manifest or archive."""
        return self._follow([self._client.import_address(url, self._options, base=base)])

    def place(self, location: str) -> Imported:
        """Have the server read a folder or prefix."""
        return self._follow([self._client.import_location(location, self._options)])

    def addresses(self, name: str) -> Imported:
        """Have the server fetch the pictures of a list of addresses.

        Raises:
            InvalidRequest: it takes several jobs, and the mode is one that must see everything at once.
        """
        found = Imported()
        jobs: list[Job] = []
        with lines_of(name) as lines:
            chunks = _chunks(addresses_of(lines, found.failures))
            for chunk, more in chunks:
                if more and (self._options.mode != UPSERT or self._options.webhook):
                    raise InvalidRequest(
                        f"more than {URLS_AT_ONCE:,} addresses make several jobs, for which there is neither --webhook"
                        f" nor a mode but {UPSERT}: list them in a .jsonl file with item_id and image instead"
                    )
                jobs.append(self._client.import_urls(chunk, self._options))
        followed = self._follow(jobs)
        followed.unreadable = len(found.failures)
        followed.failures[:0] = found.failures
        return followed

    def _send_manifest(self, file: Path, media_type: str, base: str | None) -> Imported:
        with sending(self._console, file) as on_progress:
            job = self._client.import_manifest(file, media_type, self._options, on_progress, base=base)
        return self._follow([job])

    def _follow(self, jobs: Sequence[Job]) -> Imported:
        began = time.monotonic()
        over: list[Job] = []
        for job in jobs:
            self._console.print(f"job {job.id}", highlight=False)
        for number, job in enumerate(jobs, start=1):
            what = "importing" if len(jobs) == 1 else f"importing, job {number} of {len(jobs)}"
            over.append(follow(self._client, job.id, what) if self._wait else job)
        failures = [
            failure
            for job in over
            if job.failed
            for failure in (self._client.job_errors(job.id) if self._every_failure else job.errors)
        ]
        return Imported(over, failures, seconds=time.monotonic() - began)


@contextmanager
def lines_of(name: str) -> Iterator[Iterable[str]]:
    """The lines of a file, or of standard input."""
    if name == STDIN:
        yield (line.decode(errors="replace") for line in sys.stdin.buffer)
        return
    try:
        with Path(name).open(encoding="utf-8-sig", errors="replace") as file:
            yield file
    except OSError as error:
        raise InvalidRequest(f"{name} cannot be read: {error.strerror}") from error


def addresses_of(lines: Iterable[str], failures: list[JobError]) -> Iterator[str]:
    """The addresses, one a line; lines that are none go to the failures."""
    for number, line in enumerate(lines, start=1):
        address = line.strip()
        if not address:
            continue
        try:
            check_address(address)
        except ValueError as error:
            failures.append(JobError(ref=f"line {number}", code=INVALID_LINE, detail=str(error)))
            continue
        yield address


def check_address(address: str) -> None:
    """Refuse what the server would refuse, and with it all others of the same request.

    Raises:
        ValueError: says why.
    """
    if not address.startswith(WEB):
        raise ValueError(f"must begin with {' or '.join(WEB)}, not {address[:100]!r}")
    check_url(address)
    if not urlsplit(address).hostname:
        raise ValueError("has no host")


def _chunks(addresses: Iterable[str]) -> Iterator[tuple[list[str], bool]]:
    """As many addresses as one request takes, and whether there are several requests."""
    chunk: list[str] = []
    size, several = 0, False
    for address in addresses:
        if len(chunk) == URLS_AT_ONCE or size > REQUEST_CHARACTERS:
            several = True
            yield chunk, several
            chunk, size = [], 0
        chunk.append(address)
        size += len(address)
    if chunk:
        yield chunk, several
