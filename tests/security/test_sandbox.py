"""The sandbox of agents, each kind: nothing leads out of it, and what its tools need is in it."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from ccapi.schemas.settings.settings import (
    FileAccessSettings,
    ServerSettings,
    Settings,
    StorageSettings,
    WorkspaceSettings,
)
from ccapi.transport.process.child import Child, ChildCommand, open_child
from ccapi.transport.process.guardian import open_guardian
from ccapi.transport.sandbox import sandbox
from ccapi.transport.sandbox.sandbox import find_sandbox
from tests.security.scene import Scene, open_scene
from tests.security.ways import WAYS, script_of
from tests.support.processes import eventually, marked

KINDS = ("bubblewrap", "landlock")
PATIENCE = 300.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


async def confine(scene: Scene, kind: str, argv: Sequence[str], **changes: object) -> ChildCommand:
    """`argv` as an agent's child in the scene, in the `kind` of sandbox ("off": in none)."""
    further = changes.pop("additional_dirs", ())
    settings = Settings(
        storage=StorageSettings(path=scene.state),
        server=ServerSettings(tls_cert_file=Path("/x"), tls_key_file=scene.place / "key.pem"),
        workspaces=WorkspaceSettings(sandbox=kind, **changes),  # type: ignore[arg-type]
        file_access=FileAccessSettings(additional_dirs=further),  # type: ignore[arg-type]
    )
    env = {"HOME": str(scene.home), "PATH": PATH, **scene.variables}
    sandbox = find_sandbox(
        settings,
        argv,
        env,
        workspaces=scene.state / "workspaces",
        hidden=[scene.place / "settings.toml"],
    )
    if sandbox is None:
        return ChildCommand(argv, env, scene.own, stop_seconds=0)
    transcripts = scene.home / ".claude" / "projects" / "own"
    found = await trio.to_thread.run_sync(sandbox.confine, argv, env, scene.own, transcripts)
    return ChildCommand(
        found.argv,
        found.env,
        scene.own,
        stop_seconds=0,
        runs_others=True,
        egress=found.egress,
        filter=found.filter,
        scratch=found.scratch,
    )


@asynccontextmanager
async def running(command: ChildCommand) -> AsyncIterator[Child]:
    async with open_guardian() as guardian, open_child(command, guardian) as child:
        yield child


async def output_of(command: ChildCommand) -> str:
    """All that the command writes, stderr behind stdout."""
    said = bytearray()
    with trio.fail_after(PATIENCE):
        async with running(command) as child:
            stdout = child._process.stdout
            assert stdout is not None
            async for data in stdout:
                said += data
            await child.leave.wait()
    return said.decode() + child.stderr_tail


async def run(scene: Scene, kind: str, script: str, **changes: object) -> str:
    return await output_of(await confine(scene, kind, ["/bin/sh", "-c", script], **changes))


def outs(said: str) -> list[str]:
    lines = said.splitlines()
    assert "END" in lines, said
    return [line.removeprefix("OUT ") for line in lines if line.startswith("OUT ")]


@pytest.mark.parametrize("kind", KINDS)
async def test_no_way_leads_out(kind: str, tmp_path: Path) -> None:
    assert len(WAYS) >= 50
    async with open_scene(tmp_path) as scene:
        assert outs(await run(scene, kind, script_of(WAYS, scene.variables))) == []
        scene.assert_untouched()


async def test_the_tame_ways_do_lead_out_of_no_sandbox(tmp_path: Path) -> None:
    """Or they would show nothing."""
    tame = [way for way in WAYS if way.tame]
    async with open_scene(tmp_path) as scene:
        found = outs(await run(scene, "off", script_of(tame, scene.variables)))
        expected = {way.name for way in tame}
        # These need a gateway, which is not in this scene.
        assert expected - set(found) <= {
            "the gateway's port, with no key",
            "settings of the gateway in the environment",
            "keys of the gateway in the environment",
        }


@pytest.mark.parametrize("kind", KINDS)
async def test_what_its_tools_need_is_there(kind: str, tmp_path: Path) -> None:
    further = tmp_path / "further"
    further.mkdir()
    script = f"""
        set -e
        echo one > one.txt; mkdir -p a/b; mv one.txt a/b/; cat a/b/one.txt
        echo two > {further}/two.txt
        python3 -c 'import json, ssl, subprocess; print(subprocess.check_output(["echo", "three"]))'
        git init -q . && git -c user.name=n -c user.email=e commit -q --allow-empty -m four
        git log --format=%s
        echo five > "$(mktemp)"; echo six > ~/six; cat ~/six
        sleep 60 & kill $!
        bash -c 'cat <(echo seven)'
        ls -l /usr/bin/env > /dev/null; head -c 1 /dev/urandom > /dev/null
        echo DONE
    """
    async with open_scene(tmp_path) as scene:
        said = await run(scene, kind, script, additional_dirs=(str(further),))
        assert said.splitlines()[-1] == "DONE", said
        assert (scene.own / "a" / "b" / "one.txt").read_text() == "one\n"
        assert (further / "two.txt").read_text() == "two\n"
        assert not [*(scene.state / "agents").glob(f"{os.getpid()}-*")], "its scratch has gone"


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_further_writable_hides_what_it_is_around(kind: str, tmp_path: Path) -> None:
    """The operator's whole home given does not give other conversations away."""
    script = 'cat "$STATE/chat/secret" "$OTHER/secret" "$CONFIG"/projects/other/one.jsonl; '
    script += 'cat "$OPERATOR/.bashrc"'
    async with open_scene(tmp_path) as scene:
        said = await run(scene, kind, script, additional_dirs=(str(tmp_path),))
        assert said.count(scene.variables["TOKEN"]) == 1, said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["stop", "kill", "leader"])
async def test_nothing_outlives_it(kind: str, how: str, tmp_path: Path) -> None:
    """Neither what leaves its session, nor what leaves its parent, however the child ends."""
    script = """
        setsid sh -c 'trap "" TERM HUP; sleep 611 & sleep 611' &
        (setsid setsid nohup sleep 612 >/dev/null 2>&1 &) &
        python3 -c 'import os, time
        if not os.fork():
            os.setsid()
            if not os.fork():
                time.sleep(613)' &
        sleep 0.5; echo READY; sleep 614
    """.replace("\n        ", "\n")
    async with open_scene(tmp_path) as scene:
        token = scene.variables["TOKEN"]
        with trio.fail_after(PATIENCE):
            command = await confine(scene, kind, ["/bin/sh", "-c", script])
            async with running(command) as child:
                stdout = child._process.stdout
                assert stdout is not None
                assert await stdout.receive_some(100) == b"READY\n"
                assert len(marked("TOKEN", token)) >= 5
                if how == "kill":
                    child.kill()
                elif how == "leader":
                    os.kill(child.pid, 9)
                    await child.leave.wait()
            await eventually(lambda: not marked("TOKEN", token))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_frozen_one_stands_still(kind: str, tmp_path: Path) -> None:
    script = "while :; do echo x >> ticks; sleep 0.02; done"
    async with open_scene(tmp_path) as scene:
        ticks = scene.own / "ticks"
        async with running(await confine(scene, kind, ["/bin/sh", "-c", script])) as child:
            await eventually(lambda: ticks.exists() and ticks.stat().st_size > 4)
            child.freeze()
            await trio.sleep(0.2)
            size = ticks.stat().st_size
            await trio.sleep(0.3)
            assert ticks.stat().st_size == size
            child.thaw()
            await eventually(lambda: ticks.stat().st_size > size)


def test_what_is_shown_with_its_folder_is_not_mounted_again(tmp_path: Path) -> None:
    """Each mount delays the start of an agent."""
    prefix = tmp_path / "prefix"
    (prefix / "bin").mkdir(parents=True)
    program = prefix / "bin" / "claude"
    program.write_text("#!/usr/bin/env node\n")
    for command in ((sys.executable,), (str(program),)):
        shown = [*sandbox._needed(command, {"PATH": "/usr/bin"})]
        assert Path(command[0]).resolve() in shown or any(
            each in Path(command[0]).resolve().parents for each in shown
        )
        assert not [path for path in shown if any(each in path.parents for each in shown)]
