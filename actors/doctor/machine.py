"""The machine: memory for children, the port, the sandbox for agents, the guardian.

Knows: what of the machine a gateway needs. Refuses to know: the CLI's login, and the store.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

import attrs
import trio

from ...schemas.settings.rules import SettingsError
from ...schemas.settings.settings import Settings
from ...transport.client.gateway_client import GatewayClient, Refused, Unreachable
from ...transport.http.front_door import ListenError, open_listeners
from ...transport.process.guardian import open_guardian
from ...transport.process.memory import available_bytes
from ...transport.process.ports import listener_of
from ...transport.sandbox.sandbox import find_sandbox
from .case import Case
from .finding import Finding, failed, ok, warning

CHILD_BYTES = 200 * 1024 * 1024
"""Memory of a child, as measured after some turns."""

NO_PROCESS = "Let the gateway's user start processes (ulimit -u, and the service's limits)."

ANSWER_SECONDS = 5.0
GUARDIAN_SECONDS = 5.0


async def check_memory(case: Case) -> Finding:
    """For how many children there is memory, of as many as may run."""
    most = case.settings.claude.max_concurrent_sessions
    free = await trio.to_thread.run_sync(available_bytes, abandon_on_cancel=True)
    if free is None:
        return ok("memory", "this system does not say how much there is")
    room = free // CHILD_BYTES
    text = f"{free / 1e9:.1f} GB available, for {room} children of {CHILD_BYTES // 1_000_000} MB"
    if not room:
        return failed("memory", text, "Free some memory: one child at least has to fit.")
    if room < most:
        cure = f"Set claude.max_concurrent_sessions to {room} or less (now {most})."
        return warning("memory", text, cure)
    return ok("memory", f"{text}; {most} may run (claude.max_concurrent_sessions)")


async def check_port(case: Case) -> Finding:
    """Whether the port is free, or which process has it. A gateway that answers there is well."""
    server = case.settings.server
    where = f"{server.host} port {server.port}"
    try:
        listeners = await open_listeners(server.host, server.port)
    except ListenError as error:
        return await _taken(case, where, str(error))
    for listener in listeners:
        await listener.aclose()
    return ok("port", f"{where} is free" if server.port else f"{server.host}, any free port")


async def _taken(case: Case, where: str, reason: str) -> Finding:
    case.gateway, trouble = await _ask_gateway(case.settings)
    if case.gateway and trouble:
        return warning("port", f"a gateway runs at {where}, and is not ready: {trouble}", trouble)
    if case.gateway:
        return ok("port", f"a gateway runs at {where}, and is ready")
    port = case.settings.server.port
    found = await trio.to_thread.run_sync(listener_of, port, abandon_on_cancel=True)
    if found is None:
        return failed("port", reason, "Choose another port: `ccapi serve --port 8081`.")
    pid, name = found
    cure = f"End it (kill {pid}), or choose another port: `ccapi serve --port 8081`."
    return failed("port", f"process {pid} ({name}) listens on {where}", cure)


async def _ask_gateway(settings: Settings) -> tuple[bool, str]:
    """Whether a gateway answers on the port, and why it is not ready."""
    server = settings.server
    scheme = "https" if server.tls_cert_file else "http"
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(server.host, server.host)  # noqa: S104
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    client = GatewayClient(f"{scheme}://{host}:{server.port}")
    with trio.move_on_after(ANSWER_SECONDS):
        try:
            if (await client.get("/health")).get("status") != "ok":
                return False, ""
            await client.get("/ready")
        except Refused as error:
            return error.status == 503, str(error)
        except Unreachable:
            return False, ""
        return True, ""
    return False, ""


async def check_sandbox(case: Case) -> Finding:
    """What keeps agents within their workspaces."""
    if not case.settings.models.agents:
        await trio.lowlevel.checkpoint()
        return ok("sandbox", "not needed: agents are off (models.agents)")
    if case.cli is None:
        return failed("sandbox", "there is no CLI to confine", "See to the CLI first.")
    wanted = case.settings.workspaces.sandbox
    kind, why = await trio.to_thread.run_sync(_find, case, wanted, abandon_on_cancel=True)
    if kind:
        return ok("sandbox", f"agents are confined by {kind}")
    cure = "apt install bubblewrap (and allow unprivileged user namespaces), or use Linux 6.12."
    if wanted in ("bubblewrap", "landlock") or not case.settings.workspaces.network:
        return failed("sandbox", f"agents need one, and there is none: {why}", cure)
    if wanted == "off":
        cure = 'Set workspaces.sandbox to "auto", or models.agents to false.'
        why = "workspaces.sandbox is off"
    text = "agents are not confined: what they run can read all that the gateway's user can"
    return warning("sandbox", f"{text} ({why})", cure)


def _find(case: Case, wanted: str) -> tuple[str, str]:
    """The sandbox's kind, or why there is none."""
    assert case.cli is not None
    reasons = []
    for kind in {"auto": ("bubblewrap", "landlock"), "off": ()}.get(wanted, (wanted,)):
        workspaces = attrs.evolve(case.settings.workspaces, sandbox=kind)  # type: ignore[arg-type]
        settings = attrs.evolve(case.settings, workspaces=workspaces)
        cli = case.cli
        try:
            find_sandbox(settings, cli.program, cli.env, workspaces=cli.agents.root)
        except SettingsError as error:
            reasons += [problem.reason for problem in error.problems]
        else:
            return kind, ""
    return "", "; ".join(reasons)


def no_guardian(error: OSError) -> Finding:
    """No process can be started, so that no other check can ask for anything."""
    return failed("guardian", f"it does not start: {error.strerror}", NO_PROCESS)


async def check_guardian(case: Case) -> Finding:
    """Whether a guardian starts, and ends what it watches when its gateway is gone."""
    program = [sys.executable, "-I", "-S", "-E", "-c", "import time; time.sleep(60)"]
    try:
        process = await trio.lowlevel.open_process(
            program, stdin=subprocess.DEVNULL, env={}, start_new_session=True
        )
    except OSError as error:
        return no_guardian(error)
    try:
        async with open_guardian() as guardian:
            guardian.watch(process.pid)
        with trio.move_on_after(GUARDIAN_SECONDS):
            await process.wait()
        ended = process.returncode is not None
    except OSError as error:
        return no_guardian(error)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            with trio.move_on_after(1, shield=True):
                await process.wait()
    if ended:
        return ok("guardian", "it starts, and ends what it watches")
    return failed(
        "guardian",
        "it does not end what it watches: a gateway that is killed would leave processes behind",
        "Let the gateway's user signal its own processes.",
    )
