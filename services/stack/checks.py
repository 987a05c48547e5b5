"""What `akin doctor` finds out: each check is one part of the service and what to do where it fails."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

from sqlalchemy import make_url

from services.config import MEGABYTE, Settings
from services.errors import ConfigurationError
from services.stack.findings import Finding, Outcome, attempt, embedded, redact, what_to_do
from services.stack.redis_checks import check_cache, check_redis
from services.stack.servers import find_milvus
from services.stack.state import RunState

LEAST_DISK = 1024 * MEGABYTE
OLDEST_PYTHON = (3, 11)
TORCH_TIMEOUT = 120.0
# In an interpreter of its own: torch takes seconds and gigabytes, and a broken installation may crash.
ASK_TORCH = """
import json, torch
cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps({"version": torch.__version__, "cuda": cuda, "mps": torch.backends.mps.is_available()}))
"""


def examine(settings: Settings) -> list[Finding]:
    """Check every part that these settings name, and the running stack's where one runs."""
    state = RunState.read(settings.data_dir)
    return [
        check_python(),
        check_disk(settings.data_dir),
        check_database(settings),
        check_redis(settings, state),
        check_cache(settings, state),
        check_milvus(settings, state),
        check_storage(settings),
        check_torch(settings),
    ]


def check_python() -> Finding:
    """The interpreter's version."""
    version = ".".join(map(str, sys.version_info[:3]))
    fits = sys.version_info >= OLDEST_PYTHON
    advice = "" if fits else f"use Python {'.'.join(map(str, OLDEST_PYTHON))} or newer"
    return Finding("python", "this machine", sys.executable, _outcome(fits), version, advice)


def check_disk(data_dir: Path) -> Finding:
    """Free space for the data directory."""
    existing = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    advice = "" if free >= LEAST_DISK else "free some space, or set AKIN_DATA_DIR to a larger disk"
    detail = f"{free / 1024**3:.1f} GB free"
    return Finding("disk", "this machine", str(data_dir), _outcome(free >= LEAST_DISK), detail, advice)


def check_database(settings: Settings) -> Finding:
    """Connect, and compare the schema with this release's migrations."""
    url = make_url(settings.database)
    source = "configured" if settings.database_url else "embedded"
    address = url.set(query={}).render_as_string(hide_password=True)
    is_file = url.get_backend_name() == "sqlite" and url.database
    if is_file and not Path(str(url.database)).exists():
        return Finding("database", source, address, Outcome.IDLE, "not created yet", "`akin up` creates it")

    def answer() -> str:
        from services.bootstrap import pending_migration
        from services.catalog.database import Database

        database = Database(settings.database)
        try:
            database.check()
            wanted = pending_migration(database)
        finally:
            database.close()
        if wanted is not None:
            raise ConfigurationError(f"not at migration {wanted} of this release: `akin up` or alembic migrates it")
        return "answers, up to date"

    return attempt("database", source, address, answer, "check AKIN_DATABASE_URL and that the server runs")


def check_milvus(settings: Settings, state: RunState | None) -> Finding:
    """Ask for the server's version."""
    source = "configured" if settings.milvus_uri else "embedded"
    uri = settings.milvus_uri or (state.milvus_uri if state else None)
    if uri is None:
        return embedded("milvus", lambda: " ".join(find_milvus()))

    def answer() -> str:
        from services.vectors.connection import MilvusConnection

        milvus = MilvusConnection(uri, settings.milvus_secret, timeout=5, connect_timeout=3, load_timeout=5)
        try:
            return f"answers, version {milvus.version()}"
        finally:
            milvus.close()

    return attempt(
        "milvus",
        source,
        redact(uri),
        answer,
        what_to_do(settings, source, "milvus", "check AKIN_MILVUS_URI, AKIN_MILVUS_TOKEN and the server"),
    )


def check_storage(settings: Settings) -> Finding:
    """Write, read back and delete a probe object."""
    source = "configured" if settings.storage_url else "embedded"
    if settings.storage_url is None and not settings.data_dir.exists():
        return Finding("storage", source, settings.storage, Outcome.IDLE, "not created yet", "`akin up` creates it")

    def answer() -> str:
        from services.storage.blobs import BlobStore

        BlobStore(settings.storage).check()
        return "writes, reads and deletes"

    return attempt("storage", source, redact(settings.storage), answer, "check AKIN_STORAGE_URL and its credentials")


def check_torch(settings: Settings) -> Finding:
    """Whether workers can run here, and on what. A machine with a Redis elsewhere may serve the API only."""
    advice = "`pip install 'akin[worker]'`"

    def answer() -> str:
        result = subprocess.run(
            [sys.executable, "-c", ASK_TORCH], capture_output=True, text=True, timeout=TORCH_TIMEOUT, check=False
        )
        if result.returncode != 0:
            raise ConfigurationError(result.stderr.strip().splitlines()[-1] if result.stderr.strip() else "crashed")
        found = json.loads(result.stdout)
        device = ", ".join(found["cuda"]) or ("mps" if found["mps"] else "cpu")
        return f"torch {found['version']} on {device}; AKIN_DEVICE is {settings.device}"

    if importlib.util.find_spec("torch") is not None:
        return attempt("torch", "this machine", "", answer, advice)
    outcome = Outcome.FAILED if settings.redis_url is None else Outcome.IDLE
    return Finding("torch", "this machine", "", outcome, "not installed: no worker can run here", advice)


def _outcome(holds: bool) -> Outcome:
    return Outcome.OK if holds else Outcome.FAILED
