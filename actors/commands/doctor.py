"""``ccapi doctor``: whether a gateway could answer turns here, and what to do where it could not.

Knows: how findings reach a person or a program, and the exit code. Refuses to know: the checks
(`actors.doctor`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import click
import trio

from ...schemas.settings.settings import Settings, SettingsError
from ...transport.settings_loader import DEFAULT_FILE, LoadedSettings
from ..doctor.configuration import refused
from ..doctor.examination import STEPS, TURN, Step, examine
from ..doctor.finding import Finding, State, is_well, render_json

COSTS = "asking the model once, as --turn says; this costs a few tokens …"


def run_doctor(
    loaded: LoadedSettings | SettingsError,
    config_file: Path | None,
    *,
    as_json: bool,
    turn: bool,
    environ: Mapping[str, str] | None = None,
) -> int:
    """Print the findings; returns the exit code: 0 where turns can be answered, else 1."""
    if isinstance(loaded, SettingsError):
        findings = [refused(problem) for problem in loaded.problems]
        if not as_json:
            for finding in findings:
                click.echo(finding.lines())
    else:
        file = config_file or DEFAULT_FILE
        environ = os.environ if environ is None else environ
        steps = (*STEPS, TURN) if turn else STEPS
        if turn:
            click.echo(COSTS, err=True)
        findings = trio.run(
            _examined, loaded.settings, environ, file, loaded.sources, steps, as_json
        )
    click.echo(render_json(findings) if as_json else _sum_up(findings))
    return 0 if is_well(findings) else 1


async def _examined(
    settings: Settings,
    environ: Mapping[str, str],
    file: Path,
    sources: Mapping[str, str],
    steps: tuple[Step, ...],
    as_json: bool,
) -> list[Finding]:
    findings = []
    async with examine(settings, environ, file=file, sources=sources, steps=steps) as found:
        async for finding in found:
            findings.append(finding)
            if not as_json:
                click.echo(finding.lines())
    return findings


def _sum_up(findings: list[Finding]) -> str:
    count = {state: sum(each.state is state for each in findings) for state in State}
    if is_well(findings):
        return f"Turns can be answered ({count[State.WARNING]} warnings)."
    return f"No: {count[State.FAILED]} failed, {count[State.WARNING]} warnings."
