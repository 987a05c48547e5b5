"""The `akin` command."""

from __future__ import annotations

import importlib

import click

# Each is a module of this package with a command of its name. Imported when asked for: most need no torch,
# no Milvus client and no SQL, and a command line should answer at once.
COMMANDS = {
    "up": "Run Akin on this machine.",
    "demo": "See it all work: sample pictures in, look-alikes out.",
    "ingest": "Import pictures: folders, archives, lists, addresses, object storage.",
    "jobs": "Look at imports and other jobs, cancel and retry them.",
    "delete": "Delete items, by their ids or by a filter.",
    "catalogs": "List, create and delete separate sets of items.",
    "search": "Find look-alikes of a picture.",
    "duplicates": "Find pictures that the catalog has more than once.",
    "samples": "Draw a sample catalogue.",
    "recipes": "List what can be trained.",
    "train": "Train an encoder.",
    "evaluate": "Measure encoders side by side.",
    "encoders": "List and register encoders.",
    "reindex": "Embed a catalog anew with another encoder.",
    "audit": "Compare database, vectors and stored bytes, and heal what does not agree.",
    "export": "Write a backup of a catalog.",
    "restore": "Make a catalog of a backup.",
    "keys": "List, make and revoke API keys.",
    "doctor": "Check what is configured and reachable.",
}
# Commands that share a module.
MODULES = {"export": "backup", "restore": "backup"}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"services.cli.{MODULES.get(cmd_name, cmd_name)}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands)
@click.version_option(package_name="akin")
def main() -> None:
    """Akin finds pictures that look alike."""
