"""A gateway inside the test's own program, with real children: how a library's user has it.

Knows how to open one in surroundings made of nothing, and what must not be left when its block
ends: no task, no process, no open file. Refuses to know HTTP (`tests.support.live` does).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio

from ccapi.actors import Conversation, Gateway, Turn, open_gateway
from ccapi.actors.runtime.bus import Subscription
from ccapi.schemas import events
from ccapi.schemas.settings.settings import ClaudeSettings, Settings, StorageSettings
from ccapi.schemas.turn_items import TextDelta, TurnItem

from .messages_stub import MessagesStub, open_messages_stub
from .processes import marked, open_files
from .raw_cli import cli_binary, cli_environment

MARK = "CCAPI_TEST_MARK"
PATIENCE = 30.0


def script(text: str = "", **switches: Any) -> str:
    """A prompt that tells the demo CLI how to answer it."""
    return f"!script {json.dumps(switches)} {text}"


SILENT = script(first_ms=600_000)
"""A model that thinks for ten minutes."""


def open_tasks() -> int:
    """The tasks of the whole run, trio's own included."""

    def count(task: trio.lowlevel.Task) -> int:
        nurseries = task.child_nurseries
        return 1 + sum(count(child) for nursery in nurseries for child in nursery.child_tasks)

    root = trio.lowlevel.current_root_task()
    assert root is not None
    return count(root)


@asynccontextmanager
async def leaving_nothing() -> AsyncIterator[str]:
    """Assert that the block leaves no task and no file open, and no process that has the value
    yielded in its environment (as `MARK`)."""
    mark = secrets.token_hex(8)
    tasks, files = open_tasks(), open_files()
    yield mark
    assert open_tasks() == tasks
    assert not marked(MARK, mark)
    assert open_files() == files


@asynccontextmanager
async def open_embedded(
    tmp_path: Path,
    *,
    switches: dict[str, Any] | None = None,
    claude: dict[str, Any] | None = None,
    **sections: Any,
) -> AsyncIterator[Gateway]:
    """A gateway over demo CLIs that answer without pauses unless told otherwise."""
    async with leaving_nothing() as mark:
        env = {"HOME": str(tmp_path), MARK: mark}
        env["DEMO_CLI_SWITCHES"] = json.dumps({"pace_ms": 0, **(switches or {})})
        settings = Settings(
            claude=ClaudeSettings(
                **{"env": env, "prewarm": 1, "prewarm_agents": 0, **(claude or {})}
            ),
            storage=StorageSettings(path=tmp_path / "state", **sections.pop("storage", {})),
            **sections,
        )
        async with open_gateway(settings, environ={"PATH": "/usr/bin:/bin"}, demo=True) as gateway:
            yield gateway


@asynccontextmanager
async def open_embedded_cli(tmp_path: Path) -> AsyncIterator[tuple[Gateway, MessagesStub]]:
    """A gateway over the real CLI, and the API that it talks to."""
    async with leaving_nothing() as mark, open_messages_stub() as stub:
        env = {**cli_environment(tmp_path, stub.url), MARK: mark}
        settings = Settings(
            claude=ClaudeSettings(
                command=cli_binary(), env=env, prewarm=0, prewarm_agents=0, max_retries=0
            ),
            storage=StorageSettings(path=tmp_path / "state"),
        )
        async with open_gateway(settings, environ={"PATH": "/usr/bin:/bin"}) as gateway:
            yield gateway, stub


class EventRecorder:
    """What a gateway has published since it was opened."""

    def __init__(self) -> None:
        self.events: list[events.Event] = []
        self._news = trio.Event()

    async def listen(self, subscription: Subscription) -> None:
        async for event in subscription:
            self.events.append(event)
            self._news.set()
            self._news = trio.Event()

    async def wait(self, true: Callable[[events.Event], bool]) -> events.Event:
        """The first event that is wanted, published before or not."""
        with trio.fail_after(PATIENCE):
            while True:
                for event in self.events:
                    if true(event):
                        return event
                await self._news.wait()

    async def wait_count(self, kind: type[Any], count: int) -> list[Any]:
        """The events of a kind, once there are so many."""
        with trio.fail_after(PATIENCE):
            while len(found := [event for event in self.events if isinstance(event, kind)]) < count:
                await self._news.wait()
        return found

    async def wait_phase(self, conversation: Conversation, phase: str) -> None:
        with trio.fail_after(PATIENCE):
            while conversation.info.phase != phase:
                await self._news.wait()

    def pid(self, conversation: Conversation) -> int:
        """The process that the conversation was given last."""
        pids = [
            event.pid
            for event in self.events
            if isinstance(event, events.ChildAdopted)
            and event.conversation_id == conversation.conversation_id
        ]
        return pids[-1]


@asynccontextmanager
async def open_recorder(gateway: Gateway) -> AsyncIterator[EventRecorder]:
    recorder = EventRecorder()
    async with trio.open_nursery() as nursery:
        with gateway.bus.subscribe(buffer=10_000) as subscription:
            nursery.start_soon(recorder.listen, subscription)
            yield recorder


async def first_delta(turn: Turn) -> str:
    """The first piece of the answer: from here on the turn is under way in the child."""
    with trio.fail_after(PATIENCE):
        return text_in(await anext(turn))


def text_in(item: TurnItem) -> str:
    """What an item that must be text says."""
    assert isinstance(item, TextDelta)
    return item.text


@contextmanager
def patience() -> Iterator[None]:
    """Fail where something that has to happen does not."""
    with trio.fail_after(PATIENCE):
        yield
