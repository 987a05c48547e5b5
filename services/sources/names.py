"""Names of files, which others chose: what they are called here, and the ids of items that are made of them."""

from __future__ import annotations

import re
from typing import Final

from services.catalog.fields import CONTROL, MAX_ITEM_ID

MANIFEST_NAME: Final = "items.jsonl"
ITEM_FIELDS: Final = ("item_id", "title", "url", "attributes")
UNNAMED: Final = "file"
# fmt: off
PICTURE_SUFFIXES: Final = frozenset({
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe",
    ".jpeg", ".jpg", ".jxl", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".tga", ".tif", ".tiff", ".webp",
})
# fmt: on
_DRIVE: Final = re.compile(r"^[A-Za-z]:")


def clean_ref(name: str) -> str | None:
    """A safe relative reference for a stored name; None for what is hidden or empty.

    Drive letters, leading slashes, `.`, `..` and control characters are dropped.
    """
    name = _DRIVE.sub("", CONTROL.sub("", name.replace("\\", "/")))
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    if not parts or any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return None
    return "/".join(parts)


def printable(text: str) -> str:
    """Text as it can be shown and kept: valid Unicode without control characters."""
    return CONTROL.sub("", text).encode(errors="replace").decode()


def shown(name: str) -> str:
    """A stored name as it can be shown and kept: relative, printable, never empty."""
    parts = [part for part in printable(name).replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "/".join(parts) or UNNAMED


def suffix_of(ref: str) -> str:
    """The extension of a reference, in lower case, with its dot; empty if there is none."""
    file = ref[ref.rfind("/") + 1 :]
    dot = file.rfind(".")
    return file[dot:].lower() if 0 < dot < len(file) - 1 else ""


def item_id_of(name: str) -> str:
    """The file's name without its extension, with its folders, as an id that `check_item_id` takes.

    Of a name that is too long the end is kept, which tells files of one folder apart.
    """
    folder, slash, file = printable(name).rpartition("/")
    if file.rfind(".") > 0:
        file = file[: file.rfind(".")]
    text = (folder + slash + file)[-(MAX_ITEM_ID - 1) :]
    item_id = "/".join(part for part in text.split("/") if part not in ("", ".", "..")) or UNNAMED
    # An address would take it for the route of that name.
    return item_id + "-" if item_id.endswith("/similar") else item_id
