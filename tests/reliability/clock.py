"""Run a module with a wrong clock: `python -m tests.reliability.clock SECONDS EVERY -m MODULE ARGUMENTS`.

It is so many seconds ahead for EVERY seconds, then right for as long, and so on; ahead all the time where EVERY is 0.
All moments that are written to the database, or compared with what is there, come from one function.
"""

from __future__ import annotations

import math
import runpy
import sys
import time
from datetime import datetime, timedelta

from services.catalog import database


def main() -> None:
    """Replace the clock before any module that uses it is imported."""
    shift = timedelta(seconds=int(sys.argv[1]))
    every = float(sys.argv[2]) or math.inf
    right = database.now

    def wrong() -> datetime:
        return right() + (shift if int(time.monotonic() / every) % 2 == 0 else timedelta())

    database.now = wrong
    module = sys.argv[4]
    sys.argv = [module, *sys.argv[5:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
