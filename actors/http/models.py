"""The routes that list models, in the words of either dialect.

Knows: HTTP's side of it, and OpenAI's form of a model with what other gateways have beside it.
Refuses to know: which models there are (`actors.conversations.models`), and the Messages API's
form (`schemas.anthropic.models`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from ...schemas.anthropic.errors import VERSION_HEADER, read_version
from ...schemas.anthropic.models import PAGE_PARAMETERS, encode_model, page_of
from ...schemas.claude.model_traits import traits_of
from ..answering import may_search
from ..conversations.models import Model
from .request import Call


async def list_models(call: Call) -> None:
    """``GET /v1/models``: all of them; in the Messages API's words, a page."""
    models = call.gateway.models.list(call.owner)
    if _speaks_messages(call):
        query = call.query(*PAGE_PARAMETERS)
        encode = partial(_encode_info, searches=may_search(call.gateway, call.owner))
        await call.answer(page_of([*map(encode, models)], query))
        return
    await call.answer({"object": "list", "data": [*map(_encode_model, models)]})


async def show_model(call: Call) -> None:
    """``GET /v1/models/{model}``."""
    speaks_messages = _speaks_messages(call)
    model = call.gateway.models.get(call.path("model"), call.owner)
    if speaks_messages:
        searches = may_search(call.gateway, call.owner)
        await call.answer(_encode_info(model, searches=searches))
    else:
        await call.answer(_encode_model(model))


def _speaks_messages(call: Call) -> bool:
    """Whether the client speaks the Messages API. Raises `InvalidRequest` for a version of it that
    is not spoken here."""
    if call.response.envelope.messages:
        read_version(call.header(VERSION_HEADER))
    return call.response.envelope.messages


def _encode_info(model: Model, *, searches: bool) -> dict[str, Any]:
    return encode_model(
        model.id,
        model.name,
        model.created,
        model.sizes,
        model.efforts,
        can_skip_thinking=traits_of(model.means).can_skip_thinking,
        searches=searches,
    )


def _encode_model(model: Model) -> dict[str, Any]:
    """OpenAI's four fields, and what clients of other gateways look for (README.md, "Models")."""
    known: dict[str, Any] = {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
        "name": model.name,
        "description": model.description,
        "profile": model.profile,
        "resolved_model": model.means,
        "source": "cli" if model.listed else "table",
    }
    if model.sizes is None:
        return known
    context, output = model.sizes.context, model.sizes.output
    return known | {
        "context_length": context,
        "context_window": context,
        "max_output_tokens": output,
        "max_completion_tokens": output,
        "architecture": {
            "modality": "text+image+file->text",
            "input_modalities": ["text", "image", "file"],
            "output_modalities": ["text"],
        },
        "supported_parameters": [*_parameters(model)],
        "supported_reasoning_efforts": [*model.efforts] or None,
    }


def _parameters(model: Model) -> Iterator[str]:
    """The parameters that have an effect, by the names that OpenRouter's clients know."""
    yield from ("max_tokens", "max_completion_tokens", "stop", "tools", "tool_choice")
    yield from ("parallel_tool_calls", "response_format", "structured_outputs")
    if model.sizes is not None and model.sizes.thinks:
        yield from ("reasoning", "include_reasoning", "reasoning_effort")
    if model.takes_sampling:
        yield from ("temperature", "top_p")
