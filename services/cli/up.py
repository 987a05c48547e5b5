"""`akin up`: the whole service on this machine, in the foreground."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from services.config import Settings, load_settings
from services.errors import AkinError
from services.stack.plan import make_plan
from services.stack.state import RunState
from services.stack.supervisor import Output, Prepared, Supervisor


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Where everything is kept.")
@click.option("--host", help="Address that the API binds to.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the API; the next free one if it is taken.")
@click.option("--verbose", is_flag=True, help="Show the logs of all programs here too.")
@click.option(
    "--admin-key/--no-admin-key", default=True, help="Make and show the first admin key, if there is none. [default]"
)
def up(*, data_dir: Path | None, host: str | None, port: int | None, verbose: bool, admin_key: bool) -> None:
    """Run Akin here: API, workers, and a Redis and a Milvus Lite where none is configured."""
    options = {"data_dir": data_dir, "host": host, "port": port}
    try:
        settings = load_settings(**{name: value for name, value in options.items() if value is not None})
        Supervisor(make_plan(settings), partial(_prepare, admin_key=admin_key), _output(settings, verbose)).run()
    except AkinError as error:
        raise click.ClickException(error.detail) from error


def _prepare(settings: Settings, *, admin_key: bool) -> Prepared:
    from services.bootstrap import prepare

    return prepare(settings, admin_key=admin_key)


def _output(settings: Settings, verbose: bool) -> Output:
    """The welcome goes to standard output, what happens later to standard error."""
    welcome, notices = Console(highlight=False), Console(stderr=True, highlight=False)

    def ready(state: RunState, prepared: Prepared) -> None:
        welcome.print(banner(settings, state, prepared), soft_wrap=True)

    def say(message: str) -> None:
        notices.print(message, markup=False, soft_wrap=True)

    def echo(name: str, line: str) -> None:
        notices.print(Text.assemble((f"{name:>14} │ ", "dim"), line), soft_wrap=True)

    return Output(ready=ready, say=say, echo=echo if verbose else None)


def banner(settings: Settings, state: RunState, prepared: Prepared) -> Text:
    """What a person needs to begin. Lines are never wrapped: they hold links to be copied."""
    lines = [
        ("Akin is running.", "bold green"),
        (f"  page   {state.api_url}/signin#{prepared.local_key}", ""),
        (f"  API    {state.api_url}/docs", ""),
        (f"  logs   {settings.data_dir / 'logs'}", ""),
    ]
    if prepared.first_admin_key is not None:
        lines.append((f"  key    {prepared.first_admin_key}", "bold"))
        lines.append(("         the first admin key: keep it, it is not shown again", ""))
    lines.append(("Ctrl-C stops everything.", "dim"))
    return Text("\n").join(Text(*line) for line in lines)
