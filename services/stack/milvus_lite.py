"""Milvus Lite, made to survive a full disk: run `python -m services.stack.milvus_lite server …`.

As it is, it does not in two ways. A collection's directory is made before its schema is written: cut short in between,
it has no such collection from then on, can drop none, and refuses to make one because its directory is there. And a
write that failed half-way stays in the write-ahead log: what is acknowledged behind it is lost at the next kill, as
the log is read up to the damage only.
"""

from __future__ import annotations

import os
import runpy
import shutil
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from milvus_lite.db import DEFAULT_DATABASE_NAME, MilvusLite  # type: ignore[import-untyped]
from milvus_lite.engine.collection import Collection  # type: ignore[import-untyped]


def main() -> None:
    """Run the server."""
    MilvusLite.create_collection = clearing(MilvusLite.create_collection)
    Collection._apply = fail_stop(Collection._apply)
    Collection._trigger_flush = fail_stop(Collection._trigger_flush)
    runpy.run_module("milvus_lite", run_name="__main__", alter_sys=True)


def clearing(create: Callable[..., Any]) -> Callable[..., Any]:
    """Clear away what an interrupted creation left before a collection is made."""

    @wraps(create)
    def create_anew(
        self: Any, name: str, schema: Any, properties: Any = None, database_name: str = DEFAULT_DATABASE_NAME
    ) -> Any:
        self._validate_name(name)
        if not self.has_collection(name, database_name):
            # The schema comes in one step, so without it nothing was ever written.
            shutil.rmtree(Path(self._collection_dir(name, database_name)), ignore_errors=True)
        return create(self, name, schema, properties, database_name)

    return create_anew


def fail_stop(write: Callable[..., Any]) -> Callable[..., Any]:
    """End the process where a write fails: the next one reads the log up to there, and begins another."""

    @wraps(write)
    def writing(*arguments: Any) -> Any:
        try:
            return write(*arguments)
        except OSError as error:
            sys.stderr.write(f"ending, because a write failed: {error}\n")
            os._exit(os.EX_IOERR)

    return writing


if __name__ == "__main__":
    main()
