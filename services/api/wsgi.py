"""What gunicorn runs: `gunicorn services.api.wsgi:app`."""

from services.api.app import create_app
from services.config import load_settings
from services.wiring import build

app = create_app(build(load_settings()))
