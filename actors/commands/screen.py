"""What a person at a terminal sees of a conversation.

Knows: how each event of a conversation looks as text. Refuses to know: sockets, and what is done
about any of them (`actors.commands.chat`).

What a model says, or a tool, may hold control characters; none reaches the terminal but the end of
a line and the tab.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
WIDTH = 100
"""Characters that a line about a tool may have."""

DIM, BOLD, RED, RESET = "\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[0m"

HELP = """\
Whatever you type is the next turn. Beside that there are:
  /new     begin another conversation
  /help    this
  /quit    leave (Ctrl-D and, at the prompt, Ctrl-C do too)
Ctrl-C interrupts a turn that runs."""


def plain(text: object) -> str:
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text).replace("\r\n", "\n"))


def one_line(text: object, width: int = WIDTH) -> str:
    line = " ".join(plain(text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


class Screen:
    """Writes to `out`, which is a terminal with colours or not. `is_interactive`: a person types
    at the other end; else what went wrong goes to `errors`, and `out` has answers alone."""

    def __init__(
        self, out: TextIO, errors: TextIO, *, is_interactive: bool, has_colours: bool
    ) -> None:
        self._out = out
        self._errors = errors
        self._is_interactive = is_interactive
        self._has_colours = has_colours
        self.is_prompting = False  # and nothing was written since
        self._at_start = True  # of a line
        self._kind = ""  # of what was written last
        self._arguments: dict[str, str] = {}  # of tools, by call

    # -- for the conversation ----------------------------------------------------------------------

    def prompt(self) -> None:
        if self._is_interactive:
            self._start_line()
            self._write(f"{self._style(BOLD)}>{self._style(RESET)} ")
        self._at_start = not self._is_interactive
        self.is_prompting = True

    def end_prompt(self) -> None:
        """A line was typed, its end included."""
        self._at_start = True
        self.is_prompting = False

    def end_line(self) -> None:
        self._start_line()

    def say(self, text: str) -> None:
        """Something that is not of the conversation."""
        if self._is_interactive:
            self._line(text)

    def fail(self, text: str) -> None:
        if self._is_interactive:
            self._line(f"error: {plain(text)}", RED)
        else:
            self._start_line()
            self._errors.write(f"Error: {plain(text)}\n")
            self._errors.flush()

    def show(self, event: Mapping[str, Any]) -> None:
        """One event of the conversation, as far as there is something to see."""
        match event.get("type"):
            case "text.delta" | "refusal":
                self._flow("text", event["text"])
            case "reasoning.delta":
                self._flow("reasoning", event["text"], DIM)
            case "tool_call.started":
                self._line(f"* wants {plain(event['name'])}, which no client here can do", DIM)
            case "activity.started":
                self._arguments[event["call_id"]] = ""
                self._line(f"* {one_line(event['name'])} …", DIM)
            case "activity.delta":
                self._gather(event["call_id"], event["arguments"])
            case "activity.ended":
                self._end_activity(event)
            case "search.started":
                self._line(f"* web_search {one_line(event['arguments'], WIDTH // 2)}", DIM)
            case "search.ended":
                found = event.get("error") or f"{len(event['sources'])} pages"
                self._line(f"  -> {one_line(found, WIDTH // 2)}", DIM)
            case "turn.finished":
                self._end_turn(event)
            case "turn.failed":
                self._end_failed(event["error"])
            case "turn.removed":
                self._line("(the last answer was taken back)", DIM)
            case "conversation.closed":
                self._line(f"(the conversation has ended: {plain(event['reason'])})", DIM)

    def show_items(self, items: Iterable[Mapping[str, Any]]) -> None:
        """What was said before."""
        for item in items:
            match item.get("type"):
                case "message":
                    said = "".join(map(_text_of, item["content"]))
                    if item["role"] == "user":
                        self._line(f"> {plain(said)}", DIM)
                    elif item["role"] == "assistant":
                        self._flow("item", said)
                        self._start_line()
                case "function_call" | "mcp_call":
                    self._line(f"* {one_line(item['name'])}", DIM)

    def show_others(self, items: Iterable[Mapping[str, Any]]) -> None:
        """What another client that has joined asks."""
        for item in items:
            if item.get("type") == "message":
                said = "".join(map(_text_of, item["content"]))
                self._line(f"(another client) > {plain(said)}", DIM)

    def ask(self, request: Mapping[str, Any]) -> None:
        """An agent requests a permission."""
        title = request.get("title") or f"The agent wants to use {request['tool']}"
        self._line(one_line(title), BOLD)
        shown = json.dumps(request.get("input", {}), ensure_ascii=False, indent=2)
        for line in plain(shown).splitlines():
            self._line(f"  {line}")
        if request.get("description"):
            self._line(f"  {one_line(request['description'])}")

    def request_permission(self) -> None:
        self._start_line()
        self._write("Allow it? y: yes, n: no, a: always in this conversation: ")
        self._at_start = False

    # -- below -------------------------------------------------------------------------------------

    def _gather(self, call_id: str, fragment: str) -> None:
        gathered = self._arguments.get(call_id, "")
        if len(gathered) < 10 * WIDTH:
            self._arguments[call_id] = gathered + fragment

    def _end_activity(self, event: Mapping[str, Any]) -> None:
        arguments = one_line(self._arguments.pop(event["call_id"], ""), WIDTH // 2)
        output = one_line(event.get("output") or "done", WIDTH // 2)
        failed = "failed: " if event.get("is_error") else ""
        self._line(f"  {arguments} -> {failed}{output}", DIM)

    def _end_turn(self, event: Mapping[str, Any]) -> None:
        self._start_line()
        self._arguments.clear()
        if event["finish_reason"] == "length":
            self._line("(the answer is cut off: it reached its longest)", DIM)
        elif event["finish_reason"] == "content_filter":
            self._line("(the model declined)", DIM)

    def _end_failed(self, error: Mapping[str, Any]) -> None:
        self._arguments.clear()
        if error.get("code") == "turn_interrupted":
            self._line("(interrupted)", DIM)
        else:
            self.fail(str(error["message"]))

    def _flow(self, kind: str, text: str, style: str = "") -> None:
        if self._kind != kind:
            self._start_line()
            self._kind = kind
            text = text.lstrip("\n")  # what parts it from what is not of its kind
        text = plain(text)
        if text:
            self._write(f"{self._style(style)}{text}{self._style(RESET if style else '')}")
            self._at_start = text.endswith("\n")

    def _line(self, text: str, style: str = "") -> None:
        self._start_line()
        self._kind = "line"
        self._write(f"{self._style(style)}{text}{self._style(RESET if style else '')}\n")

    def _start_line(self) -> None:
        if not self._at_start:
            self._write("\n")
        self._at_start = True
        self.is_prompting = False

    def _style(self, code: str) -> str:
        return code if self._has_colours else ""

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _text_of(part: Mapping[str, Any]) -> str:
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            return str(part["text"])
        case "refusal":
            return str(part["refusal"])
        case "input_image":
            return "[an image]"
        case "input_file":
            return "[a file]"
    return ""
