"""``ccapi chat``: a person at a terminal in a conversation of a running gateway.

Knows: what a line, a Ctrl-C and an event of the conversation mean. Refuses to know: how anything
looks (`actors.commands.screen`), and how it gets here (`actors.commands.terminal_input`).
"""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import trio
from attrs import frozen

from ...transport.client.gateway_client import GatewayClient, Link, LinkLost
from ...transport.client.line_input import LineInput, standard_input
from .screen import HELP, Screen, plain
from .terminal_input import (
    Ended,
    GaveUp,
    Happening,
    Interrupt,
    Line,
    LinkDown,
    LinkUp,
    Senses,
    ServerEvent,
)

TURN = "turn"
"""What is said along with a turn that is asked for, and comes back with an answer to that."""

ENDED = {"deleted", "forgotten"}
"""Why a conversation was closed that cannot be joined again."""

MOVED = "moved"
"""Why one was closed that goes on at another gateway."""

YES, NO, ALWAYS = {"y", "yes"}, {"n", "no"}, {"a", "always"}


@frozen(kw_only=True)
class ChatOptions:
    url: str
    api_key: str | None = None
    model: str | None = None
    conversation: str | None = None
    system: str | None = None


class Leave(Exception):
    """The end, with this exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class NewConversation(Exception):
    """Another conversation is wanted."""


def run_chat(options: ChatOptions) -> int:
    """Talk until the person leaves; returns the exit code.

    Raises `Unreachable`, `Refused`, `UnusableKey` and ValueError (for an address that is none)
    where it cannot begin.
    """
    client = GatewayClient(options.url, options.api_key)
    lines = standard_input()
    is_interactive = lines.is_terminal and sys.stdout.isatty()
    has_colours = is_interactive and "NO_COLOR" not in os.environ
    screen = Screen(sys.stdout, sys.stderr, is_interactive=is_interactive, has_colours=has_colours)
    try:
        return trio.run(_chat, options, client, lines, screen)
    finally:
        lines.close()


async def _chat(
    options: ChatOptions, client: GatewayClient, lines: LineInput, screen: Screen
) -> int:
    conversation_id = options.conversation or await create_conversation(client, options)
    while True:
        chat = Chat(options, client, lines, screen, conversation_id)
        code = await chat.run()
        if code is not None:
            return code
        conversation_id = await create_conversation(client, options)


async def create_conversation(client: GatewayClient, options: ChatOptions) -> str:
    wanted = {"model": options.model, "system": options.system}
    made = await client.post(
        "/v1/conversations", {name: value for name, value in wanted.items() if value is not None}
    )
    return str(made["id"])


class Chat:
    """One conversation, until it is left or another one is wanted."""

    def __init__(
        self,
        options: ChatOptions,
        client: GatewayClient,
        lines: LineInput,
        screen: Screen,
        conversation_id: str,
    ) -> None:
        self._options = options
        self._lines = lines
        self._screen = screen
        self._senses = Senses(client, conversation_id, lines)
        self._link: Link | None = None
        self._unsent: str | None = None  # what was typed, and waits for a gateway that takes it
        self._sent: str | None = None  # what was sent and may have been lost
        self._stopping = False  # the gateway takes no more turns on this link
        self._told_lost: str | None = None  # the lost turn that was reported
        self._asked = False  # a turn of ours was asked for, and has not begun
        self._own: str | None = None  # its id, once that is known
        self._doubt: int | None = None  # the event before which it must have begun, or never will
        self._turn: str | None = None  # the turn that runs, whichever client asked for it
        self._interrupting = False
        self._ended = False  # standard input has ended
        self._failed = False
        self._permissions: OrderedDict[str, Mapping[str, Any]] = OrderedDict()

    async def run(self) -> int | None:
        """The exit code; None where another conversation is wanted."""
        result: int | None = None
        async with trio.open_nursery() as nursery:
            await nursery.start(self._senses.run)
            try:
                await self._decide()
            except Leave as leave:
                result = leave.code
            except NewConversation:
                pass
            nursery.cancel_scope.cancel()
        return result

    # -- what the gateway says ---------------------------------------------------------------------

    async def _decide(self) -> None:
        """Raises `Leave` and `NewConversation`."""
        async for happening in self._senses.happenings:
            with suppress(LinkLost):  # `LinkDown` is on its way
                await self._take(happening)

    async def _take(self, happening: Happening) -> None:
        match happening:
            case Line(None):
                self._screen.end_line()
                self._ended = True
                await self._go_on()
            case Line(str(text)):
                self._screen.end_prompt()
                await self._take_line(text)
            case Interrupt():
                await self._interrupt()
            case Ended(number):
                self._screen.end_line()
                raise Leave(128 + number)
            case LinkUp(link, joined):
                self._link, self._stopping = link, False
                await self._join(joined)
            case LinkDown():
                self._link = None
                self._screen.say("(the connection is lost; trying to get it back)")
            case ServerEvent(event):
                await self._handle_event(event)
            case GaveUp(error):
                self._screen.fail(str(error))
                raise Leave(1)

    async def _join(self, joined: Mapping[str, Any]) -> None:
        first = self._senses.seen is None
        resumed = bool(joined.get("resumed"))
        self._doubt = None
        if resumed:
            if self._asked and self._own is None:
                self._doubt = int(joined.get("last_event_id") or 0)
        else:
            self._senses.seen = int(joined.get("last_event_id") or 0)
            self._catch_up(joined, first=first)
        known = {request["request_id"] for request in joined.get("permissions") or ()}
        self._permissions = OrderedDict(
            (key, request) for key, request in self._permissions.items() if key in known
        )
        for request in joined.get("permissions") or ():
            self._note_permission(request)
        self._report_lost(joined.get("lost_turn"))
        if not first:
            self._screen.say("(connected again)")
        self._settle_doubt()
        await self._go_on()

    def _catch_up(self, joined: Mapping[str, Any], *, first: bool) -> None:
        """Take a snapshot in the place of what was seen."""
        was_running = self._turn is not None or self._asked
        items = list(joined.get("items") or ())
        turn = joined.get("turn")
        # A turn is in the items when it has ended; one of ours that had not begun has its question.
        answered = self._own is not None and _holds(items, self._own)
        if not first and self._asked and self._own is None:
            answered = any(_said_by_user(item) == self._sent for item in items[-2:])
        if not first:
            self._screen.say("(some of the conversation was missed)")
            ended = was_running and turn is None and joined.get("lost_turn") is None
            items = items[-1:] if ended else []
        self._screen.show_items(items)
        if self._asked and turn is None and not answered:
            self._asked = False
            self._lose_line()
        self._asked = False
        self._turn = None if turn is None else str(turn["turn_id"])
        self._interrupting = False
        if turn is not None:
            if first:
                self._screen.show_items(turn.get("items") or ())
            self._screen.show_items(turn.get("output") or ())

    async def _handle_event(self, event: Mapping[str, Any]) -> None:
        if isinstance(event.get("event_id"), int):
            self._senses.seen = event["event_id"]
        self._settle_doubt()
        match event.get("type"):
            case "turn.accepted":
                self._own = event["turn_id"]
                return
            case "turn.started":
                self._begin_turn(event)
            case "turn.finished" | "turn.failed":
                self._end_turn(event)
            case "permission.requested":
                self._note_permission(event)
            case "permission.resolved":
                self._permissions.pop(event["request_id"], None)
            case "error" if event["error"].get("code") == "draining" and event.get("ref") == TURN:
                self._keep_line()
                self._say_waits()
            case "error":
                self._screen.fail(str(event["error"]["message"]))
                self._failed = True
                if event.get("ref") == TURN:
                    self._asked = False
            case "conversation.closed" if event["reason"] not in ENDED:
                # It has left memory, and is there again when it is joined again.
                if event["reason"] == MOVED and self._asked and self._own is None:
                    self._keep_line()  # nothing that has no answer was done
                return
            case "conversation.closed":
                self._screen.show(event)
                raise Leave(1 if self._failed else 0)
            case _:
                self._screen.show(event)
                return
        await self._go_on()

    def _begin_turn(self, event: Mapping[str, Any]) -> None:
        self._turn = event["turn_id"]
        if self._asked and self._own in {None, self._turn}:
            self._asked = False
        else:
            self._screen.show_others(event["items"])

    def _end_turn(self, event: Mapping[str, Any]) -> None:
        self._screen.show(event)
        if event["type"] == "turn.failed":
            self._failed = True
        if event["turn_id"] == self._own:
            self._asked = False  # it may have ended without having begun
        if event["turn_id"] == self._turn:
            self._turn = None
        self._interrupting = False

    def _report_lost(self, turn_id: str | None) -> None:
        if turn_id and turn_id != self._told_lost:
            self._told_lost = turn_id
            self._screen.say(
                "(the gateway was restarted while it answered; "
                "ask again if you still want the answer)"
            )

    def _lose_line(self) -> None:
        self._screen.fail(
            f"the last line was lost with the connection; type it again: {plain(self._sent or '')}"
        )

    def _settle_doubt(self) -> None:
        """A line that was on its way when the connection broke may not have arrived."""
        seen = self._senses.seen or 0
        if self._doubt is not None and seen >= self._doubt:
            self._doubt = None
            if self._asked:
                self._asked = False
                self._lose_line()

    def _note_permission(self, request: Mapping[str, Any]) -> None:
        if request["request_id"] not in self._permissions:
            self._permissions[request["request_id"]] = request
            self._lines.forget_typed()
            self._screen.ask(request)
            self._screen.request_permission()

    async def _go_on(self) -> None:
        """Have a line read, if there is something to be said."""
        while self._permissions and self._ended:
            await self._reply(allow=False, message="There is no person at the terminal to ask.")
        if self._permissions:
            self._senses.want_line()
        elif self._turn is None and not self._asked and self._can_send:
            if self._unsent is not None:
                text, self._unsent = self._unsent, None
                await self._ask(text)
                return
            if self._ended:
                raise Leave(1 if self._failed else 0)
            if not (self._senses.is_line_wanted and self._screen.is_prompting):
                self._screen.prompt()
                self._senses.want_line()

    # -- what is typed ----------------------------------------------------------------------------

    async def _take_line(self, text: str) -> None:
        if self._permissions:
            await self._answer_permission(text.strip().lower())
        elif text.strip().startswith("/") and "\n" not in text:
            self._obey(text.strip())
        elif text.strip():
            if self._can_send:
                await self._ask(text)
            else:
                self._unsent = text
                self._say_waits()
        await self._go_on()

    @property
    def _can_send(self) -> bool:
        return self._link is not None and not self._stopping

    def _say_waits(self) -> None:
        self._screen.say("(the line waits, and is sent when the gateway is there again)")

    def _keep_line(self) -> None:
        """The gateway stops, and has not done what the line asks: the next one is asked."""
        self._asked, self._stopping = False, True
        if self._sent is not None:
            self._unsent, self._sent = self._sent, None

    async def _ask(self, text: str) -> None:
        """Ask for a turn. Raises `LinkLost`."""
        assert self._link is not None
        wanted = {"type": "turn.create", "ref": TURN, "input": text}
        if self._options.conversation and self._options.model:
            wanted["model"] = self._options.model
        self._asked, self._own, self._sent = True, None, text
        self._failed = False
        await self._link.send(wanted)

    def _obey(self, command: str) -> None:
        match command:
            case "/quit" | "/exit":
                raise Leave(0)
            case "/new":
                raise NewConversation
            case "/help":
                self._screen.say(HELP)
            case _:
                self._screen.say(f"There is no {plain(command.split()[0])}; /help says what is.")

    async def _answer_permission(self, word: str) -> None:
        if word not in YES | NO | ALWAYS:
            self._screen.request_permission()
            return
        await self._reply(allow=word not in NO, always=word in ALWAYS)
        if self._permissions:
            self._screen.ask(next(iter(self._permissions.values())))
            self._screen.request_permission()

    async def _reply(self, *, allow: bool, always: bool = False, message: str = "") -> None:
        request_id, _ = self._permissions.popitem(last=False)
        reply: dict[str, Any] = {
            "type": "permission.reply",
            "request_id": request_id,
            "behavior": "allow" if allow else "deny",
            "always": always,
        }
        if message:
            reply["message"] = message
        if self._link is not None:
            await self._link.send(reply)

    async def _interrupt(self) -> None:
        if self._interrupting or self._link is None:
            raise Leave(130)
        if self._turn is None and not self._asked:
            self._screen.end_line()
            raise Leave(0)
        self._interrupting = True
        await self._link.send({"type": "turn.interrupt"})


def _holds(items: list[Mapping[str, Any]], turn_id: str) -> bool:
    """Whether a turn is among the items: their ids are made of its own."""
    part = turn_id.replace("-", "")
    return any(part in str(item.get("id", "")) for item in items)


def _said_by_user(item: Mapping[str, Any]) -> str | None:
    if item.get("type") != "message" or item.get("role") != "user":
        return None
    return "".join(str(part.get("text", "")) for part in item["content"])
