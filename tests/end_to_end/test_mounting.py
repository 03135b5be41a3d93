"""The ASGI app mounted in a server of the caller's own, under a path of the caller's own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import hypercorn.trio
import openai
import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.routing import Mount

from ccapi.actors.gateway import open_gateway
from ccapi.actors.http.app import http_app
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
                    return "".join(pieces)

            assert await trio.to_thread.run_sync(talk) == "from afar"
            stop.set()
