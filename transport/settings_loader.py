"""Where settings come from: defaults < file < environment < command line; and how they are shown.

Knows TOML, environment variables, the order among sources and the source of every value in force.
Refuses to know what the keys mean: `schemas.settings.settings` has them, their types and their
rules.

Everything is checked as it is read, also what a stronger source overrides, and all problems are
reported together. typed-settings' own loaders are not used, because they stop at the first bad
source, quote secrets in their messages and cannot recognise an unknown variable; its fields and its
click types are (`schemas.settings.settings`, `actors.commands.main`).

`python -m ccapi.transport.settings_loader README.md` rewrites the table of settings in that file.
"""

import json
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, get_args, get_origin

import attrs
from attrs import frozen

from ..schemas.settings.logins import LoginSettings, read_logins
from ..schemas.settings.rules import MASK
from ..schemas.settings.settings import (
    Problem,
    Settings,
    SettingsError,
    check_exposure,
    complaint,
    default_state_directory,
    is_loopback,
)

PREFIX = "CLAUDE_CODE__"
DEFAULT_FILE = Path("config/local.toml")
TABLE_START, TABLE_END = "<!-- settings -->", "<!-- /settings -->"
SHORT_OPTIONS = {
    "server.host": "--host",
    "server.port": "--port",
    "cluster.node_url": "--node-url",
}


@frozen
class Key:
    """One setting and its names in each source."""

    section: str
    attribute: "attrs.Attribute[Any]"

    @property
    def path(self) -> str:
        return f"{self.section}.{self.attribute.name}"

    @property
    def variable(self) -> str:
        return f"{PREFIX}{self.section}__{self.attribute.name}".upper()

    @property
    def option(self) -> str:
        return f"--{self.section}-{self.attribute.name}".replace("_", "-")

    @property
    def type(self) -> Any:
        return self.attribute.type

    @property
    def secret(self) -> bool:
        return bool(self.attribute.metadata["secret"])

    @property
    def help(self) -> str:
        return str(self.attribute.metadata["typed-settings"]["help"])

    @property
    def default(self) -> Any:
        """The default; a mapping's is a fresh one. (Not asked of a key with `default_text`.)"""
        default: Any = self.attribute.default
        return default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]

    @property
    def default_text(self) -> str:
        """The default in TOML, or in words where it is not one value."""
        words = str(self.attribute.metadata["default_text"])
        return words or ("unset" if self.default is None else f"`{_toml(self.default)}`")


# Two levels, walked by hand: typed-settings' deep_options reads the classes' source for
# docstrings, which takes longer than all the rest of a start.
SECTIONS: Mapping[str, Any] = {
    field.name: field.type for field in attrs.fields(Settings) if field.name != "logins"
}
KEYS: Mapping[str, Key] = {
    key.path: key
    for section, cls in SECTIONS.items()
    for key in (Key(section, attribute) for attribute in attrs.fields(cls))
}
VARIABLES: Mapping[str, Key] = {key.variable: key for key in KEYS.values()}


@frozen
class Given:
    """A value that a source gives, already of the key's type and within its rule."""

    key: Key
    value: Any = attrs.field(repr=False)  # may be secret
    source: str


@frozen
class LoadedSettings:
    """Settings, and for every `section.key` where its value comes from: `default`,
    `file config/local.toml`, `environment CLAUDE_CODE__...` or `option --...`."""

    settings: Settings
    sources: Mapping[str, str]


def load_settings(
    config_file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    listens: bool = True,
) -> LoadedSettings:
    """Read all sources. Raises SettingsError with every problem found.

    `config_file` must exist; without one `config/local.toml` is read if it is there. `environ` is
    os.environ by default. `options` maps `section.key` to plain values (as TOML would give).
    `listens`: clients of other machines shall need a key (`check_exposure`).
    """
    environ = os.environ if environ is None else environ
    given: dict[str, Given] = {}
    logins: tuple[LoginSettings, ...] = ()
    problems: list[Problem] = []
    for item in chain(_from_file(config_file), _from_environ(environ), _from_options(options)):
        if isinstance(item, Problem):
            problems.append(item)
        elif isinstance(item, tuple):
            logins = item
        else:
            given[item.key.path] = item
    return _assemble(given, problems, environ, logins, listens=listens)


def _assemble(
    given: Mapping[str, Given],
    problems: list[Problem],
    environ: Mapping[str, str],
    logins: tuple[LoginSettings, ...],
    *,
    listens: bool,
) -> LoadedSettings:
    sources = dict.fromkeys(KEYS, "default") | {path: it.source for path, it in given.items()}
    refused = {problem.key.partition(".")[0] for problem in problems}
    sections: dict[str, Any] = {}
    for name, cls in SECTIONS.items():
        values = {
            it.key.attribute.name: it.value for it in given.values() if it.key.section == name
        }
        try:
            if name == "storage" and "path" not in values:
                values["path"] = default_state_directory(environ)
            if name not in refused:  # with a value missing, a conflict would be a guess
                sections[name] = cls(**values)
        except SettingsError as error:
            problems += _with_sources(error, sources)
    if listens and {"server", "auth", "storage"} <= sections.keys():
        try:
            made = Settings(**sections)
            check_exposure(made, has_stored_keys=_has_keys(made))
        except SettingsError as error:
            problems += _with_sources(error, sources)
    if problems:
        raise SettingsError(problems)
    return LoadedSettings(Settings(**sections, logins=logins), sources)


def _has_keys(settings: Settings) -> bool:
    """Whether the store has keys; only asked where that matters."""
    if is_loopback(settings.server.host) or not settings.storage.persist:
        return False
    from .store.key_table import has_keys  # a person who asks for help need not wait for it

    return has_keys(settings.storage.place)


def _with_sources(error: SettingsError, sources: Mapping[str, str]) -> Iterator[Problem]:
    for problem in error.problems:
        yield attrs.evolve(problem, source=sources[problem.key])


def _from_file(
    config_file: Path | None,
) -> Iterator[Given | tuple[LoginSettings, ...] | Problem]:
    path = config_file or DEFAULT_FILE
    source = f"file {_one_line(str(path))}"
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except (FileNotFoundError, NotADirectoryError):
        if config_file is not None:
            yield Problem("", "does not exist", source)
    except OSError as error:
        yield Problem("", f"cannot be read: {error.strerror}", source)
    except UnicodeDecodeError as error:
        yield Problem("", f"is not UTF-8 text (at byte {error.start})", source)
    except ValueError as error:  # also what int() says to more digits than it takes
        yield Problem("", f"is not valid TOML: {_one_line(str(error))}", source)
    except RecursionError:
        yield Problem("", "is nested too deeply", source)
    else:
        yield from _from_document(document, source)


def _from_document(
    document: Mapping[str, Any], source: str
) -> Iterator[Given | tuple[LoginSettings, ...] | Problem]:
    for section, table in document.items():
        if section == "logins":
            try:
                yield read_logins(table)
            except SettingsError as error:
                yield from (attrs.evolve(problem, source=source) for problem in error.problems)
        elif section not in SECTIONS:
            yield Problem(_one_line(section), f"unknown section{_hint(section, SECTIONS)}", source)
        elif not isinstance(table, dict):
            yield Problem(section, f"must be a section, [{section}]", source)
        else:
            for name, value in table.items():
                path = f"{section}.{name}"
                if path in KEYS:
                    yield _checked(KEYS[path], value, source)
                else:
                    yield Problem(_one_line(path), f"unknown key{_hint(path, KEYS)}", source)


def _from_environ(environ: Mapping[str, str]) -> Iterator[Given | Problem]:
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        source = f"environment {_one_line(variable)}"
        key = VARIABLES.get(variable)
        if key is None:
            yield Problem("", f"unknown setting{_hint(variable, VARIABLES)}", source)
            continue
        try:
            value = _from_text(environ[variable], key.type)
        except ValueError as error:
            yield Problem(key.path, str(error), source)
        else:
            yield _checked(key, value, source)


def _from_options(options: Mapping[str, Any] | None) -> Iterator[Given | Problem]:
    for path, value in (options or {}).items():
        key = KEYS.get(path)
        if key is None:
            yield Problem(path, f"unknown key{_hint(path, KEYS)}", "option")
            continue
        name = SHORT_OPTIONS.get(path, key.option)
        name = name.replace("--", "--no-", 1) if value is False else name
        yield _checked(key, value, f"option {name}")


def _from_text(text: str, wanted: Any) -> object:
    """The value an environment variable's text means; text that means nothing of the wanted type
    comes back as it is, for the key's rule to refuse. Raises ValueError without quoting it."""
    if wanted is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    shape = {tuple: 'array of strings, as in ["a", "b"]', Mapping: 'object, as in {"A": "b"}'}
    container = shape.get(get_origin(wanted))
    if container is None and wanted not in {int, float}:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if container is None:
            return text
        raise ValueError(f"must be a JSON {container}") from None


def _checked(key: Key, value: object, source: str) -> Given | Problem:
    """`value`, as TOML or JSON gives it, in the key's type: a whole number where any number goes,
    an array as a tuple, text as a path. The rule refuses what then still has the wrong type."""
    wanted = key.type
    if wanted is float and type(value) is int and value.bit_length() < 64:
        value = float(value)
    elif get_origin(wanted) is tuple and isinstance(value, list):
        value = tuple(value)
    elif Path in {wanted, *get_args(wanted)} and isinstance(value, str) and value:
        try:
            value = Path(value).expanduser()
        except RuntimeError:  # no such user
            return Problem(key.path, "starts in a home directory that cannot be found", source)
    elif value is None:  # JSON's null; TOML has none
        return Problem(key.path, "must not be null", source)
    reason = complaint(key.attribute, value)
    return Given(key, value, source) if reason is None else Problem(key.path, reason, source)


def _hint(name: str, known: Mapping[str, object]) -> str:
    import difflib  # only after a typing error is it waited for

    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _one_line(text: str) -> str:
    """Names that others chose, safe inside a message or a TOML comment."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def render_toml(loaded: LoadedSettings) -> str:
    """The settings in force as a TOML document, secrets masked, each line with its source."""
    lines: list[str] = []
    for section in SECTIONS:
        lines += ["", f"[{section}]"]
        for key, value in _shown(loaded, section):
            name = key.attribute.name
            text = f"# {name} is unset" if value is None else f"{name} = {_toml(value)}"
            lines.append(f"{text}  # {loaded.sources[key.path]}")
    for login in _logins(loaded):
        lines += ["", "[[logins]]", *(f"{name} = {_toml(value)}" for name, value in login.items())]
    return "\n".join(lines[1:]) + "\n"


def render_json(loaded: LoadedSettings) -> str:
    """The same as one JSON object: `settings` (by section and key) and `sources`."""
    settings = {
        section: {key.attribute.name: value for key, value in _shown(loaded, section)}
        for section in SECTIONS
    }
    shown = {**settings, "logins": _logins(loaded)}
    return json.dumps({"settings": shown, "sources": loaded.sources}, indent=2, default=str)


def _logins(loaded: LoadedSettings) -> list[dict[str, Any]]:
    """The logins with what each of them has. None of it is secret."""
    named = (attrs.asdict(login) for login in loaded.settings.logins)
    return [{key: value for key, value in login.items() if value is not None} for login in named]


def _shown(loaded: LoadedSettings, section: str) -> Iterator[tuple[Key, Any]]:
    for key in KEYS.values():
        if key.section == section:
            value = getattr(getattr(loaded.settings, section), key.attribute.name)
            yield key, _masked(value) if key.secret else value


def _masked(value: object) -> object:
    if isinstance(value, Mapping):
        return dict.fromkeys(value, MASK)
    if isinstance(value, tuple):
        return tuple(MASK for _ in value)
    return MASK if value else value


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case Mapping():
            pairs = ", ".join(f"{_toml(name)} = {_toml(item)}" for name, item in value.items())
            return f"{{ {pairs} }}" if pairs else "{}"
        case _:
            # JSON's string is TOML's, but for DEL; bytes of a path that are no UTF-8 are replaced.
            text = str(value).encode(errors="surrogateescape").decode(errors="replace")
            return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def settings_table() -> str:
    """The Markdown table of all settings: key, environment variable, default, meaning."""
    rows = ["| Key | Environment variable | Default | Meaning |", "|---|---|---|---|"]
    for key in KEYS.values():
        meaning = key.help.replace("|", "\\|")
        rows.append(f"| `{key.path}` | `{key.variable}` | {key.default_text} | {meaning} |")
    return "\n".join(rows)


def with_settings_table(text: str) -> str:
    """`text` with the table between its markers renewed. Raises ValueError without markers."""
    pattern = re.compile(f"{re.escape(TABLE_START)}.*?{re.escape(TABLE_END)}", re.DOTALL)
    table = f"{TABLE_START}\n{settings_table()}\n{TABLE_END}"
    renewed, count = pattern.subn(lambda _: table, text, count=1)
    if not count:
        raise ValueError(f"no {TABLE_START} ... {TABLE_END}")
    return renewed


if __name__ == "__main__":
    for readme in map(Path, sys.argv[1:]):
        readme.write_text(with_settings_table(readme.read_text("utf-8")), "utf-8")
