"""One turn, as every face of the gateway sees it: what is asked, what comes out, how it ends.

Knows: messages, the setup of a child, the items of an answer, usage, outcomes. Refuses to know:
OpenAI's wire format (`schemas.chat`), the CLI's (`schemas.frames`), and anything that runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Literal

from attrs import evolve, field, frozen

from .errors import GatewayError, InvalidRequest

Role = Literal["user", "assistant"]
FinishReason = Literal["stop", "length", "content_filter"]


@frozen
class Message:
    """One message of a conversation. System text is not a message here: see `Setup`.

    `content` is the message's text blocks in order, at least one. The blocks are kept apart,
    because the Messages API and the CLI tell them apart.
    """

    role: Role
    content: tuple[str, ...]

    @property
    def text(self) -> str:
        return "".join(self.content)


@frozen
class Setup:
    """What a child is told when it is adopted, and cannot be told again: the first wins.

    `model` is a model id that the CLI understands, `system` the whole system prompt (empty:
    none), `profile` the kind of child.
    """

    model: str
    system: str = ""
    profile: Literal["chat"] = "chat"


@frozen
class Prompt:
    """What one turn asks.

    `messages` ends with a user message and may repeat what the conversation holds (`unseen`).
    What stands before the last message is history to be replayed, never answered. `model` and
    `system` None keep the conversation's. `cache_key` travels with the turn, so that the cache
    knows whose answer it hears of.
    """

    messages: tuple[Message, ...]
    model: str | None = None
    system: str | None = None
    cache_key: str | None = None

    def setup(self, held: Setup) -> Setup:
        """The setup this prompt needs, in a conversation that has `held` so far."""
        return evolve(
            held,
            model=held.model if self.model is None else self.model,
            system=held.system if self.system is None else self.system,
        )


@frozen
class Usage:
    """Tokens of one turn, summed over the API calls it took, as the CLI reports them.

    `prompt_tokens` counts everything the model read: fresh, `cached_tokens` (read from the prompt
    cache) and `cache_write_tokens` (written to it). `cost_usd` is the CLI's own figure.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float = 0.0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


# -- what a turn delivers ------------------------------------------------------------------------


@frozen
class TextDelta:
    """A piece of the answer's text, exactly as the CLI produced it."""

    text: str


TurnItem = TextDelta


# -- how a turn ends -----------------------------------------------------------------------------


@frozen
class Completed:
    """The model's answer is whole."""

    finish_reason: FinishReason
    usage: Usage


@frozen
class Failed:
    """The turn ended without a whole answer; `error` says why, to the client too."""

    error: GatewayError


Outcome = Completed | Failed


@frozen
class Answer:
    """A whole answer that can be given again: its text in the pieces it came in."""

    pieces: tuple[str, ...]
    finish_reason: FinishReason
    usage: Usage

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@frozen
class Reply:
    """A finished turn, for a caller that did not want a stream."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    conversation_id: str
    model: str


# -- what a conversation remembers -----------------------------------------------------------------


@frozen
class ResumePoint:
    """Where a new child takes the conversation up: the CLI's session, up to its last whole answer.

    `assistant_uuid` is the uuid of the last assistant frame of the last finished turn; what the
    transcript holds after it (a turn that failed or was killed) is left behind.
    """

    session_id: str
    assistant_uuid: str | None


@frozen
class Memory:
    """All that must outlive a child, and a session actor, for the conversation to go on.

    `digests` has one digest per message held, `resume` is None until a turn has finished, `seed`
    is history that no child has seen yet (a continued cache hit). Only a finished turn changes
    anything here: one that fails leaves no trace.
    """

    setup: Setup
    digests: tuple[bytes, ...] = ()
    resume: ResumePoint | None = None
    seed: tuple[Message, ...] = ()
    turns: int = 0
    usage: Usage = field(factory=Usage)

    def grown(
        self, setup: Setup, said: Iterable[Message], resume: ResumePoint, usage: Usage
    ) -> Memory:
        """After one more turn: `said` are its new messages, the answer last."""
        return Memory(
            setup=setup,
            digests=(*self.digests, *map(digest, said)),
            resume=resume,
            seed=(),  # a child has seen it by now, and its transcript holds it
            turns=self.turns + 1,
            usage=add_usage(self.usage, usage),
        )


def digest(message: Message) -> bytes:
    """A message's identity: SHA-256 over its role and its whole text (32 bytes).

    Block borders do not count, since OpenAI clients send an answer back as one string.
    """
    # surrogatepass: a lone surrogate is legal in JSON, and must not fail here of all places.
    text = message.text.encode("utf-8", "surrogatepass")
    return hashlib.sha256(message.role.encode() + b"\0" + text).digest()


def unseen(held: Sequence[bytes], messages: Sequence[Message]) -> tuple[Message, ...] | None:
    """The messages of a request that the conversation does not hold yet, at least the last one.

    A client may send only what is new, its whole history again, or the end of it; its history may
    begin before what is held (a cold child is given only the end of a long one), and it may have
    gone on elsewhere in between (a cached answer), so assistant messages may be among what is
    new. Returns None where the request contradicts what is held: it has assistant messages, and
    does not join on to the end of the conversation.
    """
    incoming = [digest(message) for message in messages]
    whole = min(len(held), len(messages) - 1)
    # First as if both began together; only then as if the client knew of earlier times.
    borders = chain(range(whole, 0, -1), range(len(messages) - 1, whole, -1)) if held else ()
    for border in borders:
        # One look at the border first: long histories are not copied for every one that is tried.
        if incoming[border - 1] == held[-1]:
            overlap = min(border, len(held))
            if incoming[border - overlap : border] == list(held[-overlap:]):
                return tuple(messages[border:])
    if held and any(message.role == "assistant" for message in messages):
        return None
    return tuple(messages)


def messages_of(prompt: str | Sequence[Message]) -> tuple[Message, ...]:
    """What a caller asks, as messages. Raises `InvalidRequest` for what cannot be asked."""
    if isinstance(prompt, str):
        prompt = (Message("user", (prompt,)),)
    if not isinstance(prompt, Iterable):
        raise InvalidRequest(
            "A prompt must be text or a sequence of messages.",
            code="invalid_type",
            param="messages",
        )
    messages = tuple(prompt)
    if not messages:
        raise InvalidRequest("There must be at least one message.", param="messages")
    for index, message in enumerate(messages):
        _check_types(message, f"messages[{index}]")
        # The CLI answers blank text by itself, without asking the model. Answers may be empty.
        if message.role == "user" and is_blank(message.text):
            raise InvalidRequest(
                "A user message must have text.",
                code="empty_content",
                param=f"messages[{index}].content",
            )
    if messages[-1].role != "user":
        raise InvalidRequest(
            "The last message must be the user's: there is nothing to answer.",
            param=f"messages[{len(messages) - 1}].role",
        )
    return messages


def _check_types(message: object, path: str) -> None:
    """An embedding program's mistake is told before it is somebody's turn."""
    if not isinstance(message, Message):
        raise InvalidRequest(f"{path} must be a Message.", code="invalid_type", param=path)
    if message.role not in ("user", "assistant"):
        raise InvalidRequest(
            f"{path}.role must be user or assistant.", code="invalid_type", param=f"{path}.role"
        )
    content: object = message.content
    # Not str, which would be a sequence of blocks too, of one character each.
    if not isinstance(content, list | tuple) or not all(isinstance(part, str) for part in content):
        raise InvalidRequest(
            f"{path}.content must be a tuple of text blocks.",
            code="invalid_type",
            param=f"{path}.content",
        )


def is_blank(text: str) -> bool:
    """Whether the CLI would find no text in it: JavaScript takes a byte order mark for space."""
    return not text.replace("\ufeff", "").strip()


def add_usage(left: Usage, right: Usage) -> Usage:
    return Usage(
        prompt_tokens=left.prompt_tokens + right.prompt_tokens,
        completion_tokens=left.completion_tokens + right.completion_tokens,
        cached_tokens=left.cached_tokens + right.cached_tokens,
        cache_write_tokens=left.cache_write_tokens + right.cache_write_tokens,
        cost_usd=left.cost_usd + right.cost_usd,
    )


def trim(messages: Sequence[Message], limit: int) -> tuple[Message, ...]:
    """The last `limit` (at least 1) messages, starting with a user message where there is one:
    what a cold child is given."""
    kept = list(messages[-limit:])
    while len(kept) > 1 and kept[0].role != "user":
        kept.pop(0)
    return tuple(kept)


def merge_turns(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The same history as the Messages API takes it: neighbours of one role are joined (it reads
    them so anyway), and messages without text are left out (it refuses them)."""
    merged: list[Message] = []
    for message in messages:
        if is_blank(message.text):
            continue
        if merged and merged[-1].role == message.role:
            merged[-1] = Message(message.role, merged[-1].content + message.content)
        else:
            merged.append(message)
    return tuple(merged)
