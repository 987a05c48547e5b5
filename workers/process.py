"""What the processes beside Celery have in common."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable

from services.config import load_settings
from services.wiring import Services, build


def run_process(loop: Callable[[Services, threading.Event], None]) -> None:
    """Run a loop over this process's services until SIGTERM or SIGINT sets its event."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    services = build(load_settings())
    try:
        loop(services, stop)
    finally:
        services.close()
