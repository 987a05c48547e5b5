"""The Celery application: `celery -A workers.app worker --queues embed,imports,maintenance`.

Tasks take nothing and return nothing: a message says that there is work, the database says which. Each makes
one call of a use case. Clients are created at the first task, after any fork: gRPC and CUDA do not survive one.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from celery.signals import worker_ready, worker_shutdown

from services import (
    accepting,
    audit,
    content,
    deletion,
    duplicates,
    embedding,
    finishing,
    housekeeping,
    purging,
    reindex,
    webhooks,
)
from services.config import load_settings
from services.queue import ROUTES, Task, celery_app
from services.wiring import Services, build

settings = load_settings()
app = celery_app(settings)


@cache
def services() -> Services:
    """The services of this worker process."""
    return build(settings)


@app.task(name=Task.EMBED.value)
def embed() -> None:
    """Drain the ledger for half a minute at most."""
    services().queue.taken(Task.EMBED)
    embedding.drain(services())


@app.task(name=Task.PURGE.value)
def purge() -> None:
    """Remove what was deleted: vectors, rows, bytes, retired collections."""
    services().queue.taken(Task.PURGE)
    purging.purge(services())
    reindex.drop_retired(services())
    content.collect_orphans(services())


@app.task(name=Task.IMPORTS.value)
def imports() -> None:
    """Accept the entries of imports."""
    services().queue.taken(Task.IMPORTS)
    # Shortly: what finishes imports, single uploads among them, waits in the same worker.
    accepting.accept_pending(services(), seconds=5.0)


@app.task(name=Task.DELETE.value)
def delete() -> None:
    """Go on with deletions."""
    services().queue.taken(Task.DELETE)
    deletion.advance(services())


@app.task(name=Task.FINISH.value)
def finish() -> None:
    """Finish imports whose every entry is settled."""
    services().queue.taken(Task.FINISH)
    finishing.finish_imports(services())


@app.task(name=Task.NOTIFY.value)
def notify() -> None:
    """Tell webhooks of jobs that are over."""
    services().queue.taken(Task.NOTIFY)
    webhooks.deliver(services())


@app.task(name=Task.AUDIT.value)
def advance_audit() -> None:
    """Go on with an audit for seconds."""
    services().queue.taken(Task.AUDIT)
    audit.advance(services())


@app.task(name=Task.DUPLICATES.value)
def find_duplicates() -> None:
    """Go on with a search for duplicates for seconds."""
    services().queue.taken(Task.DUPLICATES)
    duplicates.advance(services())


@app.task(name=Task.SWEEP.value)
def sweep() -> None:
    """Settle what the ledger loop left, and forget what is no longer kept."""
    services().queue.taken(Task.SWEEP)
    housekeeping.sweep(services())


@app.task(name=Task.REINDEX.value)
def advance_reindex() -> None:
    """Move building indexes on."""
    services().queue.taken(Task.REINDEX)
    reindex.advance(services())


@worker_ready.connect
def _warm_up(**_: Any) -> None:
    """Import torch before the first task, in the workers that will need it."""
    if ROUTES[Task.EMBED] in app.amqp.queues.consume_from:
        services().encoders.warm_up()


@worker_shutdown.connect
def _close(**_: Any) -> None:
    if services.cache_info().currsize:
        services().close()
