"""What the rest of Akin knows of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from services.encoders.manifest import Manifest


class Encoder(Protocol):
    """Turns preprocessed pictures into unit vectors. Implementations may be called from several threads."""

    @property
    def manifest(self) -> Manifest:
        """Declares the input size (`preprocessing.size`), the vectors' `dimension`, and whether it `embeds_text`."""
        ...

    @property
    def has_grid(self) -> bool:
        """Whether pictures also have features by place."""
        ...

    def encode(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Encode pictures of shape (n, size, size, 3) into rows of length 1, shape (n, dimension).

        A picture whose code is zero or not finite has no direction: its row is all zeros. Callers
        treat such a row as a failure of that picture and never store or search it.

        Raises:
            ValueError: the batch is not uint8 of that shape.
        """
        ...

    def encode_text(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode sentences into rows of length 1, (n, dimension), in the space of the pictures they describe.

        Raises:
            EncoderError: the manifest says that it embeds no text.
        """
        ...

    def grid(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """What pictures (n, size, size, 3) have in each of their places: (n, rows, columns, channels), of any length.

        The cosine of two cells says how alike the two places are; cells are no vectors to search with.

        Raises:
            EncoderError: it has none (`has_grid`).
            ValueError: the batch is not uint8 of that shape.
        """
        ...
