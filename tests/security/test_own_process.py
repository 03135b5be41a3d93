"""What another process of the same user sees of a running gateway: none of its secrets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.processes import stat_of

BY_VARIABLE, BY_OPTION, OF_A_CHILD = (
    "sk-given-by-variable",
    "sk-given-by-option",
    "tok-of-the-child",
)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`ccapi serve --demo` as its own process, and its URL."""
    command = [sys.executable, "-m", "ccapi.actors.commands.main", "serve", "--demo", "--port", "0"]
    command += ["--auth-agent-keys", BY_OPTION, "--auth-api-keys", BY_OPTION]
    command += ["--auth-api-keys", BY_VARIABLE, "--claude-env", f"ONE={OF_A_CHILD}"]
    process = subprocess.Popen(
        command,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "CLAUDE_CODE__AUTH__API_KEYS": f'["{BY_VARIABLE}"]',
            "CLAUDE_CODE__LOG__FORMAT": "console",
        },
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process, process.stderr:
        try:
            for line in process.stderr:
                if found := re.search(r"listening.*(http://\S+:\d+)", line):
                    yield process, found[1]
                    break
        finally:
            process.terminate()
            process.stderr.read()


def test_no_secret_is_in_what_the_machine_shows_of_it(
    gateway: tuple[subprocess.Popen[str], str],
) -> None:
    process, url = gateway
    shown = b"".join(
        Path(f"/proc/{process.pid}/{each}").read_bytes() for each in ("cmdline", "environ")
    )
    assert b"--auth-api-keys" in shown
    assert b"HOME=" in shown
    for secret in (BY_VARIABLE, BY_OPTION, OF_A_CHILD):
        assert secret.encode() not in shown, secret
    with httpx.Client(base_url=url, trust_env=False) as client:
        for key, status in ((BY_VARIABLE, 200), (BY_OPTION, 200), ("*" * len(BY_OPTION), 401)):
            assert client.get("/v1/models", headers={"x-api-key": key}).status_code == status


def test_only_root_may_look_into_it(gateway: tuple[subprocess.Popen[str], str]) -> None:
    """The kernel gives the files of a process that may not be dumped to root."""
    process, _ = gateway
    code = f"""
import ctypes, os
try:
    open("/proc/{process.pid}/environ", "rb").read()
    print("environ")
except PermissionError:
    pass
if ctypes.CDLL(None).ptrace(16, {process.pid}, None, None) == 0:
    print("ptrace")
"""
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    said = subprocess.run(
        [*without, sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert said.stdout == ""


def test_its_guardian_and_children_know_none_of_it(
    gateway: tuple[subprocess.Popen[str], str],
) -> None:
    process, _ = gateway
    deadline = time.monotonic() + 20
    while len(children := _children(process.pid)) < 3:  # the guardian, and two kept ready
        assert time.monotonic() < deadline
        time.sleep(0.05)
    shown = [Path(f"/proc/{pid}/environ").read_bytes() for pid in children]
    assert b"" in shown, "the guardian has no environment"
    for text in shown:
        assert BY_VARIABLE.encode() not in text
        assert BY_OPTION.encode() not in text
        assert b"CLAUDE_CODE__" not in text


def _children(parent: int) -> list[int]:
    pids = [int(each) for each in os.listdir("/proc") if each.isdigit()]  # noqa: PTH208
    return [pid for pid in pids if stat_of(pid)[1:2] == [str(parent)]]
