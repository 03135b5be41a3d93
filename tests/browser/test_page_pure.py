"""What the page works out without a browser: `pure.test.mjs`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "transport" / "page"


def test_the_pages_own_checks(tmp_path: Path) -> None:
    shutil.copytree(PAGE, tmp_path / "page")
    # The package.json makes modules of the page's files, which browsers take for such anyway.
    for name in ("pure.test.mjs", "package.json"):
        shutil.copy(HERE / name, tmp_path)
    done = subprocess.run(
        ["node", "--test", "pure.test.mjs"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "# fail 0" in done.stdout
