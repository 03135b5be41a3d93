"""One node, as `ccapi serve --demo` is, for these tests: `python -m tests.accidents.node NOTES
[--unfenced] serve --demo …`.

Its children note in the file NOTES what they are asked. With ``--unfenced`` the node writes
whatever it has, as if no other could have taken its conversations: that is what the checker has to
find.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from ccapi.actors.commands.main import main
from ccapi.actors.nodes.membership import Membership
from ccapi.transport.process import cli
from ccapi.transport.sandbox.sandbox import PYTHON
from ccapi.transport.store.postgres import statements


def take_fences_away() -> None:
    fenced = statements.append

    def append(kind: str, **asked: Any) -> str:
        statement, count = re.subn(
            r"and token = (\$\d+::bigint) and head = (\$\d+)::int",
            r"and \1 is not null and \2::int is not null",
            fenced(kind, **asked),
        )
        assert count == 1, statement
        size = re.search(r"set head = head \+ (\$\d+::int)", statement)
        assert size is not None
        statement, count = re.subn(
            r"select u\.n, \$\d+::int \+ each\.number",
            f"select u.n, u.head - {size[1]} + each.number",
            statement,
        )
        assert count == 1, statement
        return statement

    async def go_on(self: Membership, *, is_silent: bool) -> None:
        """The lease is over, and this node does not care."""

    statements.append = append  # type: ignore[assignment]
    statements.BEAT = statements.BEAT.replace("and expires > clock_timestamp() ", "")
    Membership._begin_anew = go_on  # type: ignore[method-assign]
    Membership.holds = property(lambda self: True)  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    notes = sys.argv.pop(1)
    if sys.argv[1] == "--unfenced":
        del sys.argv[1]
        take_fences_away()
    child = str(Path(__file__).with_name("noting_child.py"))
    cli.DEMO_CLI = (PYTHON, "-I", child, notes)
    main()
