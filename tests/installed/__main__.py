"""A plain installation, tried as its user would: every module imported, one request of every kind.

Run by the Python of an environment that holds the distribution and nothing else (no test extra):
``python -I tests/installed``. A dependency that is not declared fails here, and so does an import
that first happens in the middle of a turn: it would block every other turn while it loads.
"""

import importlib
import json
import pkgutil
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import httpx2
import trio
from trio_websocket import open_websocket_url

import ccapi

SECONDS = 120.0
"""Bound on the whole run."""

LATE = ("encodings.", "httpx2", "httpcore2", "anyio", "h11", "h2", "sniffio", "idna", "charset_")
"""Modules that the client of this check may load while it asks."""

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
    "additionalProperties": False,
}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
    "awAAAABJRU5ErkJggg=="
)


class CheckFailed(Exception):
    """The installation lacks something; the message says what."""


EXTRAS = {
    "ccapi.transport.mcp.": ("mcp", "mcp_types", "anyio"),
    "ccapi.transport.store.postgres.": ("psycopg",),
}
"""Modules that need an extra, and which packages come with it. Nothing else imports them, as long
as what they are for is not switched on."""


def import_everything() -> int:
    """Import every module of the package; returns how many there are. Those of an extra that is not
    installed may miss its packages, and nothing else."""
    names = [found.name for found in pkgutil.walk_packages(ccapi.__path__, "ccapi.")]
    for name in names:
        if name.endswith("__main__"):
            continue
        missing = next((each for room, each in EXTRAS.items() if name.startswith(room)), ())
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in missing:
                raise
    return len(names)


def user(content: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def tool(*, strict: bool) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": "look", "parameters": SCHEMA, "strict": strict},
    }


def format_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}


REQUESTS: dict[str, tuple[str, dict[str, Any] | None]] = {
    "chat": ("/v1/chat/completions", user("Hello")),
    "chat, streamed": ("/v1/chat/completions", {**user("Hello"), "stream": True}),
    "chat, a picture": (
        "/v1/chat/completions",
        user([{"type": "image_url", "image_url": {"url": PIXEL}}]),
    ),
    "chat, tools": ("/v1/chat/completions", {**user("Hello"), "tools": [tool(strict=False)]}),
    "chat, strict tools": (
        "/v1/chat/completions",
        {**user("Hello"), "tools": [tool(strict=True)]},
    ),
    "chat, structured output": (
        "/v1/chat/completions",
        {**user('say: {"answer": "yes"}'), "response_format": format_of(SCHEMA)},
    ),
    "chat, a history": (
        "/v1/chat/completions",
        {
            "messages": [
                {"role": "user", "content": "One"},
                {"role": "assistant", "content": "Two"},
                {"role": "user", "content": "Three"},
            ]
        },
    ),
    "completions": ("/v1/completions", {"prompt": "Hello"}),
    "responses": ("/v1/responses", {"input": "Hello"}),
    "responses, streamed": ("/v1/responses", {"input": "Hello", "stream": True}),
    "an agent": ("/v1/chat/completions", {**user("list the files"), "model": "agent/sonnet"}),
    "conversations": ("/v1/conversations", {}),
    "models": ("/v1/models", None),
    "statistics": ("/stats", None),
    "metrics": ("/metrics", None),
    "page": ("/", None),
    "health": ("/health", None),
    "readiness": ("/ready", None),
}
"""Path and body (None: GET) of one request of every kind. Each has to be answered with 200."""


async def ask(client: httpx2.AsyncClient, path: str, body: dict[str, Any] | None) -> str:
    model = {"model": "sonnet"} if path.startswith(("/v1/chat", "/v1/comp", "/v1/resp")) else {}
    response = (
        await client.get(path) if body is None else await client.post(path, json={**model, **body})
    )
    if response.status_code != 200:
        raise CheckFailed(f"{path} answered {response.status_code}: {response.text}")
    return response.text


async def ask_everything(url: str, loaded: Callable[[], set[str]]) -> None:
    async with httpx2.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        for name, (path, body) in REQUESTS.items():
            before = loaded()
            text = await ask(client, path, body)
            late = sorted(m for m in loaded() - before if not m.startswith(LATE))
            if late:
                raise CheckFailed(f"{name}: {late} were first imported in the middle of a turn")
            print(f"{name}: {len(text)} characters", flush=True)
    async with open_websocket_url(url.replace("http", "ws") + "/v1/responses") as socket:
        await socket.send_message(
            json.dumps({"type": "response.create", "model": "sonnet", "input": "Hello"})
        )
        while (event := json.loads(await socket.get_message()))["type"] != "response.completed":
            if event["type"] in ("error", "response.failed"):
                raise CheckFailed(f"responses over WebSocket: {event}")
        print("responses over WebSocket: completed")


async def check(folder: Path) -> None:
    from ccapi.actors.commands.serve import serve
    from ccapi.schemas.settings.settings import ServerSettings, Settings, StorageSettings

    settings = Settings(
        server=ServerSettings(port=0), storage=StorageSettings(path=folder / "state")
    )
    settings = attrs.evolve(
        settings, claude=attrs.evolve(settings.claude, env={"HOME": str(folder)})
    )
    stop = trio.Event()
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            url, _ = await nursery.start(partial(serve, settings, demo=True, stop=stop))
            await ask_everything(url, lambda: set(sys.modules))
            stop.set()


if __name__ == "__main__":
    # First the requests, with only what `serve` itself has loaded; then all the rest.
    with TemporaryDirectory() as temporary:
        try:
            trio.run(check, Path(temporary))
        except* CheckFailed as failed:
            sys.exit(str(failed.exceptions[0]))
    print(f"{import_everything()} modules can be imported")
