"""What one body costs the others: ``python -m tests.bench.bodies [--against TREE PYTHON] [WORD…]``.

For each body of `tests.bench.hostile` (whose name has all the words), in a gateway of its own
(`one_body.py`): the longest time for which the event loop stood still, as a task beside the gateway
in the same loop sees it; the sum of all such times ("late"); the processor time of the loop's own
tasks ("loop") and of the whole process; and the memory, at its highest and when the request is
over, in lengths of the body. With ``--against`` the same bodies are measured in turn in another
tree (its folder, and the Python of its environment), whose row comes first; ``-v`` names the tasks
that took the longest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.hostile import CASES

LOOP_BOUND, MEMORY_BOUND = 0.1, 5.0
FLOOR = 4 * 2**20
"""Bytes that any body may cost, however short it is."""

HEAD = (
    "body", "MB", "answer", "s", "longest pause ms", "late ms", "loop ms", "CPU ms", "peak MB",
    "peak x", "kept MB", "holds",
)  # fmt: skip

Side = tuple[str, Path, str]


def measure(side: Side, name: str, times: int = 1) -> dict[str, Any]:
    _, tree, python = side
    script = str(Path(__file__).with_name("one_body.py"))
    env = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [python, script, name, str(times)], cwd=tree, env=env, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def row(label: str, seen: dict[str, Any]) -> str:
    length, peak = seen["length"], seen["peak"]
    good = seen["loop"] <= LOOP_BOUND and peak <= MEMORY_BOUND * length + FLOOR
    cells = [
        f"{label}{seen['name']}",
        f"{length / 1e6:.1f}",
        seen["answer"],
        f"{seen['seconds']:.2f}",
        *(f"{seen[key] * 1000:.0f}" for key in ("longest", "late", "loop", "cpu")),
        f"{peak / 1e6:.0f}",
        f"{peak / length:.1f}",
        f"{seen['kept'] / 1e6:.0f}",
        "yes" if good else "NO",
    ]
    return f"| {' | '.join(cells)} |"


def main(words: list[str]) -> None:
    sides: list[Side] = [("", Path.cwd(), sys.executable)]
    if "--against" in words:
        at = words.index("--against")
        _, tree, python = words[at : at + 3]
        del words[at : at + 3]
        sides = [("before: ", Path(tree), python), ("after: ", *sides[0][1:])]
    verbose = "-v" in words
    words = [word for word in words if word != "-v"]
    print(f"| {' | '.join(HEAD)} |\n{'|---' * len(HEAD)}|")
    chosen = [(name, 1) for name in CASES if all(word in name for word in words)]
    if not words or "once" in words:
        chosen.append(("legal chat: 19 MB of text", 30))
    for name, times in chosen:
        for side in sides:
            seen = measure(side, name, times)
            print(row(side[0], seen), flush=True)
            if verbose:
                print(
                    f"    collector {seen['collector'] * 1000:.1f} ms, longest "
                    f"{seen['collection'] * 1000:.1f} ms"
                )
                for task, seconds in seen["slow"]:
                    print(f"    longest {seconds * 1000:7.1f} ms {task}")
                for task, seconds in seen["busy"]:
                    print(f"    sum     {seconds * 1000:7.1f} ms {task}")


if __name__ == "__main__":
    main(sys.argv[1:])
