"""What gunicorn runs: `gunicorn services.api.wsgi:app`."""

import gc
import threading

from services.api.app import create_app
from services.config import load_settings
from services.wiring import build

services = build(load_settings())
app = create_app(services)
services.make_all()
# What is there by now stays: the collector need not look at it again and again while requests wait.
gc.collect()
gc.freeze()
# Requests leave few cycles behind; by default the collector took a tenth of the time of a search.
gc.set_threshold(20_000, 20, 20)
# In each process of the server, beside its first requests.
threading.Thread(target=services.decoder.warm_up, name="warm-up", daemon=True).start()
