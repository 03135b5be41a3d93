"""Which folder of workspaces it is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ccapi.transport.process.workspaces_home import ID_FILE, home_of


def test_gateways_that_see_one_folder_find_one_id(tmp_path: Path) -> None:
    root = tmp_path / "a" / "workspaces"
    with ThreadPoolExecutor(8) as pool:
        found = {*pool.map(home_of, [root] * 32)}
    assert len(found) == 1
    assert [each.name for each in root.iterdir()] == [ID_FILE]
    assert home_of(tmp_path / "b") not in found


def test_a_file_that_holds_no_id_is_said(tmp_path: Path) -> None:
    (tmp_path / ID_FILE).write_text("half an i")
    with pytest.raises(OSError, match="holds no id: remove it"):
        home_of(tmp_path)
