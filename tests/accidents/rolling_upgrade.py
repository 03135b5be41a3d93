"""Gateways are replaced one by one while clients work: what the clients do, and what failed for
them.

Knows: clients of each kind, which work until the end, and how an operator replaces a
gateway. Refuses to know: how long that goes on, and on what machine.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import openai
import trio
from openai.types.chat import ChatCompletionToolUnionParam
from trio_websocket import ConnectionClosed, HandshakeError

from ..support.balanced import Balanced, Gateway, open_balanced, wait_until
from ..support.joined import get, new_conversation, open_joined
from ..support.terminals import CTRL_D, Terminal, open_terminal

TOOL: ChatCompletionToolUnionParam = {"type": "function", "function": {"name": "look"}}

DEMO = ("-m", "ccapi.actors.commands.main", "serve", "--demo")


class Work:
    """What the clients did, and what failed: each request with the SDK's own retries."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self.stopping = False
        self.slowest = 0.0

    def repeat(self, name: str, step: Callable[[openai.OpenAI], None]) -> None:
        """Do it until the end; a step that fails begins anew."""
        with openai.OpenAI(base_url=f"{self.url}/v1", api_key="-", timeout=60) as sdk:
            while not self.stopping:
                begun = time.monotonic()
                try:
                    step(sdk)
                    self.done[name] += 1
                except (openai.OpenAIError, httpx2.HTTPError, AssertionError) as error:
                    at = time.strftime("%H:%M:%S", time.gmtime())
                    self.failures.append(f"{at} {name}: {error!r}")
                self.slowest = max(self.slowest, time.monotonic() - begun)

    def talk_by_id(self, sdk: openai.OpenAI, name: str | None = None) -> None:
        """Five turns, each of which knows those before it."""
        asked: dict[str, Any] = {} if name is None else {"conversation_id": name}
        for number in range(1, 6):
            answer = sdk.chat.completions.create(
                model="sonnet",
                # The first is in the cache, and no other client goes on with it by its history.
                messages=[{"role": "user", "content": "by id: how many turns?"}],
                extra_body=asked,
            )
            asked = {"conversation_id": answer.model_extra["conversation_id"]}  # type: ignore[index]
            content = answer.choices[0].message.content or ""
            assert name is not None or f"turn **{number}**" in content, (number, content)

    def talk_by_history(self, sdk: openai.OpenAI) -> None:
        """The same with a stream, the client keeping what was said."""
        said: list[Any] = []
        for number in range(1, 6):
            said.append({"role": "user", "content": "by history: how many turns?"})
            with sdk.chat.completions.create(model="sonnet", messages=said, stream=True) as stream:
                content = "".join(each.choices[0].delta.content or "" for each in stream)
            assert f"turn **{number}**" in content, (number, content)
            said.append({"role": "assistant", "content": content})

    def use_tools(self, sdk: openai.OpenAI) -> None:
        """Tools that are called in one request, and answered in the next."""
        said: list[Any] = []
        for number in range(3):
            said.append({"role": "user", "content": f'use look {{"number": {number}}}'})
            called = sdk.chat.completions.create(model="sonnet", messages=said, tools=[TOOL])
            message = called.choices[0].message
            assert message.tool_calls, message
            said.append(message.to_dict())
            time.sleep(0.1)
            for each in message.tool_calls:
                result = f"seen-{number}"
                said.append({"role": "tool", "tool_call_id": each.id, "content": result})
            answer = sdk.chat.completions.create(model="sonnet", messages=said, tools=[TOOL])
            content = answer.choices[0].message.content or ""
            assert f"seen-{number}" in content, content
            said.append({"role": "assistant", "content": content})

    def respond(self, sdk: openai.OpenAI) -> None:
        """A chain of responses."""
        before: Any = openai.omit
        for number in range(1, 6):
            made = sdk.responses.create(
                model="sonnet", input="respond: how many turns?", previous_response_id=before
            )
            assert f"turn **{number}**" in made.output_text, (number, made)
            before = made.id

    def work_in_background(self, sdk: openai.OpenAI) -> None:
        """A response that takes a second, asked for again and again until it has ended."""
        made = sdk.responses.create(model="sonnet", input="count to 60", background=True)
        while made.status in ("queued", "in_progress"):
            time.sleep(0.1)
            made = sdk.responses.retrieve(made.id)
        assert made.status == "completed", made
        assert made.output_text.endswith("60."), made.output_text

    async def watch(self, conversation: str, seen: list[str]) -> None:
        """A client that has joined: it comes again where it was cut off, and misses no turn."""
        after: int | None = None
        while not self.stopping:
            try:
                async with open_joined(self.url, conversation, after) as joined:
                    self.done["joined"] += 1
                    if after is not None and not joined.hello["resumed"]:
                        after = joined.hello["last_event_id"]
                    while not self.stopping:
                        with trio.move_on_after(0.5):
                            event = await joined.next()
                            after = event.get("event_id", after)
                            if event["type"] == "turn.finished":
                                seen.append(event["turn_id"])
            except* (ConnectionClosed, HandshakeError, OSError, trio.ClosedResourceError):
                pass
            except* trio.TooSlowError:  # trio-websocket sees no end within a handshake
                pass
            await trio.sleep(0.1)

    async def type(self, terminal: Terminal) -> None:
        """A person at `ccapi chat`: each line is answered, and none has to be typed again."""
        turn = 0
        while not self.stopping:
            turn += 1
            await terminal.type("how many turns?\n")
            # A connection may be lost before any word of it, and the rest comes behind that.
            await terminal.until(f"**{turn}**.")
            await terminal.until("> ")
            self.done["typed"] += 1


def replace(balanced: Balanced, gateway: Gateway) -> None:
    """As an operator does: the next is replaced when this one is there again."""
    before = balanced.count_up(gateway)
    gateway.send(signal.SIGTERM)
    code = gateway.wait()
    assert code == 0, gateway.log_text[-3000:]
    gateway.start()
    gateway.wait_ready()
    wait_until(lambda: balanced.count_up(gateway) > before, "the balancer has it again")


async def upgrade_under_clients(folder: Path, database: str, rounds: int = 1) -> Work:
    """Replace every gateway so many times; returns what the clients have to say of it."""
    in_thread = trio.to_thread.run_sync
    with open_balanced(
        folder,
        database,
        program=DEMO,
        CLAUDE__PREWARM="1",
        CLAUDE__PREWARM_AGENTS="0",
        # This is about gateways that stop in good order, not about those that starve.
        CLUSTER__LEASE_SECONDS="5",
    ) as balanced:
        work = Work(balanced.url)
        watched = await new_conversation(balanced.url)
        seen: list[str] = []
        steps: dict[str, Callable[[openai.OpenAI], None]] = {
            "chat by id": work.talk_by_id,
            "chat by history": work.talk_by_history,
            "tools": work.use_tools,
            "responses": work.respond,
            "background": work.work_in_background,
            "watched chat": partial(work.talk_by_id, name=watched),
        }
        async with open_terminal(folder, "chat", "--url", balanced.url) as terminal:
            await terminal.until("> ")
            async with trio.open_nursery() as nursery:
                for name, step in steps.items():
                    nursery.start_soon(in_thread, work.repeat, name, step)
                nursery.start_soon(work.watch, watched, seen)
                nursery.start_soon(work.type, terminal)
                try:
                    for _ in range(rounds):
                        for gateway in balanced.gateways:
                            await in_thread(replace, balanced, gateway)
                    # All of them go on behind the last replacement.
                    done = work.done.copy()
                    with trio.move_on_after(20):
                        while any(work.done[name] == done[name] for name in (*steps, "typed")):
                            await trio.sleep(0.1)
                finally:
                    work.stopping = True
            await terminal.type(CTRL_D)
            if "type it again" in terminal.seen:
                work.failures.append(f"typed: {terminal.seen}")
        await _check_watched(work, watched, seen)
        return work


async def _check_watched(work: Work, watched: str, seen: list[str]) -> None:
    if len(seen) != len(set(seen)):
        work.failures.append(f"watched: a turn was seen twice: {seen}")
    work.done["seen"] = len(seen)
    kept, after = 0, ""
    while True:
        path = f"/v1/conversations/{watched}/items?order=asc&limit=100{after}"
        page = await get(work.url, path)
        kept += len(page["data"])
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    work.done["kept items of the watched"] = kept
    turns = 5 * work.done["watched chat"]
    if kept < 2 * turns:
        work.failures.append(f"watched: {kept} items of {turns} turns are kept")
