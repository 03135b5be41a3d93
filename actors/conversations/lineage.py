"""Lineage: which conversation holds exactly the history that a request brings.

Knows: a history's name, and who holds it. Refuses to know: whether the holder is free, and what a
request without one gets.

The name is a SHA-256 over the owner, the setup and every message, so a match is exact, and
never across keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from ...schemas.message import Message
from ...schemas.turn import Memory, Setup, named
from .workspace_paths import name_of_place


def lineage_key(owner: str, setup: Setup, digests: Sequence[bytes]) -> bytes:
    """The name of a history: 32 bytes. The form of the answer is each turn's own, and no part of
    it; nor is a workspace that no client has named."""
    workspace = setup.workspace if name_of_place(setup.workspace) else ""
    beside = json.dumps([owner, named(setup, schema=None, workspace=workspace)], ensure_ascii=False)
    # JSON says where the text ends, and every digest is 32 bytes: nothing runs together.
    return hashlib.sha256(
        beside.encode("utf-8", "surrogatepass") + b"\0" + b"".join(digests)
    ).digest()


def new_from(messages: Sequence[Message]) -> int:
    """Where what is new in a whole history begins: behind the last answer in it."""
    border = len(messages)
    while border and messages[border - 1].role == "user":
        border -= 1
    return border


def likeness(
    held: Sequence[bytes], asked: Sequence[bytes], history: Sequence[Message]
) -> tuple[int, int]:
    """How far a history goes on with a conversation, whatever its system prompt and tools are: how
    many of its first user messages are held there, and how many messages of any kind. (0, 0) unless
    both begin alike, and the user messages are all held, or an answer too: a turn that was
    interrupted is not. `held` and `asked` are digests.
    """
    if not held or not asked or held[0] != asked[0]:
        return 0, 0
    rest, said = iter(held), 0
    users = [name for message, name in zip(history, asked, strict=True) if message.role == "user"]
    for name in users:
        if name not in rest:  # looks on from where the last one was found
            break
        said += 1
    shared = len(set(asked) & set(held))
    return (said, shared) if said == len(users) or shared > said else (0, 0)


class Holder(Protocol):
    """A conversation, as far as its history goes."""

    @property
    def owner(self) -> str: ...
    @property
    def memory(self) -> Memory: ...


H = TypeVar("H", bound=Holder)


class LineageTable(Generic[H]):
    """Who holds which history. What is kept here may be out of date, and is checked on the way
    out."""

    def __init__(self) -> None:
        self._holders: dict[bytes, dict[H, None]] = {}
        self._keys: dict[H, bytes] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def keep(self, holder: H) -> None:
        """Remember what `holder` holds now."""
        key = _key(holder)
        if self._keys.get(holder) == key:
            return
        self.drop(holder)
        if holder.memory.digests:
            self._keys[holder] = key
            self._holders.setdefault(key, {})[holder] = None

    def drop(self, holder: H) -> None:
        key = self._keys.pop(holder, None)
        if key is not None:
            holders = self._holders[key]
            del holders[holder]
            if not holders:
                del self._holders[key]

    def find(self, key: bytes, fits: Callable[[H], bool]) -> H | None:
        """Of those who hold that history and fit, the one who came to it last."""
        # Whether one fits is asked first: it is a look, and a name is work.
        for holder in reversed(self._holders.get(key, {})):
            if fits(holder) and _key(holder) == key:
                return holder
        return None


def _key(holder: Holder) -> bytes:
    memory = holder.memory
    return lineage_key(holder.owner, memory.setup, memory.digests)
