"""The key that this installation signs with: configured, or made once and kept in the data directory."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from tempfile import NamedTemporaryFile

from services.config import Settings


def secret_key(settings: Settings) -> str:
    """AKIN_SECRET_KEY, or the data directory's own; every process of an installation must have the same."""
    if settings.secret_key:
        return settings.secret_key.get_secret_value()
    path = settings.data_dir / "secret"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Several processes may start at once: the first to link its file decides, and no one sees half a file.
    with NamedTemporaryFile("w", dir=path.parent) as draft, suppress(FileExistsError):
        draft.write(secrets.token_urlsafe(32))
        draft.flush()
        os.link(draft.name, path)
    return path.read_text()
