"""What a server has accepted from one source, so that an interrupted ingest does not upload it again."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from services.cli.pictures import Picture
from services.errors import ConfigurationError


class Journal:
    """A file of JSON lines, one per accepted upload: its job and the pictures in it.

    It lives until the ingest is complete. The job ids let the next run ask the server whether it still
    knows them: a server that was emptied meanwhile gets everything again.

    Args:
        folder: where journals are kept.
        target: names the server and catalog.
        source: the folder or zip file.
    """

    def __init__(self, folder: Path, target: str, source: Path) -> None:
        name = hashlib.sha256(f"{target}\0{source.resolve()}".encode()).hexdigest()[:32]
        self._lock = threading.Lock()
        self._path = folder / f"{name}.jsonl"

    def read(self) -> dict[str, Mapping[str, str]]:
        """Job ids, each with the references and fingerprints of its pictures."""
        if not self._path.exists():
            return {}
        jobs: dict[str, Mapping[str, str]] = {}
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # a line cut short when its process was killed
                continue
            jobs[record["job"]] = record["pictures"]
        return jobs

    def add(self, job_id: str, pictures: Iterable[Picture]) -> None:
        """Remember an accepted upload; may be called from several threads.

        Raises:
            ConfigurationError: the folder cannot be written.
        """
        record = {"job": job_id, "pictures": {picture.ref: picture.fingerprint for picture in pictures}}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # The leading newline ends a line that a killed process may have left unfinished.
            with self._lock, self._path.open("a", encoding="utf-8") as stream:
                stream.write("\n" + json.dumps(record))
        except OSError as error:
            raise ConfigurationError(f"cannot remember progress in {self._path.parent}: {error.strerror}") from error

    def forget(self) -> None:
        """Start from nothing next time."""
        self._path.unlink(missing_ok=True)
