"""A raw child that serves one conversation after another, and what may happen in a conversation.

Knows how a child receives a conversation's setup and history, how it is emptied, and the accidents
after which it has to be as good as new. Refuses to know the gateway, as `raw_cli` does.
"""

from __future__ import annotations

import base64
import copy
import json
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio
from attrs import define, field, frozen

from tests.support.messages_answers import Reply, Text, ToolUse
from tests.support.messages_stub import Failure, Hang, MessagesStub, Thinking, call, say
from tests.support.pictures import png
from tests.support.raw_cli import (
    Frame,
    RawCli,
    answers,
    assistant_frame,
    is_result,
    is_text_delta,
    user_frame,
)
from tests.support.raw_tools import (
    TOOL_ENVIRONMENT,
    OnCall,
    answer,
    called,
    is_mcp,
    serve,
    texts,
    tool,
)

SERVERS = tuple(f"t{number}" for number in range(12))
FLAGS = ("--no-session-persistence", "--allowedTools", *(f"mcp__{name}" for name in SERVERS))
ENVIRONMENT = TOOL_ENVIRONMENT

SONNET, HAIKU, OPUS = "claude-sonnet-4-5", "claude-haiku-4-5", "claude-opus-4-8"
PROMPTS = {"gw": "You are the first.", "p1": "You are the second.", "p2": " \n$ARGUMENTS {{x}} "}
BUSY = ("commands_queued", "turn_running", "state_changed", "persist_failed")
"""Why a child refuses a cut that it does not refuse a moment later."""


def palette(model: str, prompts: dict[str, str] = PROMPTS) -> Frame:
    """The fields of an initialize that tells a child several system prompts, `gw` the present."""
    agents = {
        name: {"description": name, "prompt": prompt, "model": model}
        for name, prompt in prompts.items()
    }
    return {"agents": agents, "systemPromptSnapshot": False}


def whole(body: Frame, headers: dict[str, str]) -> tuple[Frame, dict[str, str]]:
    """All of a request but what names its process."""
    body = copy.deepcopy(body)
    body["metadata"] = None
    unlike = ("x-claude-code-session-id", "content-length", "host", "x-stainless-retry-count")
    return body, {name: value for name, value in headers.items() if name not in unlike}


def comparable(stub: MessagesStub) -> tuple[Frame, dict[str, str]]:
    """The last request at the API, without what names its process."""
    return whole(stub.requests[-1].body, stub.requests[-1].headers)


def categories(usage: Frame) -> list[str]:
    return [each["name"] for each in usage["categories"]]


@frozen
class Talk:
    """A conversation: its setup, so many pairs of messages told first, and then one question."""

    agent: str = "gw"
    model: str = SONNET
    tools: tuple[str, ...] = ()
    temperature: float | None = None
    told: int = 0
    text: str = "Well?"

    @property
    def environment(self) -> dict[str, str]:
        """What the settings set, whole: what an earlier conversation set is taken back."""
        body = {} if self.temperature is None else {"temperature": self.temperature}
        return {
            "CLAUDE_CODE_EXTRA_BODY": json.dumps(body) if body else "",
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "",
        }


@define(eq=False)
class RecycledChild:
    """A child, and what has been written to it since it was emptied."""

    cli: RawCli
    stub: MessagesStub
    asked: list[Frame] = field(factory=list)
    served: int = 0
    offered: tuple[str, ...] = ()
    names: deque[str] = field(factory=lambda: deque(SERVERS))
    stale: list[str] = field(factory=list)
    server: str | None = None

    # -- setup -------------------------------------------------------------------------------------

    async def begin(self, talk: Talk) -> None:
        """Write the setup, and tell the history."""
        settings = {
            "agent": talk.agent,
            "model": talk.model,
            "env": talk.environment,
            "effortLevel": None,
        }
        await self.cli.send(
            self.cli.control_frame("apply_flag_settings", settings=settings),
            self.cli.control_frame(
                "set_max_thinking_tokens", max_thinking_tokens=None, thinking_display=None
            ),
        )
        await self.offer(talk.tools)
        await self.tell(talk.told)

    async def offer(self, tools: tuple[str, ...]) -> None:
        """Change the tools, under a name that the model was asked without."""
        if tools == self.offered:
            return
        if self.server is not None:
            self.stale.append(self.server)
        self.server = self.names.popleft() if tools else None
        self.offered = tools
        servers = {self.server: {"type": "sdk", "name": self.server}} if self.server else {}
        await self.cli.send(self.cli.control_frame("mcp_set_servers", servers=servers))

    async def tell(self, pairs: int) -> None:
        for number in range(pairs):
            await self.write(f"told {number}", shouldQuery=False)
            await self.until(is_result)
            said = [{"type": "text", "text": f"said {number}"}]
            await self.cli.send(assistant_frame(said, id=f"msg_{number}"))

    # -- turns -------------------------------------------------------------------------------------

    async def write(self, content: Any, **fields: Any) -> Frame:
        frame = user_frame(content, **fields)
        self.asked.append(frame)
        await self.cli.send(frame)
        return frame

    async def until(
        self, wanted: Callable[[Frame], bool], on_call: OnCall = lambda _: None
    ) -> list[Frame]:
        return await serve(self.cli, wanted, [tool(name) for name in self.offered], on_call)

    async def deltas(self, count: int) -> None:
        for _ in range(count):
            await self.until(is_text_delta)

    async def ask(self, content: Any, on_call: OnCall = lambda _: None) -> Frame:
        """Ask, and return the result. The model was asked without the names that were given up."""
        count = len(self.stub.requests)
        await self.write(content)
        result = (await self.until(is_result, on_call))[-1]
        if len(self.stub.requests) > count:
            self.names += self.stale
            self.stale.clear()
        return result

    # -- the cut -----------------------------------------------------------------------------------

    async def cut(self, target: Frame, last: Frame) -> tuple[Frame, Frame]:
        """Cut from `target` to `last`. Returns the answer, and what the context holds after it."""
        for _ in range(20):
            cut = self.cli.control_frame(
                "rewind_conversation",
                target_message_uuid=target["uuid"],
                last_seen_user_message_uuid=last["uuid"],
                interrupt_if_running=True,
            )
            look = self.cli.control_frame("get_context_usage", detail="summary")
            await self.cli.send(cut, look)
            said = (await self.until(answers(cut)))[-1]["response"]["response"]
            seen = (await self.until(answers(look)))[-1]["response"]["response"]
            if said.get("reason") not in BUSY:
                break
            await trio.sleep(0.03)
        return said, seen

    async def empty(self) -> None:
        """Cut all of the conversation, and look that nothing of it is left."""
        if not self.asked:
            return
        said, seen = await self.cut(self.asked[0], self.asked[-1])
        assert said["rewound"] is True, said
        assert said["precedingAssistantUuid"] is None, said
        assert "Messages" not in categories(seen), seen
        self.asked.clear()
        self.served += 1

    async def request_of(self, talk: Talk) -> tuple[Frame, dict[str, str]]:
        """The whole request that a conversation's question causes."""
        await self.begin(talk)
        await self.ask(talk.text)
        return comparable(self.stub)


async def fresh_request(
    cli: RawCli, stub: MessagesStub, talk: Talk
) -> tuple[Frame, dict[str, str]]:
    """What a child that has served nothing sends for the conversation. It is adopted for that in
    the plainest way: with the prompt itself, and no settings that it does not need."""
    prompt = PROMPTS[talk.agent]
    fields: Frame = {
        "systemPrompt": [prompt],
        "agents": {"gw": {"description": "gw", "prompt": prompt, "model": talk.model}},
        "systemPromptSnapshot": False,
    }
    child = RecycledChild(cli, stub, offered=talk.tools)
    if talk.tools:
        fields["sdkMcpServers"] = ["t0"]
    await cli.send(cli.control_frame("initialize", **fields))
    if talk.temperature is not None:
        settings = {"env": talk.environment}
        await cli.send(cli.control_frame("apply_flag_settings", settings=settings))
    await child.tell(talk.told)
    await child.ask(talk.text)
    return comparable(stub)


# -- what may happen in a conversation -------------------------------------------------------------

Accident = Callable[[RecycledChild], Awaitable[None]]
SECRET = "the secret of the old conversation"
THREE = ("alpha", "beta", "gamma")


async def several_turns(child: RecycledChild) -> None:
    for number in range(3):
        await child.ask(f"{SECRET} {number}")


async def tools_answered(child: RecycledChild) -> None:
    await child.offer(THREE)
    child.stub.queue.append(call(*(ToolUse(name) for name in THREE)))
    await child.ask(SECRET, lambda frame: texts(f"{SECRET} {called(frame)}"))


async def tools_pending(child: RecycledChild) -> None:
    await child.offer(THREE)
    child.stub.queue.append(call(*(ToolUse(name) for name in THREE), text=SECRET))
    await child.write(SECRET)
    for _ in THREE:
        await child.until(lambda frame: is_mcp(frame, "tools/call"))


async def tools_partly_answered(child: RecycledChild) -> None:
    await child.offer(THREE)
    child.stub.queue.append(call(*(ToolUse(name) for name in THREE), text=SECRET))
    await child.write(SECRET)
    calls = [(await child.until(lambda frame: is_mcp(frame, "tools/call")))[-1] for _ in THREE]
    await child.cli.send(answer(calls[0], texts(SECRET)))


async def interrupted(child: RecycledChild) -> None:
    child.stub.queue.append(say(SECRET, chunks=4, hang_after=2))
    await child.write(SECRET)
    await child.deltas(2)
    await child.cli.send(child.cli.control_frame("interrupt"))
    await child.until(is_result)


async def in_mid_stream(child: RecycledChild) -> None:
    child.stub.queue.append(say(SECRET, chunks=4, hang_after=2))
    await child.write(SECRET)
    await child.deltas(2)


async def in_mid_stream_of_the_second(child: RecycledChild) -> None:
    await child.ask(SECRET)
    await in_mid_stream(child)


async def before_the_first_byte(child: RecycledChild) -> None:
    child.stub.queue.append(Hang())
    count = len(child.stub.requests)
    await child.write(SECRET)
    await child.stub.wait_requests(count + 1)


async def at_once(child: RecycledChild) -> None:
    """The cut is written right behind it."""
    await child.write(SECRET)


def failing(status: int) -> Accident:
    async def fail(child: RecycledChild) -> None:
        # Each time: after some, the CLI asks again at once.
        answer, child.stub.answer = child.stub.answer, lambda _: Failure(status, SECRET)
        result = await child.ask(SECRET)
        child.stub.answer = answer
        assert (result["is_error"], result["api_error_status"]) == (True, status)

    fail.__name__ = f"error_{status}"
    return fail


async def error_in_the_middle(child: RecycledChild) -> None:
    await child.ask(SECRET)
    child.stub.queue.append(Failure(500, SECRET))
    await child.ask(SECRET)
    await child.ask(SECRET)


async def stream_cut(child: RecycledChild) -> None:
    child.stub.queue.append(say(SECRET, chunks=4, cut_after=2))
    await child.ask(SECRET)


async def out_of_tokens(child: RecycledChild) -> None:
    """The CLI has the model go on by itself."""
    child.stub.queue.append(say(SECRET, stop_reason="max_tokens"))
    await child.ask(SECRET)


async def a_command(child: RecycledChild) -> None:
    await child.ask("/help")


async def history_only(child: RecycledChild) -> None:
    await child.tell(2)


async def history_and_a_turn(child: RecycledChild) -> None:
    await child.tell(2)
    await child.ask(SECRET)


async def history_ending_in_results(child: RecycledChild) -> None:
    await child.write(SECRET, shouldQuery=False)
    await child.until(is_result)
    use = {"type": "tool_use", "id": "call_1", "name": "alpha", "input": {"secret": SECRET}}
    await child.cli.send(assistant_frame([use], id="msg_u"))
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": SECRET}
    await child.write([result, {"type": "text", "text": ""}], shouldQuery=False)
    await child.until(is_result)


async def thinking(child: RecycledChild) -> None:
    show = child.cli.control_frame(
        "set_max_thinking_tokens", max_thinking_tokens=None, thinking_display="summarized"
    )
    await child.cli.send(show)
    child.stub.queue.append(Reply((Thinking(SECRET), Text(SECRET))))
    await child.ask(SECRET)
    await child.ask(SECRET)


async def sampling(child: RecycledChild) -> None:
    body = json.dumps({"temperature": 0.5, "stop_sequences": [SECRET], "top_k": 3})
    env = {"CLAUDE_CODE_EXTRA_BODY": body, "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "77"}
    settings = {"env": env, "effortLevel": "low"}
    await child.cli.send(child.cli.control_frame("apply_flag_settings", settings=settings))
    await child.ask(SECRET)


async def messages_in_the_body(child: RecycledChild) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": SECRET}]}]
    env = {"CLAUDE_CODE_EXTRA_BODY": json.dumps({"messages": messages})}
    await child.cli.send(child.cli.control_frame("apply_flag_settings", settings={"env": env}))
    await child.ask(SECRET)


async def long_text(child: RecycledChild) -> None:
    """Too long: the CLI refuses it without the API."""
    await child.ask(SECRET * (3_000_000 // len(SECRET)))


async def rather_long_text(child: RecycledChild) -> None:
    await child.ask(SECRET * (200_000 // len(SECRET)))


async def an_image(child: RecycledChild) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(png()).decode()}
    await child.ask([{"type": "image", "source": source}, {"type": "text", "text": SECRET}])


ACCIDENTS: Sequence[Accident] = (
    several_turns,
    tools_answered,
    tools_pending,
    tools_partly_answered,
    interrupted,
    in_mid_stream,
    in_mid_stream_of_the_second,
    before_the_first_byte,
    at_once,
    *map(failing, (401, 403, 404, 408, 409, 413, 429, 500, 529)),
    error_in_the_middle,
    stream_cut,
    out_of_tokens,
    a_command,
    history_only,
    history_and_a_turn,
    history_ending_in_results,
    thinking,
    sampling,
    messages_in_the_body,
    rather_long_text,
    an_image,
)
"""Not among them: a 400 and a 422, which the child remembers."""

RARE: Sequence[Accident] = (long_text,)
"""What takes longer than the others."""
