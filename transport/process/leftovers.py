"""What the CLI and agents leave on the disk, whose it is, and its removal.

Knows: where the CLI keeps things under a session's id, and the list of a gateway's sessions, by
which the next one finds what was left by a gateway that was killed. Refuses to know: when a session
is not needed any more (`actors.conversations.cleanup`).

Everything here blocks: it is for a thread. Nothing is removed but what has the name of a session
that a gateway began, or of a workspace that it made.

Source: measured on the real CLI; tests/fidelity/test_leftovers.py.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from attrs import asdict, frozen

from ..sandbox.files import remove_tree

_SESSION = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_WORKSPACE = re.compile(r"conv_[0-9a-f]{32}")
_ID_LENGTH = 36

TRANSCRIPTS = ("projects", "scripted")
"""Folders of transcripts in a configuration folder, by working directory: the CLI's, the demo's."""

DAY_SECONDS = 86_400.0


@frozen
class Trace:
    """A session of the CLI, and where it leaves things: its configuration folder, its temporary
    files, and the name of the folder for its working directory in both."""

    session_id: str
    config: str
    temporary: str
    folder: str


class SessionList:
    """The sessions that this process has begun, on the disk: what is left if it is killed. Its file
    is locked for as long as the process lives."""

    def __init__(self, place: Path) -> None:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = place / f"{uuid4()}.list"
        aside = self._path.with_suffix(".new")
        self._file = aside.open("xb", buffering=0)  # a line is one write: threads may share it
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            aside.rename(self._path)  # never seen without its lock
        except BaseException:
            self._file.close()
            raise

    def add(self, trace: Trace, conversation_id: str = "") -> None:
        """The session is this conversation's; empty: it is no conversation's yet."""
        line = asdict(trace) | {"conversation_id": conversation_id}
        self._file.write(json.dumps(line).encode() + b"\n")

    def add_spare(self, workspace: str) -> None:
        """A child waits in this new workspace for a conversation that will have its name."""
        self._file.write(json.dumps({"spare": workspace}).encode() + b"\n")

    def close(self, *, finished: bool) -> None:
        """`finished`: nothing of them is left."""
        if finished:
            self._path.unlink(missing_ok=True)
        self._file.close()


def remove_left(
    place: Path, root: Path, kept: Collection[str], adopt: Callable[[Trace, str], None]
) -> dict[Trace, str]:
    """Remove what sessions left whose gateways have ended, but for those of the conversations
    `kept`: `adopt` is called for each before the list of its gateway goes. Returns them. `root` is
    the folder of workspaces."""
    found: dict[Trace, str] = {}
    for path in sorted(place.glob("*.list")):
        with suppress(OSError), path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # else it lives
            owners, spares = _read(file)
            remove_unused(root, spares)
            stays = {trace: owner for trace, owner in owners.items() if owner in kept}
            remove_traces(owners.keys() - stays.keys())
            for trace, owner in stays.items():
                adopt(trace, owner)
            found |= stays
            path.unlink(missing_ok=True)
    return found


def _read(lines: Iterable[str]) -> tuple[dict[Trace, str], set[str]]:
    """The sessions of a list, and whose each of them is, as the last line about it has it; and the
    workspaces in which children waited."""
    owners: dict[Trace, str] = {}
    spares: set[str] = set()
    for line in lines:
        with suppress(ValueError, TypeError):  # the last line may be cut
            value = json.loads(line)
            if spare := value.pop("spare", ""):
                spares.add(spare)
                continue
            owner = value.pop("conversation_id", "")
            trace = Trace(**value)
            if _SESSION.fullmatch(trace.session_id) and "/" not in trace.folder:
                owners[trace] = owner or owners.get(trace, "")
    # A spare may have been given another directory: it is one session, and has one owner.
    by_id = {trace.session_id: owner for trace, owner in owners.items() if owner}
    return {t: owner or by_id.get(t.session_id, "") for t, owner in owners.items()}, spares


def remove_traces(traces: Iterable[Trace]) -> None:
    """Remove what these sessions have left. What cannot be removed stays."""
    by_config: dict[str, set[str]] = {}
    folders: set[Path] = set()
    for trace in traces:
        by_config.setdefault(trace.config, set()).add(trace.session_id)
        places = [Path(trace.config, kind, trace.folder) for kind in TRANSCRIPTS]
        for folder in (*places, Path(trace.temporary, trace.folder)):
            folders.add(folder)
            for name in (f"{trace.session_id}.jsonl", f"{trace.session_id}.part", trace.session_id):
                _remove(folder / name)
    for config, ids in by_config.items():
        for path in _named(Path(config), ids):
            _remove(path)
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()  # unless other sessions are in it


def _named(config: Path, ids: set[str]) -> Iterator[Path]:
    """What belongs to the sessions in the other folders of a configuration folder: tasks, earlier
    versions of files, environments, caches of pictures."""
    with suppress(OSError):
        for folder in config.iterdir():
            if folder.name in TRANSCRIPTS or folder.is_symlink() or not folder.is_dir():
                continue
            with suppress(OSError):
                yield from [each for each in folder.iterdir() if each.name[:_ID_LENGTH] in ids]


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)


def remove_workspaces(root: Path, keep_days: float, used: Iterable[str]) -> None:
    """Remove the workspaces in `root` that the gateway made for conversations which have ended so
    long ago. Those `used` stay, and so do all that clients have named."""
    spared, before = set(used), time.time() - keep_days * DAY_SECONDS
    with suppress(OSError):
        for path in list(root.iterdir()):
            if not _WORKSPACE.fullmatch(path.name) or path.name in spared or path.is_symlink():
                continue
            with suppress(OSError):
                if path.stat().st_mtime <= before:
                    remove_tree(path)


def remove_unused(root: Path, workspaces: Iterable[str]) -> None:
    """Remove those of these workspaces of the gateway's own in which nothing is."""
    for name in workspaces:
        if _WORKSPACE.fullmatch(name):
            with suppress(OSError):
                (root / name).rmdir()


def mark_used(workspace: Path) -> None:
    """Its days begin now."""
    with suppress(OSError):
        os.utime(workspace)
