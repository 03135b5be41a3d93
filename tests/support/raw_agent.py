"""An agent on a leash: Claude Code with tools and a prompt of its own, asked as the gateway asks.

Knows the flags and variables that make an agent of the CLI, and the frames in which it asks for
permission. Refuses to know the gateway, for the reason that `raw_cli` gives.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from tests.support.messages_stub import ToolUse
from tests.support.raw_cli import PATIENCE, Frame, RawCli, cli_environment, is_result, open_raw_cli

TERM_SECONDS = 0.3
"""What an agent needs, and more, to end the commands that it runs."""

TOOLS = (
    "Agent,Bash,Edit,Glob,Grep,NotebookEdit,Read,TaskCreate,TaskGet,TaskList,TaskUpdate,WebFetch,"
    "WebSearch,Write"
)
ALL_TOOLS = "default"

AGENT_FLAGS = (
    *("-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose"),
    *("--include-partial-messages", "--strict-mcp-config", "--disable-slash-commands"),
    *("--permission-prompt-tool", "stdio", "--allowedTools", "mcp__client"),
)

AGENT_ENVIRONMENT = {
    "CLAUDE_AGENT_SDK_MCP_NO_PREFIX": "1",
    "CLAUDE_CODE_DISABLE_ATTACHMENTS": "1",
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
    "CLAUDE_CODE_MAX_RETRIES": "0",
    "CLAUDE_CODE_EAGER_FLUSH": "1",
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
    "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
    "ENABLE_TOOL_SEARCH": "false",
}


@asynccontextmanager
async def open_raw_agent(
    home: Path,
    url: str,
    *flags: str,
    cwd: Path | None = None,
    model: str | None = "claude-sonnet-4-5",
    tools: str = TOOLS,
    mode: str = "default",
    sources: str = "",
    environment: Mapping[str, str] = {},
    initialize: Mapping[str, Any] | None = {},
) -> AsyncIterator[RawCli]:
    """An agent that works in `cwd` (``workspace`` below `home`, unless given), and is initialized
    with these fields, or not at all (None). A variable that is given as "" is not set."""
    cwd = cwd or workspace(home)
    given = cli_environment(home, url) | AGENT_ENVIRONMENT | dict(environment)
    whole = {name: value for name, value in given.items() if value}
    flags = (*AGENT_FLAGS, *("--tools", tools), *("--setting-sources", sources), *flags)
    if mode:
        flags += ("--permission-mode", mode)
    if model is not None:
        flags += ("--model", model)
    async with open_raw_cli(whole, cwd, flags) as cli:
        if initialize is not None:
            fields = {"title": "t", "systemPromptSnapshot": False, **initialize}
            await cli.send(cli.control_frame("initialize", **fields))
        try:
            yield cli
        finally:
            # A bare kill would leave what it runs, which is in groups of its own.
            with contextlib.suppress(ProcessLookupError):
                cli.signal(signal.SIGTERM)
            with trio.move_on_after(TERM_SECONDS, shield=True):
                await cli.wait()


def workspace(home: Path) -> Path:
    """Where an agent works unless the test says otherwise."""
    place = home / "workspace"
    place.mkdir(exist_ok=True)
    return place


# -- what it does ----------------------------------------------------------------------------------


def bash(command: str, **given: Any) -> ToolUse:
    return ToolUse("Bash", {"command": command, **given})


def write(path: Path | str, content: str = "x") -> ToolUse:
    return ToolUse("Write", {"file_path": str(path), "content": content})


def read(path: Path | str) -> ToolUse:
    return ToolUse("Read", {"file_path": str(path)})


def results_of(frames: Sequence[Frame]) -> list[Frame]:
    """The results of tools that the frames tell, in order, those of subagents left out."""
    return [
        block
        for frame in frames
        if frame["type"] == "user" and frame["parent_tool_use_id"] is None
        for block in frame["message"]["content"]
        if block["type"] == "tool_result"
    ]


# -- permission ------------------------------------------------------------------------------------


def asks_permission(frame: Frame) -> bool:
    """Whether the frame asks whether a tool may be used."""
    if frame["type"] != "control_request":
        return False
    return bool(frame["request"]["subtype"] == "can_use_tool")


def allow(asked: Frame, **fields: Any) -> Frame:
    """Yes, with the input as it was asked for, unless the fields change it."""
    body = {"behavior": "allow", "updatedInput": asked["request"]["input"], **fields}
    return answer(asked, body)


def deny(asked: Frame, message: str, **fields: Any) -> Frame:
    return answer(asked, {"behavior": "deny", "message": message, **fields})


def answer(asked: Frame, body: Frame) -> Frame:
    response = {"subtype": "success", "request_id": asked["request_id"], "response": body}
    return {"type": "control_response", "response": response}


async def until_asked(cli: RawCli) -> Frame:
    """The next request for permission."""
    return (await cli.until(asks_permission, "a request for permission"))[-1]


async def run_out(cli: RawCli) -> list[Frame]:
    """The frames up to the result; whatever is asked for is allowed."""
    seen: list[Frame] = []
    while not seen or not is_result(seen[-1]):
        seen += await cli.until(
            lambda frame: is_result(frame) or asks_permission(frame), "the result"
        )
        if asks_permission(seen[-1]):
            await cli.send(allow(seen[-1]))
    return seen


# -- processes -------------------------------------------------------------------------------------


def groups_running(*command: str) -> set[int]:
    """The process groups in which exactly this command runs, on all of the machine."""
    wanted = "".join(f"{word}\0" for word in command).encode()
    found = set()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if (place / "cmdline").read_bytes() == wanted:
                found.add(int((place / "stat").read_text().rpartition(")")[2].split()[2]))
        except OSError:
            continue
    return found


async def wait_until(condition: Callable[[], object]) -> None:
    """Wait for what has no event."""
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.01)
