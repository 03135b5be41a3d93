"""An agent of the real CLI with everything allowed goes for the login: it is not in its sandbox,
however the gateway is logged in, and the API is asked with it all the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from ccapi.schemas.settings.settings import PermissionSettings, WorkspaceSettings
from tests.security.test_agent import begin, do, taken_spares
from tests.security.test_sandbox import KINDS
from tests.support.live import Live, open_live, settings_for
from tests.support.logins import (
    AUTHORIZATION,
    FILE_TOKEN,
    KEY,
    LOGINS,
    TOKEN,
    LoginName,
    login_environment,
    open_refusing_proxy,
    shows,
    write_account,
)
from tests.support.messages_stub import open_messages_stub
from tests.support.raw_cli import cli_binary

SECRETS = {"key": KEY, "token": TOKEN, "file": FILE_TOKEN}
VARIABLES = {"key": "ANTHROPIC_API_KEY", "token": "CLAUDE_CODE_OAUTH_TOKEN"}
VARIABLES["file"] = VARIABLES["token"]

SEARCH = r"""
import os, re, sys
wanted = {"login": bytes.fromhex(sys.argv[1])[::-1]}  # so that the search does not find itself
name = sys.argv[2].encode() + b"="
seen = {}

def look(place, data):
    for what, words in wanted.items():
        if words in data:
            print("FOUND", what, place)

def read(path):
    try:
        with open(path, "rb") as file:
            return file.read(1 << 26)
    except OSError:
        return b""

try:
    processes = [int(each) for each in os.listdir("/proc") if each.isdigit()]
except PermissionError:  # Landlock: by their names, then
    processes = range(max(1, os.getpid() - 100), os.getpid())
processes = [each for each in processes if each != os.getpid()]
for each in processes:
    for word in read(f"/proc/{each}/environ").split(b"\0"):
        if word.startswith(name):
            wanted["stand-in"] = word.partition(b"=")[2]
for each in processes:
    for file in ("environ", "cmdline"):
        look(file, read(f"/proc/{each}/{file}"))
    try:
        for number in os.listdir(f"/proc/{each}/fd"):
            if os.path.isfile(f"/proc/{each}/fd/{number}"):
                look("fd", read(f"/proc/{each}/fd/{number}"))
    except OSError:
        pass
    try:
        memory = open(f"/proc/{each}/mem", "rb", buffering=0)
    except OSError:
        continue
    for line in read(f"/proc/{each}/maps").decode().splitlines():
        begin, end, mode = re.match(r"(\w+)-(\w+) (\S+)", line).groups()
        if mode.startswith("rw"):
            at, end = int(begin, 16), int(end, 16)
            while at < end:
                try:
                    memory.seek(at)
                    look("mem", memory.read(min(1 << 24, end - at)))
                except (OSError, OverflowError, ValueError):
                    pass
                at += 1 << 24
look("environ", "\0".join(os.environ.values()).encode())
for top in (os.environ["HOME"], os.environ["CLAUDE_CONFIG_DIR"], "/tmp", "/run", os.getcwd()):
    for folder, _, files in os.walk(top):
        for file in files:
            look(f"file {folder}/{file}", read(os.path.join(folder, file)))
print("END")
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("login", "spare"), [*((login, False) for login in LOGINS), (LOGINS[0], True)]
)
async def test_the_login_is_nowhere(
    kind: str, login: LoginName, spare: bool, tmp_path: Path
) -> None:
    secret = SECRETS[login]
    async with open_messages_stub() as stub, open_refusing_proxy() as proxy:
        env = login_environment(login, tmp_path, stub.url, proxy.url)
        write_account(Path(env["CLAUDE_CONFIG_DIR"]))
        workspaces = WorkspaceSettings(sandbox=kind)  # type: ignore[arg-type]
        settings = settings_for(
            tmp_path,
            env,
            cli_binary(),
            workspaces=workspaces,
            permissions=PermissionSettings(allow=("Bash", "Read")),
            claude={"prewarm": 0, "prewarm_agents": int(spare)},
        )
        with trio.fail_after(90):
            async with open_live(settings) as opened:
                live = Live(opened.url, opened.gateway, opened.stop, stub)
                name = await begin(live, spare=spare)
                hexed = secret.encode()[::-1].hex()
                command = f"python3 - {hexed} {VARIABLES[login]} <<'SEARCH'\n{SEARCH}\nSEARCH"
                (said,) = await do(live, name, command)
                assert await taken_spares(live) == spare
        assert "END" in said, said
        found = {line for line in said.splitlines() if line.startswith("FOUND")}
        asked = [shows(request) for request in stub.requests]
        assert asked
        assert asked == [AUTHORIZATION[login]] * len(asked), "the API is asked with the login"
        assert not {each for each in found if "login" in each}, found
        if kind == "bubblewrap":
            assert {"FOUND stand-in environ", "FOUND stand-in mem"} <= found, "it did look"
        body = json.dumps([request.body for request in stub.requests])
        assert "operator@example.com" not in body
