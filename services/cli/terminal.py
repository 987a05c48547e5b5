"""How the commands of a client speak: where to, and what an error looks like."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Annotated, Final, ParamSpec, TypeVar

import click
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from services.config import Settings
from services.errors import AkinError, ConfigurationError

LOG_WIDTH: Final = 120  # columns where no terminal says how many it has

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def _checked_device(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        try:
            TypeAdapter(Annotated[str, Settings.model_fields["device"]]).validate_python(value)
        except ValidationError as error:
            raise click.BadParameter(
                f"{value!r} is none of auto, cpu, cuda, cuda:1 (or another number), mps"
            ) from error
    return value


device_option = click.option(
    "--device", callback=_checked_device, help="auto, cpu, cuda, cuda:1 or mps; AKIN_DEVICE unless given."
)
"""The option of commands that run an encoder: what AKIN_DEVICE may be, None where it is not given."""


def open_console() -> Console:
    """Standard output, as wide as the terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)


def require(extras: str, *modules: str) -> None:
    """Check that what the extras of the package bring is installed.

    Raises:
        ConfigurationError: a module is missing; the message says how to get it.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigurationError(f"this needs {', '.join(missing)}: pip install 'akin[{extras}]'")


def reporting_errors(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """End a command with the error's sentence and exit code 1 instead of a traceback."""

    @functools.wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return command(*args, **kwargs)
        except AkinError as error:
            raise click.ClickException(f"{error.detail} [{error.code}]") from error

    return run
