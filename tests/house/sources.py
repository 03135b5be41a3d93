"""The sources as the tests of this folder read them: each file is parsed once, and looked at in one
test for each rule, which names every file that breaks it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLOORS = ("schemas", "transport", "actors")
"""From the ground up."""


def python_files(*folders: str) -> dict[str, Path]:
    """The Python files of some folders of the project, by their paths in it."""
    return {
        path.relative_to(ROOT).as_posix(): path
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    }


MODULES = python_files(*FLOORS)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


@cache
def nodes_of(module: str) -> tuple[ast.AST, ...]:
    """All that a module of `MODULES` is made of."""
    return tuple(ast.walk(tree_of(MODULES[module])))


def for_each(files: Iterable[str]) -> Callable[[Callable[[str], None]], Callable[[], None]]:
    """Make one test of a check of one file. (A test for each file takes longer than its check.)"""

    def test_of(check: Callable[[str], None]) -> Callable[[], None]:
        def test() -> None:
            errors = []
            for file in files:
                try:
                    check(file)
                except AssertionError as error:
                    errors.append(f"{file}: {error}")
            assert not errors, "\n\n".join(errors)

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return test_of


every_module = for_each(sorted(MODULES))
