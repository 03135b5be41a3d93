"""Which folder of workspaces it is: gateways that see the same one, on one machine or over a shared
file system, find the same id in it.

Knows: one file in that folder. Refuses to know: what the id is for.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

ID_FILE = ".ccapi-id"
ID_BYTES = 36


def home_of(root: Path) -> str:
    """The id of the folder of workspaces, which is given one if it has none. Raises `OSError`."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = root / ID_FILE
    while True:
        with suppress(FileNotFoundError):
            found = file.read_text("ascii", "replace").strip()
            if len(found) == ID_BYTES:
                return found
            raise OSError(f"{file} holds no id: remove it where no gateway uses that folder")
        # Whole or not at all: another gateway may look for it at the same moment.
        made = root / f"{ID_FILE}-{uuid4()}"
        made.touch(mode=0o600)
        made.write_text(str(uuid4()), "ascii")
        with suppress(FileExistsError):
            os.link(made, file)
        made.unlink()
