"""What the tests of the store say to it."""

from __future__ import annotations

import math
from pathlib import Path
from uuid import uuid4

from ccapi.schemas.log.messages import ExactMessage
from ccapi.schemas.log.records import Logged, Said, TurnEnd
from ccapi.schemas.log.responses import StoredResponse
from ccapi.schemas.openai.response_events import ResponseHeading
from ccapi.schemas.turn import Setup, Usage
from ccapi.transport.store.interface import Begun, Lease, NewConversation, Store

KEY = "key-one"
OTHER = "key-two"
NEW = NewConversation(setup=Setup("claude-sonnet"))


class Clock:
    """Seconds that pass when a test says so, and a little with each look."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        self.now = math.floor(self.now) + 1.0
        return self.now


def user(text: str) -> Said:
    return Said(ExactMessage("user", (text,)))


def assistant(text: str) -> Said:
    return Said(ExactMessage("assistant", (text,)))


def end(turn_id: str, usage: Usage | None = None) -> TurnEnd:
    return TurnEnd(turn_id, "stop", usage or Usage(10, 5))


async def new_lease(store: Store, name: str = "conv_1", key_id: str = KEY) -> Lease:
    return await store.acquire(name, key_id, NEW)


async def begin(store: Store, lease: Lease, asked: str = "What?", request: str = "") -> str:
    """Begins a turn; returns its id."""
    turn_id = str(uuid4())
    begun = await store.begin_turn(
        lease,
        turn_id=turn_id,
        request_id=request or turn_id,
        model="claude-sonnet",
        prompts=[user(asked)],
    )
    assert isinstance(begun, Begun)
    return turn_id


async def turn(store: Store, lease: Lease, asked: str = "What?", said: str = "That.") -> str:
    """A whole turn; returns its id."""
    turn_id = await begin(store, lease, asked)
    await store.end_turn(lease, end(turn_id), [assistant(said)])
    return turn_id


async def log_of(store: Store, name: str = "conv_1", key_id: str = KEY) -> list[Logged]:
    return [*await store.read(name, key_id)]


def response(
    turn_id: str | None = None, conversation_id: str = "conv_1", key_id: str = KEY, **fields: object
) -> StoredResponse:
    heading = ResponseHeading(
        turn_id or str(uuid4()), 1000, "sonnet", conversation_id, True, {"temperature": 1}
    )
    return StoredResponse(heading=heading, key_id=key_id, model="sonnet", asked=(), **fields)  # type: ignore[arg-type]


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
