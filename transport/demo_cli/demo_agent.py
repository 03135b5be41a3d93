"""What the demo's agent does to a text, in plain words: which tools it pretends to use, and how.

Knows the words. Refuses to know what a tool says, and who lets it be used.
"""

from __future__ import annotations

import re
from typing import Final

from .own_tools import Use

SYSTEM: Final = "You are Claude Code, played by the demo CLI. You pretend to use your tools."

ABILITIES: Final = """\


As an **agent** I also use tools, and only pretend to: nothing is run, read or written.

| You write | I do |
|---|---|
| `list the files` | look around, which needs no permission |
| `read notes.txt` | read a file, one that I pretend to have |
| `write hello.txt: some text` | ask for permission to write it |
| `run: make test` | ask for permission to run that |
| `search for plums` | look for it in my files |
| `tidy up` | all of it, step by step |
| `wait for 20 seconds` | run something that takes so long (you can interrupt me) |"""

_MOST_SECONDS: Final = 600


def activity(text: str) -> tuple[list[Use], ...]:
    """The messages in which tools are used, in order; none where the text asks for nothing."""
    said = text.strip()
    lower = said.lower().rstrip(".!?")
    if lower.startswith("run:"):
        return ([_bash(said.partition(":")[2].strip(), "I run that.")],)
    if re.fullmatch(r"(please )?(list|show)( me)? (the|your|all) files|ls", lower):
        return ([_bash("ls", "I look around.")],)
    if found := re.fullmatch(r"(?:please )?read (\S+)", said, re.IGNORECASE):
        return ([Use("Read", {"file_path": found[1]}, f"I read `{found[1]}`.")],)
    if found := re.match(r"(?:please )?write (?:a file)?(\S*?):?(?:\s+(.*))?$", said, _WORDS):
        name = found[1] or "hello.txt"
        return ([_write(name, (found[2] or "Hello!").strip())],)
    if found := re.fullmatch(r"(?:please )?(?:search|look) for (.+)", said, re.IGNORECASE):
        return ([Use("Grep", {"pattern": found[1]}, "I search my files.")],)
    if found := re.fullmatch(r"wait (?:for )?(\d+) seconds?", lower):
        seconds = min(int(found[1][:6]), _MOST_SECONDS)
        given = {"command": f"sleep {seconds}", "description": "Wait"}
        return ([Use("Bash", given, "I wait.", permission=False, run_ms=seconds * 1000)],)
    if lower == "tidy up":
        return (
            [_bash("ls", "I look around first."), Use("Read", {"file_path": "notes.txt"})],
            [_write("todo.md", "- [ ] milk\n- [ ] plums\n")],
            [_bash("rm notes.txt", "The old one can go.")],
        )
    return ()


_WORDS: Final = re.IGNORECASE | re.DOTALL


def _bash(command: str, text: str) -> Use:
    return Use("Bash", {"command": command, "description": command}, text)


def _write(name: str, content: str) -> Use:
    return Use("Write", {"file_path": name, "content": content}, f"I write `{name}`.")
