"""The command line: `ccapi serve`, `config`, `doctor`, `login`, `chat`, `export`, `import`,
`mcp` and `key`.

Knows how settings are spelled as options, and how their errors reach a person: one line for each
reason on stderr, exit code 2 for settings, 1 for a gateway that could not run, never a traceback.
Refuses to know how to serve: `serve.run_server` is imported only when it is needed, because
a person at a terminal waits for everything here.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO, get_origin

import click
from click.core import ParameterSource
from typed_settings.cli_click import ClickHandler
from typed_settings.cli_utils import TypeArgsMaker

from ...schemas.keys import LIMIT_NAMES, SCOPES
from ...schemas.settings.settings import Settings, SettingsError, without_keys
from ...transport.process.own_process import forget_start
from ...transport.settings_loader import (
    DEFAULT_FILE,
    KEYS,
    PREFIX,
    SHORT_OPTIONS,
    Key,
    LoadedSettings,
    load_settings,
    render_json,
    render_toml,
)
from .completion import SHELLS, completion_script


def _path_kwargs(typ: type, default: object, is_optional: bool) -> dict[str, Any]:
    return {"type": str, "metavar": "PATH"}  # the loader makes the Path, the same for all sources


CLICK_TYPES = TypeArgsMaker(ClickHandler({Path: _path_kwargs}))


class SettingOption(click.Option):
    """One setting as an option; given on the command line, its value goes into the context's
    dict under the setting's `section.key`."""

    def __init__(self, key: Key) -> None:
        self.key = key
        kwargs = CLICK_TYPES.get_kwargs(key.type, None)
        if get_origin(key.type) is Mapping:
            kwargs = {"type": str, "multiple": True, "metavar": "NAME=VALUE"}
        kwargs |= {"callback": self._collect, "expose_value": False, "default": None}
        names = [key.option, *filter(None, [SHORT_OPTIONS.get(key.path)])]
        if kwargs.get("is_flag"):
            names = [f"{key.option}/{key.option.replace('--', '--no-', 1)}"]
        note = "; may be repeated" if kwargs.get("multiple") else ""
        help_text = f"{key.help} (default: {key.default_text.replace('`', '')}{note})"
        super().__init__(names, help=help_text, **kwargs)

    def _collect(self, context: click.Context, _: click.Parameter, value: Any) -> None:
        if context.get_parameter_source(self.name or "") is not ParameterSource.COMMANDLINE:
            return
        if get_origin(self.key.type) is Mapping:
            pairs = [item.partition("=") for item in value]
            if not all(equals for _, equals, _ in pairs):
                raise click.BadParameter("must be NAME=VALUE", context, self)
            value = {name: text for name, _, text in pairs}
        context.ensure_object(dict)[self.key.path] = value


class SettingsCommand(click.Command):
    """A command that takes every setting, its help grouped by section."""

    def __init__(self, *, params: list[click.Parameter], **kwargs: Any) -> None:
        params.extend(SettingOption(key) for key in KEYS.values())
        super().__init__(params=params, **kwargs)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            section = parameter.key.section if isinstance(parameter, SettingOption) else ""
            if record is not None:
                groups.setdefault(section, []).append(record)
        for section, records in groups.items():
            with formatter.section(f"Settings [{section}]" if section else "Options"):
                formatter.write_dl(records)


class SettingsRefused(click.ClickException):
    """Ends the program with the reasons on stderr."""

    exit_code = 2


@contextmanager
def _settings_errors() -> Iterator[None]:
    try:
        yield
    except SettingsError as error:
        lines = [str(problem) for problem in error.problems]
        text = lines[0] if len(lines) == 1 else "\n  ".join(["these settings are refused:", *lines])
        raise SettingsRefused(text) from None


def _load(context: click.Context, config_file: Path | None) -> LoadedSettings:
    return load_settings(config_file, options=context.obj)


def _forget_keys(context: click.Context, settings: Settings) -> Settings:
    """The settings without the callers' keys, which then are nowhere else in this process either,
    nor in what the machine shows of its start."""
    auth = settings.auth
    keys = (*auth.api_keys, *auth.agent_keys, *auth.admin_keys)
    secrets = [*keys, *settings.claude.env.values()]
    context.ensure_object(dict).clear()
    forget_start(secrets, PREFIX)
    return without_keys(settings)


config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help=f"Settings file in TOML, instead of {DEFAULT_FILE}.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="claude-code-api", prog_name="ccapi")
def main() -> None:
    """An OpenAI-compatible gateway in front of the Claude Code CLI.

    Settings come from their defaults, a TOML file, environment variables
    (CLAUDE_CODE__SECTION__KEY) and options; the later wins.
    """


@main.command(cls=SettingsCommand)
@config_option
@click.option("--demo", is_flag=True, help="Answer from a demo CLI; needs no account.")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    metavar="N",
    help="Processes that serve beside each other, on one PostgreSQL database (storage.url).",
)
@click.pass_context
def serve(context: click.Context, config_file: Path | None, demo: bool, workers: int) -> None:
    """Run the gateway until it receives a signal to stop."""
    if demo and "claude.command" in context.ensure_object(dict):
        raise click.UsageError("--demo runs its own child, not --claude-command.")
    with _settings_errors():
        settings = _forget_keys(context, _load(context, config_file).settings)
        from ...schemas.errors import GatewayError
        from ...transport.http.front_door import ListenError
        from .serve import run_server

        run = partial(run_server, demo=demo, hidden=[config_file or DEFAULT_FILE])
        try:
            code = run(settings) if workers == 1 else _run_workers(settings, workers, run)
        except (GatewayError, ListenError) as error:
            raise click.ClickException(str(error)) from error
    context.exit(code)


def _run_workers(settings: Settings, count: int, run: Callable[..., int]) -> int:
    from ...schemas.errors import GatewayError
    from ...transport.http.front_door import ListenError
    from .workers import Sockets, Workers, check_workers

    def work(settings: Settings, sockets: Sockets) -> int:
        """What a worker does; a person reads here what it fails with."""
        try:
            return run(settings, sockets=sockets)
        except (GatewayError, ListenError, SettingsError) as error:
            click.echo(f"Error: worker {sockets.number}: {error}", err=True)
            return 1

    check_workers(settings)
    return Workers(settings, count, work).serve()


@main.command(cls=SettingsCommand)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of TOML.")
@click.pass_context
def config(context: click.Context, config_file: Path | None, as_json: bool) -> None:
    """Print the settings in force and where each comes from; secrets are masked."""
    with _settings_errors():
        loaded = _load(context, config_file)
    click.echo(render_json(loaded) if as_json else render_toml(loaded), nl=as_json)


@main.command(cls=SettingsCommand)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--turn", is_flag=True, help="Ask the model once, too: this costs a few tokens.")
@click.pass_context
def doctor(context: click.Context, config_file: Path | None, as_json: bool, turn: bool) -> None:
    """Look whether turns can be answered here, and say what to do where not.

    Exit code 0: they can be, perhaps with warnings; 1: they cannot.
    """
    from .doctor import run_doctor

    loaded: LoadedSettings | SettingsError
    try:
        loaded = _load(context, config_file)
    except SettingsError as error:
        loaded = error
    context.exit(run_doctor(loaded, config_file, as_json=as_json, turn=turn))


@main.command(cls=SettingsCommand)
@config_option
@click.option("--token", is_flag=True, help="Make a token for CLAUDE_CODE_OAUTH_TOKEN.")
@click.option("--status", is_flag=True, help="Show how the CLI is logged in.")
@click.option("--console", is_flag=True, help="Log in with the Anthropic Console.")
@click.option("--sso", is_flag=True, help="Log in with single sign-on.")
@click.pass_context
def login(
    context: click.Context, /, config_file: Path | None, token: bool, status: bool, **how: bool
) -> None:
    """Log the Claude Code CLI in, as its children will find it.

    Runs the CLI's own login, wherever the CLI lies. A running gateway finds it by itself.
    """
    more = [f"--{name}" for name, is_given in how.items() if is_given]
    if token + status + bool(more) > 1:
        raise click.UsageError("--token, --status and --console or --sso are different things.")
    from ...schemas.errors import GatewayError
    from .login import LOGIN, STATUS, TOKEN, run_login

    with _settings_errors():
        settings = _load(context, config_file).settings
    try:
        run_login(settings, TOKEN if token else STATUS if status else (*LOGIN, *more))
    except (GatewayError, OSError) as error:
        raise click.ClickException(str(error)) from error


url_option = click.option(
    "--url", default="http://127.0.0.1:8080", show_default=True, help="Where the gateway is."
)
api_key_option = click.option(
    "--api-key",
    envvar="CCAPI_API_KEY",
    show_envvar=True,
    metavar="KEY",
    help="Its key. Others on this machine can see options; the variable is safer.",
)


@contextmanager
def _talking_to_a_gateway() -> Iterator[None]:
    """Says in one line why a gateway cannot be asked."""
    from ...transport.client.gateway_client import Refused, Unreachable, UnusableKey

    try:
        yield
    except ValueError as error:
        raise click.UsageError(f"--url: {error}.") from None
    except UnusableKey as error:
        raise click.UsageError(f"--api-key: {error}") from None
    except (Unreachable, Refused) as error:
        raise click.ClickException(str(error)) from None


@main.command()
@url_option
@api_key_option
@click.option("--model", metavar="NAME", help="A model of the gateway's; agent/NAME for an agent.")
@click.option("--conversation", metavar="ID", help="Join a conversation, instead of a new one.")
@click.option("--system", metavar="TEXT", help="The system prompt of a new conversation.")
@click.pass_context
def chat(context: click.Context, /, **options: str | None) -> None:
    """Talk to a running gateway.

    Answers appear as they come; Ctrl-C interrupts one. An agent's questions are asked here.
    """
    if options["conversation"] is not None and options["system"] is not None:
        raise click.UsageError("--system is for a new conversation.")
    from .chat import ChatOptions, run_chat

    with _talking_to_a_gateway():
        code = run_chat(ChatOptions(**options))  # type: ignore[arg-type]
    context.exit(code)


@main.command(name="export")
@url_option
@api_key_option
@click.option(
    "--output", type=click.File("w", encoding="utf-8"), default="-", help="File; - for stdout."
)
def export_command(url: str, api_key: str | None, output: TextIO) -> None:
    """Write all conversations of a key, a line of JSON for each."""
    from ...transport.client.gateway_client import GatewayClient
    from .transfer import run_export

    with _talking_to_a_gateway():
        count = run_export(GatewayClient(url, api_key), output)
    click.echo(f"{count} conversations exported", err=True)


@main.command(name="import")
@url_option
@api_key_option
@click.argument("file", type=click.File("r", encoding="utf-8"))
def import_command(url: str, api_key: str | None, file: TextIO) -> None:
    """Make new conversations of what `export` has written; FILE is - for stdin.

    Writes the old id and the new one of each.
    """
    from ...transport.client.gateway_client import GatewayClient
    from .transfer import BadLine, run_import

    try:
        with _talking_to_a_gateway():
            count = run_import(GatewayClient(url, api_key), file, sys.stdout)
    except BadLine as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{count} conversations imported", err=True)


# -- keys ------------------------------------------------------------------------------------------


@main.group()
def key() -> None:
    """Make, list and revoke API keys, beside a gateway that runs or without one.

    Once there is a key, every client needs one. A running gateway follows within a second.
    """


def _of_the_store(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say which store it is."""
    return config_option(
        click.option(
            "--storage-path", metavar="PATH", help="Folder of the gateway, as in storage.path."
        )(command)
    )


@contextmanager
def _keys_of(config_file: Path | None, storage_path: str | None) -> Iterator[Path | str]:
    """Where keys are kept. Says in one line why one cannot be made or found."""
    from .key import KeyProblem, place_of

    options = {} if storage_path is None else {"storage.path": storage_path, "storage.url": ""}
    with _settings_errors():
        settings = load_settings(config_file, options=options, listens=False).settings
    try:
        yield place_of(settings.storage)
    except KeyProblem as problem:
        raise click.ClickException(str(problem)) from None


def _limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name in reversed(LIMIT_NAMES):
        number: Any = click.FloatRange(min=0) if name.startswith("usd") else click.IntRange(min=0)
        what = KEYS[f"limits.{name}"].help.partition(". ")[0]
        option = f"--{name.replace('_', '-')}"
        command = click.option(option, name, type=number, help=f"{what}. 0: no limit.")(command)
    return command


@key.command(name="create")
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice(SCOPES),
    help="What it may do (default: chat); may be repeated.",
)  # fmt: skip
@click.option(
    "--model", "models", multiple=True, metavar="NAME",
    help="A model that it may ask for (default: all); may be repeated.",
)  # fmt: skip
@_limit_options
@_of_the_store
def create_key(
    name: str, scopes: tuple[str, ...], models: tuple[str, ...], config_file: Path | None,
    storage_path: str | None, **limits: Any,
) -> None:  # fmt: skip
    """Make a key called NAME, and print its secret: once, for it is kept nowhere."""
    from .key import create

    with _keys_of(config_file, storage_path) as place:
        made, secret = create(place, name, scopes, models, limits)
    click.echo(secret)
    click.echo(f"{made.name} ({made.short_id}): {', '.join(made.scopes)}", err=True)


@key.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_of_the_store
def list_keys(as_json: bool, config_file: Path | None, storage_path: str | None) -> None:
    """List the keys, revoked ones too."""
    from .key import listed, render_json, render_table

    with _keys_of(config_file, storage_path) as place:
        keys = listed(place)
    click.echo(render_json(keys) if as_json else render_table(keys))


@key.command(name="revoke")
@click.argument("name")
@_of_the_store
def revoke_key(name: str, config_file: Path | None, storage_path: str | None) -> None:
    """End the key called NAME (or whose id begins so): its turns and connections end too."""
    from .key import revoke

    with _keys_of(config_file, storage_path) as place:
        revoked = revoke(place, name)
    click.echo(f"{revoked.name} ({revoked.short_id}) is revoked.", err=True)


@key.command(name="delete")
@click.argument("name")
@_of_the_store
def delete_key(name: str, config_file: Path | None, storage_path: str | None) -> None:
    """Forget a revoked key. Without any key left, no client needs one; what it used is kept."""
    from .key import delete

    with _keys_of(config_file, storage_path) as place:
        deleted = delete(place, name)
    click.echo(f"{deleted.name} ({deleted.short_id}) is deleted.", err=True)


@main.group()
def mcp() -> None:
    """The MCP servers whose tools conversations have."""


@mcp.command(name="list")
@url_option
@api_key_option
@click.option("--json", "as_json", is_flag=True, help="Print the answer of GET /v1/mcp.")
def mcp_list(url: str, api_key: str | None, as_json: bool) -> None:
    """Show the servers of a running gateway."""
    from ...transport.client.gateway_client import GatewayClient
    from .mcp import list_lines, run_list

    with _talking_to_a_gateway():
        told = run_list(GatewayClient(url, api_key))
    lines = [json.dumps(told, indent=2)] if as_json else [*list_lines(told)] or ["no MCP servers"]
    click.echo("\n".join(lines))


@mcp.command(name="check", cls=SettingsCommand)
@config_option
@click.pass_context
def mcp_check(context: click.Context, config_file: Path | None) -> None:
    """Connect to every server of mcp.config_file, and say what is wrong with it.

    Exit code: 0 where all are ready, 1 where one is not, 2 where the file is refused.
    """
    with _settings_errors():
        settings = _load(context, config_file).settings.mcp
        from .mcp import run_check

        checked = run_check(settings)
    for each in checked:
        click.echo("\n".join(each.lines()))
    if not settings.enabled:
        click.echo("mcp.enabled is false: no conversation has these tools", err=True)
    context.exit(int(any(each.failure is not None for each in checked)))


@main.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what SHELL evaluates to complete commands and options.

    bash: `eval "$(ccapi completion bash)"` in ~/.bashrc; zsh the same in ~/.zshrc; fish: save it as
    ~/.config/fish/completions/ccapi.fish.
    """
    click.echo(completion_script(main, shell))


if __name__ == "__main__":
    main()


# -- the store -------------------------------------------------------------------------------------


@main.group()
def store() -> None:
    """Bring the database of conversations to this version, or copy it into another one.

    No gateway may have it open meanwhile.
    """


@contextmanager
def _store_errors() -> Iterator[None]:
    from ...transport.store.interface import StoreError

    try:
        yield
    except StoreError as error:
        raise click.ClickException(str(error)) from None


@store.command(name="migrate")
@config_option
def migrate_store(config_file: Path | None) -> None:
    """Bring the database that the settings name to this version of the program."""
    from .store import migrate

    with _settings_errors():
        settings = load_settings(config_file, listens=False).settings
    with _store_errors():
        version = migrate(settings.storage.place)
    click.echo(f"{settings.storage.shown_place} is at version {version}", err=True)


@store.command(name="copy")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@config_option
def copy_store(source: str, target: str, config_file: Path | None) -> None:
    """Copy all conversations, responses, keys and counts FROM one store TO another, which is empty.

    Each is the word path (the folder in storage.path), the word url (the database in storage.url,
    whose password then is in no command line), a folder, or a postgresql:// URL. All is copied and
    compared, or nothing is.
    """
    from .store import copy, place_named

    with _settings_errors():
        storage = load_settings(config_file, listens=False).settings.storage
    with _store_errors():
        for line in copy(place_named(source, storage), place_named(target, storage)):
            click.echo(line, err=True)
