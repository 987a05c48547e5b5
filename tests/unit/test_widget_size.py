"""The widget's script stays small: every visitor of a shop loads it."""

from __future__ import annotations

import gzip
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "services" / "api" / "static" / "widget.js"


def test_the_widget_is_at_most_5_kb_as_it_is_sent() -> None:
    assert len(gzip.compress(SCRIPT.read_bytes(), 9)) <= 5 * 1024
