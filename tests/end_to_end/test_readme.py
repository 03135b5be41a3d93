"""README's recipes run as they stand, against the demo CLI."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest
import trio

from ccapi.transport.settings_loader import load_settings
from tests.support.live import open_live_demo
from tests.support.readme import blocks, read, ways_in

PATIENCE = 60.0
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
    """The script makes a key and its hash; with two such hashes the gateway takes the settings."""
    hashes = []
    for _ in range(2):
        printed = await run("sh", "-c", the_block("sh", "token_urlsafe"), home=tmp_path)
        key, hashed = (line.split(": ")[1].strip() for line in printed.splitlines())
        assert hashed == f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"
        hashes.append(hashed)
    text = the_block("toml", "agent_keys")
    for number, hashed in enumerate(hashes, start=1):
        text = text.replace(f"sha256:…{number}", hashed)
    file = tmp_path / "local.toml"
    file.write_text(text, "utf-8")
    settings = load_settings(file, environ={}).settings
    assert settings.server.host == tomllib.loads(text)["server"]["host"]
    assert len(settings.auth.api_keys) == 2
    assert len(settings.auth.agent_keys) == 1


@pytest.mark.parametrize("words", ["model_id", "schema: v1"])
async def test_a_configuration_names_a_model_that_is_there(words: str, tmp_path: Path) -> None:
    text = the_block("yaml", words)
    assert f"{BASE}/v1" in text
    (model,) = re.findall(r"(?m)^\s+model(?:_name)?: (\w+)$", text)
    async with open_live_demo(tmp_path) as live, httpx.AsyncClient() as client:
        assert (await client.get(f"{live.url}/v1/models/{model}")).status_code == 200
