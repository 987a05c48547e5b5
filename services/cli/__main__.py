"""python -m services.cli: the `akin` command where no script is installed."""

from services.cli import main

main(prog_name="akin")
