"""``ccapi completion``: what a shell evaluates so that it completes commands and options.

Knows: the shells that click can complete for. Refuses to know: the commands.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


def completion_script(command: click.Command, shell: str) -> str:
    """The script for one of `SHELLS`; it asks ``ccapi`` itself what there is."""
    complete = get_completion_class(shell)
    assert complete is not None
    return complete(command, {}, "ccapi", "_CCAPI_COMPLETE").source()
