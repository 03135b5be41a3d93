"""The demo CLI's conversation with the gateway: control requests, and the order of turns.

Knows the control protocol as Claude Code answers it, which user frames make one turn, and what an
interrupt or a rewind does to a running one. Refuses to know what a turn says or prints.

Where CLI releases differ it takes the stricter side, so that a gateway that gets along with it
gets along with all of them: a blank line is fatal (2.1.197; 2.1.330 passes over it). The first
message can be rewound, as from 2.1.330 on (switch `rewind_first`). Unlike the CLI it ends a turn
cut by its token limit there, instead of asking the model to go on.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any, NamedTuple

from .frames import Frames, Json, new_uuid, synthetic
from .history import refused, text_of, transcript_path
from .permissions import PermissionRequests
from .session import BLANK, Session, refused_command
from .steps import (
    AwaitPermission,
    AwaitTools,
    CallTool,
    Decision,
    Pause,
    RequestPermission,
    Stop,
    Write,
)
from .switches import Switches, UnknownSwitch, read_directive
from .tools import ToolCalls
from .turn import Turn
from .wire import Wire, die, fatal, hang, ignore_sigterm, leave_grandchild

NOT_CLAIMED = "not_claimed: this process is a spare waiting for claim_session"
_NOT_PARKED = frozenset({"set_model", "apply_flag_settings", "rewind_conversation"})
"""What a spare refuses until it is claimed."""


class Queued(NamedTuple):
    """A user frame that waits for its turn. `named`: the uuid is the sender's own."""

    uuid: str
    named: bool
    content: Any
    query: bool


class Child:
    """One conversation over the standard streams. `run` returns the exit status."""

    def __init__(
        self, session: Session, frames: Frames, wire: Wire, *, scripted: bool, resumed: bool,
        parked: bool = False,
    ) -> None:  # fmt: skip
        """`scripted`: obey directives in user texts. `resumed`: the CLI then skips its greeting.
        `parked`: it waits for ``claim_session``, and runs no turn before that."""
        self._switches = wire.switches
        self._scripted = scripted
        self._wire = wire
        self._frames = frames
        self._history = session.history
        self._session = session
        self._desk = ToolCalls(self._frames, wire.write)
        self._permissions = PermissionRequests(session, wire.write)
        self._queue: list[Queued] = []
        self._turn: Turn | None = None
        self._aborting = False
        self._rewinds: list[tuple[Any, Json]] = []  # that wait for the turn they interrupt
        self._status: int | None = None
        self._greeted = resumed
        self._adopted = False
        self._poisoned = False
        self._parked = parked

    def run(self) -> int:
        """Serve until stdin or the session ends; a turn that runs then is finished first."""
        while self._status is None and not self._wire.eof:
            self._serve(None)
            # Turns start only when all of a read has been looked at: an interrupt in the same
            # read as its user frame comes too early and changes nothing, as with the CLI.
            self._run_queue()
        if self._status is None and self._switches.hang_at == "eof":
            hang()
        return self._status or 0

    def _serve(self, seconds: float | None) -> None:
        for line in self._wire.lines(seconds):
            self._receive(line)

    def _wait(self, seconds: float) -> None:
        """Listen for so long, or until the turn is interrupted; with 0 to what is there."""
        deadline = time.monotonic() + seconds
        left = seconds
        while True:
            self._serve(left)
            left = max(deadline - time.monotonic(), 0)
            if self._aborting or not left:
                return

    # -- what comes in ----------------------------------------------------------------------

    def _receive(self, line: bytes) -> None:
        try:
            frame = json.loads(line.decode(errors="replace"))
        except ValueError:
            fatal(
                f"Error parsing streaming input line (type=unknown, {len(line)} chars): SyntaxError"
            )
        if not isinstance(frame, dict):
            return
        if not self._greeted:
            self._greeted = True
            self._wire.write(self._frames.system("ui_invalidate", event="ui.render"))
        match frame.get("type"):
            case "user":
                self._on_user(frame)
            case "assistant":
                self._on_assistant(frame)
            case "control_request":
                self._on_control(frame)
            case "control_response":
                self._desk.on_response(frame.get("response") or {})
                self._permissions.on_response(frame.get("response") or {})
                self._aborting = self._aborting or self._permissions.interrupted
                self._session.tools = sorted(self._desk.names)
            case _:
                return

    def _on_user(self, frame: Json) -> None:
        message = frame.get("message") or {}
        if message.get("role") != "user":
            fatal(f"Error: Expected message role 'user', got '{message.get('role', 'undefined')}'")
        content = message.get("content")
        if not isinstance(content, (str, list)):
            fatal("Error: Expected message content to be a string or an array")
        given = frame.get("uuid")
        if given in self._history.seen:
            return
        self._adopted = True
        uuid = given or new_uuid()
        self._history.seen.add(uuid)
        query = frame.get("shouldQuery") is not False
        self._queue.append(Queued(uuid, bool(given), content, query))
        self._lifecycle(self._queue[-1:], "queued")

    def _on_assistant(self, frame: Json) -> None:
        message = frame.get("message") or {}
        if not isinstance(message.get("content"), list):
            self._poisoned = True  # the CLI too fails every later turn
            return
        uuid = frame.get("uuid") or new_uuid()
        self._history.append({"type": "assistant", "uuid": uuid, "message": message})
        if frame.get("uuid"):
            self._wire.write(self._frames.lifecycle(uuid, "completed"))

    # -- control requests -------------------------------------------------------------------

    def _on_control(self, frame: Json) -> None:
        request = frame.get("request")
        if not isinstance(request, dict):
            fatal("Error: Missing request on control_request")
        request_id = frame.get("request_id")
        body: Json | None = None
        if self._parked and request.get("subtype") in _NOT_PARKED:
            self._wire.write(self._frames.failure(request_id, NOT_CLAIMED, "not_claimed"))
            return
        match request.get("subtype"):
            case "claim_session":
                self._claim(request_id, request.get("cwd"))
                return
            case "initialize":
                body = self._initialize(request)
            case "interrupt":
                self._interrupt(request_id)
                return
            case "rewind_conversation":
                self._rewind(request_id, request)
                return
            case "cancel_async_message":
                body = self._cancel_queued(request.get("message_uuid"))
            case "apply_flag_settings":
                self._session.apply(request.get("settings") or {})
            case "set_permission_mode":
                self._set_permission_mode(request_id, request.get("mode"))
                return
            case "set_model":
                self._session.model = request.get("model") or self._session.model
            case "set_max_thinking_tokens":
                pass
            case "mcp_set_servers":
                body = self._set_servers(list(request.get("servers") or {}))
            case "get_context_usage":
                body = self._session.context_usage(summary=request.get("detail") == "summary")
            case "end_session":
                self._status = 1 if self._turn else 0
                self._aborting = self._turn is not None
            case unknown:
                text = f"Unsupported control request subtype: {unknown}"
                self._wire.write(self._frames.failure(request_id, text, "unsupported_request"))
                return
        self._wire.write(self._frames.success(request_id, body))

    def _initialize(self, request: Json) -> Json:
        if self._switches.die_at == "initialize":
            die(self._wire.switches)
        if self._switches.hang_at == "initialize":
            hang()
        if not self._adopted:
            self._adopted = True
            self._session.adopt(request)
            if title := request.get("title"):
                self._wire.write(self._frames.system("session_title_changed", title=title))
            self._desk.connect(list(request.get("sdkMcpServers") or []))
        return self._session.greeting()

    def _claim(self, request_id: Any, cwd: Any) -> None:
        """Become the session that works in `cwd`; once, and only where it was started for that."""
        if refusal := self._refused_claim(cwd):
            self._wire.write(self._frames.failure(request_id, *refusal))
            return
        self._parked = False
        self._history.move(transcript_path(self._frames.session_id))
        body = {"status": "ok", "cwd": os.getcwd(), "session_id": self._frames.session_id}  # noqa: PTH109
        self._wire.write(self._frames.success(request_id, body))

    def _refused_claim(self, cwd: Any) -> tuple[str, str] | None:
        if not self._parked:
            return "not_a_spare: this process waits for no claim_session", "not_a_spare"
        if self._switches.refuse_claim:
            return "refused: a switch says so", "refused"
        try:
            os.chdir(str(cwd))
        except OSError:
            return (
                "cwd_not_found: the claim cwd does not exist or is not accessible",
                "cwd_not_found",
            )
        return None

    def _interrupt(self, request_id: Any) -> None:
        if self._turn is not None:
            if self._turn.switches.ignore_interrupt:
                return
            self._abort()
        still_queued = [each.uuid for each in self._queue]
        self._wire.write(self._frames.success(request_id, {"still_queued": still_queued}))

    def _abort(self) -> None:
        self._aborting = True
        self._permissions.cancel()

    def _rewind(self, request_id: Any, request: Json) -> None:
        if self._turn is None and not self._queue:
            self._answer_rewind(request_id, request)
        elif request.get("interrupt_if_running"):
            self._abort()  # or at its start, the turn that is queued
            self._rewinds.append((request_id, request))
        else:
            self._wire.write(self._frames.success(request_id, refused("turn running")))

    def _answer_rewind(self, request_id: Any, request: Json) -> None:
        target = str(request.get("target_message_uuid"))
        last = request.get("last_seen_user_message_uuid")
        body = self._history.rewind(target, last, first_too=self._switches.rewind_first)
        self._wire.write(self._frames.success(request_id, body))

    def _cancel_queued(self, uuid: Any) -> Json:
        found = [each for each in self._queue if each.uuid == uuid]
        if not found:
            return {"cancelled": False}
        self._queue.remove(found[0])
        self._lifecycle(found, "cancelled")
        return {"cancelled": True, "message_uuid": uuid}

    def _set_permission_mode(self, request_id: Any, mode: Any) -> None:
        if error := self._permissions.set_mode(mode):
            self._wire.write(self._frames.failure(request_id, *error))
        else:
            self._wire.write(self._frames.success(request_id, {"mode": mode}))
            self._wire.write(self._frames.system("status", status=None, permissionMode=mode))

    def _set_servers(self, servers: list[str]) -> Json:
        before = self._desk.servers
        self._desk.connect(servers)
        self._session.tools = sorted(self._desk.names)
        return {
            "added": [each for each in servers if each not in before],
            "removed": [each for each in before if each not in servers],
            "errors": {},
        }

    # -- turns ------------------------------------------------------------------------------

    def _run_queue(self) -> None:
        """Run what waits: the first alone, then those that came meanwhile as one turn."""
        first = True
        while self._queue and self._status is None:
            if not (self._desk.ready or self._wire.eof):
                self._serve(None)
                continue
            batch = [self._queue.pop(0)]
            while not first and batch[0].query and self._queue and self._queue[0].query:
                batch.append(self._queue.pop(0))
            first = False
            self._run_batch(batch)
        self._lifecycle(self._queue, "discarded")

    def _run_batch(self, batch: list[Queued]) -> None:
        if self._parked:
            errors = [NOT_CLAIMED]
            self._wire.write(
                self._frames.result(subtype="error_during_execution", is_error=True, errors=errors)
            )
            self._lifecycle(batch, "completed")
            return
        self._lifecycle(batch, "started")
        uuids = [each.uuid for each in batch if each.named]
        self._wire.write(
            self._frames.init(
                cwd=os.getcwd(),  # noqa: PTH109
                tools=self._session.tool_names(),
                mcp_servers=[{"name": s, "status": "connected"} for s in self._desk.servers],
                model=self._session.model,
                permissionMode=self._session.permission_mode,
                agents=list(self._session.agents),
                user_message_uuids=uuids,
            )
        )
        for each in batch:
            message = {"role": "user", "content": each.content}
            self._history.append({"type": "user", "uuid": each.uuid, "message": message})
        text = "\n".join(text_of(each.content) for each in batch)
        if error := refused_command(batch[-1].content):
            self._refuse_command(error)
            self._end_locally(batch, error)
        elif not batch[0].query:
            self._end_locally(batch, "")
        elif text and not text.strip():
            self._wire.write(self._frames.system("informational", content=BLANK, level="warning"))
            self._end_locally(batch, BLANK)
        else:
            self._run_turn(batch, text, uuids)
        self._aborting = False
        for request_id, request in self._rewinds:
            self._answer_rewind(request_id, request)
        self._rewinds.clear()

    def _refuse_command(self, error: str) -> None:
        said, uuid = synthetic(new_uuid(), error, "end_turn"), new_uuid()
        self._history.append({"type": "assistant", "uuid": uuid, "message": said})
        self._wire.write(self._frames.assistant(said, uuid))

    def _end_locally(self, batch: list[Queued], text: str) -> None:
        """The end of a turn that no model was asked for."""
        self._wire.write(self._frames.result(result=text, total_cost_usd=self._session.cost))
        self._lifecycle(batch, "completed")

    def _run_turn(self, batch: list[Queued], text: str, uuids: list[str]) -> None:
        switches = self._switches
        if (given := self._session.text_in_body()) is not None:
            text, batch = given, batch[-1:]
        if self._scripted:
            try:
                switches, text = read_directive(switches, text)
            except UnknownSwitch as error:
                fatal(f"demo CLI: {error}", 2)
        if self._poisoned:
            switches = switches._replace(error="undefined is not an object: content.some")
        self._wire.switches = switches
        self._misbehave(switches)
        try:
            plan = self._session.plan(text, len(batch), switches)
        except ValueError as error:
            fatal(f"demo CLI: {error}", 2)
        started = time.monotonic()
        self._turn = turn = Turn(self._frames, switches, plan, uuids)
        aborted = self._play(turn)
        self._turn = None
        cost = self._session.spend(turn.usage())
        for number, entry in enumerate(turn.entries):
            self._history.append({**entry, "cost": cost} if not number else entry)
        took = round((time.monotonic() - started) * 1000)
        self._wire.write(turn.result(took, self._session.cost, aborted=aborted))
        if switches.die_at == "result":
            die(self._wire.switches)
        self._wire.write(turn.late_frames())
        self._lifecycle(batch, "cancelled" if aborted or turn.failed else "completed")
        self._wire.switches = self._switches

    def _play(self, turn: Turn) -> bool:
        """Perform a turn's steps; whether it was interrupted."""
        for step in turn.steps():
            match step:
                case Write(data):
                    self._wire.write(data)
                case Pause(seconds):
                    self._wait(seconds)
                case CallTool(tool_use_id, name, arguments):
                    self._desk.call(tool_use_id, name, arguments)
                case AwaitTools(tool_use_ids):
                    while not (self._desk.answered(tool_use_ids) or self._aborting):
                        if self._wire.eof:
                            self._aborting = True
                        self._serve(None)
                    turn.tool_results = self._desk.take(tool_use_ids)
                case RequestPermission():
                    self._permissions.ask(step)
                case AwaitPermission(tool_use_id):
                    if decision := self._await_permission(tool_use_id):
                        turn.decisions[tool_use_id] = decision
                case Stop("die"):
                    die(self._wire.switches)
                case Stop():
                    hang()
            if self._aborting and not turn.done:
                self._desk.cancel()
                self._permissions.cancel()
                self._wire.write(turn.abort())
                return True
        return False

    def _await_permission(self, tool_use_id: str) -> Decision | None:
        """None: the turn was interrupted meanwhile."""
        self._serve(0)  # what the gateway said while the message was printed
        while not self._aborting:
            if self._wire.eof:
                self._permissions.close()
            if decision := self._permissions.decision(tool_use_id):
                return decision
            self._serve(None)
        return None

    def _lifecycle(self, batch: list[Queued], state: str) -> None:
        for each in batch:
            if each.named:
                self._wire.write(self._frames.lifecycle(each.uuid, state))

    # -- trouble ----------------------------------------------------------------------------

    def _misbehave(self, switches: Switches) -> None:
        """What a turn's switches ask of the process before its first frame."""
        if switches.ignore_sigterm:
            ignore_sigterm()
        self._wire.complain()
        if switches.grandchild:
            pid = leave_grandchild(switches)
            self._wire.write(self._frames.system("scripted_grandchild", pid=pid))
