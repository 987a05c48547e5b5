"""akin ingest: import pictures from wherever they lie, and follow them until they can be searched."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from services.cli.display import say_waiting, uploading
from services.cli.importing import Imported, Importer
from services.cli.journal import Journal
from services.cli.kinds import Given, Kind, recognise
from services.cli.manifests import LocalManifest
from services.cli.outcomes import print_imported, print_preview, print_summary, write_report
from services.cli.pictures import Pictures, Source
from services.cli.preview import Preview, preview
from services.cli.target import Target, find_target, target_options
from services.cli.terminal import open_console, reporting_errors
from services.cli.upload import Ingest, Report
from services.client import UPSERT, AkinClient, ImportOptions
from services.config import Settings, load_settings
from services.errors import InvalidRequest

SOME_FAILED: Final = 3  # exit code
REPLACE: Final = "replace"
MODES: Final = (UPSERT, "create", REPLACE)
SEVERAL_JOBS: Final = (
    "is uploaded in several jobs, but --mode create, --mode replace and --webhook are about one that knows everything:"
    " give a .tar, or a .zip with --as-archive"
)


@click.command()
@click.argument("sources", nargs=-1)
@click.option("--urls", "urls_file", metavar="FILE", help="Addresses of pictures, one a line; - is standard input.")
@click.option("--on-server", "places", metavar="PATH", multiple=True, help="A folder of the server. Repeatable.")
@click.option("--base", metavar="PLACE", help="Where paths in a list begin: a folder, s3://, … of the server.")
@click.option("--as-archive", is_flag=True, help="Upload a zip file whole, as one job, instead of picture by picture.")
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default=UPSERT,
    show_default=True,
    help="upsert adds and changes; create leaves items alone that are there, and lists them as failed; replace also"
    " removes from the catalog whatever the source does not name, once all else has succeeded.",
)
@click.option("--webhook", metavar="URL", help="Gets a signed POST when the import is over.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, what there is and what is wrong; send nothing.")
@click.option("--report", "report_file", type=click.Path(dir_okay=False, path_type=Path), help="Write a JSON report.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Follow until everything can be searched.")
@click.option("--no-resume", is_flag=True, help="Upload everything, also what an interrupted run had uploaded.")
@target_options
@reporting_errors
def ingest(
    *,
    sources: Sequence[str],
    urls_file: str | None,
    places: Sequence[str],
    base: str | None,
    as_archive: bool,
    mode: str,
    webhook: str | None,
    dry_run: bool,
    report_file: Path | None,
    wait: bool,
    no_resume: bool,
    url: str | None,
    key: str | None,
    catalog: str | None,
) -> None:
    """Import pictures from SOURCES, and wait until they can be searched.

    \b
    A source is
      photos/  photos.zip  a.jpg    here: uploaded picture by picture; give the same
                                    command again after an interruption to go on
      photos.tar  photos.tar.gz     here: uploaded whole (a zip: --as-archive)
      list.jsonl  list.csv          here: a list of items with their pictures
      https://shop.example/all.csv  a list or an archive that the server fetches
      s3://bucket/photos            or gs://, az://, or --on-server /srv/photos:
                                    what the server may read (AKIN_IMPORT_ROOTS)
      --urls FILE                   addresses of pictures that the server fetches

    An items.jsonl in or beside a folder, or in an archive, says which item a picture belongs to: lines of
    {"file", "item_id", "title", "url", "attributes"}. Without one, a picture's item is its file name.

    A list has lines of {"item_id", "image", "title", "url", "attributes"}, or columns of these names. An image is an
    address that the server fetches, or a path: below --base on the server, else from the list on this machine.

    \b
    Exit code 0: everything can be searched; 3: something failed, and is listed;
    1: it could not be done.
    """
    options = ImportOptions(mode, webhook)
    wanted = _recognised(sources, places, urls_file, as_archive=as_archive)
    _check(wanted, base, options)
    console, settings = open_console(), load_settings()
    if dry_run:
        _preview(console, wanted, base, settings, report_file)
        return
    target = find_target(settings, url, key, catalog)
    outcomes: dict[str, Report | Imported] = {}
    with target.connect() as client:
        say_waiting(client, console)
        importer = Importer(client, console, options, wait=wait, every_failure=report_file is not None)
        uploader = _Uploader(console, client, target, settings, resume=not no_resume, follow=wait)
        try:
            for given in wanted:
                outcomes |= _import(given, base, options, importer, uploader)
        finally:  # what was done before something could not be done is reported too
            if report_file is not None:
                write_report(report_file, outcomes)
    if any(isinstance(outcome, Imported) and outcome.broken for outcome in outcomes.values()):
        sys.exit(1)
    if not all(outcome.all_well for outcome in outcomes.values()):
        sys.exit(SOME_FAILED)


def ingest_path(
    console: Console, client: AkinClient, target: Target, path: Path, settings: Settings, *, resume: bool
) -> Report:
    """Upload one folder, zip file or picture with a display of progress.

    Raises:
        AkinError: it cannot be read, or the server cannot be reached or refuses the key.
    """
    return _Uploader(console, client, target, settings, resume=resume, follow=True).upload(path, Source(path))


@dataclass(frozen=True)
class _Uploader:
    """Uploads pictures of this machine with a display of progress, from where an interrupted run stopped."""

    console: Console
    client: AkinClient
    target: Target
    settings: Settings
    resume: bool
    follow: bool

    def upload(self, path: Path, source: Pictures) -> Report:
        journal = Journal(self.target.journal_dir, self.target.name, path)
        if not self.resume:
            journal.forget()
        with uploading(self.console) as show:
            upload = Ingest(self.client, source, journal, self.settings.max_image_bytes, show)
            return upload.run(follow=self.follow)


def _recognised(
    sources: Sequence[str], places: Sequence[str], urls_file: str | None, *, as_archive: bool
) -> list[Given]:
    wanted = [recognise(source, as_archive=as_archive) for source in sources]
    wanted += [Given(Kind.PLACE, place) for place in places]
    wanted += [Given(Kind.ADDRESSES, urls_file)] if urls_file is not None else []
    if not wanted:
        raise click.UsageError("give at least one source, --on-server or --urls")
    return list(dict.fromkeys(wanted))


def _check(wanted: Sequence[Given], base: str | None, options: ImportOptions) -> None:
    """Refuse what does not go together before anything is sent."""
    for given in wanted:
        if given.kind is Kind.PICTURES:
            _check_several_jobs(given, options)
        if base is not None and given.kind not in (Kind.MANIFEST, Kind.WEB):
            raise InvalidRequest(f"--base is for lists of pictures, not for {given.name}")
    if options.mode == REPLACE and len(wanted) > 1:
        raise InvalidRequest("--mode replace takes one source: each would remove what the others name")


def _check_several_jobs(given: Given, options: ImportOptions) -> None:
    if options != ImportOptions():
        raise InvalidRequest(f"{given.name} {SEVERAL_JOBS}")


def _import(
    given: Given, base: str | None, options: ImportOptions, importer: Importer, uploader: _Uploader
) -> dict[str, Report | Imported]:
    """Import one source and say what became of it; a list may be of two parts, here and elsewhere."""
    name, console = given.name, uploader.console
    local = LocalManifest(given.path, given.media_type) if given.kind is Kind.MANIFEST and base is None else None
    if local is not None and local.names_files():
        _check_several_jobs(given, options)
        report = _upload(uploader, given, local)
        rest = importer.rest_of(local)
        if rest is None:
            return {name: report}
        print_imported(console, f"{name}, the rest", rest)
        return {name: report, f"{name}, the rest": rest}
    match given.kind:
        case Kind.PICTURES:
            return {name: _upload(uploader, given, Source(given.path))}
        case Kind.ARCHIVE:
            imported = importer.archive(given)
        case Kind.MANIFEST:
            imported = importer.manifest(given, base)
        case Kind.ADDRESSES:
            imported = importer.addresses(name)
        case Kind.WEB:
            imported = importer.address(name, base)
        case Kind.PLACE:
            imported = importer.place(name)
    print_imported(console, name, imported)
    return {name: imported}


def _upload(uploader: _Uploader, given: Given, source: Pictures) -> Report:
    try:
        report = uploader.upload(given.path, source)
    except KeyboardInterrupt:
        raise click.ClickException("interrupted: run the same command again to go on from here") from None
    print_summary(uploader.console, given.name, report)
    return report


def _preview(
    console: Console, wanted: Sequence[Given], base: str | None, settings: Settings, report_file: Path | None
) -> None:
    found: dict[str, Preview] = {}
    for given in wanted:
        found[given.name] = preview(given, base, settings.max_image_bytes)
        print_preview(console, given.name, found[given.name])
    if report_file is not None:
        write_report(report_file, found)
    if any(one.problems for one in found.values()):
        sys.exit(SOME_FAILED)
