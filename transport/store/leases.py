"""Changes under a lease: what they are made of, and how the lease follows them.

Knows: records, turns, and which change each of `append`, `begin_turn` and the ends of a turn is.
Refuses to know: how a change is kept.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from ...schemas.log.codec import digest_of, dumps, encode, encode_setup
from ...schemas.log.records import (
    Record,
    Rewound,
    Said,
    TurnEnd,
    TurnFailed,
    TurnLost,
    TurnStart,
)
from ...schemas.log.words import title_of
from ...schemas.message import (
    Block,
    Citations,
    Document,
    Image,
    RedactedThinking,
    ServerBlock,
    Thinking,
    ToolCall,
    ToolResult,
    ToolRound,
)
from ...schemas.turn import Setup, Usage
from ..workers import work
from .engine import Change, Closing, Created, Opening, State
from .interface import (
    Begun,
    Charge,
    Fenced,
    Known,
    Lease,
    NewConversation,
    Turn,
    Unknown,
    Unsettled,
)

LONG_CHARACTERS = 65_536
LONG_RECORDS = 64
"""From how many on records are encoded beside the event loop."""


class LeaseChanges:
    """The methods of `interface.Store` that change a conversation under its lease.

    A second change of a lease whose first one is not settled is refused.
    """

    @abstractmethod
    def _perform(
        self, change: Change, lease: Lease
    ) -> Coroutine[Any, Any, tuple[Begun | Known | int, State]]:
        """Keep it. What is returned is awaited, and says what came of it and where the conversation
        stands. Raises `Fenced`, `Unavailable`, `Unknown`."""

    @abstractmethod
    async def _turn(self, conversation_id: str, number: int) -> Turn | None: ...

    @abstractmethod
    def _now(self) -> float:
        """Unix seconds, as the change names them."""

    async def append(self, lease: Lease, records: Sequence[Said | Rewound]) -> int:
        if not records:
            return lease.head
        if lease.open_turn is not None:
            assert not any(isinstance(each, Rewound) for each in records), "a turn runs"
        return await _head(self._change(lease, records))

    def begin_turn(
        self,
        lease: Lease,
        *,
        turn_id: str,
        request_id: str,
        model: str,
        prompts: Sequence[Said] = (),
        rewound: Rewound | None = None,
    ) -> Coroutine[Any, Any, Begun | Known]:
        assert lease.open_turn is None, "a turn runs; if it does not, call lose_turn"
        start = TurnStart(turn_id, request_id, model, len(prompts))
        before = () if rewound is None else (rewound,)
        opening = Opening(turn_id, request_id)
        return _begun(self._change(lease, (*before, start, *prompts), opening=opening))

    def end_turn(
        self,
        lease: Lease,
        end: TurnEnd,
        answer: Sequence[Said] = (),
        *,
        setup: Setup | None = None,
        lineage: bytes | None = None,
        charge: Charge | None = None,
    ) -> Coroutine[Any, Any, int]:
        created = None if setup is None else created_of(NewConversation(setup=setup))
        charge = charge or Charge("", end.usage)
        closing = Closing("ended", end.usage, charge, created, lineage)
        return _head(self._change(lease, (*answer, end), closing=closing))

    def fail_turn(
        self,
        lease: Lease,
        failed: TurnFailed,
        usage: Usage | None = None,
        *,
        charge: Charge | None = None,
    ) -> Coroutine[Any, Any, int]:
        if charge is None and usage is not None:
            charge = Charge("", usage)
        return _head(self._change(lease, (failed,), closing=Closing("failed", usage, charge)))

    async def lose_turn(self, lease: Lease, reason: str) -> int:
        number = lease.open_turn
        assert number is not None, "no turn runs"
        turn = await self._turn(lease.conversation_id, number)
        if turn is None:
            raise Fenced(f"{lease.conversation_id} was deleted.")
        lost = TurnLost(turn.turn_id, reason)
        return await _head(self._change(lease, (lost,), closing=Closing("lost")))

    def _change(
        self,
        lease: Lease,
        records: Sequence[Record],
        *,
        opening: Opening | None = None,
        closing: Closing | None = None,
    ) -> Coroutine[Any, Any, Begun | Known | int]:
        if lease.unsettled is not None:
            return _unsettled()
        if closing is not None:
            assert lease.open_turn is not None, "no turn runs"
        is_plain = lease.open_turn is None and opening is None
        now = self._now()

        def encoded() -> tuple[Change, bytes]:
            change = change_of(
                lease, records, now, opening=opening, closing=closing, is_plain=is_plain
            )
            return change, digest_of((each.kind, each.body) for each in change.records)

        if _are_long(records):
            return self._change_long(lease, encoded)
        return self._finish(lease, self._submit(lease, *encoded()))

    async def _change_long(
        self, lease: Lease, encoded: Callable[[], tuple[Change, bytes]]
    ) -> Begun | Known | int:
        return await self._finish(lease, self._submit(lease, *await work(encoded)))

    def _submit(
        self, lease: Lease, change: Change, digest: bytes
    ) -> Coroutine[Any, Any, tuple[Begun | Known | int, State]]:
        # A second change at once is refused (`_unsettled`).
        lease.unsettled = Unsettled(lease.head, len(change.records), digest)
        return self._perform(change, lease)

    async def _finish(
        self, lease: Lease, submitted: Coroutine[Any, Any, tuple[Begun | Known | int, State]]
    ) -> Begun | Known | int:
        try:
            result, state = await submitted
        except Unknown:
            raise
        except Exception:  # unlike a cancellation
            lease.unsettled = None
            raise
        lease.unsettled = None
        follow(lease, state)
        return result


# -- what changes are made of ----------------------------------------------------------------------


def _are_long(records: Sequence[Record]) -> bool:
    """Whether encoding them would keep the event loop from others."""
    if len(records) > LONG_RECORDS:
        return True
    size = 0
    for record in records:
        match record:
            case Said(message):
                size += sum(map(_length, message.content))
            case TurnEnd(output=items) if items is not None:
                size += sum(len(getattr(item, "text", "")) for item in items)
    return size > LONG_CHARACTERS


def _length(block: Block) -> int:
    """About how many characters a block has, in no time."""
    match block:
        case str():
            return len(block)
        case Image(_, data) | Document(_, data):
            return len(data)
        case ToolCall(_, _, arguments):
            return len(arguments)
        case ToolResult(_, content):
            return sum(map(_length, content))
        case Thinking(text):
            return len(text)
        case RedactedThinking(data) | ServerBlock(data) | Citations(data):
            return len(data)
        case ToolRound(calls, results):
            return sum(map(_length, calls)) + sum(map(_length, results))


def change_of(
    lease: Lease,
    records: Sequence[Record],
    now: float,
    *,
    opening: Opening | None = None,
    closing: Closing | None = None,
    is_plain: bool,
) -> Change:
    """`is_plain`: the records stand outside of a turn, or are whole turns."""
    reset: tuple[int, int] | None = None
    messages = turns = 0
    title: str | None = None
    for record in records:
        match record:
            case Rewound(_, held_messages, held_turns):
                reset, messages, turns = (held_messages, held_turns), 0, 0
            case Said(message):
                messages += 1
                if title is None and message.role == "user":
                    title = title_of(message.text)
            case TurnEnd():
                turns += 1
    return Change(
        conversation_id=lease.conversation_id,
        token=lease.token,
        head=lease.head,
        records=tuple(map(encode, records)),
        now=now,
        title=title,
        opening=opening,
        closing=closing,
        reset=reset,
        messages=messages if is_plain else 0,
        turns=turns if is_plain else 0,
        units=_units(records) if is_plain else (),
    )


def _units(records: Sequence[Record]) -> tuple[tuple[int, int], ...]:
    """The ranges of records that are searched as one: turns, and messages that stand alone."""
    units: list[tuple[int, int]] = []
    begun: int | None = None
    for number, record in enumerate(records):
        match record:
            case TurnStart():
                begun = number
            case TurnEnd() if begun is not None:
                units.append((begun, number))
                begun = None
            case Said() if begun is None:
                units.append((number, number))
    return tuple(units)


def created_of(new: NewConversation) -> Created:
    setup = new.setup
    return Created(
        encode_setup(setup),
        setup.model,
        setup.profile,
        setup.workspace,
        dumps(dict(new.metadata)),
        new.private,
    )


def lease_of(conversation_id: str, key_id: str, state: State) -> Lease:
    return Lease(conversation_id, key_id, state.token, state.head, state.turns, state.open_turn)


def follow(lease: Lease, state: State) -> None:
    lease.token, lease.head = state.token, state.head
    lease.turns, lease.open_turn = state.turns, state.open_turn


async def _unsettled() -> Begun | Known | int:
    raise Unknown("The change before this one is not settled yet: resolve the lease first.")


async def _begun(change: Coroutine[Any, Any, Begun | Known | int]) -> Begun | Known:
    result = await change
    assert not isinstance(result, int)
    return result


async def _head(change: Coroutine[Any, Any, Begun | Known | int]) -> int:
    result = await change
    assert isinstance(result, int)
    return result
