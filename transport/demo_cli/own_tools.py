"""Claude Code's own tools, as the demo CLI pretends to use them.

Knows their names, which uses need permission, what the CLI would suggest, and what a pretended use
says. Nothing is executed, read or written, ever: the files are those that the conversation itself
wrote, and a few that it finds there. Refuses to know frames, and who permits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from .frames import Json

NAMES: Final = (
    "Agent", "Bash", "Edit", "Glob", "Grep", "NotebookEdit", "Read", "TaskCreate", "TaskGet",
    "TaskList", "TaskUpdate", "WebFetch", "WebSearch", "Write",
)  # fmt: skip
EDITS: Final = ("Edit", "NotebookEdit", "Write")
LOOKS: Final = ("Glob", "Grep", "Read")
_CHANGES: Final = (*EDITS, "WebFetch", "WebSearch")
_HARMLESS: Final = (
    *("cat", "cd", "date", "echo", "find", "grep", "head", "ls", "pwd", "tail", "true", "wc"),
    "which",
)
_FILES: Final = {
    "README.md": "# Pretended files\n\nNothing here is on a disk. Write one, and I remember it.\n",
    "notes.txt": "milk\nplums\n",
}


class Use(NamedTuple):
    """One use of a tool, as it is scripted."""

    name: str
    arguments: Json
    text: str = ""  # that is said before it, in the same message
    permission: bool | None = None  # whether it needs permission; None: as the CLI would decide
    output: str | None = None  # None: what it pretends to find
    is_error: bool = False
    run_ms: float = 0.0  # how long it takes, once it may


def read_uses(given: list[Any]) -> list[list[Use]]:
    """The messages of the switch `activity`: each a use, or a list of those called at once.

    Raises ValueError where one is none, or has a field that does not exist.
    """
    return [
        [_read_use(each) for each in (entry if isinstance(entry, list) else [entry])]
        for entry in given
    ]


def _read_use(given: Any) -> Use:
    if not isinstance(given, dict) or "name" not in given:
        raise ValueError(f"no use of a tool: {given!r}")
    fields = {"arguments" if name == "input" else name: value for name, value in given.items()}
    if unknown := fields.keys() - set(Use._fields):
        raise ValueError(f"no field {', '.join(sorted(unknown))} in a use of a tool")
    return Use(**{"arguments": {}, **fields})


# -- permission ------------------------------------------------------------------------------------


def needs_permission(name: str, given: Json, directories: Iterable[str]) -> bool:
    """Whether the CLI would ask for it in its default mode, no rules given."""
    if name in _CHANGES:
        return True
    if name in LOOKS:
        return _leads_out(_place(given), directories)
    if name != "Bash":
        return False
    command = str(given.get("command", ""))
    parts = [part.split() for part in re.split(r"&&|\|\||[;|]", command)]
    harmless = all(words and words[0] in _HARMLESS for words in parts)
    if not harmless or re.search(r"[<>`&]|\$\(|-exec|-delete", command.replace("&&", "")):
        return True
    return any(_leads_out(word, directories) for words in parts for word in words[1:])


def suggestions(name: str, given: Json, directories: Iterable[str]) -> list[Json]:
    """What would make the CLI ask no more, as it suggests that."""
    edits = {"type": "setMode", "mode": "acceptEdits", "destination": "session"}
    place = os.path.dirname(_place(given)) or "/"  # noqa: PTH120
    outside = _leads_out(_place(given), directories)
    if name in EDITS:
        further = {"type": "addDirectories", "directories": [place], "destination": "session"}
        return [edits, further] if outside else [edits]
    if name in LOOKS:
        return [_rule("Read", f"/{place}/**", "session")]
    if name == "Bash":
        command = str(given.get("command", ""))
        return [] if re.search(r"[;|&`$<>]", command) else [_rule(name, command, "localSettings")]
    return [_rule(name, None, "localSettings")]


def describe(name: str, given: Json) -> str:
    """What a permission request shows people."""
    if name == "Bash":
        return str(given.get("description") or given.get("command", ""))
    own = f"{os.getcwd()}/"  # noqa: PTH109
    return _place(given).removeprefix(own) or str(given.get("url") or given.get("query") or "")


def matches(rule: str, name: str, given: Json) -> bool:
    """Whether a rule such as ``Bash``, ``Bash(ls:*)`` or ``Read(//etc/**)`` is about this use."""
    found = re.fullmatch(r"([^()]+)(?:\((.*)\))?", rule, re.DOTALL)
    if found is None:
        return False
    tool, content = found[1], found[2]
    if tool != name and not (tool == "Read" and name in LOOKS):
        return False
    if content is None:
        return True
    if name == "Bash":
        command = str(given.get("command", ""))
        start = re.sub(r"(:\*| \*|\*)$", "", content)
        return command == start or (start != content and command.startswith(f"{start} "))
    if name in (*LOOKS, *EDITS):
        start = re.sub(r"\*+$", "", content)
        start = start[1:] if start.startswith("//") else f"{os.getcwd()}/{start}"  # noqa: PTH109
        return _place(given).startswith(start)
    return content in given.values()


def _rule(tool: str, content: str | None, destination: str) -> Json:
    rule = {"toolName": tool} | ({} if content is None else {"ruleContent": content})
    return {"type": "addRules", "rules": [rule], "behavior": "allow", "destination": destination}


def _place(given: Json) -> str:
    """The path that a use is about, whole; the working directory where it names none."""
    named = given.get("file_path") or given.get("notebook_path") or given.get("path") or ""
    return os.path.normpath(os.path.join(os.getcwd(), str(named)))  # noqa: PTH109, PTH118


def _leads_out(path: str, directories: Iterable[str]) -> bool:
    whole = os.path.normpath(os.path.join(os.getcwd(), path))  # noqa: PTH109, PTH118
    inside = (os.getcwd(), *directories)  # noqa: PTH109
    return not any(whole == each or whole.startswith(f"{each}/") for each in inside)


# -- pretending ------------------------------------------------------------------------------------


def pretend(name: str, given: Json, entries: list[Json]) -> Json:
    """What a use says, given what the conversation did before: content, and is_error if it is."""
    files = _files(entries)
    place = os.path.relpath(_place(given))
    match name:
        case "Bash":
            return _run(str(given.get("command", "")), files)
        case "Read" if place in files:
            lines = files[place].split("\n")
            return {"content": "\n".join(f"{n}\t{line}" for n, line in enumerate(lines, 1))}
        case "Read" | "Edit" if place not in files:
            return {"content": "File does not exist.", "is_error": True}
        case "Write":
            return {"content": f"File created successfully at: {_place(given)}"}
        case "Edit":
            return {"content": f"The file {_place(given)} has been updated successfully."}
        case "Glob":
            return {"content": "\n".join(files)}
        case "Grep":
            found = [each for each, text in files.items() if str(given.get("pattern")) in text]
            s = "" if len(found) == 1 else "s"
            found_text = f"Found {len(found)} file{s}\n" + "\n".join(found)
            return {"content": found_text if found else "No files found"}
    return {"content": "(pretended)"}


def _run(command: str, files: dict[str, str]) -> Json:
    """What a shell might have said; there is none."""
    words = command.split()
    match words:
        case ["ls", *_]:
            said = "\n".join(files)
        case ["pwd"]:
            said = os.getcwd()  # noqa: PTH109
        case ["echo", *rest]:
            said = " ".join(rest)
        case ["cat", name] if name in files:
            said = files[name].rstrip("\n")
        case ["cat", name]:
            missing = f"Exit code 1\ncat: {name}: No such file or directory"
            return {"content": missing, "is_error": True}
        case ["true" | "touch" | "mkdir" | "rm" | "mv" | "cp" | "sleep", *_]:
            said = "(Bash completed with no output)"
        case ["false"]:
            return {"content": "Exit code 1", "is_error": True}
        case _:
            said = f"(pretended to run: {command})"
    return {"content": said, "is_error": False}


def _files(entries: list[Json]) -> dict[str, str]:
    """The files as the conversation has left them: what was written and not refused."""
    files = dict(_FILES)
    uses: dict[str, Json] = {}
    for entry in entries:
        content = entry["message"]["content"]
        for block in content if isinstance(content, list) else ():
            if block.get("type") == "tool_use":
                uses[block["id"]] = block
            elif block.get("type") == "tool_result" and not block.get("is_error"):
                _apply(uses.get(block["tool_use_id"], {}), files)
    return files


def _apply(use: Json, files: dict[str, str]) -> None:
    given = use.get("input", {})
    place = os.path.relpath(_place(given))
    if use.get("name") == "Write":
        files[place] = str(given.get("content", ""))
    elif use.get("name") == "Edit" and place in files:
        old, new = str(given.get("old_string", "")), str(given.get("new_string", ""))
        files[place] = files[place].replace(old, new, 1)
