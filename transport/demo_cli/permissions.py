"""Who lets the demo CLI's agent use its tools: rules, or the gateway, which is asked.

Knows the question (``can_use_tool``) and its answers as Claude Code has them, the rules of this
process, and its mode. Refuses to know turns, and what a tool does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from . import own_tools
from .frames import Json, encode, new_uuid
from .session import Session
from .steps import Decision, RequestPermission

_CLOSED: Final = (
    "Tool permission request failed: AbortError: Tool permission stream closed before response"
    " received"
)
_DONT_ASK: Final = (
    "Permission to use {} has been denied because Claude Code is running in don't ask mode."
)
_MODES: Final = ("acceptEdits", "auto", "bypassPermissions", "default", "dontAsk", "plan")
_QUICK_EDITS: Final = ("touch ", "mkdir ", "rm ", "mv ", "cp ", "sed ")


class PermissionRequests:
    """The questions that are open, and what was decided. `interrupted`: an answer said to stop."""

    def __init__(self, session: Session, write: Callable[[bytes], None]) -> None:
        self.interrupted = False
        self._session = session
        self._write = write
        self._open: dict[str, RequestPermission] = {}  # by request id
        self._decided: dict[str, Decision] = {}  # by tool use

    def ask(self, use: RequestPermission) -> None:
        """Decide by the rules and the mode, or ask the gateway."""
        decision = self._by_rules(use)
        if decision is not None:
            self._decided[use.tool_use_id] = decision
            return
        request_id = new_uuid()
        self._open[request_id] = use
        self._write(encode(_question(request_id, use, self._session.directories)))

    def set_mode(self, mode: Any) -> tuple[str, str] | None:
        """Go over to a mode; or why not, and the code of that."""
        if mode not in _MODES:
            text = f"Cannot set permission mode: must be one of {', '.join(_MODES)}"
            return text, "invalid_mode"
        if mode == "bypassPermissions" != self._session.permission_mode:
            text = (
                "Cannot set permission mode to bypassPermissions because the session was not"
                " launched with --dangerously-skip-permissions"
            )
            return text, "bypass_not_launched"
        self._session.permission_mode = mode
        return None

    def decision(self, tool_use_id: str) -> Decision | None:
        """What was decided about this use, given once; None as long as nothing is."""
        return self._decided.pop(tool_use_id, None)

    def on_response(self, response: Json) -> None:
        """A control response of the gateway; one that answers no open question is ignored."""
        use = self._open.pop(str(response.get("request_id")), None)
        if use is None:
            return
        body = response.get("response") or {}
        if response.get("subtype") != "success" or body.get("behavior") != "allow":
            reason = str(body.get("message") or response.get("error") or "denied")
            decision = Decision(False, use.arguments, reason, asked=True)
            self.interrupted = bool(body.get("interrupt"))
        else:
            given = body.get("updatedInput")
            decision = Decision(True, use.arguments if given is None else given)
            for update in body.get("updatedPermissions") or []:
                self._update(update)
        self._decided[use.tool_use_id] = decision

    def cancel(self) -> None:
        """No turn waits for answers any more: cancel the requests at the gateway."""
        for request_id in self._open:
            self._write(encode({"type": "control_cancel_request", "request_id": request_id}))
        self._open.clear()
        self._decided.clear()
        self.interrupted = False

    def close(self) -> None:
        """No answer can come any more: the questions count as denied."""
        for use in self._open.values():
            self._decided[use.tool_use_id] = Decision(False, use.arguments, _CLOSED, asked=True)
        self._open.clear()

    def _by_rules(self, use: RequestPermission) -> Decision | None:
        name, given, session = use.name, use.arguments, self._session
        if any(own_tools.matches(rule, name, given) for rule in session.denied):
            which = f" with command {given.get('command')}" if name == "Bash" else ""
            return Decision(False, given, f"Permission to use {name}{which} has been denied.")
        needed = use.needed
        if needed is None:
            needed = own_tools.needs_permission(name, given, session.directories)
        mode = session.permission_mode
        if (
            not needed
            or mode == "bypassPermissions"
            or (mode == "acceptEdits" and _is_edit(name, given))
            or any(own_tools.matches(rule, name, given) for rule in session.allowed)
        ):
            return Decision(True, given)
        return Decision(False, given, _DONT_ASK.format(name)) if mode == "dontAsk" else None

    def _update(self, update: Any) -> None:
        """Rules that hold from now on, for this process. (The CLI would write those for any other
        destination to disk.)"""
        match update:
            case {"type": "addRules", "rules": list(rules), "behavior": "allow"}:
                self._session.allowed += [_rule_text(rule) for rule in rules]
            case {"type": "setMode", "mode": str(mode)}:
                self._session.permission_mode = mode
            case {"type": "addDirectories", "directories": list(directories)}:
                self._session.directories += [str(each) for each in directories]


def _question(request_id: str, use: RequestPermission, directories: list[str]) -> Json:
    request: Json = {
        "subtype": "can_use_tool",
        "tool_name": use.name,
        "display_name": use.name,
        "input": use.arguments,
        "description": own_tools.describe(use.name, use.arguments),
        "permission_suggestions": own_tools.suggestions(use.name, use.arguments, directories),
        "tool_use_id": use.tool_use_id,
    }
    if not request["permission_suggestions"]:
        del request["permission_suggestions"]
    return {"type": "control_request", "request_id": request_id, "request": request}


def _rule_text(rule: Json) -> str:
    content = rule.get("ruleContent")
    return f"{rule.get('toolName')}" + ("" if content is None else f"({content})")


def _is_edit(name: str, given: Json) -> bool:
    command = str(given.get("command", ""))
    return name in own_tools.EDITS or (name == "Bash" and command.startswith(_QUICK_EDITS))
