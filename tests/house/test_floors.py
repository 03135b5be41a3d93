"""The layout of the code: three floors, imports that only go down, pure modules that stay pure."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from .sources import FLOORS, MODULES, ROOT, every_module, for_each, nodes_of, python_files, tree_of

PURE = {
    # Bytes and words, no I/O. Everything in schemas/ is pure anyway.
    "transport/process/ndjson.py",
    "transport/media/public_address.py",
    # The session's machine and all it is made of.
    "actors/conversations/workspace_paths.py",
    "actors/session/machine.py",
    "actors/session/hosted.py",
    "actors/session/late.py",
    "actors/session/permissions.py",
    "actors/watching/history.py",
    "actors/session/phases.py",
    "actors/session/events.py",
    "actors/session/queue.py",
    "actors/session/turn.py",
    "actors/session/answer.py",
    "actors/session/child.py",
    "actors/session/replay.py",
    "actors/session/searches.py",
    "actors/session/tools.py",
    "actors/session/finish_reason.py",
    "actors/session/timers.py",
    "actors/session/prompt.py",
    "actors/session/usage.py",
    "actors/conversations/lineage.py",
    "actors/session/errors.py",
    "actors/runtime/restart_budget.py",
}
WITH_IO = {
    "trio",
    "anyio",
    "socket",
    "ssl",
    "subprocess",
    "selectors",
    "threading",
    "multiprocessing",
}

ALL = MODULES | python_files("tests", "examples")


@cache
def imports(module: str) -> tuple[str, ...]:
    return tuple(find_imports(module))


def find_imports(module: str) -> Iterator[str]:
    """Every module that `module` imports, wherever it does so, by its full name."""
    parts = ("ccapi", *Path(module).with_suffix("").parts)
    for node in nodes_of(module):
        match node:
            case ast.Import(names):
                yield from (name.name for name in names)
            case ast.ImportFrom(None, names, level):
                base = ".".join(parts[:-level])
                yield from (f"{base}.{name.name}" for name in names)
            case ast.ImportFrom(name, _, level):
                yield ".".join([*parts[: -level or None], str(name)] if level else [str(name)])


@cache
def imported(module: str) -> frozenset[str]:
    """The modules of this project that `module` imports, as paths."""
    paths = set()
    for name in imports(module):
        if name.startswith("ccapi."):
            path = "/".join(name.split(".")[1:])
            # A name out of a module counts as that module, a package as its __init__.
            found = (f"{path}.py", f"{path}/__init__.py", f"{path.rpartition('/')[0]}.py")
            paths.add(next((module for module in found if module in MODULES), found[0]))
    return frozenset(paths)


def test_there_is_something_to_look_at() -> None:
    assert {module.split("/")[0] for module in MODULES} == set(FLOORS)
    assert set(MODULES) >= PURE
    assert imported("actors/session/machine.py") >= {"actors/session/events.py", "schemas/turn.py"}
    assert "trio" in set(imports("actors/session/actor.py"))


@every_module
def test_imports_only_go_down(module: str) -> None:
    floor = FLOORS.index(module.split("/")[0])
    for other in imported(module):
        assert other in MODULES, f"{module} imports {other}, which is not there"
        assert FLOORS.index(other.split("/")[0]) <= floor, f"{module} imports {other}"


ROOMS = {
    "actors": (
        "commands", "doctor", "websocket", "http", "responses", "batches", "idempotency",
        "listeners",
        "conversations",
        "watching", "pool", "session", "keys", "mcp", "nodes", "runtime",
    ),
    "transport": ("demo_cli", "client", "mcp", "process", "sandbox", "media", "http"),
    "schemas": ("anthropic", "openai", "claude", "json_schema"),
}  # fmt: skip
"""The folders of each floor, from the top. A folder imports only those below it."""

HOLDS_THE_ROOMS = ("commands", "doctor", "websocket", "http", "responses")
"""Who may import the files that stand beside the rooms of actors: the gateway and what it answers
with. The other rooms are what they are made of."""


def room(module: str) -> str | None:
    """The folder in its floor that `module` stands in; None beside the folders."""
    _, *folders, _ = module.split("/")
    return folders[0] if folders else None


@every_module
def test_a_room_imports_only_rooms_below_it(module: str) -> None:
    floor, own = module.split("/")[0], room(module)
    order = ROOMS[floor]
    for other in imported(module):
        theirs = room(other)
        if other.split("/")[0] != floor or own is None or theirs == own:
            continue
        if theirs is None:
            beside = floor != "actors" or own in HOLDS_THE_ROOMS
            assert beside, f"{module} imports {other}, which is made of its room"
        elif own in order and theirs in order:
            assert order.index(theirs) > order.index(own), f"{module} imports {other}, above it"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """`TYPE_CHECKING` counts: a circle that only types close is a circle for a reader."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join((*path[path.index(module) :], module))}"
        if module not in done:
            for other in imported(module) - {module}:
                visit(other, (*path, module))
            done.add(module)

    for module in sorted(MODULES):
        visit(module, ())


def test_only_the_actor_of_a_session_does_io() -> None:
    for module in MODULES:
        if module.startswith("actors/session/") and module != "actors/session/actor.py":
            assert not {name for name in imports(module) if name.split(".")[0] in WITH_IO}, module


@every_module
def test_nothing_is_imported_from_the_tests(module: str) -> None:
    assert not {name for name in imports(module) if name.split(".")[0] in {"tests", "examples"}}


def is_pure(module: str) -> bool:
    return module in PURE or module.startswith("schemas/")


@for_each(sorted(filter(is_pure, MODULES)))
def test_pure_modules_do_no_io_and_lean_on_pure_ones_only(module: str) -> None:
    assert not {name for name in imports(module) if name.split(".")[0] in WITH_IO}
    for other in imported(module):
        assert is_pure(other), f"{module} is pure, and {other} is not said to be"


@for_each(sorted(ALL))
def test_asyncio_appears_nowhere(module: str) -> None:
    if "asyncio" not in ALL[module].read_text("utf-8"):
        return
    for node in ast.walk(tree_of(ALL[module])):
        match node:
            case ast.Import(names):
                assert not [name for name in names if name.name.split(".")[0] == "asyncio"]
            case ast.ImportFrom(name):
                assert (name or "").split(".")[0] != "asyncio"
            case ast.Name(name) | ast.Attribute(_, name):
                assert name != "asyncio"


@every_module
def test_a_module_says_what_it_knows(module: str) -> None:
    assert ast.get_docstring(tree_of(MODULES[module])), f"{module} opens without a word"


@pytest.mark.parametrize("floor", FLOORS)
def test_the_types_are_published(floor: str) -> None:
    assert (ROOT / floor / "py.typed").is_file()
    assert (ROOT / floor / "__init__.py").is_file()


def test_one_place_assigns_the_phase() -> None:
    """All transitions are in the machine, and there they all go through `_enter`."""
    assigning = []
    for function in nodes_of("actors/session/machine.py"):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                match node:
                    case ast.Attribute(ast.Name("self"), "phase", ast.Store()):
                        assigning.append(function.name)
    assert sorted(assigning) == ["__init__", "_enter"]


@every_module
def test_no_other_module_assigns_a_machines_phase(module: str) -> None:
    for node in nodes_of(module):
        match node:
            case ast.Attribute(ast.Attribute(_, "machine" | "_machine"), "phase", ast.Store()):
                raise AssertionError(f"{module}:{node.lineno}")
