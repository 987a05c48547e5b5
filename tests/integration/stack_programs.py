"""A small stack under the real supervisor: real servers, and programs that note when they are stopped.

Run as ``python stack_programs.py SCENARIO SERVERS``, with the settings in the environment.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import click

from services.config import Settings, load_settings
from services.errors import AkinError
from services.stack.plan import Plan, environment, make_plan
from services.stack.probes import api_probe
from services.stack.program import Program
from services.stack.supervisor import Output, Supervisor

# Each takes its name and the file in which it notes that it was asked to stop.
API = """
import http.server, os, signal, sys
name, notes = sys.argv[1:]
def stop(*_):
    open(notes, "a").write(name + "\\n"); sys.exit(0)
signal.signal(signal.SIGTERM, stop)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(os.environ["AKIN_PORT"])), Handler).serve_forever()
"""
WORKER = """
import signal, subprocess, sys, time
name, notes = sys.argv[1:]
def stop(*_):
    open(notes, "a").write(name + "\\n"); sys.exit(0)
signal.signal(signal.SIGTERM, stop)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # a helper that nobody stops
print("working", flush=True)
while True: time.sleep(1)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True: time.sleep(1)
"""
CRASHING = "import sys; sys.exit('cannot find my keys')"


@dataclass(frozen=True)
class Keys:
    first_admin_key: str | None = "first-key"
    local_key: str = "local-key"


def table(scenario: str, settings: Settings, api_url: str) -> list[Program]:
    """The scenario's programs; the API is last, as in the real table."""
    notes = str(settings.data_dir / "stopped.txt")

    def program(name: str, code: str, grace: float = 10.0) -> Program:
        return Program(name, [sys.executable, "-c", code, name, notes], environment(settings), grace=grace)

    worker = {
        "working": program("worker", WORKER),
        "stubborn": program("worker", STUBBORN, grace=600.0),
        "impatient": program("worker", STUBBORN, grace=0.5),
        "crashing": program("worker", CRASHING),
    }[scenario]
    return [worker, replace(program("api", API), probe=api_probe(api_url))]


def plan(scenario: str, servers: str) -> Plan:
    """The real plan with these servers of it and the scenario's programs."""
    real = make_plan(load_settings())
    return replace(
        real,
        servers=[server for server in real.servers if server.name in servers.split(",")],
        programs=table(scenario, real.settings, real.api_url),
    )


def main() -> None:
    """Run until a signal comes."""
    output = Output(
        ready=lambda state, keys: click.echo(f"ready at {state.api_url}, {keys.first_admin_key}"),
        say=lambda message: click.echo(message, err=True),
        echo=lambda name, line: click.echo(f"{name}| {line}", err=True),
    )
    try:
        Supervisor(plan(*sys.argv[1:3]), lambda _: Keys(), output).run()
    except AkinError as error:
        sys.exit(f"Error: {error.detail}")


if __name__ == "__main__":
    main()
