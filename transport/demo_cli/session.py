"""What the demo CLI was given: flags, adoption, settings, history; and what follows.

Knows the meaning of the CLI's flags and of `initialize`, what the model is shown, and so what a
turn will say and what it costs. Refuses to know when anything happens.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, Final, NamedTuple

from . import answers, demo_agent, own_tools
from .frames import VERSION, Json
from .history import History, last_text, text_of
from .switches import Switches
from .turn import STRUCTURED, Plan

BLANK: Final = "Blank prompt — the message was only whitespace, so nothing was sent to the model."
_COMMAND: Final = re.compile(  # some of those the CLI knows; others are text
    r"/(agents|clear|compact|config|context|cost|doctor|export|help|init|login|logout|mcp|memory"
    r"|model|permissions|resume|review|status|usage)(?=\s|$)"
)
_NO_MODEL: Final = "scripted-1"
_PRICES: Final = {  # US dollars for a million tokens
    "input_tokens": 3.0,
    "cache_creation_input_tokens": 3.75,
    "cache_read_input_tokens": 0.3,
    "output_tokens": 15.0,
}


_OTHER_NAMES: Final = {
    "-r": "resume",
    "-v": "version",
    "--allowedTools": "allowed_tools",
    "--disallowedTools": "disallowed_tools",
}


class Flags(NamedTuple):
    """The flags that mean something here, named as the CLI names them."""

    model: str = ""
    agent: str = ""
    system_prompt: str = ""
    append_system_prompt: str = ""
    permission_mode: str = "default"
    json_schema: str = ""
    session_id: str = ""
    resume: str = ""
    resume_session_at: str = ""
    fork_session: bool = False
    no_session_persistence: bool = False
    await_claim: bool = False
    permission_prompt_tool: str = ""
    tools: str = "default"
    dangerously_skip_permissions: bool = False
    allowed_tools: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()
    add_dir: tuple[str, ...] = ()
    version: bool = False
    pace_ms: str = ""  # the one flag of our own: milliseconds between two tokens

    @property
    def skips_permissions(self) -> bool:
        """Whether the agent asks for no permission."""
        return self.dangerously_skip_permissions or self.permission_mode == "bypassPermissions"

    @property
    def agent_tools(self) -> list[str]:
        """Claude Code's own tools, those of an agent; a plain model's child has none."""
        if not self.permission_prompt_tool:
            return []
        wanted = self.tools.split(",")
        return [name for name in own_tools.NAMES if self.tools == "default" or name in wanted]


def read_flags(argv: list[str]) -> Flags:
    """The flags among `argv`; what is not known is passed over, its values too."""
    found: dict[str, Any] = {}
    words = iter(argv)
    several = ""  # the flag whose further values may follow
    for word in words:
        flag, equals, value = word.partition("=")
        if several and not flag.startswith("-"):
            found[several] += (word,)
            continue
        several = ""
        name = _OTHER_NAMES.get(flag, flag.removeprefix("--").replace("-", "_"))
        if name not in Flags._fields or not flag.startswith("-"):
            continue
        if isinstance(Flags._field_defaults[name], bool):
            found[name] = True
        elif isinstance(Flags._field_defaults[name], tuple):
            several = name
            found[name] = (*found.get(name, ()), *([value] if equals else []))
        else:
            found[name] = value if equals else next(words, "")
    return Flags(**found)


def refused_command(content: Any) -> str | None:
    """What the CLI answers to a slash command in this place; None when it is none.

    Only the last text block is looked at, so an empty one behind it makes a command text.
    """
    command = _COMMAND.match(last_text(content))
    return f"{command[0]} isn't available in this environment." if command else None


class Session:
    """One conversation as the model sees it."""

    def __init__(self, flags: Flags, history: History) -> None:
        self.history = history
        self.settings: Json = {}
        self.permission_mode = flags.permission_mode or "default"
        if flags.skips_permissions:
            self.permission_mode = "bypassPermissions"
        self.own_tools = flags.agent_tools
        self.allowed = list(flags.allowed_tools)  # rules, as those that follow
        self.denied = list(flags.disallowed_tools)
        self.directories = list(flags.add_dir)
        self.model = flags.model or _NO_MODEL
        own = demo_agent.SYSTEM if self.own_tools else ""
        given = [flags.system_prompt or own, flags.append_system_prompt]
        self.system = "\n\n".join(filter(None, given))
        self.schema: Any = json.loads(flags.json_schema) if flags.json_schema else None
        self.tools: list[str] = []
        self.agents: Json = {}
        self.cost = history.cost()
        self._agent = flags.agent
        self._prompt_is_agents = False
        self._cached = 0  # tokens of the prompt that the turn before had

    def adopt(self, request: Json) -> None:
        """Take over what an `initialize` request says."""
        given = request.get("systemPrompt")
        parts = given if isinstance(given, list) else [given or ""]
        prompt = "\n\n".join(filter(None, parts))
        self.agents = request.get("agents") or {}
        agent = self.agents.get(self._agent) or {}
        self._prompt_is_agents = given is None
        if given == []:
            self.system = ""  # the one way to say: none at all
        else:
            self.system = prompt or agent.get("prompt") or self.system
        if appended := request.get("appendSystemPrompt"):
            self.system = "\n\n".join(filter(None, [self.system, appended]))
        if (model := agent.get("model")) and model != "inherit":
            self.model = model
        self.schema = request.get("jsonSchema") or self.schema

    def apply(self, settings: Json) -> None:
        """`apply_flag_settings`: merged, its `env` key by key; an empty value resets one."""
        env = {**self.settings.get("env", {}), **(settings.get("env") or {})}
        self.settings = {**self.settings, **settings, "env": env}
        self.allowed += (settings.get("permissions") or {}).get("allow", [])
        if (agent := self.agents.get(settings.get("agent") or "")) is not None:
            self._agent = settings["agent"]
            if self._prompt_is_agents:
                self.system = agent.get("prompt") or ""
            self.model = agent.get("model") or self.model
        self.model = settings.get("model") or self.model

    def variable(self, name: str) -> str:
        """An environment variable as the settings leave it; "" when there is none."""
        value = self.settings.get("env", {}).get(name)
        return os.environ.get(name, "") if value is None else str(value)

    def plan(self, text: str, batch: int, switches: Switches) -> Plan:
        """What the turn says whose user messages are the last `batch` of the history.

        `text` is theirs without a directive.
        """
        text, ordered = answers.part_order(text, self.tools)
        usage, activity = self._usage(), self._activity(text, switches)
        if switches.report:
            text, calls = json.dumps(self.report()), []
        else:
            calls = self._calls(text, switches)
            if ordered is not None and not calls and switches.answer is None:
                calls = [(ordered, {})]
            text = self._answer(text, batch, switches)
        structured = None
        if self.schema is not None and not switches.report:
            structured = (
                _parsed(text) if switches.answer else answers.instance_of(self.schema, text)
            )
        pieces, reason, stop = self._within_limits(_cut(text, switches))
        before = self.history.entries
        return Plan(self.model, pieces, reason, stop, usage, calls, structured, activity, before)

    def spend(self, usage: Json) -> float:
        """Add a turn's usage to the cost; what that turn cost, in US dollars."""
        cost: float = sum(usage[name] * price for name, price in _PRICES.items()) / 1e6
        self.cost += cost
        return cost

    def greeting(self) -> Json:
        """What is answered to `initialize`."""
        agents = [
            {"name": name, "description": agent.get("description", ""), "model": agent.get("model")}
            for name, agent in self.agents.items()
        ]
        return {
            "commands": [],
            "agents": agents,
            "output_style": "default",
            "available_output_styles": ["default"],
            "models": [{"value": "default", "displayName": "Scripted", "description": "No model"}],
            "account": {"apiKeySource": "none"},
            "pid": os.getpid(),
            "current_permission_mode": self.permission_mode,
            "claude_code_version": VERSION,
        }

    def tool_names(self) -> list[str]:
        """The tools the init frame lists, the one for structured answers among them."""
        structured = [STRUCTURED] if self.schema is not None else []
        return [*self.own_tools, *self.tools, *structured]

    def report(self) -> Json:
        """What this child was given, for tests of the gateway."""
        visible = self._visible()
        return {
            "pid": os.getpid(),
            "cwd": os.getcwd(),  # noqa: PTH109
            "variables": sorted(os.environ),
            "system": self.system,
            "model": self.model,
            "schema": self.schema,
            "tools": self.tools,
            "settings": self.settings,
            "permission_mode": self.permission_mode,
            "own_tools": self.own_tools,
            "allowed": self.allowed,
            "denied": self.denied,
            "directories": self.directories,
            "history": [
                {"role": entry["type"], "content": entry["message"]["content"]} for entry in visible
            ],
        }

    def _body_messages(self) -> list[Json]:
        """The messages that the API gets in place of those of the history, if any."""
        body = _parsed(self.variable("CLAUDE_CODE_EXTRA_BODY"))
        return body.get("messages") or [] if isinstance(body, dict) else []

    def text_in_body(self) -> str | None:
        """The text of the last user message there, if there is one."""
        users = [each for each in self._body_messages() if each["role"] == "user"]
        return text_of(users[-1]["content"]) if users else None

    def _visible(self) -> list[Json]:
        if given := self._body_messages():
            return [
                {"type": each["role"], "message": {"id": f"msg_{number}", **each}}
                for number, each in enumerate(given)
            ]
        return [entry for entry in self.history.entries if not entry.get("error")]

    def _calls(self, text: str, switches: Switches) -> list[tuple[str, Json]]:
        if switches.tool_calls is not None:
            return [(call["name"], call.get("input", {})) for call in switches.tool_calls]
        asked = answers.tool_request(text, self.tools)
        return [asked] if asked else []

    def _activity(self, text: str, switches: Switches) -> tuple[list[own_tools.Use], ...]:
        if switches.report:
            return ()
        if switches.activity is not None:
            return tuple(own_tools.read_uses(switches.activity))
        return demo_agent.activity(text) if self.own_tools else ()

    def _answer(self, text: str, batch: int, switches: Switches) -> str:
        if switches.deltas:
            size = switches.delta_chars or 5
            numbered = (str(number).zfill(size - 1) for number in range(switches.deltas))
            return "".join(f"{number[len(number) - size + 1 :]} " for number in numbered)
        if switches.answer is not None:
            return switches.answer
        visible = self._visible()
        users = [e for e in visible if e["type"] == "user" and not e.get("marker")]
        replies = {e["message"].get("id") for e in visible if e["type"] == "assistant"}
        blocks = [
            block
            for entry in users[-batch:]
            if isinstance(entry["message"]["content"], list)
            for block in entry["message"]["content"]
            if isinstance(block, dict)
        ]
        return answers.answer(
            answers.Prompt(
                text=text,
                earlier=[text_of(entry["message"]["content"]) for entry in users[:-batch]],
                messages=len(users) + len(replies),
                images=sum(block.get("type") == "image" for block in blocks),
                tool_results=[
                    answers.result_text(b) for b in blocks if b.get("type") == "tool_result"
                ],
                system=self.system,
                model=self.model,
                agent=bool(self.own_tools),
            )
        )

    def _within_limits(self, pieces: list[str]) -> tuple[list[str], str, str | None]:
        """The pieces as far as stop sequences and the token limit let them come.

        With the stop reason, and the stop sequence if it was one.
        """
        body = _parsed(self.variable("CLAUDE_CODE_EXTRA_BODY"))
        stops = body.get("stop_sequences") or [] if isinstance(body, dict) else []
        reason, met = "end_turn", None
        text = "".join(pieces)
        ends = sorted((text.find(stop), stop) for stop in stops if stop in text)
        if ends:
            pieces, reason, met = answers.tokens(text[: ends[0][0]]), "stop_sequence", ends[0][1]
        most = self.variable("CLAUDE_CODE_MAX_OUTPUT_TOKENS")
        if most.isdecimal() and 0 < int(most) < len(pieces):
            pieces, reason, met = pieces[: int(most)], "max_tokens", None
        return pieces, reason, met

    def context_usage(self, *, summary: bool = False) -> Json:
        """What is in the context, as the CLI has it: four characters are a token. In a summary,
        what is not there is not named."""
        texts = [text_of(entry["message"]["content"]) for entry in self._visible()]
        parts = {
            "system_prompt": len(self.system) // 4,
            "mcp_tools": sum(len(name) // 4 + 4 for name in self.tools),
            "custom_agents": 1,
            "messages": sum(len(text) // 4 + 4 for text in texts),
        }
        used = [
            {
                "id": name,
                "name": name.replace("_", " ").capitalize(),
                "tokens": count,
                "kind": "used",
            }
            for name, count in parts.items()
            if count or not summary
        ]
        return {"categories": used}

    def _usage(self) -> Json:
        """The input tokens of a request now; all but the newest were cached by the one before."""
        texts = [text_of(entry["message"]["content"]) for entry in self._visible()]
        total = sum(len(text) // 4 + 4 for text in [self.system, *texts])
        cached = min(self._cached, total)
        self._cached = total
        fresh = min(4, total - cached)
        return {
            "input_tokens": fresh,
            "cache_creation_input_tokens": total - cached - fresh,
            "cache_read_input_tokens": cached,
        }


def _cut(text: str, switches: Switches) -> list[str]:
    if switches.report:
        return [text]
    size = switches.delta_chars or (5 if switches.deltas else 0)
    if not size:
        return answers.tokens(text)
    return [text[start : start + size] for start in range(0, len(text), size)]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {}
