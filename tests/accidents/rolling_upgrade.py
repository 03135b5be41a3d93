"""Nodes are replaced one by one while clients work through a balancer: none of them notices.

By hand, on a machine that does nothing else: `python -m pytest tests/accidents/rolling_upgrade.py`.
Where nodes starve (a connection to the engine takes longer than 3 seconds) clients do notice.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
import trio
from trio_websocket import ConnectionClosed, HandshakeError

from ..accidents.cluster import Cluster, open_cluster
from ..support.joined import get, new_conversation, open_joined
from ..support.terminals import CTRL_D, Terminal, open_terminal

PATIENCE = 120.0
UNHURRIED = 0.3
"""How long a new node waits before the next is replaced."""

SLOW_MACHINE = {"CLAUDE_CODE__CLUSTER__LEASE_SECONDS": "5"}
"""These tests are about nodes that stop in order, not about those that starve."""

pytestmark = pytest.mark.timeout(300)


class Work:
    """What the clients did, and what failed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self.stopping = False

    def chat(self, number: int, name: str | None = None) -> None:
        """A conversation by the openai SDK, with its own retries: by id or by history."""
        with openai.OpenAI(base_url=f"{self.url}/v1", api_key="-") as sdk:
            said: list[Any] = []
            while not self.stopping:
                text = f"repeat: client {number} turn {self.done['chat']}"
                try:
                    if number % 2:
                        asked = {"conversation_id": name} if name else {}
                        answer = sdk.chat.completions.create(
                            model="sonnet",
                            messages=[{"role": "user", "content": text}],
                            extra_body=asked,
                        )
                        name = answer.model_extra["conversation_id"]  # type: ignore[index]
                        content = answer.choices[0].message.content
                    else:
                        said.append({"role": "user", "content": text})
                        stream = sdk.chat.completions.create(
                            model="sonnet", messages=said, stream=True
                        )
                        with stream:
                            content = "".join(
                                each.choices[0].delta.content or "" for each in stream
                            )
                        said.append({"role": "assistant", "content": content})
                    assert content == text.removeprefix("repeat: "), content
                    self.done["chat"] += 1
                except (openai.OpenAIError, AssertionError) as error:
                    self.failures.append(f"chat {number}: {error!r}")
                    said.clear()
                    name = None

    def respond(self) -> None:
        """A chain of responses, and beside it responses in the background."""
        with openai.OpenAI(base_url=f"{self.url}/v1", api_key="-") as sdk:
            before: str | None = None
            while not self.stopping:
                try:
                    made = sdk.responses.create(
                        model="sonnet",
                        input="repeat: on and on",
                        extra_body={"previous_response_id": before} if before else {},
                    )
                    assert made.output_text == "on and on", made
                    before = made.id
                    self.done["responses"] += 1
                except (openai.OpenAIError, AssertionError) as error:
                    self.failures.append(f"responses: {error!r}")
                    before = None

    def work_in_background(self) -> None:
        """One response after the other that takes seconds: each ends, or is said to be lost."""
        with openai.OpenAI(base_url=f"{self.url}/v1", api_key="-") as sdk:
            while not self.stopping:
                try:
                    made = sdk.responses.create(
                        model="sonnet", input="count to 150", background=True
                    )
                    while made.status in ("queued", "in_progress"):
                        time.sleep(0.2)
                        made = sdk.responses.retrieve(made.id)
                    if made.status != "completed":
                        assert made.error is not None, made
                    self.done[f"background {made.status}"] += 1
                except (openai.OpenAIError, AssertionError) as error:
                    self.failures.append(f"background: {error!r}")

    async def watch(self, conversation: str, seen: list[str]) -> None:
        """A page that is open: it connects again where it was cut off."""
        after: int | None = None
        while not self.stopping:
            try:
                async with open_joined(self.url, conversation, after) as joined:
                    self.done["joined"] += 1
                    while not self.stopping:
                        with trio.move_on_after(0.5):
                            event = await joined.next()
                            if event["type"] == "turn.finished":
                                seen.append(event["turn_id"])
                                after = event.get("event_id", after)
            except* (ConnectionClosed, HandshakeError, OSError, trio.ClosedResourceError):
                pass
            except* trio.TooSlowError:  # trio-websocket sees no end within a handshake
                pass
            await trio.sleep(0.1)


async def replace_all(cluster: Cluster) -> None:
    for node in cluster.nodes:
        node.signal(signal.SIGTERM)
        assert await node.wait() == 0, (node.folder / "log.txt").read_text()[-3000:]
        await node.start()
        cluster.balancer.ready[node.port] = False
        await cluster.balancer.wait_ready(PATIENCE)
        await trio.sleep(UNHURRIED)


async def type_until(terminal: Terminal, over: trio.Event) -> None:
    """A person types line after line, and each is answered."""
    typed = 0
    while not over.is_set():
        typed += 1
        await terminal.type(f"repeat: line {typed}!\n")
        await terminal.until(f"line {typed}!")
        await trio.sleep(0.3)


async def test_clients_do_not_notice_that_nodes_are_replaced(tmp_path: Path) -> None:
    with trio.fail_after(180):
        async with open_cluster(
            tmp_path, direct=True, patience=10, settings=SLOW_MACHINE
        ) as cluster:
            url = cluster.balancer.url
            work = Work(url)
            watched = await new_conversation(url)
            seen: list[str] = []
            async with open_terminal(tmp_path, "chat", "--url", url) as terminal:
                await terminal.until("> ")
                async with trio.open_nursery() as nursery:
                    for number in range(4):
                        in_thread = partial(work.chat, number)
                        nursery.start_soon(trio.to_thread.run_sync, in_thread)
                    nursery.start_soon(trio.to_thread.run_sync, work.respond)
                    nursery.start_soon(trio.to_thread.run_sync, work.work_in_background)
                    nursery.start_soon(work.watch, watched, seen)
                    in_thread = partial(work.chat, 5, watched)
                    nursery.start_soon(trio.to_thread.run_sync, in_thread)
                    replaced = trio.Event()

                    async def replace() -> None:
                        await replace_all(cluster)
                        replaced.set()

                    nursery.start_soon(replace)
                    try:
                        await type_until(terminal, replaced)
                        before = len(seen)
                        with trio.fail_after(60):  # also behind the last replacement
                            while len(seen) == before:
                                await trio.sleep(0.1)
                    finally:
                        work.stopping = True  # the threads end
                await terminal.type(CTRL_D)
            assert work.failures == [], work.done
            assert work.done["chat"] > 10
            assert work.done["responses"] > 3
            kept = await get(url, f"/v1/conversations/{watched}/items?limit=100")
            assert kept["data"]
            assert len(seen) == len(set(seen))
