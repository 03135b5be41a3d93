"""A scripted stand-in for the Claude Code CLI: same flags, same stream-json protocol, no account.

    python -m ccapi.transport.demo_cli [flags of the CLI] [--pace-ms N]

It serves `--demo` (`answers` says what it answers) and the tests, for which it misbehaves
on request (`switches` says how). Flags it does not know are ignored. Knows the process's
start: flags, environment, sessions to resume. Refuses to know the protocol. Standard library only
and synchronous, all of it: it has to start in tens of milliseconds.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import Final, NoReturn

from .frames import VERSION, Frames, new_uuid
from .history import History, is_session_id, transcript_path
from .protocol import Child
from .session import Flags, Session, read_flags
from .switches import VARIABLE, Switches, lay_over, read_variable
from .wire import Wire, die, fatal, hang, ignore_sigterm

_TERMINATED: Final = 128 + signal.SIGTERM


def main() -> NoReturn:
    """Run the program on `sys.argv`, the environment and the standard streams."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    flags = read_flags(sys.argv[1:])
    try:
        scripted = read_variable(os.environ.get(VARIABLE))
        switches = scripted or Switches()
        if flags.pace_ms:
            switches = lay_over(switches, {"pace_ms": float(flags.pace_ms)})
    except ValueError as error:
        fatal(f"demo CLI: {error}", 2)
    wire = Wire(switches)
    if flags.version:
        wire.write(f"{VERSION} (demo)\n".encode())
        sys.exit(0)
    if flags.skips_permissions and os.geteuid() == 0:
        fatal(
            "--dangerously-skip-permissions cannot be used with root/sudo privileges for security"
            " reasons"
        )
    _boot(wire)
    session_id, history = _open_history(flags, wire)
    child = Child(
        Session(flags, history),
        Frames(session_id),
        wire,
        scripted=scripted is not None,
        resumed=bool(flags.resume),
        parked=flags.await_claim,
    )
    sys.exit(child.run())


def _boot(wire: Wire) -> None:
    """What the switches ask for before the child listens."""
    switches = wire.switches
    if switches.ignore_sigterm:
        ignore_sigterm()
    time.sleep(switches.boot_ms / 1000)
    if "boot" in (switches.die_at, switches.hang_at):
        wire.complain()
        if switches.hang_at == "boot":
            hang()
        die(switches)


def _open_history(flags: Flags, wire: Wire) -> tuple[str, History]:
    """The session's id, and what it remembers: nothing, or what `--resume` restores."""
    new_id = flags.session_id or new_uuid()
    if flags.resume and flags.await_claim:
        fatal("Error: --await-claim cannot be used with --resume.")
    if not flags.resume:
        if os.path.exists(transcript_path(new_id)):  # noqa: PTH110
            fatal(f"Error: Session ID {new_id} is already in use.")
        return new_id, History(None if flags.no_session_persistence else transcript_path(new_id))
    if not is_session_id(flags.resume):
        _refuse(
            wire,
            "Error: --resume requires a valid session ID or session title when used with --print."
            f' Provided value "{flags.resume}" is not a UUID and does not match any session title.',
        )
    session_id = new_id if flags.fork_session else flags.resume
    path = None if flags.no_session_persistence else transcript_path(session_id)
    try:
        until = flags.resume_session_at or None
        history = History.load(transcript_path(flags.resume), path, until) or History.load(
            transcript_path(flags.resume, "projects"), path, until
        )
    except LookupError as error:
        _refuse(wire, f"No message found with message.uuid of: {error.args[0]}")
    if history is None:
        _refuse(wire, f"No conversation found with session ID: {flags.resume}")
    return session_id, history


def _refuse(wire: Wire, why: str) -> NoReturn:
    """A session that cannot be resumed: said on both streams, as the CLI does."""
    frames = Frames(new_uuid())
    wire.write(frames.result(subtype="error_during_execution", is_error=True, errors=[why]))
    fatal(why)


def _on_sigterm(_signal: int, _frame: FrameType | None) -> NoReturn:
    os._exit(_TERMINATED)


if __name__ == "__main__":
    main()
