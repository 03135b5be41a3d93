"""The switches of the demo CLI: what it answers and how it misbehaves.

Knows their names, defaults and how they are read: from the environment variable `DEMO_CLI_SWITCHES`
(a JSON object, for the whole process) and from a directive `!script {json}` at the start of a user
text (for that turn, laid over the former). Without the variable a directive is ordinary text, so
a public demo cannot be scripted by its callers. Refuses to know what a switch does; that is
written where it is done. A misspelt switch ends the process with status 2 rather than quietly
testing nothing.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

VARIABLE: Final = "DEMO_CLI_SWITCHES"
DIRECTIVE: Final = "!script"


class Switches(NamedTuple):
    """One turn's script. Times are milliseconds, sizes bytes unless the name says characters."""

    # What is answered. `answer` replaces the demo model's words; `deltas` invents that many
    # deltas of `delta_chars` characters (5 unless given), which also cuts any other answer.
    answer: str | None = None
    deltas: int = 0
    delta_chars: int = 0
    thinking: int = 0  # thinking deltas before the text
    report: bool = False  # answer with a JSON account of what this child was given
    tool_calls: list[Any] | None = None  # [{"name": ..., "input": {...}}], called all at once
    # Tools of the agent's own, one message each: [{"name": "Bash", "input": {...}, "text": "said
    # before it", "permission": true, "output": "...", "is_error": false, "run_ms": 0}, ...]; a list
    # in place of one is several at once. `own_tools.Use` says what is left out.
    activity: list[Any] | None = None
    stop_reason: str | None = None
    usage: dict[str, Any] | None = None  # laid over the usage of the result and of the stream

    # How fast. `first_ms` is the wait before the first delta; an interrupt is honoured during
    # both, so a large number is an API that hangs under a child that does not.
    first_ms: float = 0.0
    pace_ms: float = 15.0
    boot_ms: float = 0.0

    # Where it dies or hangs. A hang is deaf: stdin is not read, only a signal ends it.
    die_at: str = ""
    hang_at: str = ""
    after: int = 0  # text deltas before `die_at`/`hang_at` "delta", `garbage` or an error
    exit_code: int = 1  # negative: the process sends itself that signal
    ignore_sigterm: bool = False
    refuse_claim: bool = False  # of a spare: answer claim_session with an error
    ignore_interrupt: bool = False  # neither acknowledged nor honoured
    rewind_first: bool = True  # let the first message be rewound, as CLIs from 2.1.330 do

    # What it prints besides.
    stderr: str = ""
    stderr_bytes: int = 0
    junk_frames: int = 0  # frames of unknown type before the first delta
    long_line_bytes: int = 0  # one frame of unknown type of this size
    garbage: str = ""
    late_frames: int = 0  # deltas after the result
    write_bytes: int = 0  # cut the output into writes of this size
    api_retries: int = 0
    retry_delay_ms: float = 10.0
    error: str | None = None  # end with an error result of this text
    error_status: int | None = None  # its api_error_status; alone it is enough for an error

    # How it reads, and what it leaves behind.
    read_bytes: int = 65536
    read_pause_ms: float = 0.0
    grandchild: str = ""
    grandchild_seconds: int = 60

    @property
    def fails(self) -> bool:
        """Whether this turn ends with an error result."""
        return self.error is not None or self.error_status is not None


CHOICES: Final = {
    "die_at": ("", "boot", "initialize", "turn", "delta", "result"),
    "hang_at": ("", "boot", "initialize", "turn", "delta", "eof"),
    "garbage": ("", "text", "half_line", "utf8", "array"),
    "grandchild": ("", "open", "closed"),
}

_OPTIONAL: Final[dict[str, tuple[type, ...]]] = {
    "answer": (str,),
    "stop_reason": (str,),
    "error": (str,),
    "error_status": (int,),
    "usage": (dict,),
    "tool_calls": (list,),
    "activity": (list,),
}


class UnknownSwitch(ValueError):
    """A switch that does not exist, or a value it does not take."""


def lay_over(base: Switches, given: object) -> Switches:
    """`base` with the switches of one JSON object laid over it.

    Raises UnknownSwitch when `given` is not an object, names a switch that does not exist or
    gives one a value of the wrong kind.
    """
    if not isinstance(given, dict):
        raise UnknownSwitch(f"switches are a JSON object, not {type(given).__name__}")
    for name, value in given.items():
        if name not in Switches._fields:
            raise UnknownSwitch(f"no switch {name!r}")
        if name in CHOICES:
            suits = value in CHOICES[name]
        elif name in _OPTIONAL:
            suits = value is None or isinstance(value, _OPTIONAL[name])
        else:
            default = Switches._field_defaults[name]
            kinds = (int, float) if isinstance(default, float) else type(default)
            suits = isinstance(value, kinds) and isinstance(value, bool) == isinstance(
                default, bool
            )
        if not suits:
            raise UnknownSwitch(f"switch {name!r} does not take {value!r}")
    return base._replace(**given)


def read_variable(value: str | None) -> Switches | None:
    """The process's switches from the variable's value; None when it is not set."""
    if value is None:
        return None
    try:
        given = json.loads(value or "{}")
    except ValueError as error:
        raise UnknownSwitch(f"{VARIABLE} is not JSON: {error}") from None
    return lay_over(Switches(), given)


def read_directive(base: Switches, text: str) -> tuple[Switches, str]:
    """The switches of one turn, and its text without the directive."""
    if not text.startswith(DIRECTIVE):
        return base, text
    rest = text[len(DIRECTIVE) :].lstrip()
    try:
        given, end = json.JSONDecoder().raw_decode(rest)
    except ValueError as error:
        raise UnknownSwitch(f"directive is not JSON: {error}") from None
    return lay_over(base, given), rest[end:].lstrip()
