"""Processes that encode pictures: the Celery application with its tasks, and the query process."""
