"""What the checks know of each other: the settings, and what an earlier check has found out.

Knows: nothing but names. Refuses to know: any check.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from attrs import define

from ...schemas.settings.settings import Settings
from ...transport.process.cli import Cli
from ...transport.process.guardian import Guardian
from ...transport.process.login import Login
from .finding import Finding


@define(eq=False)
class Case:
    """`file` is the settings file, `sources` where each setting's value comes from. `cli` is None
    until it is found, and `login` until it is known; of several logins, they are those of the first
    that can answer. `gateway` is whether a gateway answers on the port of the settings."""

    settings: Settings
    environ: Mapping[str, str]
    guardian: Guardian
    file: Path
    sources: Mapping[str, str]
    cli: Cli | None = None
    login: Login | None = None
    gateway: bool = False


Check = Callable[[Case], Awaitable[Finding]]
