"""akin export and akin restore: a catalog as one file, and back."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from services.cli.terminal import reporting_errors, require
from services.config import Settings, load_settings
from services.errors import AkinError


@click.command()
@click.argument("catalog")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--blobs/--no-blobs", default=False, show_default=True, help="Put the bytes of the pictures into it.")
@click.option(
    "--encoder/--no-encoder",
    default=True,
    show_default=True,
    help="Put the encoder into it, so that another installation can search what it restores.",
)
@reporting_errors
def export(*, catalog: str, file: Path, blobs: bool, encoder: bool) -> None:
    """Write a backup of CATALOG to FILE, a tar file, or to standard output where FILE is -.

    Items, pictures and vectors as they are at this moment; Akin may go on working. Keys and jobs are not in it.
    """
    require("backup", "pyarrow")
    from services.backup.export import export as write
    from services.bootstrap import installed

    with installed(_settings()) as services, _output(file) as output, _Bar() as bar:
        done = write(services, catalog, output, with_blobs=blobs, with_encoder=encoder, progress=bar.show)
    click.echo(f"{done.items:,} items, {done.images:,} pictures, {done.vectors:,} of them with their vector", err=True)
    if blobs:
        gone = f"; those of {done.missing_blobs:,} are gone" if done.missing_blobs else ""
        click.echo(f"bytes of {done.blobs:,} different pictures{gone}", err=True)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--as", "name", metavar="NAME", help="Name of the catalog; that in the backup unless given.")
@click.option("--encoder", metavar="NAME", help="Embed the pictures anew with another registered encoder.")
@click.option("--abandon", is_flag=True, help="Remove what the same restore left when it was interrupted.")
@reporting_errors
def restore(*, file: Path, name: str | None, encoder: str | None, abandon: bool) -> None:
    """Make a catalog of the backup in FILE, beside those that there are; it appears when it is whole.

    FILE is checked from end to end before anything is restored. A restore that was interrupted goes on when it is
    given again. A catalog of the same name must be empty.
    """
    require("backup", "pyarrow")
    from services.backup import restore as restoring
    from services.bootstrap import installed

    with installed(_settings()) as services, file.open("rb") as backup:
        if abandon:
            restoring.abandon(services, backup, name=name, encoder=encoder)
            return
        with _Bar() as bar:
            restored = restoring.restore(services, backup, name=name, encoder=encoder, progress=bar.show)
    click.echo(f"{restored.name}: {restored.items:,} items, {restored.searchable:,} pictures are searchable")
    if restored.waiting:
        click.echo(f"  {restored.waiting:,} wait to be embedded with {restored.encoder}, which workers do")
    if restored.missing:
        click.echo(
            f"  the bytes of {restored.missing:,} are neither in the backup nor stored here: they cannot be shown or "
            "embedded anew"
        )


def _settings() -> Settings:
    """Those of the environment, with the Milvus of the stack that runs here if none is configured.

    Raises:
        ConfigurationError: there is neither.
    """
    from services.stack.state import RunState

    settings = load_settings()
    running = RunState.read(settings.data_dir) if settings.milvus_uri is None else None
    if running is not None:
        settings = settings.model_copy(update={"milvus_uri": running.milvus_uri})
    _ = settings.milvus
    return settings


@contextmanager
def _output(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name when it is complete; only its owner may read it.

    Raises:
        AkinError: it cannot be written.
    """
    if str(path) == "-":
        yield sys.stdout.buffer
        return
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise AkinError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


class _Bar:
    """One bar on standard error for one thing after the other."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("", total=None)
        self._doing = ""

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, doing: str, done: int, total: int) -> None:
        """Show how far something is; another thing begins at nothing, so that its remaining time is its own."""
        if doing != self._doing:
            self._progress.reset(self._task)
            self._doing = doing
        self._progress.update(self._task, description=doing, completed=done, total=total)
