"""The encoders that come with Akin. Needs no torch."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from services.encoders.checkpoint import MANIFEST_FILE, WEIGHTS_FILE
from services.encoders.manifest import Manifest, parse_manifest


class ShippedEncoder(NamedTuple):
    """A manifest and where its weights lie in the installed package."""

    manifest: Manifest
    weights_path: Path


def shipped() -> list[ShippedEncoder]:
    """The encoders in the package, ordered by name and version."""
    weights = Path(str(files("services.encoders").joinpath("weights")))
    found = [
        ShippedEncoder(parse_manifest(manifest.read_bytes()), manifest.with_name(WEIGHTS_FILE))
        for manifest in weights.glob(f"*/{MANIFEST_FILE}")
    ]
    return sorted(found, key=lambda encoder: (encoder.manifest.name, encoder.manifest.version))
