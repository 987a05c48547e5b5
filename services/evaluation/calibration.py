"""The use case: fit what an encoder's scores mean on one half of some pictures, and judge it on the other half."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from services.datasets.load import Unreadable, number_labels
from services.encoders.base import Encoder
from services.encoders.calibration import CURVE_KINDS, LIKELY, Calibration, CurveKind
from services.encoders.manifest import Manifest
from services.errors import InvalidRequest
from services.evaluation.calibration_curves import Fitted, fit
from services.evaluation.calibration_halves import cut, draw_copied, pairs_of
from services.evaluation.calibration_pairs import Pairs
from services.evaluation.calibration_reliability import FEWEST_PAIRS, Judged, judge
from services.evaluation.copies import embed_copies
from services.evaluation.embed import embed
from services.evaluation.material import Material, short
from services.evaluation.run import Progress
from services.evaluation.subjects import of_encoder
from services.images.pool import DecodePool

DEFAULT_KINDS: tuple[CurveKind, ...] = ("duplicate", "similar")

_SHARP = 4  # decimals of the duplicate threshold


@dataclass(frozen=True)
class KindOfCurve:
    """One kind of one encoder.

    Attributes:
        judged: the new curve on the half that it was not fitted on.
        present: the curve that the encoder has already, on the same pairs; None where it has none.
    """

    kind: CurveKind
    fitted: Fitted
    judged: Judged
    present: Judged | None


@dataclass(frozen=True)
class Calibrated:
    """One encoder, and its calibration: new curves where they hold, those that it has already for the rest."""

    manifest: Manifest
    kinds: list[KindOfCurve]
    calibration: Calibration | None


@dataclass(frozen=True)
class CalibrationRun:
    """Everything that was fitted and judged, and on what.

    Attributes:
        queries: specification of their source; None where each picture of a half was asked for among the others.
        fitted_on, judged_on: pictures of the halves, queries included.
        copied: pictures of both halves that were altered.
        notes: sentences about what is left out.
    """

    created: datetime
    gallery: str
    queries: str | None
    fitted_on: int
    judged_on: int
    copied: int
    notes: list[str]
    unreadable: list[Unreadable]
    encoders: list[Calibrated]


def calibrate(
    encoders: Sequence[Encoder],
    material: Material,
    pool: DecodePool,
    *,
    kinds: Collection[CurveKind],
    copied: int,
    seed: int,
    progress: Progress,
) -> CalibrationRun:
    """Fit a curve a kind for each encoder, on hits of the first half, and judge it on hits of the second.

    The halves share neither queries nor pictures of the gallery. Where labels are items (`same_item`), they share no
    item either. Duplicates are altered copies beside whatever else they find.

    Args:
        kinds: what to fit; labels are kinds of things, or items where `same_item` is among them.
        copied: alter at most so many pictures.

    Raises:
        InvalidRequest: there are too few hits of any kind.
        ConfigurationError: there is not enough room for the vectors.
        Unavailable: no decoding process can be started.
    """
    subjects = [of_encoder(encoder) for encoder in encoders]
    given = [*material.queries, *material.gallery]
    embedded = embed(given, subjects, pool, lambda done, total: progress("encoding pictures", done, total))
    pictures = [given[position] for position in embedded.kept]
    asked = sum(position < len(material.queries) for position in embedded.kept)
    _, labels = number_labels(pictures)
    halves = cut(labels, asked, "same_item" in kinds, seed)

    to_copy = draw_copied(halves, copied if "duplicate" in kinds else 0, seed)
    copies = embed_copies(
        pictures,
        to_copy,
        subjects,
        pool=pool,
        seed=seed,
        progress=lambda done, total: progress("encoding altered copies", done, total),
    )
    calibrated = []
    for number, (encoder, vectors, altered) in enumerate(zip(encoders, embedded.vectors, copies.vectors, strict=True)):
        progress("fitting and judging", number, len(encoders))
        pairs = {
            kind: [pairs_of(kind, half, vectors, labels, copies=altered, originals=copies.originals) for half in halves]
            for kind in CURVE_KINDS
            if kind in kinds
        }
        fitted = list(_fitted(pairs, encoder.manifest, seed))
        calibrated.append(Calibrated(encoder.manifest, fitted, _merged(encoder.manifest, fitted, _named(material))))
    progress("fitting and judging", len(encoders), len(encoders))
    if not any(item.kinds for item in calibrated):
        raise InvalidRequest(
            f"{material.split.gallery} is too small to calibrate with: each half needs {FEWEST_PAIRS:,} hits, "
            "some of the kind and some not"
        )
    return CalibrationRun(
        created=datetime.now(UTC).replace(microsecond=0),
        gallery=material.split.gallery,
        queries=material.split.queries,
        fitted_on=len(halves[0].pictures),
        judged_on=len(halves[1].pictures),
        copied=len(copies.originals),
        notes=_notes(calibrated, kinds),
        unreadable=embedded.unreadable,
        encoders=calibrated,
    )


def _fitted(pairs: dict[CurveKind, list[Pairs | None]], manifest: Manifest, seed: int) -> Iterator[KindOfCurve]:
    """The curves of the kinds that there are enough hits of."""
    for kind, (known, held_out) in pairs.items():
        if known is None or held_out is None or not (_enough(known) and _enough(held_out)):
            continue
        fitted = fit(known, seed)
        present = None if manifest.calibration is None else manifest.calibration.curve(kind)
        yield KindOfCurve(
            kind, fitted, judge(fitted.curve, held_out), None if present is None else judge(present, held_out)
        )


def _enough(pairs: Pairs) -> bool:
    return len(pairs.scores) >= FEWEST_PAIRS and bool(pairs.right.any()) and not bool(pairs.right.all())


def _merged(manifest: Manifest, fitted: Sequence[KindOfCurve], data: str) -> Calibration | None:
    """The curves that an encoder has, with those that were fitted and hold in their place."""
    present = manifest.calibration
    curves = {kind: None if present is None else present.curve(kind) for kind in CURVE_KINDS}
    measured = dict(present.measured) if present is not None else {}
    for item in fitted:
        if item.judged.holds:
            curves[item.kind] = item.fitted.curve
            measured[item.kind] = item.judged.reliability(data, item.fitted.method)
    if not any(curves.values()):
        return None
    duplicate = curves["duplicate"]
    threshold = None if duplicate is None else duplicate.reaches(LIKELY)
    return Calibration(
        duplicate=duplicate,
        same_item=curves["same_item"],
        similar=curves["similar"],
        duplicate_threshold=1.0 if threshold is None else round(threshold, _SHARP),
        measured=measured,
    )


def _named(material: Material) -> str:
    """The sources, without the folders that they lie in."""
    return " for ".join(short(spec) for spec in (material.split.gallery, material.split.queries) if spec)


def _notes(calibrated: Sequence[Calibrated], kinds: Collection[CurveKind]) -> list[str]:
    found = {item.kind for encoder in calibrated for item in encoder.kinds}
    notes = [
        f"{kind}: left out, as there are too few hits of it or no labels."
        for kind in CURVE_KINDS
        if kind in kinds and kind not in found
    ]
    notes += [
        f"{encoder.manifest.ref}, {item.kind}: does not hold on the pictures held out, and is not kept."
        for encoder in calibrated
        for item in encoder.kinds
        if not item.judged.holds
    ]
    return notes
