"""A tool that has to be called, where the model cannot be made to: it is asked in words.

Knows: which turns need words, what they are, and when they were obeyed. Refuses to know: what is
sent to the models that can be forced (`schemas.claude.sampling`), where the words stand and how
long they stay (`actors.session.replay`, `actors.session.machine`).
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from ..message import ToolCall
from ..turn import Options, Setup
from ..turn_items import ToolCallStarted, TurnItem
from .model_traits import traits_of
from .tool_names import wire_name

MAX_HELD = 32 * 1024
"""Characters of an answer that are kept back until a call begins. Of a longer one the client is
given the rest as it comes, and the model is not asked again."""


@frozen
class ToolWish:
    """A call that the client wants: of the tool `name`, None: of any."""

    name: str | None

    def words(self, *, again: bool) -> str:
        """What the model reads, behind all else; `again`: since it did not follow.

        That first answer has been taken back, so these words cannot speak of it.
        """
        if self.name is None:
            what, order = "a tool call", "call at least one of the tools"
        else:
            tool = f"the tool `{wire_name(self.name)}`"
            what, order = f"a call of {tool}", f"call {tool}"
        reason = " An answer in text cannot be used, however good it is." if again else ""
        return (
            f"[From the application that asks, not from the user: this answer has to be {what}."
            f"{reason} You must {order} now, and must not answer in text.]"
        )

    def is_met(self, calls: Iterable[ToolCall]) -> bool:
        return any(self.name in (None, call.name) for call in calls)

    def begins(self, item: TurnItem) -> bool:
        """Whether the call that is wanted begins with `item`."""
        return isinstance(item, ToolCallStarted) and self.name in (None, item.name)


def wish_of(options: Options, setup: Setup) -> ToolWish | None:
    """What the prompt has to say in words for such a turn.

    Nothing to an agent: what it was asked could not be taken back, since it may have acted on it.
    """
    choice = options.tool_choice
    if setup.profile == "agent" or traits_of(setup.model).can_skip_thinking:
        return None
    if choice.mode == "required" and setup.tools:
        return ToolWish(None)
    if choice.mode == "named" and choice.name in {tool.name for tool in setup.tools}:
        return ToolWish(choice.name)
    return None
