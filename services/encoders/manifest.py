"""The facts that travel beside an encoder's weights."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.encoders.calibration import Calibration
from services.errors import EncoderError, InvalidRequest
from services.images.preprocess import Preprocessing

NAME_PATTERN = r"^[a-z0-9]+(?:[-.][a-z0-9]+)*$"
LONGEST_NAME = 64
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingData(_Facts):
    """What an encoder was trained on; `sha256` is over the names and contents of the pictures, source by source.

    The numbers are None where somebody else trained it and does not say.
    """

    description: str
    trained_on: Annotated[int, Field(gt=0)] | None
    held_out: Annotated[int, Field(gt=0)] | None
    sha256: Sha256 | None


class Training(_Facts):
    """How the weights came to be. `metrics` are measured on the pictures held out unless named otherwise."""

    recipe: str
    data: TrainingData
    metrics: dict[str, float]
    seed: int | None
    git_revision: str | None
    created: datetime
    licence: str


class Manifest(_Facts):
    """One encoder: architecture, preprocessing and identity. Immutable: other weights are another version.

    Only what is known of its scores may be added later. A manifest without `calibration` is written without the
    member, so that releases that know none read it too.
    """

    format_version: Literal[1] = 1
    name: str = Field(pattern=NAME_PATTERN, max_length=LONGEST_NAME)
    version: int = Field(ge=1)
    architecture: str
    options: dict[str, Any]
    dimension: int = Field(ge=1, le=32_768)
    preprocessing: Preprocessing
    weights_sha256: Sha256
    training: Training
    calibration: Calibration | None = Field(None, exclude_if=lambda calibration: calibration is None)

    @property
    def ref(self) -> str:
        """`name@version`, unique among the encoders of one installation."""
        return f"{self.name}@{self.version}"

    @property
    def embeds_text(self) -> bool:
        """Whether sentences get vectors beside those of the pictures they describe."""
        return self.architecture.startswith("openclip:") and bool(self.options.get("text", True))

    def to_json(self) -> str:
        """The manifest as the text of manifest.json."""
        return self.model_dump_json(indent=2) + "\n"


def check_name(name: str) -> None:
    """Check that an encoder may have this name, before the work whose manifest would refuse it.

    Raises:
        InvalidRequest: it may not.
    """
    if len(name) > LONGEST_NAME or not re.fullmatch(NAME_PATTERN, name):
        raise InvalidRequest(
            f"{name!r} cannot name an encoder: lower-case letters and digits are allowed, with single - or . between "
            f"them, {LONGEST_NAME} characters at most"
        )


def parse_manifest(text: str | bytes) -> Manifest:
    """Read the text of a manifest.json.

    Raises:
        EncoderError: it is not JSON, or of a format or preprocessing version that this release does not read.
    """
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'manifest'}: {e['msg']}" for e in error.errors())
        raise EncoderError(f"this release cannot read the encoder's manifest: {problems}") from error
