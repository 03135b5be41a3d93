"""A model of the CLI, as far as a session's machine can tell it from the real one.

Knows what the real one was measured to do with its history: when a user message is taken in, that
assistant messages overtake, what a rewind takes back, where a resumed session begins. Refuses to
know the machine, and who reads what it says.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any, TypeAlias
from uuid import uuid4

from attrs import define, field, frozen

from ccapi.schemas.frames import AssistantDone, ControlAnswer, Frame, Noise, TurnResult
from ccapi.schemas.turn import Message, ResumePoint, Setup, TextDelta, Usage

Json: TypeAlias = dict[str, Any]


@frozen
class Entry:
    uuid: str
    message: Message


Transcripts: TypeAlias = dict[tuple[str, str], tuple[Entry, ...]]
"""What is on disk: the history up to an assistant message of a session."""


@define(eq=False)
class ModelCli:
    """One process. `inbox` is what was written to it, `said` what is to be read from it."""

    transcripts: Transcripts
    session: str = ""
    history: list[Entry] = field(factory=list)
    inbox: deque[Json] = field(factory=deque)
    said: deque[Frame] = field(factory=deque)
    setup: Setup | None = None
    _queue: deque[tuple[Entry, bool]] = field(factory=deque)
    _asked: Entry | None = None
    _partial: str = ""

    @classmethod
    def start(cls, transcripts: Transcripts, resume: ResumePoint | None) -> ModelCli:
        if resume is None:
            return cls(transcripts, str(uuid4()))
        assert resume.assistant_uuid is not None
        held = transcripts[resume.session_id, resume.assistant_uuid]
        return cls(transcripts, resume.session_id, list(held))

    @property
    def quiet(self) -> bool:
        return not (self.inbox or self.said or self._queue or self._asked)

    @property
    def messages(self) -> list[Message]:
        return [entry.message for entry in self.history]

    # -- what it does, one step at a time ----------------------------------------------------------

    def write(self, line: bytes) -> None:
        assert line.endswith(b"\n")
        self.inbox.append(json.loads(line))

    def work(self, choice: int) -> None:
        """Take in all that was written; or say a piece of an answer, or end it (`choice`)."""
        if self.inbox:
            while self.inbox:
                self._read(self.inbox.popleft())
        elif self._asked is not None:
            self._go_on(self._asked, choice)
        elif self._queue:
            entry, query = self._queue.popleft()
            self.history.append(entry)
            if query:
                self._asked, self._partial = entry, ""
            else:
                self.said.append(self._result(entry, num_turns=0))

    def _read(self, frame: Json) -> None:
        match frame:
            case {"type": "user", "uuid": uuid}:
                entry = Entry(uuid, Message("user", _texts(frame)))
                self._queue.append((entry, frame.get("shouldQuery", True)))
            case {"type": "assistant", "uuid": uuid}:
                # It does not wait for user messages that are still in the queue.
                self.history.append(Entry(uuid, Message("assistant", _texts(frame))))
            case {"type": "control_request", "request_id": request_id, "request": request}:
                body: Json = {}
                if request["subtype"] == "initialize":
                    self.setup = self.setup or _setup(request)
                else:
                    body["rewound"] = self._rewind(request["target_message_uuid"])
                self.said.append(ControlAnswer(request_id, body, None))
            case _:
                assert frame["type"] == "control_response"

    def _go_on(self, asked: Entry, choice: int) -> None:
        if choice < 120:
            self._partial += f"{choice} "
            self.said.append(TextDelta(f"{choice} "))
        elif choice < 150:
            self.said.append(Noise("stream_event"))
        elif choice < 230:
            self._answer(asked, choice)
        else:
            # The CLI keeps a text that failed, for the next turn.
            self.said.append(AssistantDone(str(uuid4()), synthetic=True, text="API Error"))
            self.said.append(self._result(asked, is_error=True, status=500))
            self._asked = None

    def _answer(self, asked: Entry, choice: int) -> None:
        text = self._partial or f"unstreamed {choice}"
        entry = Entry(str(uuid4()), Message("assistant", (text,)))
        self.history.append(entry)
        self.transcripts[self.session, entry.uuid] = tuple(self.history)
        self.said.append(AssistantDone(entry.uuid, synthetic=False, text=text))
        self.said.append(self._result(asked))
        self._asked = None

    def _rewind(self, target: str) -> bool:
        if self._asked is not None and self._asked.uuid == target:
            if self._partial:
                uuid = str(uuid4())
                self.said.append(AssistantDone(uuid, synthetic=False, text=self._partial))
            self.said.append(self._result(self._asked, is_error=True))
            self._asked = None
        for waiting in self._queue:
            if waiting[0].uuid == target:
                self._queue.remove(waiting)
                self.said.append(self._result(waiting[0], is_error=True))
                return True
        users = [n for n, entry in enumerate(self.history) if entry.message.role == "user"]
        if not users or self.history[users[-1]].uuid != target:
            return False
        del self.history[users[-1] :]
        return True

    def _result(
        self,
        entry: Entry,
        *,
        num_turns: int = 1,
        is_error: bool = False,
        status: int | None = None,
    ) -> TurnResult:
        return TurnResult(
            is_error=is_error,
            subtype="error_during_execution" if is_error and status is None else "success",
            num_turns=num_turns,
            text="",
            stop_reason="end_turn",
            api_error_status=status,
            session_id=self.session,
            usage=Usage(),
            user_uuid=entry.uuid,
        )


def _setup(request: Json) -> Setup:
    return Setup(request["agents"]["gw"]["model"], "".join(request["systemPrompt"]))


def _texts(frame: Json) -> tuple[str, ...]:
    # A blank block is dropped before the API is called.
    return tuple(b["text"] for b in frame["message"]["content"] if b["text"].strip())
