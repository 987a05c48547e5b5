"""How fast this process encodes, and how many pictures it therefore takes at a time."""

from __future__ import annotations

from typing import Final

# Of an encoder that this process has not used yet, so many are taken at first. Of one that it has, no more than are
# encoded in this part of a lease: a batch is claimed while the one before is encoded, and decoded as well.
FIRST_BATCH: Final = 16
SHARE_OF_LEASE: Final = 0.2

# Seconds that an encoder took for a picture the last time, by its SHA-256.
_seconds: dict[str, float] = {}


def at_once(encoder: str, most: int, lease_seconds: float) -> int:
    """How many pictures to claim for the encoder with this SHA-256, at most `most`."""
    seconds = _seconds.get(encoder)
    if seconds is None:
        return min(FIRST_BATCH, most)
    return max(1, min(most, int(SHARE_OF_LEASE * lease_seconds / seconds)))


def took(encoder: str, pictures: int, seconds: float) -> None:
    """Take note of how long the encoder took for so many pictures."""
    _seconds[encoder] = max(seconds, 1e-9) / pictures
