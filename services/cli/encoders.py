"""akin encoders: list, register, adopt and export encoders."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from services.catalog import encoders as catalog_encoders
from services.cli.terminal import open_console, reporting_errors, require
from services.config import load_settings
from services.encoders import checkpoint
from services.encoders.checkpoint import Checkpoint
from services.errors import Conflict, NotFound


@click.group()
def encoders() -> None:
    """List, register, adopt and export encoders. Works on the configured database, whether or not Akin runs."""


@encoders.command("list")
@reporting_errors
def list_encoders() -> None:
    """Show registered encoders."""
    from services.bootstrap import installed

    with installed(load_settings()) as services, services.database.reading() as session:
        rows = catalog_encoders.all_of(session)
    table = Table("encoder", "dimension", "SHA-256", "registered")
    for row in rows:
        table.add_row(row.ref, str(row.dimension), row.sha256[:12], f"{row.created_at:%Y-%m-%d %H:%M}")
    open_console().print(table)


@encoders.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@reporting_errors
def register(folder: Path) -> None:
    """Make the encoder in FOLDER (manifest.json, weights.safetensors) available to `akin reindex`.

    Where it is registered already, it gets the calibration of FOLDER, if there is one.
    """
    register_folder(folder)


@encoders.command()
@click.argument("network")
@click.option(
    "--weights",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A .safetensors, .pth, .pt or .bin file with the library's weights, instead of downloading them.",
)
@click.option("--name", help="Name of the encoder; made from NETWORK unless given.")
@click.option("--version", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the encoder's folder is made; `encoders` in the data directory unless given.",
)
@click.option("--register/--no-register", default=True, help="Make it available to `akin reindex`. [default]")
@reporting_errors
def adopt(
    *, network: str, weights: Path | None, name: str | None, version: int, output: Path | None, register: bool
) -> None:
    """Make an encoder of a pretrained NETWORK with its head cut off.

    NETWORK is torchvision:NAME[/WEIGHTS], such as torchvision:resnet50/IMAGENET1K_V2; timm:NAME, such as
    timm:convnext_nano.in12k_ft_in1k; or openclip:NAME/WEIGHTS, such as openclip:ViT-B-32/laion2b_s34b_b79k, which
    also embeds text.
    """
    require("worker", "torch")
    from services.encoders import pretrained

    adopted = pretrained.adopt(network, weights, name=name, version=version)
    folder = (output or load_settings().data_dir / "encoders") / adopted.manifest.ref
    _save(folder, adopted, "--version or --name")
    click.echo(
        f"{adopted.manifest.ref}: {adopted.manifest.dimension} numbers of pictures of "
        f"{adopted.manifest.preprocessing.size} × {adopted.manifest.preprocessing.size}, in {folder}"
    )
    if register:
        register_folder(folder)
    else:
        click.echo(f"Next: akin encoders register {folder}")


@encoders.command()
@click.argument("encoder")
@click.option("--format", "kind", type=click.Choice(["onnx", "safetensors"]), required=True, help="What to write.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The .onnx file, or the folder.")
@reporting_errors
def export(*, encoder: str, kind: str, output: Path) -> None:
    """Write ENCODER (name, name@version, or a checkpoint folder) for use elsewhere.

    onnx: one file whose graph takes pictures as bytes, uint8 (n, size, size, 3), and gives vectors of length 1; its
    metadata says how pictures become that. safetensors: the folder that `akin encoders register` takes.
    """
    found = find_checkpoint(encoder)
    if kind == "safetensors":
        _save(output, found, "--output")
        click.echo(f"{found.manifest.ref} is in {output}; `akin encoders register {output}` takes it")
        return
    require("worker", "torch")
    from services.encoders import onnx_export

    difference = onnx_export.export(found, output)
    click.echo(
        f"{found.manifest.ref} is in {output}; ONNX Runtime gives PyTorch's vectors "
        f"within {difference:.1g} (allowed: {onnx_export.TOLERANCE:g})"
    )


def _save(folder: Path, encoder: Checkpoint, options: str) -> None:
    try:
        checkpoint.save_new(folder, encoder)
    except Conflict as error:
        raise Conflict(f"{error.detail}; give another {options}") from error


def find_checkpoint(reference: str) -> Checkpoint:
    """The encoder in a checkpoint folder, or the registered one of a name.

    A registered name is not hidden by a folder that happens to be called the same: that is `./name`.

    Raises:
        EncoderError: the folder holds no encoder, or its weights are damaged.
        NotFound: there is neither such a folder nor such a registered encoder.
    """
    from services.bootstrap import installed

    folder = Path(reference)
    if "/" in reference and folder.is_dir():
        return checkpoint.read(folder)
    with installed(load_settings()) as services:
        try:
            return services.encoders.checkpoint(reference)
        except NotFound:
            if not folder.is_dir():
                raise
    return checkpoint.read(folder)


def register_folder(folder: Path) -> None:
    """Register a checkpoint folder and say what can be done with it."""
    from services.bootstrap import installed

    read = checkpoint.read(folder)
    with installed(load_settings()) as services:
        services.encoders.register(read, recalibrate=True)
    click.echo(f"{read.manifest.ref} is registered; `akin reindex {read.manifest.ref}` embeds a catalog with it")
