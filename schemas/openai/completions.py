"""OpenAI's legacy completions: the request, and the answer, whole and streamed.

Knows: the fields of ``POST /v1/completions`` and the JSON of ``text_completion`` (OpenAI API
reference, "Completions"). A prompt is asked as a chat's only message: there is no model here that
goes on with a text. Refuses to know: what chat completions know already (`schemas.openai.chat`).

The writer and encoders have the names and shapes of those in `schemas.openai.chat_reply`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve, field, frozen

from ..convert import WrongKind, at_most, structure, write_json
from ..describe import Details, ranges
from ..errors import InvalidRequest, invalid, missing, unsupported
from ..message import is_blank
from ..turn import FinishReason, Reply, Usage
from ..turn_items import Refused, TextDelta, TurnItem
from . import sse
from .chat import MAX_CHOICES, MAX_STOPS, RANGES, ChatRequest, ChatTurn, StreamOptions, read_request
from .chat_messages import ChatMessage
from .chat_reply import Heading, encode_usage
from .ignored_fields import unknown_fields

KIND = "text_completion"

# -- the request ---------------------------------------------------------------------------------


@frozen(kw_only=True)
class CompletionRequest:
    """The body as it came. Every optional field may also be null, which means it is absent."""

    prompt: str | tuple[Any, ...] | None = None
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    logprobs: int | None = None
    logit_bias: Mapping[str, Any] | None = None

    temperature: float | None = None
    top_p: float | None = None
    stop: str | tuple[str, ...] | None = at_most(MAX_STOPS, "strings")
    max_tokens: int | None = None
    user: str | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None


DETAILS: Details = {
    CompletionRequest: {
        **ranges({**RANGES, "best_of": (1, MAX_CHOICES)}, CompletionRequest),
        "prompt": {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
            ],
            "description": "With text in it. Each of several is asked by itself.",
        },
        "": {"required": ["prompt"]},
    }
}

_SHARED = (
    "model", "stream", "stream_options", "n", "logit_bias", "temperature", "top_p", "stop",
    "max_tokens", "user", "presence_penalty", "frequency_penalty", "seed",
)  # fmt: skip
"""Fields that mean what they mean in a chat."""


@frozen(kw_only=True)
class CompletionTurn:
    """One request in the gateway's words.

    `choices` is what is asked for each of the answers: each prompt `n` times, in order. `prefixes`
    has the text that stands before each answer: its prompt where it is to be echoed, else nothing.
    """

    model: str | None
    choices: tuple[ChatTurn, ...]
    prefixes: tuple[str, ...]
    stream: bool
    include_usage: bool
    ignored: tuple[str, ...]


def parse_completion(raw: object) -> CompletionTurn:
    """Read a request's JSON value. Raises `InvalidRequest`, whose `param` is the field's path."""
    request = structure(raw, CompletionRequest)
    prompts = _prompts(request.prompt)
    _check(request, len(prompts))
    shared = {name: getattr(request, name) for name in _SHARED}
    unknown = unknown_fields(raw, CompletionRequest)
    turns = [
        evolve(turn, ignored=(*turn.ignored, *unknown))
        for turn in (
            read_request(ChatRequest(messages=(ChatMessage("user", prompt),), **shared))
            for prompt in prompts
        )
    ]
    first, times = turns[0], range(turns[0].n)
    return CompletionTurn(
        model=first.model,
        choices=tuple(turn for turn in turns for _ in times),
        prefixes=tuple(prompt if request.echo else "" for prompt in prompts for _ in times),
        stream=first.stream,
        include_usage=first.include_usage,
        ignored=first.ignored,
    )


def _prompts(given: str | tuple[Any, ...] | None) -> list[str]:
    """The prompts, at least one."""
    if given is None:
        raise missing("prompt")
    prompts: dict[str, Any]
    if isinstance(given, str):
        prompts = {"prompt": given}
    elif given:
        prompts = {f"prompt[{index}]": prompt for index, prompt in enumerate(given)}
    else:
        raise invalid("prompt must hold at least one text.", "prompt")
    for path, prompt in prompts.items():
        if type(prompt) is int or isinstance(prompt, list):
            raise unsupported("Prompts of tokens are not supported: send text.", "prompt")
        if not isinstance(prompt, str):
            error = WrongKind("a string", prompt)
            raise InvalidRequest(f"{path} {error}.", code="invalid_type", param=path)
        if is_blank(prompt):
            raise InvalidRequest(f"{path} must have text.", code="empty_content", param=path)
    return list(prompts.values())


def _check(request: CompletionRequest, prompts: int) -> None:
    """Refuse what a chat does not have, or has in other words."""
    for name in ("suffix", "logprobs"):
        if getattr(request, name) not in (None, ""):
            raise unsupported(f"{name} is not supported.", name)
    n = request.n or 1
    if request.best_of is not None and request.best_of != n:
        raise unsupported("best_of is not supported: it must be the same as n.", "best_of")
    if prompts * n > MAX_CHOICES:
        raise invalid(
            f"A request may ask for {MAX_CHOICES} answers: {prompts} prompts, {n} times each, are "
            "too many.",
            "prompt" if n == 1 else "n",
        )


# -- the answer ----------------------------------------------------------------------------------


def encode_completion(
    heading: Heading, replies: Sequence[Reply], usage: Usage, prefixes: Sequence[str] = ()
) -> dict[str, Any]:
    """One choice for each reply; `usage` is that of all of them. `prefixes` are one for each, or
    none at all."""
    texts = [reply.text + (reply.refusal or "") for reply in replies]
    if prefixes:
        texts = [prefix + text for prefix, text in zip(prefixes, texts, strict=True)]
    choices = [
        _choice(text, index, reply.finish_reason)
        for index, (text, reply) in enumerate(zip(texts, replies, strict=True))
    ]
    return heading.encode(KIND, choices) | {"usage": encode_usage(usage)} | heading.place


def _choice(text: str, index: int, finish_reason: FinishReason | None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish_reason}


@frozen
class ChunkWriter:
    """The events of one streamed choice, in bytes: `first`, any number of `item`, then `last`.
    What ends the stream, once its choices have ended, is `chat_reply.encode_end`.

    `prefix` stands before the answer. Only the text differs between two chunks, so what stands
    around it is encoded once.
    """

    heading: Heading
    index: int = 0
    prefix: str = ""
    _around: tuple[bytes, bytes] = field(init=False)

    @_around.default
    def _encode_around(self) -> tuple[bytes, bytes]:
        # The model's name stands before the choices: the first empty text in them is the place.
        before, mark, behind = self._event("").rpartition(b'"text":""')
        return before + mark.removesuffix(b'""'), behind

    def first(self) -> bytes:
        """In which conversation, and what stands before the answer."""
        return self._event(self.prefix, with_place=True)

    def item(self, item: TurnItem) -> bytes:
        """No bytes for what this API has no place for: thinking, and there are no tools."""
        if isinstance(item, TextDelta | Refused):
            before, behind = self._around
            return before + write_json(item.text) + behind
        return b""

    def last(self, finish_reason: FinishReason) -> bytes:
        """How the choice ended."""
        return self._event("", finish_reason, with_place=True)

    def _event(
        self, text: str, finish_reason: FinishReason | None = None, *, with_place: bool = False
    ) -> bytes:
        chunk = self.heading.encode(KIND, [_choice(text, self.index, finish_reason)])
        if with_place:
            chunk |= self.heading.place
        return sse.event(write_json(chunk))
