"""Have accidents for a while, and print what came of it:

python -m tests.accidents --seconds 600
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import trio

from .injector import ALL
from .run import have_accidents


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=ALL, action="append", help="these accidents only")
    parser.add_argument("--unfenced", action="store_true", help="the nodes check no token")
    parser.add_argument("--keep", type=Path, help="a new folder that stays, with the nodes' logs")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ccapi-accidents-") as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        run = trio.run(
            partial(
                have_accidents, folder, given.seconds, seed=given.seed,
                kinds=tuple(given.only or ALL), unfenced=given.unfenced,
            )
        )  # fmt: skip
    print(run.table)
    return 1 if run.report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
