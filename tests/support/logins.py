"""The ways in which a CLI under test is logged in, with dummies for all that is secret.

Knows the environment and the files of each, and a proxy that lets nothing out: with a credentials
file the CLI calls its maker's hosts at every start, whatever the API's address is. Refuses to know
the gateway.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import trio
from attrs import define, field

from tests.support.messages_stub import MessagesStub, Request
from tests.support.raw_cli import CHILD_ENVIRONMENT, cli_environment

LoginName = Literal["key", "token", "file"]
LOGINS: tuple[LoginName, ...] = ("key", "token", "file")
SUBSCRIPTIONS: tuple[LoginName, ...] = ("token", "file")

every_login = pytest.mark.parametrize("login", LOGINS, indirect=True)
"""Runs a test that takes `open_child` or `child` once for each login."""

by_key_and_token = pytest.mark.parametrize("login", ["key", "token"], indirect=True)
"""The same for two of them: a file's children differ from a token's in few ways."""

KEY = "sk-ant-dummy"
TOKEN = "sk-ant-oat01-dummy-of-the-environment"
FILE_TOKEN = "sk-ant-oat01-dummy-of-the-file"
EMAIL = "operator@example.com"

AUTHORIZATION = {
    "key": {"x-api-key": KEY},
    "token": {"authorization": f"Bearer {TOKEN}"},
    "file": {"authorization": f"Bearer {FILE_TOKEN}"},
}
"""The headers that show who asks, and no other may."""

SUBSCRIPTION_ENVIRONMENT = {
    "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
    "CLAUDE_CODE_DISABLE_CLAUDE_MDS": "1",
    "ENABLE_CLAUDEAI_MCP_SERVERS": "0",
    "CLAUDE_CODE_ENABLE_PROMPT_SUGGESTION": "0",
    "CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS": "1",
    "CLAUDE_AGENT_SDK_DISABLE_BUILTIN_AGENTS": "1",
}

SUBSCRIPTION_FLAGS = ("--disallowedTools", "Agent(gw)")


def write_credentials(config: Path, *scopes: str) -> None:
    """Log the configuration folder in as a subscriber, with these scopes beside the usual ones."""
    oauth = {
        "accessToken": FILE_TOKEN,
        "refreshToken": "sk-ant-ort01-dummy",
        "expiresAt": int((time.time() + 30 * 86400) * 1000),
        "scopes": ["user:inference", "user:profile", *scopes],
        "subscriptionType": "max",
    }
    config.mkdir(exist_ok=True)
    file = config / ".credentials.json"
    file.write_text(json.dumps({"claudeAiOauth": oauth}))
    file.chmod(0o600)


def write_account(config: Path) -> None:
    """What the CLI writes beside a login: whose it is."""
    config.mkdir(exist_ok=True)
    account = {
        "accountUuid": "00000000-0000-4000-8000-000000000001",
        "emailAddress": EMAIL,
        "organizationUuid": "00000000-0000-4000-8000-000000000002",
    }
    file = config / ".claude.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**known, "oauthAccount": account}))


def login_environment(
    login: LoginName | None, tmp_path: Path, url: str, proxy: str = ""
) -> dict[str, str]:
    """The whole environment of a CLI that is logged in so (None: not at all), but for what a
    gateway sets. `proxy`: what stands between it and all hosts but loopback."""
    env = cli_environment(tmp_path, url)
    if login != "key":
        del env["ANTHROPIC_API_KEY"]
    if login == "token":
        env["CLAUDE_CODE_OAUTH_TOKEN"] = TOKEN
    if login == "file":
        assert proxy, "nothing may leave this machine"
        write_credentials(Path(env["CLAUDE_CONFIG_DIR"]))
    if proxy:
        env |= {"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy, "NO_PROXY": "127.0.0.1"}
    return env


def child_environment(login: LoginName) -> dict[str, str]:
    """What a gateway sets for its children with that login."""
    if login == "key":
        return CHILD_ENVIRONMENT
    kept = {name: text for name, text in CHILD_ENVIRONMENT.items() if name != "CLAUDE_CODE_SIMPLE"}
    return kept | SUBSCRIPTION_ENVIRONMENT


def child_flags(login: LoginName) -> tuple[str, ...]:
    """The flags that a gateway has for such children alone."""
    return () if login == "key" else SUBSCRIPTION_FLAGS


def shows(request: Request) -> dict[str, str]:
    """The headers by which a request shows who asks."""
    names = ("authorization", "x-api-key")
    return {name: request.headers[name] for name in names if name in request.headers}


def asked_as(stub: MessagesStub, login: LoginName) -> bool:
    """Whether all that the API was asked showed that login, and no other."""
    return all(shows(request) == AUTHORIZATION[login] for request in stub.requests)


def limit_headers(
    status: str, resets_at: int, utilization: float = 1.0, *, overage: str = ""
) -> tuple[tuple[str, str], ...]:
    """The headers by which the API reports a subscription's limits: of its five hours as given, a
    quarter of its week is used. `status`: ``allowed``, ``allowed_warning`` or ``rejected``."""
    unified = "anthropic-ratelimit-unified"
    headers = {
        f"{unified}-status": status,
        f"{unified}-reset": str(resets_at),
        f"{unified}-representative-claim": "five_hour",
        f"{unified}-5h-status": status,
        f"{unified}-5h-reset": str(resets_at),
        f"{unified}-5h-utilization": str(utilization),
        f"{unified}-7d-status": "allowed",
        f"{unified}-7d-reset": str(resets_at + 86400),
        f"{unified}-7d-utilization": "0.25",
    }
    if overage:
        headers[f"{unified}-overage-status"] = overage
    return tuple(headers.items())


@define(eq=False)
class RefusingProxy:
    """An HTTP proxy on loopback that refuses all. `asked`: each target, in order, as
    ``CONNECT host:443``."""

    url: str
    asked: list[str] = field(factory=list)

    async def _serve(self, stream: trio.SocketStream) -> None:
        head = b""
        async with stream:
            try:
                while b"\r\n\r\n" not in head and len(head) < 65536:
                    data = await stream.receive_some()
                    if not data:
                        return
                    head += data
                method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
                self.asked.append(f"{method} {target}")
                await stream.send_all(
                    b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                )
            except (trio.BrokenResourceError, ValueError):
                return


@asynccontextmanager
async def open_refusing_proxy() -> AsyncIterator[RefusingProxy]:
    """Refuse on 127.0.0.1 for as long as the block runs."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy = RefusingProxy(f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, proxy._serve, [listener])
        yield proxy
        nursery.cancel_scope.cancel()


# -- what the CLI puts before what is said ---------------------------------------------------------


def without_reminders(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages of a request without what the CLI itself says in them; a text alone is a
    string, as it is where the CLI says nothing."""
    return [
        {**message, "content": _spoken(message["content"])}
        for message in messages
        if message["role"] != "system"
    ]


def _spoken(content: Any) -> Any:
    if isinstance(content, str):
        return content
    kept = [
        block for block in content if not str(block.get("text")).startswith("<system-reminder>")
    ]
    if len(kept) < len(content) and [block.keys() for block in kept] == [{"type", "text"}]:
        return kept[0]["text"]
    return kept


def reminders(body: dict[str, Any]) -> list[tuple[str, str]]:
    """What the CLI itself says in a request: ("user" or "system", the text), in order. A block of
    several reminders counts as one."""
    found = []
    for message in body["messages"]:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for block in blocks:
            if block["type"] != "text":
                continue
            if message["role"] == "system" or block["text"].startswith("<system-reminder>"):
                found.append((message["role"], block["text"]))
    return found
