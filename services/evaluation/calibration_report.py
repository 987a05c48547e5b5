"""What a calibration leaves: the table, JSON for programs, one page of HTML with reliability diagrams for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from io import StringIO
from typing import NamedTuple

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from services.encoders.calibration import LIKELY, Curve
from services.evaluation.calibration import Calibrated, CalibrationRun, KindOfCurve
from services.evaluation.calibration_reliability import Judged
from services.evaluation.material import short
from services.evaluation.pages import templates

COLUMNS = ("encoder", "kind", "curve", "likely from", "pairs", "base rate", "ECE", "Brier", "skill")

# As far from white as from the near-black of dark pages.
_INK, _LINE = "#7d7d7d", "#1f8a8a"


class Row(NamedTuple):
    """One line of the table: texts in the order of COLUMNS."""

    encoder: str
    kind: str
    curve: str
    likely_from: str
    pairs: str
    base_rate: str
    ece: str
    brier: str
    brier_skill: str


def rows(run: CalibrationRun) -> list[Row]:
    """The table: of each encoder and kind the new curve, and below it the one that the encoder has already."""
    return [row for encoder in run.encoders for item in encoder.kinds for row in _rows(encoder, item)]


def measured_on(run: CalibrationRun) -> str:
    """One sentence: the pictures."""
    asked = f"queries of {short(run.queries)}" if run.queries else "each asked for among the others"
    return (
        f"Pictures of {short(run.gallery)}, {asked}: fitted on {run.fitted_on:,}, judged on {run.judged_on:,} others; "
        f"altered copies of {run.copied:,}."
    )


def markdown(run: CalibrationRun) -> str:
    """The table as Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "| --- | --- | --- |" + " ---: |" * (len(COLUMNS) - 3)]
    lines += ["| `" + row.encoder + "` | " + " | ".join(row[1:]) + " |" for row in rows(run)]
    return "\n\n".join([measured_on(run), "\n".join(lines), *run.notes]) + "\n"


def to_json(run: CalibrationRun) -> str:
    """All figures and curves, bins included."""
    facts = {
        "created": run.created.isoformat(),
        "gallery": run.gallery,
        "queries": run.queries,
        "fitted_on": run.fitted_on,
        "judged_on": run.judged_on,
        "copied": run.copied,
        "notes": run.notes,
        "unreadable": [item._asdict() for item in run.unreadable],
        "encoders": [_facts(encoder) for encoder in run.encoders],
    }
    return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"


def to_html(run: CalibrationRun) -> str:
    """A page that needs no other file: the table and a reliability diagram of each curve."""
    diagrams = [
        (encoder.manifest.ref, item.kind, Markup(reliability_diagram(item)))  # noqa: S704  matplotlib's own SVG
        for encoder in run.encoders
        for item in encoder.kinds
    ]
    page = templates("services.evaluation").get_template("calibration.html")
    return page.render(run=run, measured_on=measured_on(run), columns=COLUMNS, rows=rows(run), diagrams=diagrams)


def reliability_diagram(item: KindOfCurve) -> str:
    """Draw the share that is of the kind over the probability, by bin, beside the curve over the cosine; SVG."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    figure.patch.set_alpha(0)
    reliability, cosine = figure.subplots(1, 2)
    for axes in (reliability, cosine):
        axes.patch.set_alpha(0)
        axes.tick_params(colors=_INK, labelsize=8)
        axes.grid(alpha=0.25, color=_INK)
        for name, spine in axes.spines.items():
            spine.set_color(_INK)
            spine.set_visible(name in ("left", "bottom"))
        for axis in (axes.xaxis, axes.yaxis):
            axis.label.set_color(_INK)
        axes.set_ylim(-0.02, 1.02)
    bins = item.judged.bins
    reliability.plot([0, 1], [0, 1], color=_INK, linewidth=1, linestyle="--")
    reliability.plot([b.probability for b in bins], [b.share for b in bins], "o", color=_LINE, markersize=4)
    reliability.set_xlabel("probability, mean of a bin")
    reliability.set_ylabel("share of the kind")
    curve = item.fitted.curve
    cosine.plot(curve.scores, curve.probabilities, color=_LINE, marker="o", markersize=3, linewidth=1.8)
    cosine.set_xlabel("cosine")
    cosine.set_ylabel("probability")
    target = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "akin"}):
        figure.savefig(target, format="svg", metadata={"Date": None})
    drawing = target.getvalue()
    return drawing[drawing.index("<svg") :]


def _rows(encoder: Calibrated, item: KindOfCurve) -> Iterator[Row]:
    yield _row(encoder, item, f"fitted here ({item.fitted.method})", item.fitted.curve, item.judged)
    present = encoder.manifest.calibration
    curve = None if present is None else present.curve(item.kind)
    if curve is not None and item.present is not None:
        yield _row(encoder, item, "its own", curve, item.present)


def _row(encoder: Calibrated, item: KindOfCurve, name: str, curve: Curve, judged: Judged) -> Row:
    likely = curve.reaches(LIKELY)
    return Row(
        encoder=encoder.manifest.ref,
        kind=item.kind.replace("_", " "),
        curve=name,
        likely_from="–" if likely is None else f"{likely:.3f}",
        pairs=f"{judged.pairs:,}",
        base_rate=f"{100 * judged.base_rate:.1f} %",
        ece=f"{judged.ece:.4f}",
        brier=f"{judged.brier:.4f}",
        brier_skill=f"{judged.brier_skill:.3f}",
    )


def _facts(encoder: Calibrated) -> dict[str, object]:
    return {
        "name": encoder.manifest.ref,
        "calibration": None if encoder.calibration is None else encoder.calibration.model_dump(mode="json"),
        "kinds": [
            {
                "kind": item.kind,
                "method": item.fitted.method,
                "curve": item.fitted.curve.model_dump(mode="json"),
                "judged": _judged(item.judged),
                "present": None if item.present is None else _judged(item.present),
            }
            for item in encoder.kinds
        ],
    }


def _judged(judged: Judged) -> dict[str, object]:
    return {**asdict(judged), "bins": [item._asdict() for item in judged.bins], "holds": judged.holds}
