"""Jobs and outcomes in words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from rich.markup import escape

from services.answers import Job, JobError, Webhook

EXAMPLES: Final = 3  # failures shown for each reason
LONGEST: Final = 300  # characters of what a job was asked for
REMOVED: Final = {
    "replaced_images": "pictures replaced by what their place holds now",
    "removed_images": "pictures removed that the source no longer names",
    "removed_items": "items removed that the source no longer names",
}
COUNTS: Final = {
    "import": (("indexed", "searchable"), ("unchanged", "unchanged")),
    "reindex": (("indexed", "embedded"),),
}


def source_of(job: Job) -> str:
    """Where an import's pictures come from, or what another job was asked for; "" if there is nothing to say."""
    source = {name: value for name, value in job.source.items() if value is not None}
    match source:
        case {"kind": "files"}:
            return "uploaded files"
        case {"kind": "urls"}:
            return "a list of addresses"
        case {"url": url}:
            return str(url)
        case {"location": location}:
            return str(location)
        case {"form": form}:
            return f"uploaded {form}" + (f", paths below {source['base']}" if "base" in source else "")
        case {"catalog": name}:
            return f"the catalog {name}"
        case {"item_ids": list(item_ids)}:
            return f"{len(item_ids):,} items by their ids"
    return json.dumps(source, ensure_ascii=False)[:LONGEST] if source else ""


def describe(job: Job) -> Iterator[str]:
    """A job in lines of text."""
    counts = [(getattr(job, name), word) for name, word in COUNTS.get(job.kind, (("done", "done"),))]
    counts += [(job.failed, "found" if job.kind == "audit" else "failed"), (job.cancelled, "left out")]
    left = 0 if job.over else job.total - job.done
    counts.append((left, "on their way"))
    said = ", ".join(f"{count:,} {word}" for count, word in counts if count)
    total = f"{job.total:,} in all" if job.listed else f"{job.total:,} found so far"
    yield f"{job.kind} {job.id}: {job.state.replace('_', ' ')}, {total}{': ' if said else ''}{said}"
    source = source_of(job)
    if source:
        yield f"  {'from' if job.kind == 'import' else 'of'} {source}"
    if job.mode != "upsert":
        yield f"  mode {job.mode}"
    if job.rate:
        left_words = "" if job.eta_seconds is None else f", {_duration(job.eta_seconds)} left"
        yield f"  {job.rate:,.1f} per second{left_words}"
    yield from removed(job.result)
    if "summary" in job.result:
        yield f"  {job.result['summary']}"
    if job.kind == "delete" and "items" in job.result:
        yield f"  {job.result['items']:,} items with {job.result.get('images', 0):,} pictures deleted"
    if job.error is not None:
        yield f"  {job.error.detail} [{job.error.code}]"
    for code, count in job.failed_by_code.items():
        yield f"  {count:,} × {code}"
    if job.failed:
        yield f"  akin jobs errors {job.id} lists them"
    if job.webhook is not None:
        yield f"  webhook {job.webhook.url}: {_delivery(job.webhook)}"


def removed(result: Mapping[str, Any]) -> Iterator[str]:
    """What an import took away."""
    for name, words in REMOVED.items():
        if result.get(name):
            yield f"  {result[name]:,} {words}"


def failure_lines(counts: Mapping[str, int], failures: Iterable[JobError], where: str) -> Iterator[str]:
    """How many failed for which reason, with some of each, as markup; `where` names what has the rest."""
    known = list(failures)
    for code, count in Counter(counts).most_common():
        yield f"  [red]{count:,} × {escape(code)}[/]"
        examples = [failure for failure in known if failure.code == code][:EXAMPLES]
        yield from (f"      {escape(failure.ref)}: {escape(failure.detail)}" for failure in examples)
        if count > len(examples):
            yield f"      and {count - len(examples):,} more in {where}"


def _delivery(webhook: Webhook) -> str:
    if webhook.delivered_at is not None:
        return f"told at {webhook.delivered_at[:19]}"
    if not webhook.attempts:
        return "not told yet"
    return f"not told after {webhook.attempts} attempts: {webhook.error}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
