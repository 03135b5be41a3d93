"""``ccapi login``: the CLI's own login, wherever the CLI lies, as the gateway's children see it.

Knows: the CLI's commands about its login, and what of the environment they need. Refuses to know:
what a login is: the CLI asks the person, and keeps the answer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import click

from ...schemas.settings.settings import Settings
from ...transport.process.agent_cli import agent_environment
from ...transport.process.cli import child_environment, find_program

LOGIN = ("auth", "login")
TOKEN = ("setup-token",)
STATUS = ("auth", "status", "--text")

FOR_A_PERSON = frozenset(
    (
        *("TERM", "COLORTERM", "NO_COLOR", "COLUMNS", "LINES"),
        *("BROWSER", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR"),
        *("DBUS_SESSION_BUS_ADDRESS", "SSH_CONNECTION", "SSH_TTY"),
    )
)
"""Variables beside a child's: a terminal, and the browser in which the person logs in."""

WINS = ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN")


def login_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """What the CLI sees: as a child whose login is a subscription (``CLAUDE_CODE_SIMPLE`` would
    hide that), and what a person needs."""
    for_person = {name: value for name, value in environ.items() if name in FOR_A_PERSON}
    return {**for_person, **agent_environment(child_environment(settings, environ))}


def run_login(
    settings: Settings, command: Sequence[str], environ: Mapping[str, str] | None = None
) -> NoReturn:
    """Become the CLI with `command`: the terminal, signals and the exit code are its own.

    Raises `CliUnusable` (``cli_not_found``, ``cli_not_started``).
    """
    environ = os.environ if environ is None else environ
    program = find_program(settings.claude.command, environ)
    env = login_environment(settings, environ)
    stronger = next((name for name in WINS if env.get(name)), None)
    if stronger is not None and tuple(command[:2]) == LOGIN:
        note = f"{stronger} is set: the gateway goes by that, whatever you log in with now."
        click.echo(note, err=True)
    if tuple(command) == TOKEN:
        note = (
            "Set CLAUDE_CODE_OAUTH_TOKEN to the token that this prints, in the gateway's "
            "environment or in claude.env, and start the gateway again."
        )
        click.echo(note, err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(program, [program, *command], env)  # noqa: S606 (the operator's own CLI)
