"""An agent's searches of the web, where its client has asked for them.

Knows: which of them the client has permitted by its request, and within which domains. Refuses to
know: the operator's rules (what they deny, the CLI never asks for; what they allow, it does not ask
for either), and how the API itself searches for plain models (`schemas.claude.sampling`).
"""

from __future__ import annotations

from ...schemas.claude import input as cli_input
from ...schemas.claude.lines import Line
from ...schemas.claude.output import PermissionAsked
from ...schemas.claude.tool_names import WEB_SEARCH
from .turn import TurnState

USED_UP = "No more searches are allowed in this answer. Answer with what was found."


def search_answer(asked: PermissionAsked, turn: TurnState) -> Line | None:
    """The answer to a request for permission that the turn's client has given already, or limited,
    when it asked for searches. None: it is about something else."""
    wish = turn.request.options.search
    if wish is None or asked.tool != WEB_SEARCH:
        return None
    # The search that is asked about has begun, so it is counted.
    if wish.max_uses is not None and turn.answer.searches > wish.max_uses:
        return cli_input.deny(asked.request_id, USED_UP)
    given = dict(asked.input)
    if wish.allowed:  # the API takes one of the two lists
        given.pop("blocked_domains", None)
        given["allowed_domains"] = [*wish.allowed]
    elif wish.blocked:
        given.pop("allowed_domains", None)
        given["blocked_domains"] = [*wish.blocked]
    return cli_input.allow(asked.request_id, given)
