"""Files that reach a page other than by choosing them."""

from __future__ import annotations

import base64
from pathlib import Path

from playwright.sync_api import JSHandle, Page

_TRANSFER = """
([files]) => {
  const transfer = new DataTransfer();
  for (const [name, data] of files) {
    const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
  }
  return transfer;
}
"""


def drop(page: Page, *paths: Path) -> None:
    """Drag files over the page and let go."""
    transfer = {"dataTransfer": _transfer(page, paths)}
    page.dispatch_event("body", "dragover", transfer)
    page.dispatch_event("body", "drop", transfer)


def paste(page: Page, path: Path) -> None:
    """Press Ctrl-V with a picture in the clipboard."""
    page.evaluate(
        "(data) => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true }))",
        _transfer(page, [path]),
    )


def _transfer(page: Page, paths: tuple[Path, ...] | list[Path]) -> JSHandle:
    files = [(path.name, base64.b64encode(path.read_bytes()).decode()) for path in paths]
    return page.evaluate_handle(_TRANSFER, [files])
