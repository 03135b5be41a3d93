"""The checks in their order, each with its bound.

Knows: which checks there are, and how long each may take. Refuses to know: what any of them does.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import trio
from attrs import frozen

from ...schemas.settings.settings import Settings
from ...transport.loggers import get_logger
from ...transport.process.guardian import open_guardian
from .case import Case, Check
from .cli import check_cli, check_login, check_models, check_modes, check_turn
from .configuration import check_mcp, check_settings
from .finding import Finding, failed
from .machine import check_guardian, check_memory, check_port, check_sandbox, no_guardian
from .storage import check_disk, check_keys, check_store

log = get_logger("ccapi.doctor")


@frozen
class Step:
    """A check, and the seconds that it may take."""

    name: str
    check: Check
    seconds: float = 15.0


STEPS = (
    Step("settings", check_settings),
    Step("disk", check_disk),
    Step("cli", check_cli),
    Step("login", check_login),
    Step("modes", check_modes),
    Step("models", check_models, 30.0),
    Step("mcp", check_mcp),
    Step("port", check_port),
    Step("store", check_store),
    Step("keys", check_keys),
    Step("memory", check_memory),
    Step("sandbox", check_sandbox, 30.0),
    Step("guardian", check_guardian),
)
"""In this order: the later ones need what the earlier have found out."""

TURN = Step("turn", check_turn, 90.0)


@trio.as_safe_channel
async def examine(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    file: Path,
    sources: Mapping[str, str],
    steps: Sequence[Step] = STEPS,
) -> AsyncGenerator[Finding, None]:
    """The findings, each as soon as it is there. `file` is the settings file, `sources` says where
    each setting's value comes from (`LoadedSettings`)."""
    async with AsyncExitStack() as stack:
        try:
            guardian = await stack.enter_async_context(open_guardian())
        except OSError as error:
            yield no_guardian(error)
            return
        case = Case(settings, environ, guardian, file, sources)
        for step in steps:
            yield await _take(step, case)


async def _take(step: Step, case: Case) -> Finding:
    with trio.move_on_after(step.seconds):
        try:
            return await step.check(case)
        except Exception as error:  # one check that breaks keeps no other from running
            log.warning("a check broke", check=step.name, exc_info=True)
            text = f"the check broke: {type(error).__name__}: {error}"
            return failed(step.name, text, "Report this with the version of ccapi.")
    text = f"no answer within {step.seconds:g} s"
    return failed(step.name, text, "Something of this machine hangs: a disk, or the CLI's network.")
