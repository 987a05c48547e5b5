"""The side-by-side tables: the same columns on the terminal, in Markdown and in the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.evaluation.alterations import ALTERATIONS
from services.evaluation.instances import InstanceMetrics
from services.evaluation.material import short
from services.evaluation.metrics import LabelMetrics
from services.evaluation.run import Evaluation, Measured


@dataclass(frozen=True)
class Column:
    """One figure of each encoder.

    Attributes:
        value: the figure; None where it was not measured.
        text: the figure as people read it.
        compared: whether the greatest is the best.
    """

    title: str
    description: str
    value: Callable[[Measured], float | None]
    text: Callable[[float], str]
    compared: bool = True

    def cell(self, encoder: Measured) -> str:
        """The figure of an encoder as text."""
        value = self.value(encoder)
        return "–" if value is None else self.text(value)

    def is_best(self, encoder: Measured, others: Sequence[Measured]) -> bool:
        """Whether no other has a better figure, where there are others to compare with."""
        values = [value for value in map(self.value, others) if value is not None]
        return self.compared and len(values) > 1 and self.value(encoder) == max(values)


@dataclass(frozen=True)
class Table:
    """Columns that belong together; `drawn` where bars of 0 to 1 say more than the figures."""

    title: str
    columns: list[Column]
    drawn: bool = False


def tables(evaluation: Evaluation) -> list[Table]:
    """The tables that the evaluation has figures for."""
    found = []
    if any(encoder.labels for encoder in evaluation.encoders):
        found.append(Table("Pictures of the same label", _LABEL_COLUMNS, drawn=True))
    if any(encoder.instances for encoder in evaluation.encoders):
        found += [
            Table("Altered copies that find their original first (R@1)", _altered(_first, _share), drawn=True),
            Table("Mean reciprocal rank of the original (MRR)", _altered(_reciprocal, _rank)),
        ]
    found.append(Table("Size and speed", _COST_COLUMNS))
    return found


def markdown(evaluation: Evaluation) -> str:
    """The tables as Markdown, best figures bold."""
    parts = [measured_on(evaluation)]
    for table in tables(evaluation):
        lines = [
            "| encoder | " + " | ".join(column.title for column in table.columns) + " |",
            "| --- |" + " ---: |" * len(table.columns),
        ]
        for encoder in evaluation.encoders:
            texts = [(column.cell(encoder), column.is_best(encoder, evaluation.encoders)) for column in table.columns]
            cells = [f"**{text}**" if best else text for text, best in texts]
            lines.append(f"| `{encoder.name}` | " + " | ".join(cells) + " |")
        parts.append(f"{table.title}:\n\n" + "\n".join(lines))
    return "\n\n".join([*parts, *evaluation.notes]) + "\n"


def measured_on(evaluation: Evaluation) -> str:
    """One sentence: the pictures and the device."""
    gallery = f"{evaluation.gallery_pictures:,} pictures of {short(evaluation.gallery)}"
    if evaluation.queries is None:
        pictures = f"Each of {gallery} is searched for among the others"
    else:
        pictures = f"{evaluation.query_pictures:,} queries of {short(evaluation.queries)} to {gallery}"
    copies = f"altered copies of {evaluation.copied:,} pictures to {evaluation.originals:,} originals"
    return f"{pictures}; {copies}; {evaluation.device}."


def _label(title: str, description: str, value: Callable[[LabelMetrics], float]) -> Column:
    def of(encoder: Measured) -> float | None:
        return None if encoder.labels is None else value(encoder.labels)

    return Column(title, description, of, _share)


def _altered(value: Callable[[InstanceMetrics], float], text: Callable[[float], str]) -> list[Column]:
    """One column for each alteration."""

    def of(number: int) -> Callable[[Measured], float | None]:
        return lambda encoder: value(encoder.instances[number]) if encoder.instances else None

    return [Column(item.title, item.description, of(number), text) for number, item in enumerate(ALTERATIONS)]


def _first(metrics: InstanceMetrics) -> float:
    return metrics.recall_1


def _reciprocal(metrics: InstanceMetrics) -> float:
    return metrics.mean_reciprocal_rank


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _rank(value: float) -> str:
    return f"{value:.3f}"


def _speed(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _milliseconds(value: float) -> str:
    return f"{value:,.1f} ms" if value >= 1 else f"{value:.2f} ms"


def _count(value: float) -> str:
    return f"{value:,.0f}"


_LABEL_COLUMNS = [
    _label("k-NN@1", "queries whose nearest picture has their label, which is also recall@1", lambda m: m.knn_1),
    _label(
        "k-NN@20",
        "queries whose label wins the vote of the 20 nearest, weighted by exp(cosine / 0.1)",
        lambda m: m.knn_20,
    ),
    _label("P@10", "share of the ten nearest pictures that have the query's label", lambda m: m.precision_10),
    _label("R@5", "queries with their label among the first 5", lambda m: m.recall_5),
    _label("R@10", "queries with their label among the first 10", lambda m: m.recall_10),
    _label("mAP", "mean average precision over the whole gallery", lambda m: m.mean_average_precision),
]

_COST_COLUMNS = [
    Column("dimension", "numbers of one vector", lambda e: e.dimension, _count, compared=False),
    Column("bytes", "of one vector as float32", lambda e: e.bytes_per_vector, _count, compared=False),
    Column(
        "images/s",
        "encoded in batches of up to 64, decoding not counted",
        lambda e: e.speed.images_per_second,
        _speed,
        compared=False,
    ),
    Column(
        "latency", "median of encoding one picture", lambda e: e.speed.latency_median_ms, _milliseconds, compared=False
    ),
    Column(
        "p95",
        "95 % of single pictures are encoded within",
        lambda e: e.speed.latency_p95_ms,
        _milliseconds,
        compared=False,
    ),
]
