"""The sandbox of agents' children: what they see of the machine, and which kind holds it.

Knows: bubblewrap's options, the rules for Landlock, and which folders an agent needs. Refuses
to know: what an agent is asked, and where its connections may go (`egress`).

Both kinds give the same: system folders to read; the agent's own workspace and
`file_access.additional_dirs` to write; a home, a configuration folder and temporary files of the
child's own, which go with it; no way to another process, and no network but what the gateway
connects. Everything else is not there (bubblewrap) or cannot be opened (Landlock).

Sources: bwrap(1), landlock(7).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Literal
from urllib.parse import urlsplit

from attrs import evolve, field, frozen

from ...schemas.settings.rules import Problem, SettingsError, is_loopback
from ...schemas.settings.settings import Settings
from ..loggers import get_logger
from . import launcher as sandbox_launcher
from .egress import Egress, egress_of
from .files import CONTROL, FILTER, remove_left, remove_tree
from .login_door import FILE, FileLogin, LoginDoor, Logins
from .seccomp import MACHINES, filter_program

log = get_logger("ccapi.sandbox")

PYTHON = os.path.normpath(sys.executable)
"""The Python that runs this, as a path that a sandbox can have: there is no ".." in it."""

Kind = Literal["bubblewrap", "landlock"]

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix")
"""What an agent may read of the machine, as far as every user may."""

PROC = (
    "cpuinfo", "filesystems", "loadavg", "meminfo", "mounts", "stat", "sys", "uptime", "version",
)  # fmt: skip
"""What programs read of /proc that is about no process (for Landlock; bubblewrap has its own)."""

DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts")

PROBE_SECONDS = 5.0

_HIDDEN_FROM_TOOLS = ("CLAUDE_CODE_TMPDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
_LOGINS = (
    "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN",
    "AWS_BEARER_TOKEN_BEDROCK",
)  # fmt: skip
"""Variables with which the CLI asks the model, and that no command needs."""

_BEFORE_COMMANDS = "before-commands.sh"
"""In the configuration folder: what the CLI has its shell read before each command. (Its own switch
for that, CLAUDE_CODE_SUBPROCESS_ENV_SCRUB, wants a sandbox of its own, which there cannot be.)"""

_KEPT_OF_STATE = ("userID",)
"""What a child sees of the CLI's ``.claude.json``, which also has keys, accounts and projects: the
random name of this installation, with which the CLI asks the API."""


@frozen
class Confined:
    """A command in its sandbox. `scratch` goes when the child has gone."""

    argv: list[str]
    env: dict[str, str]
    egress: Egress
    scratch: Path
    filter: bytes | None


@frozen
class Sandbox:
    """How every agent's child is confined. `hidden`: never shown, whatever is around it. `shown`:
    folders that its program needs."""

    kind: Kind
    scratch: Path
    writable: Sequence[Path]
    hidden: Sequence[Path]
    shown: Sequence[Path]
    config: Path
    state: Path
    with_settings: bool
    logins: Logins
    egress: Egress
    api_port: int | None
    filter: bytes = field(repr=False)
    bwrap: Sequence[str] = ()
    masked: Sequence[Path] = field(factory=list, repr=False)
    machine: Sequence[Path] = field(factory=list, repr=False)

    def for_login(self, program: Sequence[str], env: Mapping[str, str]) -> Sandbox:
        """The same sandbox for children that see `env`: they have another login."""
        config, state, file = _login_files(program, env)
        return evolve(self, config=config, state=state, logins=Logins(env, state, file))

    def confine(
        self, argv: Sequence[str], env: Mapping[str, str], workspace: Path, transcripts: Path
    ) -> Confined:
        """`argv` as a child that works in `workspace` and whose transcripts are those in the folder
        `transcripts` (of the CLI's own), or go with the child where there can be no such folder.
        Makes its folders. Raises `OSError`.

        May take a while; for a thread.
        """
        self.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch = Path(mkdtemp(prefix=f"{os.getpid()}-", dir=self.scratch))
        try:
            for name in ("home", "tmp", "config"):
                (scratch / name).mkdir(mode=0o700)
            try:
                transcripts.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError:
                transcripts = scratch / "home" / transcripts.name
                transcripts.mkdir(mode=0o700)
            self._fill_config(scratch / "config", transcripts)
            held_back = self.logins.held_back(env)
            env, door = held_back or (env, None)
            seen = self._environment(env, scratch)
            start = self._bubblewrap if self.kind == "bubblewrap" else self._landlock
            launched = start(scratch, workspace.resolve(), transcripts, door)
        except BaseException:
            remove_tree(scratch)
            raise
        program = argv[0] if argv[0] == PYTHON else os.path.realpath(argv[0])
        filter = self.filter if self.kind == "bubblewrap" else None
        return Confined(
            argv=[*launched, program, *argv[1:]],
            env=seen,
            egress=evolve(self.egress, door=door),
            scratch=scratch,
            filter=filter,
        )

    def _environment(self, env: Mapping[str, str], scratch: Path) -> dict[str, str]:
        seen = {
            name: value
            for name, value in env.items()
            if name not in _HIDDEN_FROM_TOOLS and not name.upper().endswith("_PROXY")
        }
        seen.setdefault("CLAUDE_ENV_FILE", str(scratch / "config" / _BEFORE_COMMANDS))
        tmp = "/tmp" if self.kind == "bubblewrap" else str(scratch / "tmp")  # noqa: S108 (its own)
        return seen | {
            "HOME": str(scratch / "home"),
            "TMPDIR": tmp,
            "CLAUDE_CODE_TMPDIR": tmp,
            "CLAUDE_CONFIG_DIR": str(scratch / "config"),
            # A server of the agent's own is reached as it is; everything else by the gateway.
            "NO_PROXY": "localhost,127.0.0.1,::1",
            "no_proxy": "localhost,127.0.0.1,::1",
            "NODE_USE_ENV_PROXY": "1",
        }

    def _fill_config(self, config: Path, transcripts: Path) -> None:
        """Of everything that was ever said only this workspace's transcripts, and no login."""
        (config / "projects").mkdir(mode=0o700)
        place = config / "projects" / transcripts.name
        if self.kind == "bubblewrap":
            place.mkdir(mode=0o700)
        else:
            place.symlink_to(transcripts)
        (config / _BEFORE_COMMANDS).write_text(f"unset {' '.join(_LOGINS)}\n")
        kept = kept_state(self.state)
        if kept:
            place = config / ".claude.json"
            place.touch(mode=0o600)
            place.write_text(json.dumps(kept))
        if self.with_settings:
            for name in ("settings.json", "CLAUDE.md"):
                if (self.config / name).is_file():
                    shutil.copyfile(self.config / name, config / name)

    def _launcher(self, rules: Iterable[str], door: LoginDoor | None) -> list[str]:
        text = "\0".join(rules).encode("utf-8", "surrogateescape").hex() or "-"
        forwards = "" if self.api_port is None or text != "-" else str(self.api_port)
        if door is not None:
            forwards = sandbox_launcher.API
        return [_python(), "-I", "-S", "-E", _launcher_file(), CONTROL, forwards, text]

    # -- bubblewrap --------------------------------------------------------------------------------

    def _bubblewrap(
        self, scratch: Path, workspace: Path, transcripts: Path, door: LoginDoor | None
    ) -> list[str]:
        places: dict[Path, list[str]] = {}
        for path in (Path(each) for each in SYSTEM):
            if path.is_symlink():
                places[path] = ["--symlink", str(path.readlink()), str(path)]
            elif path.is_dir():
                places[path] = ["--ro-bind", str(path), str(path)]
        for path in self.masked:
            places[path] = ["--ro-bind", "/dev/null", str(path)]
            if path.is_dir():
                places[path] = ["--tmpfs", str(path)]
        for path in self.shown:
            places[path] = ["--ro-bind", str(path), str(path)]
        for path in self.writable:
            places[path] = ["--bind-try", str(path), str(path)]
        for path in self.hidden:
            if path not in places and any(path.is_relative_to(each) for each in places):
                places[path] = ["--tmpfs", str(path)]
                if path.is_file():
                    places[path] = ["--ro-bind", "/dev/null", str(path)]
        places[Path("/tmp")] = ["--bind", str(scratch / "tmp"), "/tmp"]  # noqa: S108 (its own)
        places[Path("/dev")] = ["--dev", "/dev"]
        places[Path("/proc")] = ["--proc", "/proc"]
        for path in self.machine:
            places[path] = ["--ro-bind", str(path), str(path)]
        for path in (scratch / "home", scratch / "config", workspace):
            places[path] = ["--bind", str(path), str(path)]
        seen = scratch / "config" / "projects" / transcripts.name
        places[seen] = ["--bind", str(transcripts), str(seen)]
        # What is around comes first. Equal depth does not matter: neither is around the other.
        mounts = [word for at in sorted(places, key=lambda p: len(p.parts)) for word in places[at]]
        empty = [path for path, words in places.items() if words[0] == "--tmpfs"]
        for path in (Path("/"), *empty):  # else it is memory to be filled
            mounts += ["--remount-ro", str(path)]
        return [*self.bwrap, *mounts, "--chdir", str(workspace), "--", *self._launcher([], door)]

    # -- Landlock ----------------------------------------------------------------------------------

    def _landlock(
        self, scratch: Path, workspace: Path, transcripts: Path, door: LoginDoor | None
    ) -> list[str]:
        hidden = {path.resolve() for path in (*self.hidden, *self.masked)}
        read = [path for each in SYSTEM for path in _without(Path(each).resolve(), hidden)]
        read += [path for each in self.shown for path in _without(each.resolve(), hidden)]
        read += [Path("/proc", name) for name in PROC]
        # A folder to write in is given whole, or as those of its entries that hold nothing hidden.
        write = [path for each in self.writable for path in _without(each.resolve(), hidden)]
        write += [Path("/dev", name) for name in DEVICES]
        write += [scratch / "home", scratch / "tmp", scratch / "config", workspace, transcripts]
        ports = [] if self.api_port is None or door is not None else [self.api_port]
        rules = [
            *(f"r {path}" for path in read),
            *(f"w {path}" for path in write),
            *(f"p {port}" for port in ports),
            f"f {self.filter.hex()}",
            f"o {os.getpid()}",
        ]
        return self._launcher(rules, door)


def kept_state(path: Path) -> dict[str, object]:
    """What a child may see of a ``.claude.json``; nothing where there is none."""
    try:
        state = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return {
        name: state[name] for name in _KEPT_OF_STATE if isinstance(state, dict) and name in state
    }


# -- what is there ---------------------------------------------------------------------------------


def find_sandbox(
    settings: Settings,
    program: Sequence[str],
    env: Mapping[str, str],
    *,
    workspaces: Path,
    hidden: Iterable[Path] = (),
) -> Sandbox | None:
    """The sandbox for agents that `settings` ask for and this machine has; None: there is none.

    `program` is what it will hold, `env` what that will see, `workspaces` their folder, `hidden`
    what agents are not to see either. Says in the log where agents are not confined. Raises
    `SettingsError` where a sandbox is asked for that cannot be had.
    """
    wanted = settings.workspaces.sandbox
    if not settings.models.agents:
        return None
    reasons: list[str] = []
    if wanted in {"auto", "bubblewrap"}:
        found = _probe_bubblewrap()
        if not isinstance(found, str):
            return _make("bubblewrap", settings, program, env, workspaces, hidden, found)
        reasons.append(f"bubblewrap: {found}")
    if wanted in {"auto", "landlock"}:
        why = _probe_landlock()
        if why is None:
            return _make("landlock", settings, program, env, workspaces, hidden, ())
        reasons.append(f"Landlock: {why}")
    if wanted in {"bubblewrap", "landlock"}:
        raise SettingsError([Problem("workspaces.sandbox", "; ".join(reasons))])
    if not settings.workspaces.network:
        reason = "needs a sandbox, and there is none: " + ("; ".join(reasons) or "it is off")
        raise SettingsError([Problem("workspaces.network", reason)])
    log.warning(
        "agents are not confined: what they run can read and change all that the gateway's user can"
        ", other conversations among it",
        reason="workspaces.sandbox is off" if wanted == "off" else "; ".join(reasons),
    )
    return None


def _make(
    kind: Kind,
    settings: Settings,
    program: Sequence[str],
    env: Mapping[str, str],
    workspaces: Path,
    hidden: Iterable[Path],
    bwrap: Sequence[str],
) -> Sandbox:
    storage = settings.storage.path.expanduser().absolute()
    config, state, file = _login_files(program, env)
    remove_left(storage / "agents")
    log.info("agents are confined", sandbox=kind, network=settings.workspaces.network)
    away = [storage, workspaces, config, *hidden, settings.server.tls_key_file]
    return Sandbox(
        kind=kind,
        scratch=storage.resolve() / "agents",
        writable=[Path(each) for each in settings.file_access.additional_dirs],
        hidden=[path.absolute().resolve() for path in away if path is not None],
        shown=[*_needed(program, env), *_certificates(env)],
        config=config,
        state=state,
        with_settings="user" in settings.workspaces.setting_sources,
        logins=Logins(env, state, file),
        egress=egress_of(settings, env),
        api_port=_api_port(env),
        filter=filter_program(os.uname().machine, shared=kind == "landlock"),
        bwrap=bwrap,
        masked=[*_private(Path("/etc"))],
        machine=[*_of_machine(Path("/proc"))] if kind == "bubblewrap" and not os.geteuid() else [],
    )


def _login_files(program: Sequence[str], env: Mapping[str, str]) -> tuple[Path, Path, FileLogin]:
    """The CLI's configuration folder, its ``.claude.json``, and the login in its credentials file,
    as a child that sees `env` has them."""
    home = Path(env.get("HOME") or "/")
    given = env.get("CLAUDE_CONFIG_DIR")
    config = Path(given) if given else home / ".claude"
    state = (config if given else home) / ".claude.json"
    file = FileLogin(config.absolute() / FILE, [*program, "auth", "status", "--json"], env)
    return config, state, file


def _api_port(env: Mapping[str, str]) -> int | None:
    """The port of an API on this machine's loopback, which a child has to reach by itself."""
    try:
        url = urlsplit(env.get("ANTHROPIC_BASE_URL", ""))
        port = url.port or (443 if url.scheme == "https" else 80)
    except ValueError:
        return None
    return port if is_loopback(url.hostname or "") else None


def _probe_bubblewrap() -> Sequence[str] | str:
    """The first words of a command in bubblewrap's sandbox; or why there is none."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        return "bwrap is not installed"
    if os.uname().machine not in MACHINES:
        return f"it is not known how to filter calls on {os.uname().machine}"
    options = (
        *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
        *("--cap-drop", "ALL"),
    )
    why = ""
    # Older versions cannot keep a child from making namespaces of its own.
    for more in (("--disable-userns",), ()):
        try:
            tried = subprocess.run(  # noqa: S603
                [bwrap, *options, *more, "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev",
                 "--", "/bin/sh", "-c", ":"],
                stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=PROBE_SECONDS,
                env={},
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if not tried.returncode:
            return (bwrap, *options, *more, "--seccomp", FILTER)
        why = tried.stderr.decode(errors="replace").strip()
    return why or "it fails"


def _probe_landlock() -> str | None:
    if not sys.platform.startswith("linux"):
        return "it is Linux's"
    if os.uname().machine not in MACHINES:
        return f"it is not known how to filter calls on {os.uname().machine}"
    abi = sandbox_launcher.landlock_abi()
    if abi < sandbox_launcher.LANDLOCK_ABI:
        return f"ABI {sandbox_launcher.LANDLOCK_ABI} is needed (Linux 6.12), and there is {abi}"
    return None


def _python() -> str:
    """The interpreter itself, without the environment around it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _launcher_file() -> str:
    """The launcher as it is compiled already, where it is."""
    source = str(sandbox_launcher.__file__)
    compiled = importlib.util.cache_from_source(source)
    return compiled if Path(compiled).is_file() else source


def _needed(program: Sequence[str], env: Mapping[str, str]) -> Iterator[Path]:
    """What has to be seen for the launcher and `program` to run, and lies in no system folder."""
    launcher = Path(sandbox_launcher.__file__)
    needed = [Path(_launcher_file()), Path(_python()), Path(sysconfig.get_path("stdlib"))]
    needed += [] if _in_system(Path(sys.base_prefix)) else [Path(sys.base_prefix)]
    if program[0] == PYTHON:  # the demo CLI
        needed += [Path(sys.prefix), launcher.parents[1], launcher.parents[2] / "schemas"]
        needed += _links(Path(program[0]))
    else:
        real = Path(program[0]).resolve()
        # A script lives among its own files, and is read by a program that PATH names.
        needed.append(real)
        with real.open("rb") as file:
            first = file.readline(4096)
        if first.startswith(b"#!"):
            needed.append(real.parent)
            for word in first[2:].decode(errors="replace").split():
                found = shutil.which(word, path=env.get("PATH", ""))
                if found is not None:
                    where = Path(found).resolve()
                    needed.append(where.parent.parent if where.parent.name == "bin" else where)
    places = dict.fromkeys(each for place in needed for each in (place.resolve(), place))
    paths = [
        path for path in places if path.exists() and path != Path("/") and not _in_system(path)
    ]
    folders = {path for path in paths if path.is_dir()}
    # What lies in a folder that is shown is shown with it: each mount delays the start of a child.
    yield from (path for path in paths if folders.isdisjoint(path.parents))


def _certificates(env: Mapping[str, str]) -> Iterator[Path]:
    """The certificate authorities that the operator has added: without them no connection is made
    through a proxy that looks into it."""
    for name in ("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        path = Path(env.get(name) or "/")
        if path != Path("/") and path.is_absolute() and path.exists() and not _in_system(path):
            yield path


def _links(path: Path) -> Iterator[Path]:
    """`path` and what it leads to, one link after another."""
    for _ in range(40):  # the kernel's own bound
        yield path
        if not path.is_symlink():
            return
        path = path.parent / path.readlink()


def _in_system(path: Path) -> bool:
    return any(path.is_relative_to(each) for each in SYSTEM if Path(each).is_dir())


def _of_machine(proc: Path) -> Iterator[Path]:
    """What in /proc is about the machine and can be written to by its owner, root: a namespace's
    root is that owner where the gateway's user is root, without any capability."""
    for path in sorted(proc.iterdir()):
        if path.name.isdecimal() or path.is_symlink():
            continue
        if path.is_dir() or path.stat().st_mode & 0o222:
            yield path


def _private(folder: Path) -> Iterator[Path]:
    """What below `folder` not every user of the machine may read; the outermost of it."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.is_symlink():
            continue
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            if mode & 0o5 == 0o5:
                yield from _private(Path(entry.path))
            else:
                yield Path(entry.path)
        elif not mode & 0o4:
            yield Path(entry.path)


def _without(folder: Path, hidden: Iterable[Path]) -> Iterator[Path]:
    """`folder`, or as much of it as is around nothing hidden."""
    inside = [path for path in hidden if path.is_relative_to(folder)]
    if not inside:
        yield folder
    elif folder not in inside:
        for entry in sorted(folder.iterdir()):
            if not entry.is_symlink():
                yield from _without(entry, inside)
