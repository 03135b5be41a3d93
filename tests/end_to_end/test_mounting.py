"""The ASGI app mounted in a server of the caller's own, under a path of the caller's own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import anthropic
import hypercorn.trio
import openai
import pytest
import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.routing import Mount

from ccapi.actors.http.app import http_app
from ccapi.actors.opening import open_gateway
from tests.support.live import settings_for


async def test_the_app_serves_from_hypercorn_under_a_path(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, {"HOME": str(tmp_path)})
    async with open_gateway(settings, environ={"PATH": "/usr/bin:/bin"}, demo=True) as gateway:
        app: Any = Starlette(routes=[Mount("/claude", http_app(gateway))])
        config = Config.from_mapping(bind=["127.0.0.1:0"], errorlog=None)
        async with trio.open_nursery() as nursery:
            stop = trio.Event()
            [url] = await nursery.start(
                partial(hypercorn.trio.serve, app, config, shutdown_trigger=stop.wait)
            )

            def talk() -> str:
                with openai.OpenAI(base_url=f"{url}/claude/v1", api_key="unused") as client:
                    stream = client.chat.completions.create(
                        model="sonnet",
                        messages=[{"role": "user", "content": "repeat: from afar"}],
                        stream=True,
                    )
                    pieces = [c.choices[0].delta.content or "" for c in stream if c.choices]
                with anthropic.Anthropic(base_url=f"{url}/claude", api_key="unused") as other:
                    with pytest.raises(anthropic.NotFoundError) as missing:
                        other.models.retrieve("nonsense")
                    assert missing.value.type == "not_found_error"
                    message = other.messages.create(
                        model="sonnet",
                        max_tokens=100,
                        messages=[{"role": "user", "content": "repeat: from afar"}],
                    )
                    assert [each.type for each in message.content] == ["text"]
                    return "".join(pieces)

            assert await trio.to_thread.run_sync(talk) == "from afar"
            stop.set()
