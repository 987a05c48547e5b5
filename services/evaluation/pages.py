"""Pages that need no other file: what evaluations and trainings leave for people to look at."""

from __future__ import annotations

from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader


@cache
def templates(package: str) -> Environment:
    """The templates of a package, which may extend and include those of this one: `page.html`, `searches.html`."""
    loader = ChoiceLoader([PackageLoader(package), PackageLoader("services.evaluation")])
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
