"""Task names, routes and wake-ups: the only Celery in services.

A message says only that there is work; the ledger says which. So wake-ups of one task coalesce: while one is
waiting in the queue, further ones are dropped, and a lost one is made up for by the scheduler.
"""

from __future__ import annotations

import logging
from enum import StrEnum

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from services.config import Settings

logger = logging.getLogger(__name__)

# A wake-up that has waited longer than this was lost with its broker; the next one is sent again.
COALESCE_SECONDS = 30
# Longer than any task, so that the broker does not deliver a running one twice.
VISIBILITY_SECONDS = 600
# A task runs for half a minute at most; a queue that nobody took from for longer is not consumed.
ALIVE_SECONDS = 90


class Task(StrEnum):
    """Names of tasks; the queue of each is in ROUTES."""

    EMBED = "akin.embed"
    IMPORTS = "akin.imports"
    FINISH = "akin.finish"
    NOTIFY = "akin.notify"
    REINDEX = "akin.reindex"
    SWEEP = "akin.sweep"
    PURGE = "akin.purge"
    DELETE = "akin.delete"
    AUDIT = "akin.audit"
    DUPLICATES = "akin.duplicates"


# Purge and audit write to Milvus, and Milvus Lite wants one writer: they share the queue of embed.
ROUTES = {
    Task.EMBED: "embed",
    Task.PURGE: "embed",
    Task.AUDIT: "embed",
    Task.IMPORTS: "imports",
    Task.FINISH: "maintenance",
    Task.NOTIFY: "maintenance",
    Task.REINDEX: "maintenance",
    Task.SWEEP: "maintenance",
    Task.DELETE: "maintenance",
    Task.DUPLICATES: "maintenance",
}


def celery_app(settings: Settings) -> Celery:
    """The configured Celery application; connects at first use."""
    app = Celery("akin", broker=settings.redis, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_publish_retry=False,
        task_routes={task.value: {"queue": queue} for task, queue in ROUTES.items()},
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_SECONDS,
            "socket_timeout": 10,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    )
    return app


class TaskQueue:
    """Sends wake-ups."""

    def __init__(self, settings: Settings, connection: redis.Redis) -> None:
        self._settings = settings
        self._redis = connection
        self._app: Celery | None = None

    def wake(self, task: Task) -> bool:
        """Tell workers that there is work for a task; False where Redis is away (the scheduler makes up for it)."""
        try:
            if not self._redis.set(_waiting(task), 1, nx=True, ex=COALESCE_SECONDS):
                return True
            self._send(task)
        except (redis.RedisError, OperationalError) as error:
            logger.warning("could not wake %s: %s", task.value, error)
            return False
        return True

    def taken(self, task: Task) -> None:
        """Called first by a task: from now on a wake-up means another run. Also proof that its queue is consumed."""
        self._redis.delete(_waiting(task))
        self._redis.set(alive_key(ROUTES[task]), 1, ex=ALIVE_SECONDS)

    def _send(self, task: Task) -> None:
        if self._app is None:
            self._app = celery_app(self._settings)
        self._app.send_task(task.value, queue=ROUTES[task], ignore_result=True)


def alive_key(part: str) -> str:
    """Redis key that exists while a consumer (a queue's, or `query`) proves to be at work."""
    return f"akin:alive:{part}"


def _waiting(task: Task) -> str:
    return f"akin:waiting:{task.value}"
