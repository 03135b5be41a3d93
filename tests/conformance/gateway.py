"""The gateway that the clients of this suite talk to."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from ccapi.schemas.settings.settings import CacheSettings, ModelSettings
from tests.support.competent_model import competent_model
from tests.support.live import open_live_cli
from tests.support.messages_stub import Answer, Failure, MessagesStub, Request


@asynccontextmanager
async def open_gateway_for_clients(
    tmp_path: Path, aliases: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[str, MessagesStub]]:
    """Yield the base URL and the API that the real CLI talks to, where a competent model answers.

    The gateway is as it comes, but for the cache (every question is to reach the CLI), for the
    CLI's own retries (a failure is to reach the client) and for one more model, which refuses what
    no other does; `aliases` are further names of models.
    """
    available = (*ModelSettings().available, "claude-opus-5")
    models = ModelSettings(available=available, aliases=dict(aliases or {}))
    async with open_live_cli(
        tmp_path,
        cache=CacheSettings(enabled=False),
        models=models,
        claude={"max_retries": 0},
    ) as live:
        assert live.stub is not None
        live.stub.answer = Unsteady()
        yield live.base_url, live.stub


class Unsteady:
    """The competent model, but for prompts that say ``Fail once with STATUS``."""

    def __init__(self) -> None:
        self._failed: set[str] = set()

    def __call__(self, request: Request) -> Answer:
        prompt = request.last_user_text
        wish = re.match(r"Fail once with (\d{3})", prompt)
        if wish is None or prompt in self._failed:
            return competent_model(request)
        self._failed.add(prompt)
        return Failure(int(wish[1]), "Not now.")
