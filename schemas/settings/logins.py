"""Several logins: what ``[[logins]]`` in the settings' file may say.

Knows: the keys of one login, and what they may hold. Refuses to know: the files and variables that
they name (`transport.process.login`). No value here is a secret: a key or token stands in an
environment variable, whose name is given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import fields, frozen

from .rules import Problem, SettingsError

DEFAULT = "default"
"""The name of the only login where the settings name none."""

MAX_LOGINS = 16

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


@frozen(kw_only=True)
class LoginSettings:
    """One of an organisation's own accounts. Raises `SettingsError`.

    `name` is shown in numbers, logs and the overview. Exactly one of these is given: `config_dir`,
    a configuration folder of the CLI's that is logged in (``CLAUDE_CONFIG_DIR``); `key_env`, the
    environment variable that holds an API key; `token_env`, the one that holds a token of
    ``claude setup-token``.
    """

    name: str
    config_dir: Path | None = None
    key_env: str | None = None
    token_env: str | None = None

    def __attrs_post_init__(self) -> None:
        problems = [Problem(f"logins.{key}", reason) for key, reason in self._problems()]
        if problems:
            raise SettingsError(problems)

    def _problems(self) -> Iterator[tuple[str, str]]:
        if not _NAME.fullmatch(str(self.name)):
            yield "name", "must be 1 to 32 of a-z, 0-9, '.', '_' and '-', a letter or digit first"
        elif self.name == DEFAULT:
            yield "name", f"must not be {self.name!r}, which is the login without [[logins]]"
        ways = (self.config_dir, self.key_env, self.token_env)
        if sum(way is not None for way in ways) != 1:
            yield "name", "needs exactly one of config_dir, key_env and token_env"
        if self.config_dir is not None and not isinstance(self.config_dir, Path):
            yield "config_dir", "must be a path"
        for key in ("key_env", "token_env"):
            variable = getattr(self, key)
            if variable is not None and not (
                isinstance(variable, str) and _VARIABLE.fullmatch(variable)
            ):
                # It is not quoted: the key itself may stand there.
                yield key, "must be the name of an environment variable, and never the key itself"

    @property
    def way(self) -> str:
        """What it logs in by, in a word."""
        if self.config_dir is not None:
            return "folder"
        return "key" if self.key_env else "token"

    @property
    def variable(self) -> str | None:
        """The environment variable that holds its key or token."""
        return self.key_env or self.token_env


def check_logins(logins: object) -> None:
    """Raise `SettingsError` where these cannot all be logins of one gateway."""
    if not isinstance(logins, tuple) or not all(isinstance(each, LoginSettings) for each in logins):
        raise SettingsError([Problem("logins", "must be a tuple of LoginSettings")])
    if len(logins) > MAX_LOGINS:
        raise SettingsError([Problem("logins", f"must be {MAX_LOGINS} at most")])
    names = [each.name for each in logins]
    if len(set(names)) < len(names):
        raise SettingsError([Problem("logins.name", "must not be the same for two logins")])


def read_logins(given: object) -> tuple[LoginSettings, ...]:
    """What ``[[logins]]`` in a file says. Raises `SettingsError` with every problem found."""
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise SettingsError([Problem("logins", "must be an array of tables, [[logins]]")])
    logins: list[LoginSettings] = []
    problems: list[Problem] = []
    for table in given:
        try:
            logins.append(_read_login(table))
        except SettingsError as error:
            problems += error.problems
    if problems:
        raise SettingsError(problems)
    check_logins(tuple(logins))
    return tuple(logins)


def _read_login(table: Mapping[str, Any]) -> LoginSettings:
    known = [field.name for field in fields(LoginSettings)]
    unknown = sorted(set(table) - set(known))
    if unknown:
        shown = "".join(
            char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in unknown[0]
        )
        raise SettingsError([Problem(f"logins.{shown}", f"unknown key; known: {', '.join(known)}")])
    values = dict(table)
    folder = values.get("config_dir")
    if isinstance(folder, str) and folder:
        try:
            values["config_dir"] = Path(folder).expanduser()
        except RuntimeError as error:  # no such user
            reason = "starts in a home directory that cannot be found"
            raise SettingsError([Problem("logins.config_dir", reason)]) from error
    return LoginSettings(**{"name": "", **values})
