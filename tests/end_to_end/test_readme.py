"""README's recipes run as they stand, against the demo CLI."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest
import trio

from ccapi.schemas.settings.settings import SettingsError
from ccapi.transport.settings_loader import load_settings
from tests.support.live import open_live_demo
from tests.support.readme import blocks, read, ways_in

PATIENCE = 60.0
CCAPI = Path(sys.executable).with_name("ccapi")
BASE = "http://127.0.0.1:8080"
BLOCKS = blocks(ways_in(read("README.md")))


def the_block(language: str, words: str) -> str:
    (found,) = [body for lang, body in BLOCKS if lang == language and words in body]
    return found


async def run(*command: str, home: Path) -> str:
    """What the command prints; it must succeed and keep its stderr to itself."""
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            command,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home)},
            cwd=home,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    assert done.returncode == 0, done.stderr.decode()
    return bytes(done.stdout).decode()


@pytest.mark.parametrize(
    ("words", "printed"),
    [("from openai", "What is my name?"), ("from langchain", "Hello! This is")],
)
async def test_a_client_in_python(words: str, printed: str, tmp_path: Path) -> None:
    code = the_block("python", words)
    assert code.count(BASE) == 1
    async with open_live_demo(tmp_path) as live:
        code = code.replace(BASE, live.url)
        assert printed in await run(sys.executable, "-c", code, home=tmp_path)


async def test_curl_goes_on_with_a_conversation(tmp_path: Path) -> None:
    first, second = (body for lang, body in BLOCKS if lang == "sh" and body.startswith("curl"))
    async with open_live_demo(tmp_path) as live:
        answer = await run("sh", "-c", first.replace(BASE, live.url), home=tmp_path)
        (name,) = re.findall(r'"conversation_id":\s*"(conv_\w+)"', answer)
        script = second.replace(BASE, live.url).replace("conv_…", name)
        answer = await run("sh", "-c", script, home=tmp_path)
    assert "> Hello" in answer


async def test_embedding(tmp_path: Path) -> None:
    code = the_block("python", "open_gateway()").replace(
        "open_gateway()", "open_gateway(demo=True)"
    )
    printed = await run(sys.executable, "-c", code, home=tmp_path)
    assert "One question" in printed
    assert re.search(r"(?m)^2 ", printed), "the last of the batch"


async def test_a_teams_keys_and_settings(tmp_path: Path) -> None:
    """The settings are refused until there is a key; the commands make two beside them."""
    text = the_block("toml", "[workspaces]")
    storage = f'\n[storage]\npath = "{tmp_path / "state"}"\n'
    file = tmp_path / "config" / "local.toml"
    file.parent.mkdir()
    file.write_text(text + storage, "utf-8")
    with pytest.raises(SettingsError, match="ccapi key create"):
        load_settings(file, environ={})
    commands = the_block("sh", "ccapi key create").replace("ccapi key", f"{CCAPI} key")
    printed = await run("sh", "-c", commands, home=tmp_path)
    ann, bob, _, *rows = printed.splitlines()
    assert ann.startswith("sk-ccapi-")
    assert bob != ann
    assert [row.split()[0] for row in rows] == ["ann", "bob"]
    settings = load_settings(file, environ={}).settings
    assert settings.server.host == tomllib.loads(text)["server"]["host"]
    assert settings.limits.concurrent_turns == 4


@pytest.mark.parametrize("words", ["model_id", "schema: v1"])
async def test_a_configuration_names_a_model_that_is_there(words: str, tmp_path: Path) -> None:
    text = the_block("yaml", words)
    assert f"{BASE}/v1" in text
    (model,) = re.findall(r"(?m)^\s+model(?:_name)?: (\w+)$", text)
    async with open_live_demo(tmp_path) as live, httpx.AsyncClient() as client:
        assert (await client.get(f"{live.url}/v1/models/{model}")).status_code == 200
