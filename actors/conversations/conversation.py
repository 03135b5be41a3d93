"""A conversation, as an embedding program (or a front) holds it.

Knows: how a turn is asked for, and what there is to see. Refuses to know: how a turn runs
(`actors.session.actor`), and which conversations there are (`actors.conversations.directory`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING
from uuid import uuid4

from attrs import evolve, frozen

from ...schemas.errors import InvalidRequest, NotFound
from ...schemas.message import Message, messages_of
from ...schemas.turn import Memory, Options, Profile, Reply, Tool, TurnRequest, Usage
from ..session.events import Interrupt, PermissionReply, StartTurn, Warm
from ..watching.broadcast import Broadcast
from ..watching.history import title_of
from .journal import Journal
from .models import name_of
from .workspaces import check_tools

if TYPE_CHECKING:
    from ..runtime.reply_channel import Turn
    from .directory import Entry
    from .turn_service import TurnService

DEFAULTS = Options()


@frozen
class ConversationInfo:
    """A conversation as it stands. Times are unix seconds; `phase` is the session's, `model` the
    name by which it can be asked for again, `workspace` empty where it is the conversation's own,
    `title` the first words of the first question, as far as that is kept.
    """

    conversation_id: str
    model: str
    profile: Profile
    workspace: str
    system: str
    phase: str
    created_at: float
    last_used_at: float
    turns: int
    messages: int
    usage: Usage
    metadata: Mapping[str, str]
    title: str | None


class Conversation:
    """One conversation: turns run in it one at a time, in the order they came."""

    def __init__(self, turns: TurnService, entry: Entry) -> None:
        self._turns = turns
        self.entry = entry

    def __repr__(self) -> str:
        return f"<Conversation {self.conversation_id} {self.entry.state.phase.value}>"

    @property
    def conversation_id(self) -> str:
        return self.entry.conversation_id

    @property
    def info(self) -> ConversationInfo:
        return info_of(self.entry)

    @property
    def profile(self) -> Profile:
        return self.entry.memory.setup.profile

    @property
    def place(self) -> str:
        """Where its agent works, relative to ``workspaces.root``; empty if it is no agent's."""
        return self.entry.workspace

    @property
    def broadcast(self) -> Broadcast:
        """What happens in it, and what was said."""
        return self.entry.state.broadcast

    @property
    def held(self) -> tuple[bytes, ...]:
        """The identities (`schemas.message.digest`) of the messages that it holds."""
        return self.entry.memory.digests

    async def position(self, turn_id: str) -> int | None:
        """Where a turn has ended: the number of its last record in the conversation's log. Of a
        turn that the conversation has not had, the last number of all. None: it is not stored, or
        the place is not known any more. Raises `Overloaded`."""
        journal = self.entry.state.journal
        if not isinstance(journal, Journal):
            return None
        if turn_id not in journal.ends and not self.entry.memory.turns:
            await journal.keep(self.entry.memory.setup)
            return None if journal.lease is None else journal.lease.head
        return journal.ends.get(turn_id)

    @property
    def is_free(self) -> bool:
        """Whether no turn runs in it or waits."""
        return not self.entry.callers

    def turn(
        self,
        prompt: str | Sequence[Message],
        *,
        model: str | None = None,
        system: str | None = None,
        tools: Sequence[Tool] | None = None,
        schema: str | None = None,
        options: Options = DEFAULTS,
        reject_if_busy: bool = False,
        history_limit: int | None = None,
        back_to: Memory | None = None,
        keep_stopped: bool = False,
    ) -> AbstractAsyncContextManager[Turn]:
        """One turn: ``async with conversation.turn("Hi") as turn: async for item in turn: ...``

        Leaving the block before the turn has ended, or being cancelled in it, interrupts it.
        A turn that fails raises its `GatewayError` where it is read, and leaves no trace in the
        conversation. A second turn awaited inside the block waits for the first: do not.

        `model`, `system` and `tools` change the conversation's from here on; `schema` (a JSON
        Schema as text, which the answer has to suit) and `options` are this turn's alone. A turn
        that ends with the finish reason ``tool_calls`` waits for a prompt with a `ToolResult` for
        each of them. Of a history that its child does not know, about `history_limit` messages
        are sent. With `back_to` (what the conversation remembered before its last turn,
        `TurnRecord.before`) that turn is taken back first: `Conflict` where others came after it.
        With `keep_stopped` an answer that is interrupted stays in the conversation as far as it
        came (the turn raises `TurnInterrupted` all the same).
        Raises `InvalidRequest` for a prompt that cannot be asked, `NotFound`,
        `Overloaded`.
        """
        choice = None if model is None else self._turns.models.resolve(model, self.entry.owner)
        return self.run(
            TurnRequest(
                messages=messages_of(prompt, begun=options.begun),
                model=None if choice is None else choice.model,
                profile=self.entry.memory.setup.profile if choice is None else choice.profile,
                system=system,
                tools=None if tools is None else tuple(tools),
                schema=schema,
                options=options,
                owner=self.entry.owner,
                conversation_id=self.conversation_id,
                reject_if_busy=reject_if_busy,
                history_limit=history_limit,
                back_to=back_to,
                keep_stopped=keep_stopped,
            )
        )

    def run(self, request: TurnRequest) -> AbstractAsyncContextManager[Turn]:
        """One turn, as a request that was accepted (`actors.answering`) asks for it here.

        Raises as `turn` does.
        """
        held = self.entry.memory.setup.profile
        check_tools(request.tools or (), held)
        if request.model is not None and request.profile == "agent" and held != "agent":
            raise InvalidRequest(
                "This conversation is with a plain model; an agent needs one of its own.",
                code="profile_mismatch",
                param="model",
            )
        messages = messages_of(request.messages, begun=request.options.begun)
        if messages is not request.messages:
            request = evolve(request, messages=messages)
        return self._turns.run(self.entry, StartTurn(str(uuid4()), request))

    async def warm(self) -> None:
        """Have a child ready ahead of the first turn. Waits for nothing but its actor."""
        await self._turns.tell(self.entry, Warm())

    async def add(self, messages: Sequence[Message]) -> None:
        """Let the conversation hold these messages too, without an answer.

        Raises `Conflict` while a turn runs in it, or tool calls wait for their results.
        """
        await self._turns.add(self.entry, tuple(messages))

    async def interrupt(self, turn_id: str) -> None:
        """End this turn; one that is over already stays as it is."""
        if self.entry.ref is not None:
            await self._turns.tell(self.entry, Interrupt(turn_id))

    async def reply(self, reply: PermissionReply) -> None:
        """Answer an agent's permission request.

        Raises `NotFound` (``permission_not_found``) where there is no such request (any more).
        """
        if reply.request_id not in self.broadcast.permissions:
            raise NotFound(
                "No such permission is asked for, or it was answered already.",
                code="permission_not_found",
                param="request_id",
            )
        await self._turns.tell(self.entry, reply)

    def claim(self) -> None:
        """Make it private: from now on no client comes to it by its history alone. Never waits."""
        self._turns.claim(self.entry)

    def abandon(self) -> None:
        """Forget the conversation if no turn has finished in it. Never waits."""
        self._turns.abandon(self.entry)

    async def ask(
        self,
        prompt: str | Sequence[Message],
        *,
        model: str | None = None,
        system: str | None = None,
        tools: Sequence[Tool] | None = None,
        schema: str | None = None,
        options: Options = DEFAULTS,
    ) -> Reply:
        """One turn, whole. Raises its `GatewayError`."""
        async with self.turn(
            prompt, model=model, system=system, tools=tools, schema=schema, options=options
        ) as turn:
            return await turn.reply()


def info_of(entry: Entry) -> ConversationInfo:
    memory = entry.state.memory
    return ConversationInfo(
        conversation_id=entry.conversation_id,
        model=name_of(memory.setup),
        profile=memory.setup.profile,
        workspace=memory.setup.workspace,
        system=memory.setup.system,
        phase=entry.state.phase.value,
        created_at=entry.created_at,
        last_used_at=entry.used_at,
        turns=memory.turns,
        messages=len(memory.digests),
        usage=memory.usage,
        metadata=entry.metadata,
        title=title_of(entry.state.broadcast.history),
    )
