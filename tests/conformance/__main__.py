"""Print the table of the conformance suites: `python -m tests.conformance`.

Runs the suites, or with ``--results FILE`` reads what a run of ``pytest --junit-xml FILE`` found.
The status is 1 where a case failed, where a suite did not run, and where README says otherwise.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .checks import ROOT
from .suites import HERE, SUITES, read, rows_of_readme, table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run or read the suites, print their table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--results", type=Path, help="pytest's JUnit XML, instead of a run")
    given = parser.parse_args(arguments).results
    with tempfile.TemporaryDirectory() as folder:
        results = read(given or _run(Path(folder) / "results.xml"))
    write = sys.stdout.write
    for line in table(results):
        write(f"{line}\n")
    readme = (ROOT / "README.md").read_text("utf-8").splitlines()
    stale = [row for row in rows_of_readme(results) if row not in readme]
    for row in stale:
        write(f"README.md does not say: {row}\n")
    failed = any(result.failed or not result.total for result in results.values())
    return 1 if failed or stale else 0


def _run(report: Path) -> Path:
    modules = [str(HERE / f"{name}.py") for name in dict.fromkeys(s.module for s in SUITES)]
    command = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={report}", *modules]
    subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
    return report


if __name__ == "__main__":
    sys.exit(main())
