"""What an evaluation leaves: JSON for programs, one page of HTML for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from markupsafe import Markup

from services.evaluation.pages import templates
from services.evaluation.run import Evaluation
from services.evaluation.searches import Search
from services.evaluation.tables import measured_on, tables


def to_json(evaluation: Evaluation) -> str:
    """Everything but the example searches."""
    facts = asdict(evaluation)
    del facts["searches"]
    facts["created"] = evaluation.created.isoformat()
    facts["unreadable"] = [item._asdict() for item in evaluation.unreadable]
    return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"


def to_html(evaluation: Evaluation) -> str:
    """A page that needs no other file: the tables, bars, and example searches."""
    page = templates("services.evaluation").get_template("report.html")
    return page.render(
        evaluation=evaluation,
        measured_on=measured_on(evaluation),
        tables=tables(evaluation),
        searches=searches_html(evaluation.searches),
    )


def searches_html(searches: Sequence[Search]) -> Markup:
    """Example searches as a part of a page, with the styles that they need."""
    return Markup(templates("services.evaluation").get_template("searches.html").render(searches=searches))  # noqa: S704  escaped there
